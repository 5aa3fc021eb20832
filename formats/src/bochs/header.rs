//! The header and the catalog.

use byteorder::{ByteOrder, LittleEndian};
use zerocopy::{FromZeros, IntoBytes};

use super::on_disk::*;
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::limits::MAX_DISK_BYTES;

const READ: &str = "read Bochs header";
pub(super) const READ_CATALOG: &str = "read Bochs catalog";

/// Most entries of a catalog: it is held in memory. bximage makes at most a million for its largest disk, of 8 TiB.
const MAX_CATALOG_ENTRIES: u64 = 4 << 20;

/// Bounds of an extent, in bytes; QEMU has the same upper one.
const MAX_EXTENT_BYTES: u64 = 8 << 20;

/// What the header says, checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub version: u32,
    pub disk_bytes: u64,
    pub extent_bytes: u64,
    /// What the bitmap before each stored extent takes in the file.
    pub bitmap_space_bytes: u64,
    pub catalog_offset: u64,
    /// How many entries of the catalog the disk needs.
    pub used_entries: u64,
    /// Where the stored extents begin.
    pub data_offset: u64,
    pub file_len_bytes: u64,
}

impl Layout {
    /// Where a stored extent begins, with its bitmap, if both are in the file as far as the disk needs them.
    pub fn locate(&self, index: u64, entry: u32) -> Result<u64> {
        let start = self.data_offset + u64::from(entry) * (self.bitmap_space_bytes + self.extent_bytes);
        let end = start + self.bitmap_space_bytes + self.needed_bytes(index);
        if end > self.file_len_bytes {
            let detail = format!(
                "entry {index} is {entry:#x}, an extent that ends at {end:#x}, past the end of the file ({:#x})",
                self.file_len_bytes
            );
            let offset = self.catalog_offset + index * CATALOG_ENTRY_BYTES;
            return Err(ImageError::corrupt(READ_CATALOG, detail).at_host(offset));
        }
        Ok(start)
    }

    /// How much of an extent the disk reaches into.
    pub fn needed_bytes(&self, index: u64) -> u64 {
        self.disk_bytes.saturating_sub(index * self.extent_bytes).min(self.extent_bytes)
    }
}

/// Reads and checks the header.
pub(super) fn read(file: &dyn HostFile) -> Result<Layout> {
    let file_len_bytes = file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
    let mut header = Header::new_zeroed();
    file.read_exact_at(0, header.as_mut_bytes()).map_err(|cause| ImageError::io(READ, cause).at_host(0))?;
    check_kind(&header)?;
    sizes(&header, file_len_bytes)
}

fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn check_kind(header: &Header) -> Result<()> {
    if !header.magic.starts_with(MAGIC) {
        return Err(ImageError::not_this_format(READ, "it does not begin with \"Bochs Virtual HD Image\""));
    }
    let version = header.version.get();
    if !matches!(version, VERSION_1 | VERSION_2) {
        return Err(ImageError::unsupported(READ, format!("its version is {version:#x}, only 1 and 2 are known")));
    }
    if text(&header.kind) != TYPE || text(&header.subkind) != GROWING {
        let (kind, subkind) = (text(&header.kind).escape_ascii(), text(&header.subkind).escape_ascii());
        let detail = format!(
            "it is a \"{kind}\" of the kind \"{subkind}\": only growing disks are whole; others hold changes to a disk \
             that they do not name (bximage can commit them to it)"
        );
        return Err(ImageError::unsupported(READ, detail));
    }
    Ok(())
}

fn sizes(header: &Header, file_len_bytes: u64) -> Result<Layout> {
    let corrupt = |detail: String| ImageError::corrupt(READ, detail).at_host(0);
    let extent_bytes = u64::from(header.extent_bytes.get());
    if !extent_bytes.is_power_of_two() || !(SECTOR_BYTES..=MAX_EXTENT_BYTES).contains(&extent_bytes) {
        let detail = format!("extents have {extent_bytes} bytes, expected a power of two up to {MAX_EXTENT_BYTES}");
        return Err(corrupt(detail));
    }
    let bitmap_bytes = u64::from(header.bitmap_bytes.get());
    let needed = (extent_bytes / SECTOR_BYTES).div_ceil(8);
    if bitmap_bytes < needed || bitmap_bytes > MAX_EXTENT_BYTES {
        return Err(corrupt(format!("bitmaps have {bitmap_bytes} bytes, expected {needed}")));
    }
    let disk_bytes = header.disk_bytes();
    if disk_bytes > MAX_DISK_BYTES || !disk_bytes.is_multiple_of(SECTOR_BYTES) {
        return Err(corrupt(format!("the disk has {disk_bytes} bytes, expected whole sectors up to {MAX_DISK_BYTES}")));
    }
    let (entries, used_entries) = (u64::from(header.catalog_entries.get()), disk_bytes.div_ceil(extent_bytes));
    if entries > MAX_CATALOG_ENTRIES {
        let detail = format!("the catalog has {entries} entries, at most {MAX_CATALOG_ENTRIES} work");
        return Err(ImageError::limit_exceeded(READ, detail).at_host(0));
    }
    if entries < used_entries {
        return Err(corrupt(format!("the catalog has {entries} entries, the disk {used_entries} extents")));
    }
    let catalog_offset = u64::from(header.header_bytes.get());
    let data_offset = catalog_offset + entries * CATALOG_ENTRY_BYTES;
    if catalog_offset < size_of::<Header>() as u64 {
        return Err(corrupt(format!("the catalog begins at {catalog_offset:#x}, inside the header")));
    }
    if data_offset > file_len_bytes {
        let detail = format!("the catalog ends at {data_offset:#x}, the file at {file_len_bytes:#x}");
        return Err(ImageError::truncated(READ, detail).at_host(0));
    }
    Ok(Layout {
        version: header.version.get() >> 16,
        disk_bytes,
        extent_bytes,
        bitmap_space_bytes: bitmap_bytes.next_multiple_of(SECTOR_BYTES),
        catalog_offset,
        used_entries,
        data_offset,
        file_len_bytes,
    })
}

/// Reads the catalog, as far as the disk needs it.
pub(super) fn read_catalog(file: &dyn HostFile, layout: &Layout) -> Result<Vec<u32>> {
    let mut catalog = vec![0; layout.used_entries as usize];
    file.read_exact_at(layout.catalog_offset, catalog.as_mut_bytes())
        .map_err(|cause| ImageError::io(READ_CATALOG, cause).at_host(layout.catalog_offset))?;
    LittleEndian::from_slice_u32(&mut catalog);
    Ok(catalog)
}

/// The stored extents, sorted.
pub(super) fn stored(catalog: &[u32]) -> Vec<u32> {
    let mut stored: Vec<u32> = catalog.iter().copied().filter(|entry| *entry != NOT_STORED).collect();
    stored.sort_unstable();
    stored
}

/// An extent that two entries of the catalog name.
pub(super) fn twice(stored: &[u32]) -> Option<u32> {
    stored.windows(2).find_map(|pair| match *pair {
        [one, other] if one == other => Some(one),
        _ => None,
    })
}
