//! The GPT: a header and a table of entries with checksums, at the beginning of the disk and again at its end.

use tintype_formats::BlockSource;

use super::{
    Partition, PartitionKind, PartitionTable, Result, TableId, partition, read, read_into, u32_at, unreadable,
};

/// Most entries of a GPT that are read.
const MAX_GPT_ENTRIES: u32 = 1024;

/// The sector sizes that a GPT may have been written for, in bytes.
const SECTOR_SIZES: [u64; 2] = [512, 4096];

/// The first GPT that is whole, in the disk's own sectors before others.
pub(super) fn table(disk: &dyn BlockSource, sector_bytes: u64) -> Result<PartitionTable> {
    let others = SECTOR_SIZES.into_iter().filter(|other| *other != sector_bytes);
    for sector_bytes in std::iter::once(sector_bytes).chain(others) {
        let last = (disk.geometry().size_bytes / sector_bytes).saturating_sub(1);
        for sector in [1, last] {
            if let Some(found) = table_at(disk, sector, sector_bytes)? {
                return Ok(found);
            }
        }
    }
    Err(unreadable("its MBR says that there is a GPT, and neither the table nor its backup is whole"))
}

/// Returns the size of the sectors that the disk's GPT counts: its header is in the second or the last of them. None if there
/// is no whole header. The first header is believed before the last, which may be left from another table.
pub fn gpt_sector_bytes(disk: &dyn BlockSource) -> Option<u32> {
    let has_header_at = |sector, sector_bytes| header_at(disk, sector, sector_bytes).is_ok_and(|found| found.is_some());
    let last = |sector_bytes: u64| (disk.geometry().size_bytes / sector_bytes).saturating_sub(1);
    let of_first = SECTOR_SIZES.into_iter().find(|sector_bytes| has_header_at(1, *sector_bytes));
    let of_last = || SECTOR_SIZES.into_iter().find(|sector_bytes| has_header_at(last(*sector_bytes), *sector_bytes));
    of_first.or_else(of_last).and_then(|sector_bytes| u32::try_from(sector_bytes).ok())
}

/// Returns the whole header of a GPT in this sector.
fn header_at(disk: &dyn BlockSource, sector: u64, sector_bytes: u64) -> Result<Option<[u8; 512]>> {
    let Some(header) = read::<512>(disk, sector.saturating_mul(sector_bytes))? else { return Ok(None) };
    let length = u32_at(&header, 12) as usize;
    if header[..8] != *b"EFI PART" || !(92..=512).contains(&length) || u64_at(&header, 24) != sector {
        return Ok(None);
    }
    let mut unsigned = header;
    unsigned[16..20].fill(0);
    Ok((crc32fast::hash(&unsigned[..length]) == u32_at(&header, 16)).then_some(header))
}

/// The GPT with its header here; none if it is damaged.
fn table_at(disk: &dyn BlockSource, sector: u64, sector_bytes: u64) -> Result<Option<PartitionTable>> {
    let Some(header) = header_at(disk, sector, sector_bytes)? else { return Ok(None) };
    let (count, entry_bytes) = (u32_at(&header, 80), u32_at(&header, 84));
    if count > MAX_GPT_ENTRIES || !(128..=4096).contains(&entry_bytes) || !entry_bytes.is_power_of_two() {
        return Ok(None);
    }
    let mut entries = vec![0; count as usize * entry_bytes as usize];
    let at = u64_at(&header, 72).saturating_mul(sector_bytes);
    if !read_into(disk, at, &mut entries)? || crc32fast::hash(&entries) != u32_at(&header, 88) {
        return Ok(None);
    }
    let mut found = Vec::new();
    for (number, entry) in (1..).zip(entries.chunks_exact(entry_bytes as usize)) {
        if entry[..16] != [0; 16] {
            let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
            let kind = PartitionKind::Gpt(guid_at(entry, 0));
            let sectors = first..last.saturating_add(1);
            let partition = partition(disk, number, kind, sectors, sector_bytes)?;
            found.push(Partition { guid: Some(guid_at(entry, 16)), ..partition });
        }
    }
    let id = guid_at(&header, 56);
    Ok(Some(PartitionTable { id: (id != [0; 16]).then_some(TableId::Gpt(id)), partitions: found }))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn guid_at(bytes: &[u8], at: usize) -> [u8; 16] {
    bytes.get(at..at + 16).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default()
}
