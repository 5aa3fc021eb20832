//! When the n-th call to a file fails, for every n, the job fails: it neither panics nor gives wrong data. When the power
//! is cut, there is either no image or the whole one.

mod common;

use std::sync::Arc;

use common::cases;
use tintype_formats::sink::Compression;
use tintype_formats::sink::SingleFile;
use tintype_formats::testing::{
    CrashFile, FaultPlan, FaultyFile, MemoryFile, ModelDisk, digest, open_disk, store_disk,
};
use tintype_formats::{ErrorKind, FORMATS};

#[test]
fn reading_fails_when_any_call_fails() {
    for case in cases() {
        let disk = ModelDisk::random(2, 4 << 20, 8, 40);
        let file = case.create(&disk);
        let counted = FaultPlan::never();
        let read = |plan: &FaultPlan| {
            let faulty = Arc::new(FaultyFile::new(file.duplicate(), plan.clone()));
            open_disk(faulty, Some(case.format)).and_then(|image| digest(&image))
        };
        let expected = read(&counted).unwrap();
        for n in 0..counted.calls() {
            let error = read(&FaultPlan::fail_from(n)).expect_err(&format!("{}: call {n} failed", case.name));
            assert_eq!(error.kind(), ErrorKind::Io, "{}: call {n}: {error}", case.name);
        }
        assert_eq!(expected, digest(&disk).unwrap(), "{}", case.name);
    }
}

#[test]
fn creating_fails_when_any_call_fails() {
    for case in cases() {
        let disk = ModelDisk::random(3, 4 << 20, 8, 40);
        let create = |plan: &FaultPlan| {
            let faulty = Arc::new(FaultyFile::new(MemoryFile::new(), plan.clone()));
            store_disk(case.format, &case.options(&disk), &disk, None, faulty)
        };
        let counted = FaultPlan::never();
        create(&counted).unwrap();
        assert!(counted.calls() > 2, "{}", case.name);
        for n in 0..counted.calls() {
            let error = create(&FaultPlan::fail_from(n)).expect_err(&format!("{}: call {n} failed", case.name));
            assert_eq!(error.kind(), ErrorKind::Io, "{}: call {n}: {error}", case.name);
        }
    }
}

#[test]
fn a_power_cut_leaves_no_image_or_the_whole_one() {
    for case in cases() {
        let disk = ModelDisk::random(4, 4 << 20, 8, 40);
        let expected = digest(&disk).unwrap();
        let file = Arc::new(CrashFile::new());
        store_disk(case.format, &case.options(&disk), &disk, None, file.clone()).unwrap();
        assert!(file.syncs() > 0, "{}: nothing is synced", case.name);
        for cut in 0..=file.syncs() {
            for seed in 0..40 {
                let finished = cut == file.syncs();
                // Raw has no header that could say whether it is whole: only what was promised counts.
                if case.is_raw() && !finished {
                    continue;
                }
                let found = Arc::new(file.after_power_cut(cut, seed));
                match open_disk(found, Some(case.format)).and_then(|image| digest(&image)) {
                    Ok(found) => assert_eq!(found, expected, "{}: sync {cut}, seed {seed}", case.name),
                    Err(error) => assert!(!finished, "{}: sync {cut}, seed {seed}: {error}", case.name),
                }
            }
        }
    }
}

#[test]
fn options_that_a_format_does_not_have_are_refused() {
    let disk = ModelDisk::new(1 << 20);
    for case in cases() {
        let mut unknown = case.options(&disk);
        unknown.options.insert("no_such_option".to_owned(), "1".to_owned());
        let mut subformat = case.options(&disk);
        subformat.subformat = Some("no_such_subformat".to_owned());
        let mut compression = case.options(&disk);
        compression.compression = Compression::Zstd(3);
        let compresses = case.format.create.as_ref().unwrap().compressions.contains(&"zstd");
        for (options, refused) in [(unknown, true), (subformat, true), (compression, !compresses)] {
            let begun = case.format.begin(&SingleFile(Arc::new(MemoryFile::new())), &options);
            if refused {
                assert_eq!(begun.err().map(|error| error.kind()), Some(ErrorKind::InvalidOption), "{}", case.name);
            }
        }
    }
    assert!(FORMATS.len() >= 3);
}
