//! The arrows of the house go one way: cli -> jobs -> access -> engine -> {sources, targets, repository, serve, boot} -> volumes -> formats -> tin.

#[path = "common/uses.rs"]
mod uses;

use std::fs;
use std::path::{Path, PathBuf};

use uses::{Uses, circles, rust_files, uses_below};

/// What each room may use of the others.
const MAY_USE: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "jobs",
            "access",
            "engine",
            "repository",
            "boot",
            "serve",
            "sources",
            "targets",
            "progress",
            "error",
            "system",
        ],
    ),
    ("jobs", &["progress", "error", "system"]),
    ("access", &["engine", "repository", "sources", "error"]),
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

/// The crates of the house, and those of them that each depends on.
const MAY_DEPEND: &[(&str, &[&str])] = &[
    ("formats/tin", &[]),
    ("formats", &["tintype-tin"]),
    ("formats/volumes", &["tintype-formats"]),
    (".", &["tintype-formats", "tintype-tin", "tintype-volumes"]),
];

#[test]
fn crates_depend_only_on_those_below_them() {
    for (folder, allowed) in MAY_DEPEND {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join("Cargo.toml");
        let manifest: toml_edit::DocumentMut =
            fs::read_to_string(&file).expect("a manifest").parse().expect("a manifest");
        let dependencies = manifest["dependencies"].as_table().expect("a table");
        let own: Vec<_> =
            dependencies.iter().map(|(name, _)| name).filter(|name| name.starts_with("tintype")).collect();
        assert_eq!(own, *allowed, "{}", file.display());
    }
}

/// Files that use each other can only be read, and moved, together.
#[test]
fn no_files_use_each_other_in_a_circle() {
    for root in ["src", "formats/src", "formats/tin/src", "formats/volumes/src"] {
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

/// What several commands need stands beside their folder, and knows none of them.
#[test]
fn commands_are_used_by_the_command_line_alone() {
    let cli = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli");
    for file in rust_files(&cli).into_iter().filter(|file| *file != cli.join("mod.rs")) {
        let text = fs::read_to_string(&file).expect("a source file");
        let own = file.strip_prefix(cli.join("commands")).ok().and_then(|path| path.iter().next());
        let own = own.map(|name| name.to_string_lossy().trim_end_matches(".rs").to_owned());
        for used in text.split("commands::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            assert_eq!(Some(&used), own.as_ref(), "{}: uses the command {used}", file.display());
        }
    }
}

/// The folders with Rust files of ours.
const CODE: &[&str] = &["src", "formats", "tests", "benches"];

/// Returns every Rust file of ours, but none that a build made.
fn our_files() -> impl Iterator<Item = PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = CODE.iter().flat_map(|folder| rust_files(&root.join(folder)));
    files.filter(|file| !file.components().any(|part| part.as_os_str() == "target"))
}

#[test]
fn no_file_is_long() {
    for file in our_files() {
        let lines = fs::read_to_string(&file).expect("a source file").lines().count();
        assert!(lines <= 450, "{}: {lines} lines are more than 450: split it by idea", file.display());
    }
}

/// A module with a folder is the folder's `mod.rs`: what belongs together moves together.
#[test]
fn modules_with_a_folder_are_its_mod_rs() {
    for file in our_files() {
        let folder = file.with_extension("");
        let fine = !folder.is_dir() || fs::read_dir(&folder).expect("a folder").all(|entry| !is_rust(&entry));
        assert!(fine, "{}: move it to {}", file.display(), folder.join("mod.rs").display());
    }
}

fn is_rust(entry: &std::io::Result<fs::DirEntry>) -> bool {
    entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|extension| extension == "rs"))
}

#[test]
fn formats_print_nothing_start_no_threads_and_open_no_files() {
    let house = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["formats/src", "formats/tin/src", "formats/volumes/src"]
        .iter()
        .flat_map(|crate_root| rust_files(&house.join(crate_root)))
    {
        // The only room that opens files, for programs that want a disk and no more.
        let may_open = file.starts_with(house.join("formats/src/local"));
        let text = fs::read_to_string(&file).expect("a source file");
        let production = text.split("#[cfg(test)]").next().unwrap_or_default();
        if file.components().any(|part| ["testing", "tests"].iter().any(|name| part.as_os_str() == *name)) {
            continue;
        }
        for word in ["println!", "eprintln!", "thread::spawn", "thread::scope", "File::open", "std::net", "std::env"] {
            let fine = may_open && word == "File::open";
            assert!(fine || !production.contains(word), "{}: formats must not use {word}", file.display());
        }
    }
}

#[test]
fn one_file_of_the_formats_is_for_unix_alone() {
    let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("formats/src");
    for file in rust_files(&formats).into_iter().filter(|file| !file.ends_with("local/unix.rs")) {
        let text = fs::read_to_string(&file).expect("a source file");
        for word in ["std::os::", "rustix", "libc::"] {
            assert!(!text.contains(word), "{}: {word}", file.display());
        }
    }
}

#[test]
fn the_engine_prints_nothing_and_knows_no_command_line() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for room in ["jobs", "access", "engine", "repository", "serve", "sources", "targets", "channel"] {
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
