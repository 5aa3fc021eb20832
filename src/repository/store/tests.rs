//! What every store promises, asked of each.

use std::sync::Barrier;

use super::local::Way;
use super::simulated::{Faults, Simulation};
use super::{Listed, LocalStore, Store, StoreErrorKind};
use crate::error::{Error, Kind};

/// Runs a test with each store; `another` opens one more store object of the same place.
fn with_each_store(test: impl Fn(&str, &dyn Fn() -> Box<dyn Store>)) {
    for way in [Way::Unnamed, Way::Linked, Way::Renamed] {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || LocalStore::open_with(folder.path(), way).expect("it opens");
        test(&format!("a folder, {way:?}"), &|| Box::new(open()));
        assert_eq!(leftovers(folder.path()), 0, "{way:?}: a temporary file is left");
    }
    let simulation = Simulation::new(1, Faults::default());
    test("simulated", &|| Box::new(simulation.client()));
}

/// The number of temporary files.
fn leftovers(folder: &std::path::Path) -> usize {
    std::fs::read_dir(folder.join("tmp")).map_or(0, Iterator::count)
}

fn kind<T: std::fmt::Debug>(result: Result<T, super::StoreError>) -> StoreErrorKind {
    result.expect_err("it must fail").kind()
}

fn names(store: &dyn Store, prefix: &str) -> Vec<String> {
    store.list(prefix).expect("a list").into_iter().map(|listed| listed.name).collect()
}

#[test]
fn what_was_put_is_read_and_never_replaced() {
    with_each_store(|store_name, open| {
        let store = open();
        let bytes: Vec<u8> = (0..600_000_u32).map(|number| (number % 251) as u8).collect();
        store.put("packs/3f/3f00", &bytes).expect("a put");
        store.put("empty", &[]).expect("a put");
        assert_eq!(kind(store.put("packs/3f/3f00", b"other")), StoreErrorKind::AlreadyExists, "{store_name}");
        assert_eq!(kind(open().put("empty", b"other")), StoreErrorKind::AlreadyExists, "{store_name}");
        store.sync().expect("a sync");
        for store in [&store, &open()] {
            assert_eq!(store.get("packs/3f/3f00", 600_000).expect("a get"), bytes, "{store_name}");
            assert_eq!(store.get("empty", 0).expect("a get"), b"", "{store_name}");
            assert_eq!(store.len_bytes("packs/3f/3f00").expect("a length"), 600_000, "{store_name}");
        }
        assert_eq!(kind(store.get("packs/3f/3f00", 599_999)), StoreErrorKind::TooLarge, "{store_name}");
    });
}

#[test]
fn ranges_are_filled_or_fail() {
    with_each_store(|store_name, open| {
        let store = open();
        store.put("object", b"0123456789").expect("a put");
        let mut four = [0; 4];
        store.get_range("object", 6, &mut four).expect("a range");
        assert_eq!(&four, b"6789", "{store_name}");
        for offset in [7, 10, 11, i64::MAX as u64, u64::MAX - 1, u64::MAX] {
            assert_eq!(kind(store.get_range("object", offset, &mut four)), StoreErrorKind::Truncated, "{store_name}");
        }
        assert_eq!(kind(store.get_range("other", 0, &mut four)), StoreErrorKind::NotFound, "{store_name}");
    });
}

#[test]
fn what_is_missing_is_not_found() {
    with_each_store(|store_name, open| {
        let store = open();
        store.put("packs/3f/3f00", b"pack").expect("a put");
        for name in ["other", "packs", "packs/3f", "packs/3f/3f01", "packs/40/4000"] {
            assert_eq!(kind(store.get(name, 100)), StoreErrorKind::NotFound, "{store_name}: {name}");
            assert_eq!(kind(store.len_bytes(name)), StoreErrorKind::NotFound, "{store_name}: {name}");
            store.delete(name).expect("deleting nothing succeeds");
        }
        assert_eq!(names(&*store, ""), ["packs/3f/3f00"], "{store_name}");
    });
}

#[test]
fn names_that_no_object_can_have_are_refused() {
    let long = "a".repeat(256);
    let bad =
        ["", "/", "/a", "a/", "a//b", "..", "a/../b", "../a", ".", ".a", "a/.tmp-1", "a b", "a\0", "ä", "a\\b", &long];
    with_each_store(|store_name, open| {
        let store = open();
        for name in bad {
            assert_eq!(kind(store.put(name, b"x")), StoreErrorKind::InvalidName, "{store_name}: {name}");
            assert_eq!(kind(store.get(name, 9)), StoreErrorKind::InvalidName, "{store_name}: {name}");
            assert_eq!(kind(store.get_range(name, 0, &mut [0])), StoreErrorKind::InvalidName, "{store_name}: {name}");
            assert_eq!(kind(store.len_bytes(name)), StoreErrorKind::InvalidName, "{store_name}: {name}");
            assert_eq!(kind(store.delete(name)), StoreErrorKind::InvalidName, "{store_name}: {name}");
        }
        for prefix in ["/", "a", "../", "a/../", "./", "a//"] {
            assert_eq!(kind(store.list(prefix)), StoreErrorKind::InvalidName, "{store_name}: {prefix}");
        }
        store.put(&long[..255], b"x").expect("the longest name");
    });
}

#[test]
fn listings_have_all_below_a_folder_by_name() {
    with_each_store(|store_name, open| {
        let store = open();
        for name in ["repository", "packs/3f/3f00", "packs/3f/3f01", "packs/00/0000", "packs.old", "sessions/b/end"] {
            store.put(name, name.as_bytes()).expect("a put");
        }
        let all = ["packs.old", "packs/00/0000", "packs/3f/3f00", "packs/3f/3f01", "repository", "sessions/b/end"];
        assert_eq!(names(&*store, ""), all, "{store_name}");
        assert_eq!(names(&*store, "packs/"), all[1..4], "{store_name}");
        assert_eq!(names(&*store, "packs/3f/"), all[2..4], "{store_name}");
        assert_eq!(names(&*store, "epochs/"), [""; 0], "{store_name}");
        let expected = [Listed { name: "sessions/b/end".to_owned(), len_bytes: 14 }];
        assert_eq!(store.list("sessions/").expect("a list"), expected, "{store_name}");
    });
}

#[test]
fn what_was_deleted_is_gone_for_all_and_the_name_is_free() {
    with_each_store(|store_name, open| {
        let (store, other) = (open(), open());
        store.put("packs/3f/3f00", b"first").expect("a put");
        let mut five = [0; 5];
        store.get_range("packs/3f/3f00", 0, &mut five).expect("a range");
        store.delete("packs/3f/3f00").expect("a delete");
        store.delete("packs/3f/3f00").expect("a delete of nothing");
        assert_eq!(names(&*other, ""), [""; 0], "{store_name}");
        for store in [&store, &other] {
            let read = store.get_range("packs/3f/3f00", 0, &mut five);
            assert_eq!(kind(read), StoreErrorKind::NotFound, "{store_name}");
        }
        store.put("packs/3f/3f00", b"again").expect("a put");
        store.get_range("packs/3f/3f00", 0, &mut five).expect("a range");
        assert_eq!(&five, b"again", "{store_name}");
        store.sync().expect("a sync");
    });
}

#[test]
fn of_eight_that_create_one_name_one_wins_with_whole_bytes() {
    with_each_store(|store_name, open| {
        let stores: Vec<_> = (0..8).map(|_| open()).collect();
        let start = Barrier::new(stores.len());
        for round in 0..20 {
            let name = format!("sessions/{round}/end");
            let race = |number: u8, store: &dyn Store| {
                start.wait();
                store.put(&name, &vec![number; 100_000]).map_err(|error| error.kind())
            };
            let results: Vec<_> = std::thread::scope(|scope| {
                let race = &race;
                let racers = stores.iter().zip(0..).map(|(store, number)| scope.spawn(move || race(number, &**store)));
                racers.collect::<Vec<_>>().into_iter().map(|racer| racer.join().expect("it ends")).collect()
            });
            let winners: Vec<_> = (0..8_u8).filter(|number| results[usize::from(*number)].is_ok()).collect();
            assert_eq!(winners.len(), 1, "{store_name}: {results:?}");
            let lost = results.iter().filter(|result| **result == Err(StoreErrorKind::AlreadyExists)).count();
            assert_eq!(lost, 7, "{store_name}: {results:?}");
            assert_eq!(stores[0].get(&name, 100_000).expect("a get"), vec![winners[0]; 100_000], "{store_name}");
        }
    });
}

#[test]
fn errors_say_what_was_done_and_found() {
    with_each_store(|store_name, open| {
        let store = open();
        store.put("object", b"0123456789").expect("a put");
        let error = store.get_range("object", 8, &mut [0; 4]).expect_err("past the end");
        let text = "read object \"object\": it ends after 10 bytes; expected at least 12";
        assert_eq!(error.to_string(), text, "{store_name}");
        let error = store.get("object", 4).expect_err("too large");
        assert_eq!(error.to_string(), "read object \"object\": it has 10 bytes; expected at most 4", "{store_name}");
        let error = Error::from(store.put("object", b"x").expect_err("taken"));
        assert_eq!(error.kind(), Kind::Io, "{store_name}");
        assert_eq!(error.to_string(), "create object \"object\": there is one already", "{store_name}");
    });
}
