//! What holds for any disk, whatever is on it. The tests of hostile disks and the fuzz target include this file.

use tintype_formats::BlockSource;
use tintype_formats::testing::MemoryDisk;
use tintype_volumes::content::content_of;
use tintype_volumes::fat::FileSystem;
use tintype_volumes::look::{Look, look_at};
use tintype_volumes::partitions::{PartitionTable, TableError, gpt_sector_bytes, partition_table};

/// Most reads that a partition table takes: 256 logical partitions, or four places for a GPT.
const TABLE_READS: u64 = 300;

/// Most reads that tell what a disk holds: the places of a GPT, then the marks.
const CONTENT_READS: u64 = 64;

/// Most reads of a look at a disk: marks of a thousand partitions, and eight FAT file systems with 16 MiB of sectors each.
const LOOK_READS: u64 = 300_000;

/// Shortest disk that a mended input gives, in bytes: partitions of short inputs have room on it.
const MIN_DISK_BYTES: usize = 64 << 10;

/// Reads all that is known of a disk's inside, and checks what it promises.
pub fn check(disk: &MemoryDisk) -> (Result<PartitionTable, TableError>, Look) {
    let size_bytes = disk.geometry().size_bytes;
    let table = counted(disk, TABLE_READS, partition_table);
    if let Err(error) = &table {
        assert!(is_plain(&error.to_string()), "{error:?}");
    }
    let partitions = table.as_ref().map_or(&[][..], |table| &table.partitions);
    assert!(partitions.is_sorted_by(|one, next| one.number < next.number), "{partitions:?}");
    for part in partitions {
        let end = part.begin.checked_add(part.size_bytes);
        assert!(part.number > 0 && part.size_bytes > 0 && end.is_some_and(|end| end <= size_bytes), "{part:?}");
        let uuid = table.as_ref().ok().and_then(|table| table.part_uuid(part.begin));
        assert!(uuid.is_none_or(|uuid| uuid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')));
    }
    assert!(gpt_sector_bytes(disk).is_none_or(|sector_bytes| [512, 4096].contains(&sector_bytes)));
    counted(disk, CONTENT_READS, content_of);
    let look = counted(disk, LOOK_READS, look_at);
    assert!(look.efi_loader.is_none() || look.has_efi_partition);
    assert!(look.efi_loader.as_ref().is_none_or(|path| path.starts_with('\\') && is_plain(path)), "{look:?}");
    for part in partitions.iter().take(8) {
        let Some(system) = FileSystem::open(disk, part) else { continue };
        for name in system.folders_in("EFI") {
            assert!(!name.is_empty() && is_plain(&name), "{name:?}");
            system.has_file(&["EFI", &name, "GRUBX64.EFI"]);
        }
    }
    (table, look)
}

/// Makes a disk of an input: long enough for partitions, and each GPT has its checksums, without which hardly a change would be
/// looked at.
pub fn mended(input: &[u8], sector_bytes: usize) -> Vec<u8> {
    let mut disk = input.to_vec();
    disk.resize(input.len().max(MIN_DISK_BYTES).next_multiple_of(sector_bytes), 0);
    for sector in [1, disk.len() / sector_bytes - 1] {
        mend_gpt(&mut disk, sector * sector_bytes, sector_bytes);
    }
    disk
}

/// Sets the checksums of a GPT whose header is here.
fn mend_gpt(disk: &mut [u8], header: usize, sector_bytes: usize) {
    let number = |disk: &[u8], at: usize| u32::from_le_bytes(disk[header + at..][..4].try_into().expect("four bytes"));
    if !disk[header..].starts_with(b"EFI PART") {
        return;
    }
    let (begin, count, entry_bytes) = (number(disk, 72), number(disk, 80), number(disk, 84));
    let (begin, length) = (begin as usize * sector_bytes, count as usize * entry_bytes as usize);
    if let Some(entries) = disk.get(begin..).and_then(|rest| rest.get(..length)) {
        let sum = crc32fast::hash(entries);
        disk[header + 88..][..4].copy_from_slice(&sum.to_le_bytes());
    }
    let length = (number(disk, 12) as usize).clamp(92, 512);
    disk[header + 12..][..4].copy_from_slice(&(length as u32).to_le_bytes());
    disk[header + 16..][..4].fill(0);
    let sum = crc32fast::hash(&disk[header..][..length]);
    disk[header + 16..][..4].copy_from_slice(&sum.to_le_bytes());
}

fn counted<T>(disk: &MemoryDisk, most: u64, read: impl FnOnce(&dyn BlockSource) -> T) -> T {
    let before = disk.reads();
    let found = read(disk);
    assert!(disk.reads() - before <= most, "{} reads", disk.reads() - before);
    found
}

/// Returns true if a terminal shows the text as it is.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}
