//! The arrows of the house go one way: cli -> engine -> {sources, targets, repository, serve, boot} -> volumes -> formats.

#[path = "common/uses.rs"]
mod uses;

use std::fs;
use std::path::Path;

use uses::{Uses, circles, rust_files, uses_below};

/// What each room may use of the others.
const MAY_USE: &[(&str, &[&str])] = &[
    ("cli", &["engine", "repository", "boot", "serve", "sources", "targets", "progress", "error", "system"]),
    ("engine", &["repository", "boot", "sources", "targets", "progress", "error"]),
    ("repository", &["progress", "error", "system"]),
    ("targets", &["sources", "error", "system"]),
    ("boot", &["serve", "sources", "targets", "error", "system"]),
    ("serve", &["sources", "channel", "nbd_protocol", "error", "system"]),
    ("sources", &["channel", "nbd_protocol", "error", "system"]),
    ("channel", &["error"]),
    ("progress", &["error"]),
    ("error", &[]),
    ("nbd_protocol", &[]),
    ("system", &[]),
];

/// The rooms that a file names by `crate::`.
fn used_rooms(text: &str) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect())
        .collect()
}

#[test]
fn rooms_use_only_what_is_below_them() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (room, allowed) in MAY_USE {
        let folder = source.join(room);
        let files = if folder.is_dir() { rust_files(&folder) } else { vec![source.join(format!("{room}.rs"))] };
        for file in files {
            let text = fs::read_to_string(&file).expect("a source file");
            for used in used_rooms(&text) {
                let fine = used == *room || allowed.contains(&used.as_str());
                assert!(fine, "{}: {room} must not use {used}", file.display());
            }
        }
    }
}

/// Files that use each other can only be read, and moved, together.
#[test]
fn no_files_use_each_other_in_a_circle() {
    for root in ["src", "formats/src", "formats/volumes/src"] {
        let found = circles(&uses_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join(root)));
        assert!(found.is_empty(), "{root}: {found:#?}");
    }
}

#[test]
fn circles_are_found() {
    let path = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
    let of = |arrows: &[(&str, &str)]| {
        let mut uses = Uses::new();
        for (from, to) in arrows {
            uses.entry(path(from)).or_default().insert(path(to));
            uses.entry(path(to)).or_default();
        }
        circles(&uses)
    };
    assert!(of(&[("a", "b"), ("b", "c"), ("a", "c")]).is_empty());
    assert_eq!(of(&[("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")]), [[path("a"), path("b"), path("c")]]);
    assert!(of(&[("a", "a/b"), ("a/b", "a")]).is_empty(), "a file and its own folder");
    // The crate's own files, by every way that they name each other.
    let uses = uses_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    for (from, to) in
        [("cli/output", "cli/failure"), ("engine/import", "repository/disk"), ("repository/session", "repository/ids")]
    {
        assert!(uses[&path(from)].contains(&path(to)), "{from} uses {to}: {:?}", uses[&path(from)]);
    }
}

#[test]
fn every_room_is_known() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("lib.rs");
    let rooms = text.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod "));
    for room in rooms.map(|room| room.trim_end_matches(';')) {
        assert!(MAY_USE.iter().any(|(known, _)| *known == room), "{room} has no place among the arrows");
    }
}

/// The crates of this house that a crate depends on.
fn own_dependencies(folder: &str) -> Vec<String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join("Cargo.toml");
    let text = fs::read_to_string(manifest).expect("a manifest");
    let named = text.lines().filter(|line| line.contains("path = \""));
    named.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn volumes_use_formats_only_and_formats_use_nothing() {
    assert!(own_dependencies("formats/volumes").iter().all(|name| name == "tintype-formats"));
    // Its own tests use it with the feature for testing.
    assert!(own_dependencies("formats").iter().all(|name| name == "tintype-formats"));
    assert!(own_dependencies("").iter().any(|name| name == "tintype-volumes"), "manifests are read");
}

#[test]
fn formats_and_volumes_print_nothing_start_no_threads_and_open_no_files() {
    let house = Path::new(env!("CARGO_MANIFEST_DIR"));
    let roots = ["formats/src", "formats/volumes/src"];
    for file in roots.iter().flat_map(|root| rust_files(&house.join(root))) {
        let text = fs::read_to_string(&file).expect("a source file");
        let production = text.split("#[cfg(test)]").next().unwrap_or_default();
        if file.components().any(|part| ["testing", "tests"].iter().any(|name| part.as_os_str() == *name)) {
            continue;
        }
        for word in ["println!", "eprintln!", "thread::spawn", "thread::scope", "File::open", "std::net", "std::env"] {
            assert!(!production.contains(word), "{}: must not use {word}", file.display());
        }
    }
}

#[test]
fn the_engine_prints_nothing_and_knows_no_command_line() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for room in ["engine", "repository", "serve", "sources", "targets", "channel"] {
        for file in rust_files(&source.join(room)) {
            let text = fs::read_to_string(&file).expect("a source file");
            for word in ["println!", "clap::", "indicatif", "std::env::var", "serde_json"] {
                // The repository's objects and the mount's info.json have JSON in them.
                let fine = word == "serde_json" && ["repository", "serve"].contains(&room);
                assert!(fine || !text.contains(word), "{}: {room} must not use {word}", file.display());
            }
        }
    }
}
