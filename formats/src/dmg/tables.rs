//! The chunk tables: which run of sectors is stored where, and how.

use zerocopy::FromBytes;

use super::codecs::Codec;
use super::on_disk::*;
use super::property_list;
use super::resource_fork::{self, TableBytes};
use super::trailer::{Layout, TablesPlace};
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::limits::MAX_DISK_BYTES;

const DOING: &str = "read DMG chunk table";

/// Largest property list or resource fork, in bytes. With chunks of 512 KiB it describes a disk of 300 GiB, and takes, with
/// the tables decoded from it, 110 MiB of memory for a moment.
const MAX_TABLES_BYTES: u64 = 32 << 20;

/// Largest compressed chunk, in bytes of the disk. macOS makes chunks of 256 KiB to 1 MiB.
pub(super) const MAX_CHUNK_BYTES: u64 = 16 << 20;

const MAX_SECTORS: u64 = MAX_DISK_BYTES / SECTOR_BYTES;

/// A partition: what one chunk table describes.
#[derive(Debug)]
pub(super) struct Partition {
    pub name: String,
    pub crc: Option<u32>,
}

/// A run of sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub first_sector: u64,
    pub sectors: u64,
    pub kind: ChunkKind,
    /// Where it is stored.
    pub host_offset: u64,
    pub stored_bytes: u64,
    /// Which table it comes from.
    pub partition: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkKind {
    Zero,
    /// Not used by the file system, and not stored.
    Ignored,
    Raw,
    Encoded(Codec),
}

impl Chunk {
    pub fn end_sector(&self) -> u64 {
        self.first_sector + self.sectors
    }

    pub fn guest_offset(&self) -> u64 {
        self.first_sector * SECTOR_BYTES
    }

    pub fn length_bytes(&self) -> u64 {
        self.sectors * SECTOR_BYTES
    }

    pub fn host_end(&self) -> u64 {
        self.host_offset + self.stored_bytes
    }

    pub fn is_stored(&self) -> bool {
        matches!(self.kind, ChunkKind::Raw | ChunkKind::Encoded(_))
    }
}

/// All chunks of the disk.
#[derive(Debug)]
pub(super) struct Tables {
    /// In the order of the file.
    pub partitions: Vec<Partition>,
    /// In the order of the disk; they do not overlap.
    pub chunks: Vec<Chunk>,
}

impl Tables {
    /// The chunk that holds a sector, with its index.
    pub fn find(&self, sector: u64) -> Option<(usize, &Chunk)> {
        let index = self.chunks.partition_point(|chunk| chunk.end_sector() <= sector);
        self.chunks.get(index).filter(|chunk| chunk.first_sector <= sector).map(|chunk| (index, chunk))
    }

    pub fn end_sector(&self) -> u64 {
        self.chunks.last().map_or(0, Chunk::end_sector)
    }

    /// The runs of sectors that no chunk holds, on a disk of so many sectors.
    pub fn gaps(&self, sectors: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
        let ends = std::iter::once(0).chain(self.chunks.iter().map(Chunk::end_sector));
        let starts = self.chunks.iter().map(|chunk| chunk.first_sector).chain(std::iter::once(sectors));
        ends.zip(starts).filter(|(end, start)| end < start).map(|(end, start)| end..start)
    }
}

pub(super) fn read(file: &dyn HostFile, layout: &Layout) -> Result<Tables> {
    let (TablesPlace::PropertyList(place) | TablesPlace::ResourceFork(place)) = &layout.tables;
    let length_bytes = place.end - place.start;
    if length_bytes > MAX_TABLES_BYTES {
        let detail = format!("the chunk tables take {length_bytes} bytes, at most {MAX_TABLES_BYTES} are read");
        return Err(ImageError::limit_exceeded(DOING, detail).at_host(place.start));
    }
    let mut bytes = vec![0; length_bytes as usize];
    file.read_exact_at(place.start, &mut bytes).map_err(|cause| ImageError::io(DOING, cause).at_host(place.start))?;
    let tables = match layout.tables {
        TablesPlace::PropertyList(_) => property_list::read_tables(&bytes),
        TablesPlace::ResourceFork(_) => resource_fork::read_tables(&bytes),
    }
    .map_err(|error| error.at_host(place.start))?;
    drop(bytes);
    parse(tables, layout)
}

fn parse(tables: Vec<TableBytes>, layout: &Layout) -> Result<Tables> {
    let (mut partitions, mut chunks) = (Vec::new(), Vec::new());
    for (index, table) in tables.into_iter().enumerate() {
        let crc = parse_table(&table.bytes, index as u32, layout, &mut chunks).map_err(|(kind, detail)| {
            ImageError::new(kind, DOING, format!("table {index} (\"{}\"): {detail}", table.name.escape_debug()))
        })?;
        partitions.push(Partition { name: table.name, crc });
    }
    chunks.sort_unstable_by_key(|chunk| chunk.first_sector);
    if let Some([one, next]) = chunks.array_windows().find(|[one, next]| next.first_sector < one.end_sector()) {
        let detail = format!("the chunks of sectors {} and {} overlap", one.first_sector, next.first_sector);
        return Err(ImageError::corrupt(DOING, detail));
    }
    check_stored_once(&chunks)?;
    Ok(Tables { partitions, chunks })
}

/// Nobody stores a chunk for two places; whoever says so may want a small file to be a large disk.
fn check_stored_once(chunks: &[Chunk]) -> Result<()> {
    let mut places: Vec<_> =
        chunks.iter().filter(|chunk| chunk.is_stored()).map(|chunk| chunk.host_offset..chunk.host_end()).collect();
    places.sort_unstable_by_key(|place| place.start);
    match places.array_windows().find(|[one, next]| next.start < one.end) {
        None => Ok(()),
        Some([one, next]) => {
            let detail = format!(
                "the chunks stored at {:#x} to {:#x} and from {:#x} on overlap",
                one.start, one.end, next.start
            );
            Err(ImageError::corrupt(DOING, detail).at_host(next.start))
        }
    }
}

type Fault = (crate::ErrorKind, String);

fn corrupt(detail: impl Into<String>) -> Fault {
    (crate::ErrorKind::Corrupt, detail.into())
}

/// Adds a table's chunks; returns the CRC-32 of the partition, if it has one.
fn parse_table(
    bytes: &[u8],
    partition: u32,
    layout: &Layout,
    chunks: &mut Vec<Chunk>,
) -> std::result::Result<Option<u32>, Fault> {
    let (header, rest) = TableHeader::ref_from_prefix(bytes).map_err(|_| {
        corrupt(format!("it has {} bytes, expected at least {}", bytes.len(), size_of::<TableHeader>()))
    })?;
    if header.signature != TABLE_SIGNATURE {
        return Err(corrupt(format!("it begins with \"{}\", expected \"mish\"", header.signature.escape_ascii())));
    }
    if header.version.get() != TABLE_VERSION {
        let detail = format!("its version is {}, expected {TABLE_VERSION}", header.version);
        return Err((crate::ErrorKind::Unsupported, detail));
    }
    let count = header.chunk_count.get();
    let (entries, _) = <[ChunkEntry]>::ref_from_prefix_with_elems(rest, count as usize)
        .map_err(|_| corrupt(format!("its {count} chunks do not fit into its {} bytes", bytes.len())))?;
    let context = TableContext { header, layout, partition };
    for (index, entry) in entries.iter().enumerate() {
        let chunk = context.chunk(entry).map_err(|(kind, detail)| (kind, format!("chunk {index}: {detail}")))?;
        chunks.extend(chunk);
    }
    Ok(header.checksum.crc_32())
}

struct TableContext<'a> {
    header: &'a TableHeader,
    layout: &'a Layout,
    partition: u32,
}

impl TableContext<'_> {
    fn chunk(&self, entry: &ChunkEntry) -> std::result::Result<Option<Chunk>, Fault> {
        let kind = match entry.kind.get() {
            CHUNK_COMMENT | CHUNK_END => return Ok(None),
            _ if entry.sector_count.get() == 0 => return Ok(None),
            CHUNK_ZERO => ChunkKind::Zero,
            CHUNK_IGNORE => ChunkKind::Ignored,
            CHUNK_RAW => ChunkKind::Raw,
            CHUNK_ADC => ChunkKind::Encoded(Codec::Adc),
            CHUNK_ZLIB => ChunkKind::Encoded(Codec::Zlib),
            CHUNK_BZIP2 => ChunkKind::Encoded(Codec::Bzip2),
            CHUNK_LZFSE => ChunkKind::Encoded(Codec::Lzfse),
            CHUNK_LZMA => ChunkKind::Encoded(Codec::Lzma),
            other => {
                return Err((crate::ErrorKind::Unsupported, format!("its kind is {other:#x}, which is not known")));
            }
        };
        let first_sector = self.first_sector(entry)?;
        let (host_offset, stored_bytes) = match kind {
            ChunkKind::Zero | ChunkKind::Ignored => (0, 0),
            ChunkKind::Raw | ChunkKind::Encoded(_) => self.place(entry, kind)?,
        };
        let sectors = entry.sector_count.get();
        Ok(Some(Chunk { first_sector, sectors, kind, host_offset, stored_bytes, partition: self.partition }))
    }

    /// Where the chunk begins on the disk; it also ends there.
    fn first_sector(&self, entry: &ChunkEntry) -> std::result::Result<u64, Fault> {
        let (offset, sectors) = (entry.first_sector.get(), entry.sector_count.get());
        let partition_sectors = self.header.sector_count.get();
        let in_partition = offset.checked_add(sectors).is_some_and(|end| end <= partition_sectors);
        if !in_partition {
            let detail = format!("it has {sectors} sectors from {offset} on, the partition has {partition_sectors}");
            return Err(corrupt(detail));
        }
        let first_sector = self.header.first_sector.get().checked_add(offset);
        let on_disk = first_sector.filter(|first| first.checked_add(sectors).is_some_and(|end| end <= MAX_SECTORS));
        on_disk.ok_or_else(|| {
            (crate::ErrorKind::LimitExceeded, format!("it ends after sector {MAX_SECTORS}, the last that works"))
        })
    }

    /// Where the chunk is in the file.
    fn place(&self, entry: &ChunkEntry, kind: ChunkKind) -> std::result::Result<(u64, u64), Fault> {
        let (stored_offset, stored_bytes) = (entry.stored_offset.get(), entry.stored_bytes.get());
        let begin = self.layout.data.start.checked_add(self.header.data_offset.get());
        let host_offset = begin.and_then(|begin| begin.checked_add(stored_offset));
        let in_file = host_offset
            .filter(|host| host.checked_add(stored_bytes).is_some_and(|end| end <= self.layout.trailer_offset));
        let host_offset = in_file.ok_or_else(|| {
            let trailer_offset = self.layout.trailer_offset;
            let detail = format!(
                "its {stored_bytes:#x} bytes at {stored_offset:#x} of the data are past the beginning of the trailer at {trailer_offset:#x}"
            );
            (crate::ErrorKind::Corrupt, detail)
        })?;
        // No overflow: these sectors are on a disk whose bytes can be counted.
        let length_bytes = entry.sector_count.get() * SECTOR_BYTES;
        match kind {
            ChunkKind::Raw if stored_bytes != length_bytes => {
                Err(corrupt(format!("it stores {length_bytes} bytes as they are in {stored_bytes} bytes")))
            }
            ChunkKind::Encoded(_) if length_bytes.max(stored_bytes) > MAX_CHUNK_BYTES => {
                let detail = format!(
                    "it compresses {length_bytes} bytes to {stored_bytes}, at most {MAX_CHUNK_BYTES} are decoded"
                );
                Err((crate::ErrorKind::LimitExceeded, detail))
            }
            ChunkKind::Encoded(_) if stored_bytes == 0 => Err(corrupt("it is compressed to nothing")),
            _ => Ok((host_offset, stored_bytes)),
        }
    }
}
