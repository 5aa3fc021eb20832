use super::*;
use crate::HostFileMut;
use crate::check::{CheckReport, Severity};
use crate::sink::Compression;
use crate::testing::{ModelDisk, create_image};

/// An image of four full clusters of 64 KiB, and where its tables lie.
struct Sample {
    file: Arc<MemoryFile>,
    l1: u64,
    l2: u64,
    refcounts: u64,
    refcount_table: u64,
}

fn sample(compression: Compression) -> Sample {
    let mut disk = ModelDisk::new(256 << 10);
    (0..64).for_each(|block| disk.write(block, 3 * block + 3));
    let mut options = CreateOptions::new(Geometry::of_512_byte_sectors(256 << 10, 1));
    options.compression = compression;
    let file = create_image(&FORMAT, &options, &disk, None).unwrap();
    let (l1, refcount_table) = (get(&file, 40), get(&file, 48));
    let l2 = get(&file, l1) & ENTRY_OFFSET_MASK;
    let refcounts = get(&file, refcount_table);
    Sample { file, l1, l2, refcounts, refcount_table }
}

fn get(file: &MemoryFile, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(offset, &mut bytes).unwrap();
    u64::from_be_bytes(bytes)
}

impl Sample {
    fn damaged(&self, offset: u64, change: impl Fn(u64) -> u64) -> (u64, u64) {
        let file = self.file.duplicate();
        file.write_all_at(offset, &change(get(&file, offset)).to_be_bytes()).unwrap();
        let report = super::check(Arc::new(file));
        assert_eq!(report.findings.len() as u64, report.corruptions + report.leaks);
        let leaks = report.findings.iter().filter(|finding| finding.severity == Severity::Leak).count();
        assert_eq!(leaks as u64, report.leaks);
        (report.corruptions, report.leaks)
    }
}

#[test]
fn an_undamaged_image_is_clean() {
    for compression in [Compression::None, Compression::Zlib(6)] {
        let report = super::check(sample(compression).file);
        assert_eq!((report.is_clean(), report.allocated_bytes), (true, 256 << 10));
    }
}

#[test]
fn wrong_refcounts_are_leaks_or_corruptions() {
    let sample = sample(Compression::None);
    // Of host clusters 0 to 3: header, refcounts, and two data clusters.
    assert_eq!(sample.damaged(sample.refcounts, |_| 0x0001_0001_0001_0000), (2, 0), "and COPIED is wrong");
    assert_eq!(sample.damaged(sample.refcounts, |_| 0x0001_0001_0001_0002), (1, 1), "and COPIED is wrong");
    assert_eq!(sample.damaged(sample.refcounts, |_| 0x0003_0001_0001_0001), (0, 1), "of the header");
    assert_eq!(sample.damaged(sample.refcounts + 8 * 100, |_| 1 << 48), (0, 0), "past the end of the file");
    assert_eq!(sample.damaged(sample.l2, |_| 0), (0, 1), "a cluster that nothing points to");
}

#[test]
fn low_refcounts_of_an_image_that_was_not_closed_are_out_of_date() {
    let sample = sample(Compression::None);
    let features = get(&sample.file, 72);
    sample.file.write_all_at(72, &(features | INCOMPATIBLE_DIRTY).to_be_bytes()).unwrap();
    let counts = |report: &CheckReport| (report.outdated, report.corruptions, report.leaks);
    let changed = |offset, value: u64| {
        let file = sample.file.duplicate();
        file.write_all_at(offset, &value.to_be_bytes()).unwrap();
        super::check(Arc::new(file))
    };
    assert!(super::check(sample.file.clone()).is_clean());
    // Of host clusters 0 to 3: header, refcounts, and two data clusters.
    let report = changed(sample.refcounts, 0x0001_0001_0000_0000);
    assert_eq!((counts(&report), report.is_clean()), ((4, 0, 0), false), "and COPIED of both");
    assert_eq!(
        counts(&changed(sample.refcounts, 0x0001_0001_0001_0002)),
        (0, 1, 1),
        "too high: a snapshot's, or none's"
    );
    let changed_and_marked = |mark: u64| {
        sample.file.write_all_at(72, &(features | INCOMPATIBLE_DIRTY | mark).to_be_bytes()).unwrap();
        counts(&changed(sample.refcounts, 0x0001_0001_0000_0000))
    };
    assert_eq!(changed_and_marked(INCOMPATIBLE_CORRUPT), (0, 4, 0), "nothing is taken to be right");
    assert_eq!(changed_and_marked(0), (4, 0, 0));
    let twice = get(&sample.file, sample.l2 + 8);
    assert_eq!(counts(&changed(sample.l2, twice)), (0, 1, 1), "a cluster in two places");
}

#[test]
fn damage_is_not_hidden_behind_lesser_findings() {
    let mut report = CheckReport::default();
    (0..10_000).for_each(|place| report.leak(place, "leak"));
    report.corruption(1, "damage");
    assert_eq!(report.findings.last().map(|finding| finding.severity), Some(Severity::Corruption));
}

#[test]
fn entries_that_contradict() {
    let sample = sample(Compression::None);
    assert_eq!(sample.damaged(sample.l2, |entry| entry & !ENTRY_COPIED), (1, 0));
    assert_eq!(sample.damaged(sample.l1, |entry| entry & !ENTRY_COPIED), (1, 0));
    assert_eq!(sample.damaged(sample.l2, |entry| entry | 1 << 57), (1, 0), "reserved bits");
    assert_eq!(sample.damaged(sample.l2, |entry| entry + (1 << 40)), (2, 1), "past the end, and without a refcount");
    assert_eq!(sample.damaged(sample.l2, |entry| entry + (64 << 10)), (1, 1), "the next entry's cluster");
    assert_eq!(sample.damaged(sample.refcount_table, |entry| entry + 7).1, 0);
    assert!(sample.damaged(sample.refcount_table, |entry| entry + 7).0 > 0);
    assert!(sample.damaged(48, |_| 1 << 40).0 > 0, "the refcount table is elsewhere");
    let packed = super::check::sample(Compression::Zlib(6));
    assert_eq!(packed.damaged(packed.l2, |entry| entry | ENTRY_COPIED), (1, 0));
}

#[test]
fn an_l1_table_that_names_one_l2_table_often_ends() {
    let file = nearly_empty(1 << 44, Some(&[1; 4096]));
    let l1 = get(&file, 40);
    let entry = get(&file, l1);
    (1..32768).for_each(|index| file.write_all_at(l1 + index * 8, &entry.to_be_bytes()).unwrap());
    let report = super::check(file);
    assert_eq!((report.corruptions, report.leaks), (1, 0), "{:?}", report.findings);
}
