//! The partitions of a disk: MBR with its logical ones, and GPT. Nothing that a table says is believed before it was checked.

mod gpt;
mod mbr;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt;
use std::ops::Range;

use tintype_formats::hex::to_hex;
use tintype_formats::{BlockSource, ImageError};

pub use gpt::gpt_sector_bytes;
pub use mbr::has_mbr;

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
    let groups = [&[d, c, b, a][..], &[f, e], &[h, g], &rest[..2], &rest[2..]].map(to_hex);
    groups.join("-")
}

/// Reads the partitions of a disk, by number; an error if there is no table, or it is damaged.
pub fn partitions(disk: &dyn BlockSource) -> Result<Vec<Partition>> {
    Ok(partition_table(disk)?.partitions)
}

/// Reads the partition table of a disk; an error if there is none, or it is damaged.
pub fn partition_table(disk: &dyn BlockSource) -> Result<PartitionTable> {
    let sector_bytes = u64::from(disk.geometry().logical_sector_bytes).max(512);
    match mbr::sector_at(disk, 0)? {
        None => Err(unreadable("it has no MBR and no GPT")),
        Some(sector) if mbr::is_protective(&sector) => gpt::table(disk, sector_bytes),
        Some(sector) => mbr::table(disk, &sector, sector_bytes),
    }
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

fn unreadable(found: &str) -> TableError {
    TableError::Table(found.to_owned())
}
