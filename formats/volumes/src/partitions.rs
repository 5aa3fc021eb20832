//! The partitions of a disk: MBR with its logical ones, and GPT. Nothing that a table says is believed before it was checked.

use std::error::Error;
use std::fmt;
use std::ops::Range;

use tintype_formats::{BlockSource, ImageError};

/// Most logical partitions that are followed: each names the next one, and a loop would never end.
const MAX_LOGICAL: usize = 256;

/// Most entries of a GPT that are read.
const MAX_GPT_ENTRIES: u32 = 1024;

/// The sector sizes that a GPT may have been written for, in bytes.
const SECTOR_SIZES: [u64; 2] = [512, 4096];

const GPT_PROTECTIVE: u8 = 0xee;
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// A part of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, as Linux counts: the place in the table, logical ones from 5 on.
    pub number: u32,
    /// Where it begins on the disk, in bytes.
    pub begin: u64,
    /// How long it is, in bytes.
    pub size_bytes: u64,
    /// What the table says that it is for.
    pub kind: PartitionKind,
    /// The partition's own GUID in a GPT, as its bytes are on the disk.
    pub guid: Option<[u8; 16]>,
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionTable {
    /// What tells this table from others, if it says so.
    pub id: Option<TableId>,
    /// Its partitions, by number.
    pub partitions: Vec<Partition>,
}

/// What tells a partition table from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableId {
    /// The disk identifier of an MBR.
    Mbr(u32),
    /// The disk GUID of a GPT, as its bytes are on the disk.
    Gpt([u8; 16]),
}

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionKind {
    /// The type in an MBR.
    Mbr(u8),
    /// The type in a GPT, as its bytes are on the disk.
    Gpt([u8; 16]),
}

/// Reason why the partitions of a disk are not known.
#[derive(Debug)]
pub enum TableError {
    /// The disk could not be read.
    Disk(ImageError),
    /// There is no table, or it contradicts itself or the disk: what was found.
    Table(String),
}

type Result<T> = std::result::Result<T, TableError>;

impl From<ImageError> for TableError {
    fn from(cause: ImageError) -> Self {
        TableError::Disk(cause)
    }
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableError::Disk(cause) => cause.fmt(f),
            TableError::Table(found) => write!(f, "read the partition table of the disk: {found}"),
        }
    }
}

impl Error for TableError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            TableError::Disk(cause) => cause.source(),
            TableError::Table(_) => None,
        }
    }
}

impl PartitionTable {
    /// Returns the name of the partition that begins here, as Linux makes it (`PARTUUID`).
    pub fn part_uuid(&self, begin: u64) -> Option<String> {
        let partition = self.partitions.iter().find(|partition| partition.begin == begin)?;
        match (partition.guid, self.id) {
            (Some(guid), _) => Some(guid_text(&guid)),
            (None, Some(TableId::Mbr(id))) => Some(format!("{id:08x}-{:02x}", partition.number)),
            _ => None,
        }
    }
}

/// Writes a GUID as people do: the first three groups are little-endian on the disk.
pub fn guid_text(guid: &[u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *guid;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let groups = [hex(&[d, c, b, a]), hex(&[f, e]), hex(&[h, g]), hex(&rest[..2]), hex(&rest[2..])];
    groups.join("-")
}

/// Reads the partitions of a disk, by number; an error if there is no table, or it is damaged.
pub fn partitions(disk: &dyn BlockSource) -> Result<Vec<Partition>> {
    Ok(partition_table(disk)?.partitions)
}

/// Reads the partition table of a disk; an error if there is none, or it is damaged.
pub fn partition_table(disk: &dyn BlockSource) -> Result<PartitionTable> {
    let geometry = disk.geometry();
    let sector_bytes = u64::from(geometry.logical_sector_bytes).max(512);
    let mbr = read::<512>(disk, 0)?.filter(|sector| sector[510..] == [0x55, 0xaa]);
    let Some(mbr) = mbr else { return Err(unreadable("it has no MBR and no GPT")) };
    if MbrEntry::all(&mbr).any(|entry| entry.kind == GPT_PROTECTIVE) {
        return gpt(disk, sector_bytes);
    }
    let mut found = Vec::new();
    let mut extended = None;
    for (number, entry) in (1..).zip(MbrEntry::all(&mbr)) {
        if EXTENDED.contains(&entry.kind) {
            extended.get_or_insert(entry.begin);
        } else if entry.is_used() {
            found.push(partition(disk, number, entry.kind(), entry.begin..entry.end(), sector_bytes)?);
        }
    }
    if let Some(extended) = extended {
        logical(disk, extended, sector_bytes, &mut found)?;
    }
    // A boot sector of a file system ends as an MBR does, and has code in the place of the identifier.
    let is_table = mbr[446..510].chunks_exact(16).all(|entry| matches!(entry[0], 0 | 0x80)) && !found.is_empty();
    let id = Some(u32_at(&mbr, 440)).filter(|id| is_table && *id != 0);
    Ok(PartitionTable { id: id.map(TableId::Mbr), partitions: found })
}

/// An entry of an MBR, in sectors.
struct MbrEntry {
    kind: u8,
    begin: u64,
    sectors: u64,
}

impl MbrEntry {
    fn all(sector: &[u8; 512]) -> impl Iterator<Item = MbrEntry> {
        let (entries, _) = sector[446..510].as_chunks::<16>();
        entries.iter().map(|entry| {
            let [.., b0, b1, b2, b3, s0, s1, s2, s3] = *entry;
            let begin = u32::from_le_bytes([b0, b1, b2, b3]).into();
            MbrEntry { kind: entry[4], begin, sectors: u32::from_le_bytes([s0, s1, s2, s3]).into() }
        })
    }

    fn is_used(&self) -> bool {
        self.kind != 0 && self.sectors != 0
    }

    fn kind(&self) -> PartitionKind {
        PartitionKind::Mbr(self.kind)
    }

    fn end(&self) -> u64 {
        self.begin + self.sectors
    }
}

/// Follows the chain of logical partitions: each sector describes one, and where the next sector is.
fn logical(disk: &dyn BlockSource, extended: u64, sector_bytes: u64, found: &mut Vec<Partition>) -> Result<()> {
    let mut at = extended;
    for number in (5..).take(MAX_LOGICAL) {
        let sector = read::<512>(disk, at.saturating_mul(sector_bytes))?;
        let Some(sector) = sector.filter(|sector| sector[510..] == [0x55, 0xaa]) else {
            return Err(unreadable(&format!("the chain of logical partitions breaks at sector {at}")));
        };
        let mut entries = MbrEntry::all(&sector);
        let (own, next) = (entries.next(), entries.next());
        if let Some(own) = own.filter(MbrEntry::is_used) {
            let begin = at.saturating_add(own.begin);
            found.push(partition(disk, number, own.kind(), begin..begin.saturating_add(own.sectors), sector_bytes)?);
        }
        match next.filter(|next| EXTENDED.contains(&next.kind) && next.is_used()) {
            Some(next) => at = extended.saturating_add(next.begin),
            None => return Ok(()),
        }
    }
    Err(unreadable(&format!("the chain of logical partitions has more than {MAX_LOGICAL}, or is a loop")))
}

/// The first GPT that is whole, in the disk's own sectors before others.
fn gpt(disk: &dyn BlockSource, sector_bytes: u64) -> Result<PartitionTable> {
    let others = SECTOR_SIZES.into_iter().filter(|other| *other != sector_bytes);
    for sector_bytes in std::iter::once(sector_bytes).chain(others) {
        let last = (disk.geometry().size_bytes / sector_bytes).saturating_sub(1);
        for sector in [1, last] {
            if let Some(found) = gpt_at(disk, sector, sector_bytes)? {
                return Ok(found);
            }
        }
    }
    Err(unreadable("its MBR says that there is a GPT, and neither the table nor its backup is whole"))
}

/// Returns the size of the sectors that the disk's GPT counts: its header is in the second or the last of them. None if there
/// is no whole header. The first header is believed before the last, which may be left from another table.
pub fn gpt_sector_bytes(disk: &dyn BlockSource) -> Option<u32> {
    let has_header_at =
        |sector, sector_bytes| gpt_header_at(disk, sector, sector_bytes).is_ok_and(|found| found.is_some());
    let last = |sector_bytes: u64| (disk.geometry().size_bytes / sector_bytes).saturating_sub(1);
    let of_first = SECTOR_SIZES.into_iter().find(|sector_bytes| has_header_at(1, *sector_bytes));
    let of_last = || SECTOR_SIZES.into_iter().find(|sector_bytes| has_header_at(last(*sector_bytes), *sector_bytes));
    of_first.or_else(of_last).and_then(|sector_bytes| u32::try_from(sector_bytes).ok())
}

/// Returns whether the first sector is an MBR with an entry in use, whatever it says of where partitions are.
pub fn has_mbr(disk: &dyn BlockSource) -> bool {
    let sector = read::<512>(disk, 0).ok().flatten().filter(|sector| sector[510..] == [0x55, 0xaa]);
    sector.is_some_and(|sector| {
        // The first byte of an entry only says which partition is started.
        let are_entries = sector[446..510].chunks_exact(16).all(|entry| entry[0] & 0x7f == 0);
        are_entries && MbrEntry::all(&sector).any(|entry| entry.is_used())
    })
}

/// Returns the whole header of a GPT in this sector.
fn gpt_header_at(disk: &dyn BlockSource, sector: u64, sector_bytes: u64) -> Result<Option<[u8; 512]>> {
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
fn gpt_at(disk: &dyn BlockSource, sector: u64, sector_bytes: u64) -> Result<Option<PartitionTable>> {
    let Some(header) = gpt_header_at(disk, sector, sector_bytes)? else { return Ok(None) };
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

/// A partition of these sectors, if the disk has them.
fn partition(
    disk: &dyn BlockSource,
    number: u32,
    kind: PartitionKind,
    sectors: Range<u64>,
    sector_bytes: u64,
) -> Result<Partition> {
    let (begin, sectors) = (sectors.start, sectors.end.saturating_sub(sectors.start));
    let disk_bytes = disk.geometry().size_bytes;
    let range = begin.checked_mul(sector_bytes).zip(sectors.checked_mul(sector_bytes));
    match range {
        Some((begin, size_bytes))
            if size_bytes > 0 && begin.checked_add(size_bytes).is_some_and(|end| end <= disk_bytes) =>
        {
            Ok(Partition { number, begin, size_bytes, kind, guid: None })
        }
        _ => Err(unreadable(&format!(
            "partition {number} has {sectors} sectors from {begin} on, and the disk only {disk_bytes} bytes"
        ))),
    }
}

/// Bytes of the disk; none past its end.
fn read<const N: usize>(disk: &dyn BlockSource, offset: u64) -> Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    Ok(read_into(disk, offset, &mut bytes)?.then_some(bytes))
}

fn read_into(disk: &dyn BlockSource, offset: u64, bytes: &mut [u8]) -> Result<bool> {
    let end = offset.checked_add(bytes.len() as u64);
    if end.is_none_or(|end| end > disk.geometry().size_bytes) {
        return Ok(false);
    }
    disk.read_at(offset, bytes)?;
    Ok(true)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn guid_at(bytes: &[u8], at: usize) -> [u8; 16] {
    bytes.get(at..at + 16).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default()
}

fn unreadable(found: &str) -> TableError {
    TableError::Table(found.to_owned())
}

#[cfg(test)]
mod tests {
    use tintype_formats::testing::{MemoryDisk, Random};

    use super::*;

    fn entry(disk: &mut MemoryDisk, sector: usize, place: usize, kind: u8, begin: u32, sectors: u32) {
        let at = sector * 512 + 446 + place * 16;
        disk.bytes[at + 4] = kind;
        disk.bytes[at + 8..at + 12].copy_from_slice(&begin.to_le_bytes());
        disk.bytes[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        disk.bytes[sector * 512 + 510..sector * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
    }

    fn found(disk: &MemoryDisk) -> Vec<(u32, u64, u64)> {
        let all = partitions(disk).unwrap();
        all.iter().map(|found| (found.number, found.begin / 512, found.size_bytes / 512)).collect()
    }

    fn gpt_disk() -> MemoryDisk {
        let mut disk = MemoryDisk::new(vec![0; 200 * 512]);
        entry(&mut disk, 0, 0, 0xee, 1, 199);
        for (header, table) in [(1, 2), (199, 167)] {
            let at = table * 512 + 128;
            disk.bytes[at..at + 16].fill(7);
            disk.bytes[at + 32..at + 40].copy_from_slice(&40u64.to_le_bytes());
            disk.bytes[at + 40..at + 48].copy_from_slice(&59u64.to_le_bytes());
            let sum = crc32fast::hash(&disk.bytes[table * 512..table * 512 + 128 * 128]);
            let mut bytes = [0; 92];
            bytes[..8].copy_from_slice(b"EFI PART");
            bytes[12..16].copy_from_slice(&92u32.to_le_bytes());
            bytes[24..32].copy_from_slice(&(header as u64).to_le_bytes());
            bytes[72..80].copy_from_slice(&(table as u64).to_le_bytes());
            bytes[80..84].copy_from_slice(&128u32.to_le_bytes());
            bytes[84..88].copy_from_slice(&128u32.to_le_bytes());
            bytes[88..92].copy_from_slice(&sum.to_le_bytes());
            let sum = crc32fast::hash(&bytes);
            bytes[16..20].copy_from_slice(&sum.to_le_bytes());
            disk.bytes[header * 512..header * 512 + 92].copy_from_slice(&bytes);
        }
        disk
    }

    #[test]
    fn primary_and_logical_partitions_have_their_numbers() {
        let mut disk = MemoryDisk::new(vec![0; 1000 * 512]);
        entry(&mut disk, 0, 0, 0x83, 10, 20);
        entry(&mut disk, 0, 2, 0x0f, 100, 800);
        entry(&mut disk, 100, 0, 0x83, 2, 50);
        entry(&mut disk, 100, 1, 0x05, 200, 60);
        entry(&mut disk, 300, 0, 0x82, 2, 58);
        assert_eq!(found(&disk), [(1, 10, 20), (5, 102, 50), (6, 302, 58)]);
        entry(&mut disk, 300, 1, 0x05, 200, 60);
        assert!(partitions(&disk).is_err(), "a loop");
        entry(&mut disk, 300, 1, 0x05, 5000, 60);
        assert!(partitions(&disk).is_err(), "past the end");
    }

    #[test]
    fn a_gpt_is_read_and_its_backup_when_it_is_damaged() {
        let mut disk = gpt_disk();
        assert_eq!(found(&disk), [(2, 40, 20)]);
        disk.bytes[2 * 512 + 300] ^= 1;
        assert_eq!(found(&disk), [(2, 40, 20)]);
        disk.bytes[199 * 512] ^= 1;
        assert!(partitions(&disk).is_err());
    }

    #[test]
    fn a_disk_without_a_table_is_refused() {
        for length in [0, 512, 100 * 512] {
            assert!(partitions(&MemoryDisk::new(vec![0; length])).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn no_table_makes_it_panic_or_reach_past_the_disk() {
        let mut random = Random(11);
        for _ in 0..2000 {
            let mut disk = gpt_disk();
            if random.below(2) == 0 {
                entry(&mut disk, 0, 0, 0x05, 1, 199);
                entry(&mut disk, 1, 1, 0x05, 3, 199);
            }
            for _ in 0..random.below(40) {
                let at = [random.below(2048), 510 + random.below(200), 199 * 512 + random.below(100)];
                disk.bytes[at[random.below(3) as usize] as usize] = random.next_u64() as u8;
            }
            for partition in partitions(&disk).unwrap_or_default() {
                assert!(partition.begin + partition.size_bytes <= 200 * 512);
            }
        }
    }

    #[test]
    fn guids_are_written_as_other_programs_write_them() {
        let bytes = [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
        assert_eq!(guid_text(&bytes), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
    }
}
