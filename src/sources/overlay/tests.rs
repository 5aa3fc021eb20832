//! Overlays against a model of them: what they hold, what a power cut leaves, what many threads do to them.

use std::fs::File;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use proptest::prelude::*;
use tintype_formats::HostFile;
use tintype_formats::testing::{CrashFile, MemoryFile, ModelDisk, Random, check_disk, open_file, read_all};

use super::*;

const SECTOR_BYTES: u64 = 512;

/// Makes an overlay in a file of the tests.
fn create_in<F: HostFileMut + 'static>(file: &Arc<F>, base: Arc<dyn BlockSource>) -> Overlay {
    let layout = Layout::of_size(base.geometry().size_bytes).unwrap();
    prepare(file.as_ref(), &layout, base.as_ref()).unwrap();
    file.sync_data().unwrap();
    Overlay::over(OverlayReader::empty(open_file(file.clone()), base, layout), file.clone(), true)
}

fn open_in(file: Arc<MemoryFile>, base: Arc<dyn BlockSource>) -> Result<Overlay> {
    Ok(Overlay::over(OverlayReader::load(open_file(file.clone()), base)?, file, true))
}

#[derive(Debug, Clone)]
enum Step {
    Write {
        first: u64,
        count: u64,
    },
    Zeros {
        first: u64,
        count: u64,
    },
    Discard {
        first: u64,
        count: u64,
    },
    Flush,
    /// Whatever way it is opened again.
    Reopen,
}

/// Two groups of blocks around the border of two pages of the table, and an end in the middle of a block.
const DISK_BYTES: u64 = (64 << 20) + 6 * 4096 + 3 * SECTOR_BYTES;
const FIRST_SECTOR: u64 = (DISK_BYTES - DISK_SECTORS * SECTOR_BYTES) / SECTOR_BYTES;
const DISK_SECTORS: u64 = 16 * 8;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = || (0..DISK_SECTORS, prop_oneof![1..12u64, 8..40u64]);
    let range = move || range().prop_map(|(first, count)| (first, count.min(DISK_SECTORS - first)));
    let step = prop_oneof![
        6 => range().prop_map(|(first, count)| Step::Write { first, count }),
        2 => range().prop_map(|(first, count)| Step::Zeros { first, count }),
        2 => range().prop_map(|(first, count)| Step::Discard { first, count }),
        2 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

/// What each sector may hold: its content at the last flush, and what was written since.
#[derive(Clone)]
struct Model {
    sectors: Vec<Vec<Vec<u8>>>,
}

impl Model {
    fn of(disk: &dyn BlockSource) -> Self {
        Model { sectors: (0..DISK_SECTORS).map(|sector| vec![read_sector(disk, sector)]).collect() }
    }

    fn last(&self, sector: u64) -> &[u8] {
        self.sectors[sector as usize].last().unwrap()
    }

    fn put(&mut self, sector: u64, bytes: &[u8]) {
        self.sectors[sector as usize].push(bytes.to_vec());
    }

    /// Only the last content counts from now on.
    fn settle(&mut self) {
        self.sectors.iter_mut().for_each(|contents| _ = contents.drain(..contents.len() - 1));
    }

    fn check_now(&self, disk: &dyn BlockSource) {
        for sector in 0..DISK_SECTORS {
            assert!(read_sector(disk, sector) == self.last(sector), "sector {sector} does not hold what it should");
        }
    }

    fn check_after_cut(&self, disk: &dyn BlockSource) {
        for sector in 0..DISK_SECTORS {
            let found = read_sector(disk, sector);
            assert!(self.sectors[sector as usize].contains(&found), "sector {sector} holds what it never held since");
        }
    }
}

fn offset_of(sector: u64) -> u64 {
    (FIRST_SECTOR + sector) * SECTOR_BYTES
}

fn read_sector(disk: &dyn BlockSource, sector: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; SECTOR_BYTES as usize];
    disk.read_at(offset_of(sector), &mut bytes).unwrap();
    bytes
}

/// Bytes that no other write has.
fn fresh(random: &mut Random, count: u64) -> Vec<u8> {
    (0..count).flat_map(|_| random.next_u64().to_le_bytes().repeat(SECTOR_BYTES as usize / 8)).collect()
}

fn apply(step: &Step, overlay: &Overlay, model: &mut Model, random: &mut Random) {
    let sector = |index: usize| index * SECTOR_BYTES as usize..(index + 1) * SECTOR_BYTES as usize;
    match *step {
        Step::Write { first, count } => {
            let bytes = fresh(random, count);
            overlay.write_at(offset_of(first), &bytes).unwrap();
            (0..count).for_each(|index| model.put(first + index, &bytes[sector(index as usize)]));
        }
        Step::Zeros { first, count } => {
            overlay.write_zeros_at(offset_of(first), count * SECTOR_BYTES).unwrap();
            (0..count).for_each(|index| model.put(first + index, &[0; SECTOR_BYTES as usize]));
        }
        Step::Discard { first, count } => {
            overlay.discard_at(offset_of(first), count * SECTOR_BYTES).unwrap();
            for index in first..first + count {
                let found = read_sector(overlay, index);
                let fine = found == model.last(index) || found.iter().all(|byte| *byte == 0);
                assert!(fine, "a discarded sector holds neither its content nor zeros");
                // It was zero from then on, or half of it was on its way there.
                model.put(index, &found);
            }
        }
        Step::Flush => overlay.flush().unwrap(),
        Step::Reopen => {}
    }
}

fn base() -> Arc<ModelDisk> {
    let mut disk = ModelDisk::random(5, DISK_BYTES, 20, 10);
    let first = FIRST_SECTOR / 8;
    for block in [first, first + 2, first + 3, first + 9, first + 15, first + 16] {
        disk.write(block, block);
    }
    Arc::new(disk)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn an_overlay_holds_what_was_written(steps in steps(), seed in any::<u64>()) {
        let (file, base) = (Arc::new(MemoryFile::new()), base());
        let mut overlay = create_in(&file, base.clone());
        let (mut model, mut random) = (Model::of(base.as_ref()), Random(seed));
        for step in &steps {
            if matches!(step, Step::Reopen) {
                overlay.flush().unwrap();
                overlay = open_in(Arc::new(file.duplicate()), base.clone()).unwrap();
            }
            apply(step, &overlay, &mut model, &mut random);
            model.check_now(&overlay);
            if matches!(step, Step::Reopen) {
                break;
            }
        }
        check_disk(&overlay, seed).unwrap();
    }

    #[test]
    fn a_power_cut_leaves_what_was_flushed_or_written_since(steps in steps(), seed in any::<u64>()) {
        let (file, base) = (Arc::new(CrashFile::new()), base());
        let overlay = create_in(&file, base.clone());
        let (mut model, mut random) = (Model::of(base.as_ref()), Random(seed));
        // What was allowed at each sync.
        let mut history: Vec<Model> = vec![model.clone(); file.syncs()];
        for step in &steps {
            let before = model.clone();
            apply(step, &overlay, &mut model, &mut random);
            history.resize(file.syncs(), before);
            if matches!(step, Step::Flush) {
                model.settle();
            }
        }
        history.push(model);
        for (sync, model) in history.iter().enumerate().skip(1) {
            for cut in 0..4 {
                let left = Arc::new(file.after_power_cut(sync, seed ^ cut));
                model.check_after_cut(&open_in(left, base.clone()).unwrap());
            }
        }
    }
}

#[test]
fn threads_that_share_blocks_lose_nothing_of_each_other() {
    const THREADS: u64 = 4;
    let (file, base) = (Arc::new(CrashFile::new()), base());
    let overlay = create_in(&file, base.clone());
    let value_of = |count: u64, sector: u64| (count << 16 | sector).to_le_bytes().repeat(SECTOR_BYTES as usize / 8);
    let done: Vec<AtomicU64> = (0..DISK_SECTORS).map(|_| AtomicU64::new(0)).collect();
    let mut flushed: Vec<(usize, Vec<u64>)> = Vec::new();
    std::thread::scope(|scope| {
        let (overlay, done) = (&overlay, &done);
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    let mut random = Random(thread);
                    for count in 1..400 {
                        // Every fourth sector is this thread's own; the blocks are everybody's.
                        let sector = random.below(DISK_SECTORS / THREADS) * THREADS + thread;
                        overlay.write_at(offset_of(sector), &value_of(count, sector)).unwrap();
                        assert_eq!(read_sector(overlay, sector), value_of(count, sector));
                        done[sector as usize].store(count, SeqCst);
                    }
                })
            })
            .collect();
        while !writers.iter().all(|writer| writer.is_finished()) {
            let before: Vec<u64> = done.iter().map(|count| count.load(SeqCst)).collect();
            overlay.flush().unwrap();
            flushed.push((file.syncs(), before));
        }
    });
    for (sector, count) in done.iter().enumerate().filter(|(_, count)| count.load(SeqCst) > 0) {
        let found = read_sector(&overlay, sector as u64);
        assert_eq!(found, value_of(count.load(SeqCst), sector as u64), "sector {sector}");
    }
    // What is durable after a flush is what was written before it, or something later.
    for (syncs, before) in flushed.iter().step_by(flushed.len().div_ceil(20)) {
        let left = open_in(Arc::new(file.after_power_cut(*syncs, 1)), base.clone()).unwrap();
        for (sector, count) in before.iter().enumerate().filter(|(_, count)| **count > 0) {
            let found = read_sector(&left, sector as u64);
            let number = u64::from_le_bytes(found[..8].try_into().unwrap());
            assert_eq!(found, value_of(number >> 16, sector as u64));
            assert!(number >> 16 >= *count, "sector {sector} went back from {count} to {}", number >> 16);
        }
    }
}

#[test]
fn zeros_and_writes_of_other_sectors_of_a_block_do_not_undo_each_other() {
    let overlay = create_in(&Arc::new(MemoryFile::new()), base());
    for round in 0..200_u64 {
        let block = offset_of(0).next_multiple_of(BLOCK_BYTES) + round % 3 * BLOCK_BYTES;
        overlay.write_at(block, &[0x11; BLOCK_BYTES as usize]).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| overlay.write_zeros_at(block, BLOCK_BYTES).unwrap());
            scope.spawn(|| overlay.write_at(block + 512, &[0x22; 512]).unwrap());
        });
        let mut found = [0; BLOCK_BYTES as usize];
        overlay.read_at(block, &mut found).unwrap();
        assert!(found[..512].iter().chain(&found[1024..]).all(|byte| *byte == 0), "zeros that were undone");
        assert!([0, 0x22].contains(&found[512]));
    }
}

/// A disk that must not be read: what is written to it as a whole need not be known.
struct Unreadable(ModelDisk);

impl BlockSource for Unreadable {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent, ImageError> {
        self.0.extent_at(guest_offset, max_bytes)
    }

    fn read_at(&self, guest_offset: u64, _: &mut [u8]) -> Result<(), ImageError> {
        Err(ImageError::corrupt("read the disk", "it must not be").at_guest(guest_offset))
    }
}

#[test]
fn whole_blocks_are_written_without_reading_the_disk_below() {
    let folder = tempfile::tempdir().unwrap();
    let size_bytes = (1 << 20) + 700;
    let overlay = Overlay::temporary(folder.path(), Arc::new(Unreadable(ModelDisk::new(size_bytes)))).unwrap();
    overlay.write_at(4096, &[7; 3 * 4096]).unwrap();
    overlay.write_at(1 << 20, &[8; 700]).unwrap();
    overlay.write_zeros_at(65536, 8192).unwrap();
    overlay.write_at(65536 + 100, &[9; 5]).unwrap();
    let mut found = [0; 200];
    overlay.read_at(65536, &mut found).unwrap();
    assert_eq!((found[99], found[100], found[105]), (0, 9, 0));
    assert!(overlay.write_at(100, &[1]).is_err(), "a part of a block that is not known");
}

/// A file on a disk that has room for so many more writes, and that may fail to sync.
#[derive(Default)]
struct FullFile {
    file: MemoryFile,
    writes_left: AtomicU64,
    syncs_fail: AtomicBool,
}

impl HostFile for FullFile {
    fn len_bytes(&self) -> io::Result<u64> {
        self.file.len_bytes()
    }

    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(host_offset, buffer)
    }
}

impl HostFileMut for FullFile {
    fn write_all_at(&self, host_offset: u64, bytes: &[u8]) -> io::Result<()> {
        let left = self.writes_left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        left.map_err(|_| io::Error::from(io::ErrorKind::StorageFull))?;
        self.file.write_all_at(host_offset, bytes)
    }

    fn write_zeros_at(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        self.file.write_zeros_at(host_offset, length_bytes)
    }

    fn allocate(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        self.file.allocate(host_offset, length_bytes)
    }

    fn set_len_bytes(&self, length_bytes: u64) -> io::Result<()> {
        self.file.set_len_bytes(length_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.syncs_fail.load(SeqCst) { Err(io::Error::other("injected fault")) } else { Ok(()) }
    }
}

#[test]
fn a_full_disk_fails_the_writer_and_leaves_the_overlay_whole() {
    for writes in 1..12 {
        let (file, base) = (Arc::new(FullFile::default()), base());
        file.writes_left.store(writes, SeqCst);
        let overlay = create_in(&file, base.clone());
        let (mut model, mut failures) = (Model::of(base.as_ref()), 0);
        for sector in [3, 30, 31, 90, 91, 120] {
            match overlay.write_at(offset_of(sector), &[sector as u8; 512]) {
                Ok(()) => model.put(sector, &[sector as u8; 512]),
                Err(error) => {
                    assert_eq!(error.io_cause().map(io::Error::kind), Some(io::ErrorKind::StorageFull));
                    failures += 1;
                }
            }
            model.check_now(&overlay);
        }
        assert!(failures > 0 || writes > 8);
        if overlay.flush().is_err() {
            file.writes_left.store(10, SeqCst);
            overlay.flush().unwrap();
        }
        model.check_now(&open_in(Arc::new(file.file.duplicate()), base).unwrap());
    }
}

#[test]
fn after_a_sync_that_failed_nothing_is_promised_any_more() {
    let (file, base) = (Arc::new(FullFile::default()), base());
    file.writes_left.store(100, SeqCst);
    let overlay = create_in(&file, base.clone());
    overlay.write_at(offset_of(0), &[1; 512]).unwrap();
    file.syncs_fail.store(true, SeqCst);
    assert!(overlay.flush().is_err());
    file.syncs_fail.store(false, SeqCst);
    assert!(overlay.flush().is_err() && overlay.write_at(0, &[1; 512]).is_err());
    assert_eq!(read_sector(&overlay, 0), [1; 512], "it is still read");
}

#[test]
fn an_overlay_is_for_one_disk_and_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kept.overlay");
    let overlay = Overlay::create(&path, base()).unwrap();
    overlay.write_at(offset_of(0), &[3; 512]).unwrap();
    let words = |result: Result<Overlay>| result.err().map(|error| format!("{error}")).unwrap_or_default();
    assert!(words(Overlay::create(&path, base())).contains("exists already"));
    assert!(words(Overlay::open(&path, base())).contains("another process uses the overlay"));
    assert!(OverlayReader::open(&path, base()).is_err());
    drop(overlay);
    assert!(words(Overlay::open(&path, Arc::new(ModelDisk::new(DISK_BYTES)))).contains("is another one"));
    assert!(words(Overlay::open(&path, Arc::new(ModelDisk::new(512)))).contains("this one has 512"));
    let reader = OverlayReader::open(&path, base()).unwrap();
    assert_eq!(read_sector(&reader, 0), [3; 512]);
    check_disk(&reader, 1).unwrap();
    assert!(OverlayReader::open(&path, base()).is_ok(), "several may read");
    assert!(Overlay::open(&path, base()).is_err(), "nobody writes while it is read");
    drop(reader);
    File::options().write(true).open(&path).unwrap().set_len(70_000).unwrap();
    assert!(words(Overlay::open(&path, base())).contains("70000 bytes"));
    std::fs::write(&path, "something else").unwrap();
    assert!(words(Overlay::open(&path, base())).contains("does not begin as an overlay"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn discards_give_the_room_back() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kept.overlay");
    let overlay = Overlay::create(&path, base()).unwrap();
    let allocated = || std::fs::metadata(&path).unwrap().blocks() * 512;
    overlay.write_at(0, &vec![1; 8 << 20]).unwrap();
    overlay.flush().unwrap();
    assert!(allocated() >= 8 << 20);
    overlay.discard_at(4096, (8 << 20) - 4096).unwrap();
    overlay.flush().unwrap();
    assert!(allocated() < 1 << 20, "{} are allocated", allocated());
    assert!(read_all(&overlay).unwrap()[4096..8 << 20].iter().all(|byte| *byte == 0));
}
