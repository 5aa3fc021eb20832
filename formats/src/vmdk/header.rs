//! The headers of sparse extents, of all three kinds, as one [`Shape`].

use std::fmt;

use zerocopy::FromZeros;
use zerocopy::{FromBytes, IntoBytes};

use super::on_disk::*;
use crate::error::{ErrorKind, ImageError, Result};
use crate::host_file::HostFile;
use crate::limits::MAX_DISK_BYTES;

const READ: &str = "read VMDK header";
const READ_FOOTER: &str = "read VMDK footer";

/// How far before the end of a stream its footer is looked for: some writers fill the file up with zeros.
const FOOTER_SEARCH_BYTES: u64 = 64 << 10;

/// Which of the sparse layouts an extent has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SparseKind {
    Hosted,
    Cowd,
    SeSparse,
}

impl fmt::Display for SparseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SparseKind::Hosted => "hosted sparse",
            SparseKind::Cowd => "COWD",
            SparseKind::SeSparse => "seSparse",
        })
    }
}

/// Where the grain directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Directory {
    /// Here, and perhaps once more there.
    At { host_offset: u64, redundant: Option<u64> },
    /// Nowhere: the end of the stream is missing, and the grains are found by their markers.
    Lost,
}

/// What the header of a sparse extent says; every number has been held against a bound.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub kind: SparseKind,
    pub version: u64,
    pub capacity_bytes: u64,
    pub grain_bytes: u64,
    pub table_entries: u64,
    pub directory: Directory,
    /// Where the first grain or marker can be.
    pub first_grain_offset: u64,
    /// Where a seSparse extent has its grain tables, and its grains.
    pub tables_offset: u64,
    pub grains_offset: u64,
    /// Whether the grain table entry 1 stands for zeros.
    pub zero_grains: bool,
    pub compressed: bool,
    pub markers: bool,
    pub unclean: bool,
    /// The embedded descriptor: where, and how long.
    pub descriptor: Option<(u64, u64)>,
}

impl Shape {
    /// How many grain tables the extent needs.
    pub fn table_count(&self) -> u64 {
        self.capacity_bytes.div_ceil(self.grain_bytes * self.table_entries)
    }

    /// The length of an entry of the directory, and of the tables.
    pub fn entry_bytes(&self) -> u64 {
        if self.kind == SparseKind::SeSparse { 8 } else { 4 }
    }
}

/// Which kind of sparse extent begins with these bytes.
pub(super) fn sparse_kind(head: &[u8]) -> Option<SparseKind> {
    if head.starts_with(&HOSTED_MAGIC) {
        return Some(SparseKind::Hosted);
    }
    if head.starts_with(&COWD_MAGIC) {
        return Some(SparseKind::Cowd);
    }
    head.starts_with(&SE_SPARSE_MAGIC.to_le_bytes()).then_some(SparseKind::SeSparse)
}

/// Reads the header of a sparse extent.
pub(super) fn read(file: &dyn HostFile, file_bytes: u64, kind: SparseKind) -> Result<Shape> {
    let shape = match kind {
        SparseKind::Hosted => read_hosted(file, file_bytes)?,
        SparseKind::Cowd => read_cowd(file)?,
        SparseKind::SeSparse => read_se_sparse(file)?,
    };
    check_tables(&shape, file_bytes)?;
    Ok(shape)
}

fn read_structure<T: FromBytes + FromZeros + IntoBytes>(
    file: &dyn HostFile,
    doing: &'static str,
    host_offset: u64,
) -> Result<T> {
    let mut structure = T::new_zeroed();
    file.read_exact_at(host_offset, structure.as_mut_bytes())
        .map_err(|cause| ImageError::io(doing, cause).at_host(host_offset))?;
    Ok(structure)
}

fn corrupt(detail: String) -> ImageError {
    ImageError::corrupt(READ, detail)
}

/// The number of bytes in so many sectors.
fn in_bytes(name: &str, sectors: u64) -> Result<u64> {
    let bytes = sectors.checked_mul(SECTOR_BYTES).filter(|bytes| *bytes <= MAX_DISK_BYTES);
    bytes.ok_or_else(|| {
        let detail = format!("{name} is {sectors:#x} sectors, at most {MAX_DISK_BYTES} bytes work");
        ImageError::limit_exceeded(READ, detail)
    })
}

fn grain_bytes(sectors: u64, max_sectors: u64) -> Result<u64> {
    if !sectors.is_power_of_two() {
        return Err(corrupt(format!("a grain has {sectors} sectors, expected a power of two")));
    }
    if sectors > max_sectors {
        let detail = format!("a grain has {sectors} sectors, at most {max_sectors} are read");
        return Err(ImageError::limit_exceeded(READ, detail));
    }
    Ok(sectors * SECTOR_BYTES)
}

/// The directory fits into the file, or is lost in a stream.
fn check_tables(shape: &Shape, file_bytes: u64) -> Result<()> {
    let tables = shape.table_count();
    if tables > MAX_TABLES {
        let detail = format!("its size needs {tables} grain tables, at most {MAX_TABLES} are read");
        return Err(ImageError::limit_exceeded(READ, detail));
    }
    let Directory::At { host_offset, redundant } = shape.directory else { return Ok(()) };
    let length = tables * shape.entry_bytes();
    let fits = |offset: u64| offset >= SECTOR_BYTES && offset.checked_add(length).is_some_and(|end| end <= file_bytes);
    if tables == 0 || fits(host_offset) || redundant.is_some_and(fits) {
        return Ok(());
    }
    let detail = format!(
        "the grain directory for {} bytes is at {host_offset:#x} and {length} bytes long, the file has {file_bytes:#x}",
        shape.capacity_bytes
    );
    Err(ImageError::truncated(READ, detail))
}

fn read_hosted(file: &dyn HostFile, file_bytes: u64) -> Result<Shape> {
    let header: HostedHeader = read_structure(file, READ, 0)?;
    let version = check_hosted(&header)?;
    let flags = header.flags.get();
    let compressed = flags & FLAG_COMPRESSED != 0;
    let max_grain = if compressed { MAX_COMPRESSED_GRAIN_SECTORS } else { MAX_GRAIN_SECTORS };
    let table_entries = header.table_entries.get();
    if !table_entries.is_power_of_two() || table_entries > MAX_TABLE_ENTRIES {
        let detail =
            format!("a grain table has {table_entries} entries, expected a power of two, at most {MAX_TABLE_ENTRIES}");
        return Err(corrupt(detail));
    }
    let descriptor = hosted_descriptor(&header, file_bytes)?;
    let descriptor_end = descriptor.map_or(SECTOR_BYTES, |(offset, length)| offset + length);
    let overhead = header.overhead_sectors.get().checked_mul(SECTOR_BYTES).filter(|end| *end <= file_bytes);
    let mut shape = Shape {
        kind: SparseKind::Hosted,
        version: version.into(),
        capacity_bytes: in_bytes("the capacity", header.capacity_sectors.get())?,
        grain_bytes: grain_bytes(header.grain_sectors.get(), max_grain)?,
        table_entries: table_entries.into(),
        directory: Directory::Lost,
        first_grain_offset: overhead.unwrap_or(descriptor_end).max(descriptor_end),
        tables_offset: 0,
        grains_offset: 0,
        zero_grains: flags & FLAG_ZERO_GRAINS != 0,
        compressed,
        markers: flags & FLAG_MARKERS != 0,
        unclean: header.unclean_shutdown != 0,
        descriptor,
    };
    shape.directory = hosted_directory(file, file_bytes, &header, &shape)?;
    Ok(shape)
}

fn check_hosted(header: &HostedHeader) -> Result<u32> {
    let version = header.version.get();
    let flags = header.flags.get();
    if !(1..=MAX_HOSTED_VERSION).contains(&version) {
        let detail = format!("its version is {version}; 1 to {MAX_HOSTED_VERSION} are known");
        return Err(ImageError::unsupported(READ, detail));
    }
    // The upper half of the flags is for what nobody may pass over.
    let unknown = flags & !0xffff & !(FLAG_COMPRESSED | FLAG_MARKERS);
    if unknown != 0 {
        return Err(ImageError::unsupported(READ, format!("it has unknown flags ({unknown:#x})")));
    }
    if flags & FLAG_LINE_ENDS != 0 && header.line_ends != LINE_ENDS {
        let detail = format!(
            "its line end bytes are {:02x?}, expected {LINE_ENDS:02x?}: it was damaged by a transfer in text mode",
            header.line_ends
        );
        return Err(corrupt(detail));
    }
    let compression = header.compression.get();
    if flags & FLAG_COMPRESSED != 0 && compression != COMPRESSION_DEFLATE {
        let detail = format!("its compression is number {compression}; only 1, deflate, is known");
        return Err(ImageError::unsupported(READ, detail));
    }
    Ok(version)
}

fn hosted_descriptor(header: &HostedHeader, file_bytes: u64) -> Result<Option<(u64, u64)>> {
    let (sector, sectors) = (header.descriptor_sector.get(), header.descriptor_sectors.get());
    if sector == 0 || sectors == 0 {
        return Ok(None);
    }
    let offset = sector.checked_mul(SECTOR_BYTES);
    let length = sectors.checked_mul(SECTOR_BYTES);
    match (offset, length) {
        (Some(offset), Some(length)) if offset.checked_add(length).is_some_and(|end| end <= file_bytes) => {
            if length > MAX_DESCRIPTOR_BYTES {
                let detail = format!("the descriptor has {length} bytes, at most {MAX_DESCRIPTOR_BYTES} are read");
                return Err(ImageError::limit_exceeded(READ, detail));
            }
            Ok(Some((offset, length)))
        }
        _ => {
            let detail =
                format!("the descriptor is {sectors} sectors at sector {sector}, the file has {file_bytes:#x}");
            Err(ImageError::truncated(READ, detail))
        }
    }
}

/// Where the directory is: as the header says, or the footer, which is then the header that counts.
fn hosted_directory(file: &dyn HostFile, file_bytes: u64, header: &HostedHeader, shape: &Shape) -> Result<Directory> {
    let flags = header.flags.get();
    let length = shape.table_count() * shape.entry_bytes();
    let stream = shape.compressed && shape.markers;
    let sector = header.directory_sector.get();
    if sector != DIRECTORY_AT_END {
        let host_offset = sector.saturating_mul(SECTOR_BYTES);
        let redundant = (flags & FLAG_REDUNDANT_DIRECTORY != 0)
            .then(|| header.redundant_directory_sector.get().saturating_mul(SECTOR_BYTES));
        let cut = host_offset.saturating_add(length) > file_bytes && host_offset >= shape.first_grain_offset;
        return Ok(if stream && cut { Directory::Lost } else { Directory::At { host_offset, redundant } });
    }
    match find_footer(file, file_bytes, shape.first_grain_offset)? {
        Some((offset, footer)) => {
            check_footer(header, &footer).map_err(|error| error.at_host(offset))?;
            let host_offset = footer.directory_sector.get().saturating_mul(SECTOR_BYTES);
            Ok(Directory::At { host_offset, redundant: None })
        }
        None if stream => Ok(Directory::Lost),
        None => Err(ImageError::truncated(READ, "the grain directory is to be found by a footer, and there is none")),
    }
}

/// Finds the footer: it follows its marker, and after it come only the end of the stream and zeros.
fn find_footer(file: &dyn HostFile, file_bytes: u64, begin: u64) -> Result<Option<(u64, HostedHeader)>> {
    let end = file_bytes - file_bytes % SECTOR_BYTES;
    let begin = begin.max(end.saturating_sub(FOOTER_SEARCH_BYTES)).next_multiple_of(SECTOR_BYTES);
    let mut tail = vec![0; file_bytes.saturating_sub(begin) as usize];
    file.read_exact_at(begin, &mut tail).map_err(|cause| ImageError::io(READ_FOOTER, cause).at_host(begin))?;
    let used = tail.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    // The last used bytes are the footer's, or of an end marker, which is all zeros.
    let last_sector = used.saturating_sub(1) / SECTOR_BYTES as usize * SECTOR_BYTES as usize;
    let footer = tail.get(last_sector..).and_then(|bytes| HostedHeader::read_from_prefix(bytes).ok());
    let marker = last_sector
        .checked_sub(SECTOR_BYTES as usize)
        .and_then(|offset| tail.get(offset..))
        .and_then(|bytes| Marker::read_from_prefix(bytes).ok());
    match (footer, marker) {
        (Some((footer, _)), Some((marker, _)))
            if footer.magic == HOSTED_MAGIC && marker.stream_bytes.get() == 0 && marker.kind.get() == MARKER_FOOTER =>
        {
            Ok(Some((begin + last_sector as u64, footer)))
        }
        _ => Ok(None),
    }
}

/// The footer repeats the header, but for the directory's place.
fn check_footer(header: &HostedHeader, footer: &HostedHeader) -> Result<()> {
    let same = header.version == footer.version
        && header.flags == footer.flags
        && header.capacity_sectors == footer.capacity_sectors
        && header.grain_sectors == footer.grain_sectors
        && header.table_entries == footer.table_entries
        && header.compression == footer.compression;
    if !same {
        return Err(ImageError::corrupt(READ_FOOTER, "it does not say the same as the header"));
    }
    if footer.directory_sector.get() == DIRECTORY_AT_END {
        return Err(ImageError::corrupt(READ_FOOTER, "it does not say where the grain directory is"));
    }
    Ok(())
}

fn read_cowd(file: &dyn HostFile) -> Result<Shape> {
    let header: CowdHeader = read_structure(file, READ, 0)?;
    if header.version.get() != COWD_VERSION {
        let detail = format!("its version is {}; only {COWD_VERSION} is known", header.version.get());
        return Err(ImageError::unsupported(READ, detail));
    }
    let shape = Shape {
        kind: SparseKind::Cowd,
        version: header.version.get().into(),
        capacity_bytes: in_bytes("the capacity", header.capacity_sectors.get().into())?,
        grain_bytes: grain_bytes(header.grain_sectors.get().into(), MAX_GRAIN_SECTORS)?,
        table_entries: COWD_TABLE_ENTRIES,
        directory: Directory::At {
            host_offset: u64::from(header.directory_sector.get()) * SECTOR_BYTES,
            redundant: None,
        },
        first_grain_offset: COWD_HEADER_BYTES,
        tables_offset: 0,
        grains_offset: 0,
        zero_grains: false,
        compressed: false,
        markers: false,
        unclean: false,
        descriptor: None,
    };
    if u64::from(header.directory_entries.get()) < shape.table_count() {
        let detail = format!(
            "the grain directory has {} entries, {} bytes need {}",
            header.directory_entries.get(),
            shape.capacity_bytes,
            shape.table_count()
        );
        return Err(corrupt(detail));
    }
    Ok(shape)
}

fn read_se_sparse(file: &dyn HostFile) -> Result<Shape> {
    let header: SeSparseHeader = read_structure(file, READ, 0)?;
    if header.version.get() != SE_SPARSE_VERSION {
        let detail = format!("its version is {:#x}; only {SE_SPARSE_VERSION:#x} is known", header.version.get());
        return Err(ImageError::unsupported(READ, detail));
    }
    if header.flags.get() != 0 {
        return Err(ImageError::unsupported(READ, format!("it has unknown flags ({:#x})", header.flags.get())));
    }
    check_journal(file, &header)?;
    let grain_bytes = grain_bytes(header.grain_sectors.get(), MAX_GRAIN_SECTORS)?;
    let table_entries = header.table_sectors.get().saturating_mul(SECTOR_BYTES) / 8;
    if !(1..=u64::from(MAX_TABLE_ENTRIES)).contains(&table_entries) {
        return Err(corrupt(format!("a grain table has {table_entries} entries, expected 1 to {MAX_TABLE_ENTRIES}")));
    }
    let shape = Shape {
        kind: SparseKind::SeSparse,
        version: header.version.get(),
        capacity_bytes: in_bytes("the capacity", header.capacity_sectors.get())?,
        grain_bytes,
        table_entries,
        directory: Directory::At {
            host_offset: in_bytes("the place of the grain directory", header.directory_sector.get())?,
            redundant: None,
        },
        first_grain_offset: in_bytes("the place of the grains", header.grains_sector.get())?,
        tables_offset: in_bytes("the place of the grain tables", header.tables_sector.get())?,
        grains_offset: in_bytes("the place of the grains", header.grains_sector.get())?,
        zero_grains: false,
        compressed: false,
        markers: false,
        unclean: false,
        descriptor: None,
    };
    if header.directory_sectors.get().saturating_mul(SECTOR_BYTES) / 8 < shape.table_count() {
        return Err(corrupt(format!(
            "the grain directory has {} sectors, too few for {} grain tables",
            header.directory_sectors.get(),
            shape.table_count()
        )));
    }
    Ok(shape)
}

/// A journal that was not carried out makes every table doubtful, and its layout is not published.
fn check_journal(file: &dyn HostFile, header: &SeSparseHeader) -> Result<()> {
    let host_offset = in_bytes("the place of the volatile header", header.volatile_header_sector.get())?;
    let volatile: SeSparseVolatileHeader = read_structure(file, "read seSparse volatile header", host_offset)?;
    if volatile.magic.get() != SE_SPARSE_VOLATILE_MAGIC {
        let detail = format!("it begins with {:#x}, expected {SE_SPARSE_VOLATILE_MAGIC:#x}", volatile.magic.get());
        return Err(ImageError::corrupt("read seSparse volatile header", detail).at_host(host_offset));
    }
    if volatile.replay_journal.get() != 0 {
        let detail = "its journal has to be replayed, which only the hypervisor can: open the disk there once";
        return Err(ImageError::new(ErrorKind::Unsupported, READ, detail));
    }
    Ok(())
}
