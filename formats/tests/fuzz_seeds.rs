//! The inputs in `fixtures/fuzz`, which fuzzing begins with or has found: none of them panics, and those that are good images
//! (`good-*`) are so still, so that fuzzing does not begin with nothing.

#[path = "../fuzz/src/lib.rs"]
mod shapes;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tintype_formats::registry;
use tintype_formats::testing::{MemoryFile, exercise};

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.unwrap().path()).collect();
    paths.sort_unstable();
    paths
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).expect("a name in UTF-8")
}

/// The file that the target of this name makes of an input.
fn image(target: &str, input: &[u8]) -> Vec<u8> {
    match target {
        "dmg" => shapes::dmg::image(input),
        "ewf" => shapes::ewf::image(input),
        "gce" => shapes::gce::image(input),
        "ova" => shapes::ova::image(input),
        "vma" => shapes::vma::image(input),
        "asif" | "bochs" | "cloop" | "parallels" | "qcow" | "qcow2" | "qed" => input.to_vec(),
        _ => panic!("what the target {target} makes of its inputs is in itself: move it to formats/fuzz/src"),
    }
}

#[test]
fn inputs_for_fuzzing_are_read_without_a_panic_and_good_ones_open() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/fuzz");
    let (mut good, mut failed) = (0, Vec::new());
    // Those of volumes are disks, and tested there.
    for target in entries(&folder).iter().filter(|path| path.is_dir() && name(path) != "volumes") {
        for path in entries(target) {
            let input = std::fs::read(&path).expect("an input");
            let format = registry::by_name(name(target)).expect("a format");
            let opened = exercise(format, Arc::new(MemoryFile::from_bytes(&image(name(target), &input))));
            if name(&path).starts_with("good-") {
                good += 1;
                failed.extend(opened.err().map(|error| (path.clone(), error)));
            }
        }
    }
    assert!(good > 0, "there are no good ones");
    assert!(failed.is_empty(), "{failed:#?}");
}
