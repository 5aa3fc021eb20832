//! The inputs in `fixtures/fuzz/volumes`: none of them panics, and on each good one (`good-*`) a boot loader is found, so that
//! fuzzing does not begin with nothing.

mod hostile;

use std::path::Path;

use tintype_formats::testing::MemoryDisk;

#[test]
fn inputs_for_fuzzing_are_read_without_a_panic_and_good_ones_have_a_boot_loader() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/fuzz/volumes");
    let mut good = 0;
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let input = std::fs::read(&path).expect("an input");
        let mut loaders = Vec::new();
        for sector_bytes in [512, 4096] {
            for bytes in [input.clone(), hostile::mended(&input, sector_bytes)] {
                let (_, look) = hostile::check(&MemoryDisk::new(bytes).with_sectors(sector_bytes as u32));
                loaders.extend(look.efi_loader);
            }
        }
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("good-")) {
            good += 1;
            assert!(!loaders.is_empty(), "{}", path.display());
        }
    }
    assert!(good > 0, "there are no good ones");
}
