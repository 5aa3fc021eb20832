//! The header, the sizes that follow from it, and which directory counts.

use std::ops::Range;

use byteorder::{BigEndian, ByteOrder};
use zerocopy::{FromZeros, IntoBytes};

use super::on_disk::*;
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::limits::MAX_DISK_BYTES;

const READ: &str = "read ASIF header";

/// Largest chunk, in bytes: a table is one, and is looked through in memory. 1 MiB is usual.
const MAX_CHUNK_BYTES: u64 = 16 << 20;

/// Largest directory, in bytes; for 4 PiB, the most that macOS makes, it has 260 KiB.
const MAX_DIRECTORY_BYTES: u64 = 16 << 20;

/// What the header says, checked.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub uuid: [u8; 16],
    pub flags: u32,
    pub disk_bytes: u64,
    pub sector_bytes: u64,
    pub chunk_bytes: u64,
    /// How many chunks of data a group has; its bitmap's entry comes after them.
    pub chunks_per_group: u64,
    pub groups_per_table: u64,
    /// How many tables the directory has room for.
    pub table_count: u64,
    /// Where the two directories are.
    pub directories: [Range<u64>; 2],
    /// Which of them counts.
    pub active: usize,
    pub file_len_bytes: u64,
}

impl Layout {
    /// How many chunks of data a table maps.
    pub fn chunks_per_table(&self) -> u64 {
        self.groups_per_table * self.chunks_per_group
    }

    /// How many tables the disk needs, of those there is room for.
    pub fn used_tables(&self) -> u64 {
        self.disk_bytes.div_ceil(self.chunks_per_table() * self.chunk_bytes)
    }

    /// How many bytes of a table are used.
    pub fn table_bytes(&self) -> u64 {
        self.groups_per_table * (self.chunks_per_group + 1) * ENTRY_BYTES
    }

    /// Where the directory's entry for a table is.
    pub fn directory_entry_offset(&self, table: u64) -> u64 {
        // The sequence number comes first.
        self.directories[self.active].start + (table + 1) * ENTRY_BYTES
    }

    /// How much of a chunk the disk reaches into.
    pub fn needed_bytes(&self, chunk: u64) -> u64 {
        self.disk_bytes.saturating_sub(chunk.saturating_mul(self.chunk_bytes)).min(self.chunk_bytes)
    }

    /// Where chunk number `number` of the file begins, if `needed_bytes` of it are in the file, behind the directories.
    ///
    /// Gives what is wrong otherwise.
    pub fn locate(&self, number: u64, needed_bytes: u64) -> std::result::Result<u64, String> {
        let start = number.checked_mul(self.chunk_bytes);
        let range = start.and_then(|start| Some(start..start.checked_add(needed_bytes)?));
        let range = range
            .filter(|range| range.end <= self.file_len_bytes)
            .ok_or_else(|| format!("chunk {number:#x}, past the end of the file ({:#x})", self.file_len_bytes))?;
        let touches = |other: &Range<u64>| range.start < other.end && other.start < range.end;
        if range.start < size_of::<Header>() as u64 || self.directories.iter().any(touches) {
            return Err(format!("chunk {number:#x}, where the header or a directory is"));
        }
        Ok(range.start)
    }
}

/// Reads and checks the header.
pub(super) fn read(file: &dyn HostFile) -> Result<Layout> {
    let file_len_bytes = file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
    let mut header = Header::new_zeroed();
    file.read_exact_at(0, header.as_mut_bytes()).map_err(|cause| ImageError::io(READ, cause).at_host(0))?;
    if header.magic != MAGIC {
        return Err(ImageError::not_this_format(READ, "it does not begin with shdw"));
    }
    let version = header.version.get();
    if version != VERSION {
        return Err(ImageError::unsupported(READ, format!("its version is {version}, only {VERSION} is known")));
    }
    let mut layout = sizes(&header, file_len_bytes)?;
    layout.active = choose_directory(file, &layout)?;
    Ok(layout)
}

fn sizes(header: &Header, file_len_bytes: u64) -> Result<Layout> {
    let corrupt = |detail: String| ImageError::corrupt(READ, detail).at_host(0);
    let sector_bytes = u64::from(header.sector_bytes.get());
    if !matches!(sector_bytes, 512 | 4096) {
        return Err(corrupt(format!("sectors have {sector_bytes} bytes, expected 512 or 4096")));
    }
    let chunk_bytes = u64::from(header.chunk_bytes.get());
    let chunks_per_group = SECTORS_PER_BITMAP_BYTE * sector_bytes;
    let groups_per_table = chunk_bytes / (ENTRY_BYTES * (chunks_per_group + 1));
    if chunk_bytes > MAX_CHUNK_BYTES || !chunk_bytes.is_multiple_of(sector_bytes) || groups_per_table == 0 {
        let detail = format!("chunks have {chunk_bytes:#x} bytes, sectors {sector_bytes}: this cannot be");
        return Err(corrupt(detail));
    }
    let (sectors, max_sectors) = (header.sector_count.get(), header.max_sector_count.get());
    let bytes_of = |sectors: u64| sectors.checked_mul(sector_bytes).filter(|bytes| *bytes <= MAX_DISK_BYTES);
    let (Some(disk_bytes), Some(max_bytes)) = (bytes_of(sectors), bytes_of(max_sectors)) else {
        let detail = format!("the disk has {sectors} sectors, at most {max_sectors}: {MAX_DISK_BYTES} bytes work");
        return Err(ImageError::limit_exceeded(READ, detail).at_host(0));
    };
    if disk_bytes > max_bytes {
        return Err(corrupt(format!("the disk has {sectors} sectors, more than its most, {max_sectors}")));
    }
    let table_count = max_bytes.div_ceil(groups_per_table * chunks_per_group * chunk_bytes);
    let directory_bytes = (table_count + 1) * ENTRY_BYTES;
    if directory_bytes > MAX_DIRECTORY_BYTES {
        let detail = format!("a directory has {directory_bytes} bytes, at most {MAX_DIRECTORY_BYTES} work");
        return Err(ImageError::limit_exceeded(READ, detail).at_host(0));
    }
    let directories = header.directory_offsets.map(|offset| offset.get());
    for start in directories {
        let end = start.checked_add(directory_bytes).filter(|end| *end <= file_len_bytes);
        if end.is_none() || start < size_of::<Header>() as u64 || !start.is_multiple_of(ENTRY_BYTES) {
            let detail =
                format!("a directory of {directory_bytes:#x} bytes is at {start:#x}, in a file of {file_len_bytes:#x}");
            return Err(corrupt(detail));
        }
    }
    if directories[0].abs_diff(directories[1]) < directory_bytes {
        return Err(corrupt(format!("the directories at {:#x} and {:#x} overlap", directories[0], directories[1])));
    }
    Ok(Layout {
        uuid: header.uuid,
        flags: header.flags.get(),
        disk_bytes,
        sector_bytes,
        chunk_bytes,
        chunks_per_group,
        groups_per_table,
        table_count,
        directories: directories.map(|start| start..start + directory_bytes),
        active: 0,
        file_len_bytes,
    })
}

/// The directory with the greater sequence number counts; two of one number must say the same.
fn choose_directory(file: &dyn HostFile, layout: &Layout) -> Result<usize> {
    let read = |bytes: &mut [u8], directory: &Range<u64>| {
        file.read_exact_at(directory.start, bytes)
            .map_err(|cause| ImageError::io("read ASIF directory", cause).at_host(directory.start))
    };
    let (mut first, mut second) = ([0; 8], [0; 8]);
    read(&mut first, &layout.directories[0])?;
    read(&mut second, &layout.directories[1])?;
    match BigEndian::read_u64(&first).cmp(&BigEndian::read_u64(&second)) {
        std::cmp::Ordering::Greater => Ok(0),
        std::cmp::Ordering::Less => Ok(1),
        std::cmp::Ordering::Equal => {
            let length = (layout.directories[0].end - layout.directories[0].start) as usize;
            let (mut first, mut second) = (vec![0; length], vec![0; length]);
            read(&mut first, &layout.directories[0])?;
            read(&mut second, &layout.directories[1])?;
            if first != second {
                let detail = "both have the same sequence number, but they differ";
                return Err(ImageError::corrupt("read ASIF directory", detail));
            }
            Ok(0)
        }
    }
}
