use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, FlockOperation};
use tempfile::TempDir;

use super::*;
use crate::repository::store::StoreErrorKind as Kind;

fn folder_and_store() -> (TempDir, LocalStore) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = LocalStore::open(folder.path()).expect("it opens");
    (folder, store)
}

fn kind<T>(result: Result<T, StoreError>) -> Kind {
    result.err().expect("it must fail").kind()
}

#[test]
fn symbolic_links_are_not_followed() {
    let outside = tempfile::tempdir().expect("a folder");
    fs::write(outside.path().join("object"), b"outside").expect("a file");
    let (folder, store) = folder_and_store();
    symlink(outside.path(), folder.path().join("packs")).expect("a link");
    symlink(outside.path().join("object"), folder.path().join("object")).expect("a link");
    for name in ["packs/object", "object"] {
        assert_eq!(kind(store.get(name, 100)), Kind::Io, "{name}");
        assert_eq!(kind(store.get_range(name, 0, &mut [0])), Kind::Io, "{name}");
        assert_eq!(kind(store.len_bytes(name)), Kind::Io, "{name}");
    }
    assert_eq!(kind(store.put("packs/new", b"x")), Kind::Io);
    assert_eq!(kind(store.put("object", b"x")), Kind::AlreadyExists);
    // Not empty: that would hide objects.
    assert_eq!(kind(store.list("packs/")), Kind::Io);
    assert_eq!(kind(store.list("")), Kind::Io);
    assert_eq!(kind(store.delete("packs/object")), Kind::Io);
    store.delete("object").expect("the link itself goes");
    let names: Vec<_> =
        fs::read_dir(outside.path()).expect("a folder").map(|entry| entry.expect("one").path()).collect();
    assert_eq!(names, [outside.path().join("object")]);
}

#[test]
fn what_is_no_file_neither_hangs_nor_is_passed_over() {
    let (folder, store) = folder_and_store();
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, rustix::fs::Mode::RUSR, 0).expect("a FIFO");
    let error = store.get("fifo", 100).expect_err("it is no file");
    assert_eq!(std::error::Error::source(&error).expect("a cause").to_string(), "it is neither a file nor a folder");
    assert_eq!(kind(store.list("")), Kind::Io);
}

#[test]
fn what_others_keep_in_the_folder_is_not_seen() {
    let (folder, store) = folder_and_store();
    for name in [".nfs0001", "a b", "ä", ".hidden/x", "lost+found/#12"] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, b"").expect("a file");
    }
    assert_eq!(store.list("").expect("a list"), []);
}

#[test]
fn temporary_files_go_unless_somebody_writes_to_them() {
    let (folder, _) = folder_and_store();
    let temporary = folder.path().join("tmp");
    fs::create_dir(&temporary).expect("a folder");
    for name in [".tmp-left", ".tmp-written", "other"] {
        fs::write(temporary.join(name), b"x").expect("a file");
    }
    let written = fs::File::open(temporary.join(".tmp-written")).expect("it opens");
    rustix::fs::flock(&written, FlockOperation::LockExclusive).expect("a lock");
    let store = LocalStore::open(folder.path()).expect("it opens");
    assert!(!temporary.join(".tmp-left").exists());
    assert!(temporary.join(".tmp-written").exists());
    let names: Vec<_> = store.list("").expect("a list").into_iter().map(|listed| listed.name).collect();
    assert_eq!(names, ["tmp/other"]);
    drop(written);
    LocalStore::open(folder.path()).expect("it opens");
    assert!(!temporary.join(".tmp-written").exists());
}

#[test]
fn only_the_owner_may_read_the_files() {
    for way in [Way::Unnamed, Way::Linked, Way::Renamed] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("repository");
        LocalStore::create(&path).expect("it is made");
        let store = LocalStore::open_with(&path, way).expect("it opens");
        store.put("packs/3f/3f00", b"x").expect("a put");
        let mode = |name| fs::metadata(path.join(name)).expect("it is there").permissions().mode() & 0o7777;
        assert_eq!([mode(""), mode("packs"), mode("packs/3f"), mode("packs/3f/3f00")], [0o700, 0o700, 0o700, 0o600]);
    }
}

#[test]
fn a_store_is_created_only_where_nothing_is() {
    let folder = tempfile::tempdir().expect("a folder");
    LocalStore::create(folder.path()).expect("it is empty");
    fs::create_dir(folder.path().join("lost+found")).expect("a folder");
    LocalStore::create(folder.path()).expect("that is nobody's");
    let missing = folder.path().join("missing/repository");
    assert_eq!(kind(LocalStore::create(&missing)), Kind::NotFound);
    assert_eq!(kind(LocalStore::open(&missing)), Kind::NotFound);
    fs::write(folder.path().join("letter"), b"x").expect("a file");
    let error = LocalStore::create(folder.path()).err().expect("it is not empty");
    assert_eq!(error.kind(), Kind::AlreadyExists);
    assert_eq!(error.to_string(), format!("create folder \"{}\": it is there and not empty", folder.path().display()));
    assert_eq!(kind(LocalStore::open(&folder.path().join("letter"))), Kind::Io);
}

#[test]
fn after_a_failed_sync_nothing_is_done_any_more() {
    let (folder, store) = folder_and_store();
    store.put("there", b"x").expect("a put");
    store.sync().expect("a sync");
    store.put("packs/3f00", b"x").expect("a put");
    fs::remove_dir_all(folder.path().join("packs")).expect("it goes");
    assert_eq!(kind(store.sync()), Kind::Io);
    fs::create_dir(folder.path().join("packs")).expect("a folder");
    let error = store.sync().expect_err("a second try could succeed without being true");
    assert!(error.to_string().starts_with("make durable what was stored: not tried, because "), "{error}");
    assert_eq!(kind(store.put("new", b"x")), Kind::Io);
    assert_eq!(kind(store.get("there", 1)), Kind::Io);
    assert_eq!(kind(store.get_range("there", 0, &mut [0])), Kind::Io);
    assert_eq!(kind(store.len_bytes("there")), Kind::Io);
    assert_eq!(kind(store.list("")), Kind::Io);
    assert_eq!(kind(store.delete("there")), Kind::Io);
    let other = LocalStore::open(folder.path()).expect("it opens");
    assert_eq!(other.get("there", 1).expect("a get"), b"x");
}

#[test]
fn a_file_system_that_would_replace_others_is_refused() {
    let (_folder, store) = folder_and_store();
    let error = store.not_placed("object", NotPlaced::Unfit(Errno::INVAL.into()));
    let text =
        "create object \"object\": the file system can neither link files nor rename them without replacing others";
    assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Unsupported, text));
    assert_eq!(store.not_placed("object", NotPlaced::Unfit(Errno::PERM.into())).kind(), Kind::Denied);
    assert_eq!(store.not_placed("object", NotPlaced::Unclear(Errno::IO.into())).kind(), Kind::Unclear);
}

/// Length of the objects that the process puts which is going to be killed.
const KILLED_BYTES: usize = 300_000;

#[test]
#[ignore = "a process that the next test starts, in a folder that says what to do"]
fn puts_until_it_is_killed() {
    let Ok(way) = fs::read_to_string("way") else { return };
    let way = [Way::Unnamed, Way::Linked, Way::Renamed].into_iter().find(|known| format!("{known:?}") == way);
    let store = LocalStore::open_with(Path::new("store"), way.expect("a way")).expect("it opens");
    let process = std::process::id();
    for number in 0_u64.. {
        store.put(&format!("packs/{}/{process}-{number}", number % 5), &[number as u8; KILLED_BYTES]).expect("a put");
        if number % 7 == 0 {
            store.sync().expect("a sync");
        }
    }
}

#[test]
fn a_killed_program_leaves_only_whole_objects() {
    for way in [Way::Unnamed, Way::Linked, Way::Renamed] {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("way"), format!("{way:?}")).expect("a file");
        LocalStore::create(&folder.path().join("store")).expect("it is made");
        for round in 1..=5 {
            kill_while_it_puts(folder.path(), round * 5);
            check_whole(&folder.path().join("store"), round * 5, way);
        }
    }
}

/// Starts a process that puts, and kills it when so many objects are there.
fn kill_while_it_puts(folder: &Path, objects: usize) {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "repository::store::local::tests::puts_until_it_is_killed"])
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let store = Tree::open(&folder.join("store")).expect("it opens");
    let started = Instant::now();
    while store.list("").expect("a list").len() < objects {
        assert!(started.elapsed() < Duration::from_secs(60), "it puts nothing");
        assert_eq!(child.try_wait().expect("its state"), None, "it ended by itself");
        std::thread::sleep(Duration::from_micros(500 * objects as u64));
    }
    child.kill().expect("it is killed");
    child.wait().expect("it ends");
}

fn check_whole(path: &Path, objects: usize, way: Way) {
    let store = LocalStore::open(path).expect("it opens");
    let listed = store.list("").expect("a list");
    assert!(listed.len() >= objects, "{way:?}");
    for Listed { name, .. } in listed {
        let number: u64 = name.rsplit_once('-').expect("a number").1.parse().expect("a number");
        let bytes = store.get(&name, KILLED_BYTES as u64).expect("a get");
        assert!(bytes == [number as u8; KILLED_BYTES], "{way:?}: {name} is not whole");
    }
    let left = fs::read_dir(path.join("tmp")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "{way:?}: a temporary file is left");
}
