//! The metadata region: a table of items, of which six say what disk this is.

use std::ops::Range;

use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::on_disk::*;
use super::parent;
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::reference_gate::FileReference;

const READ_TABLE: &str = "read VHDX metadata table";
const READ_ITEM: &str = "read VHDX metadata item";

/// What the items say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    pub block_bytes: u64,
    pub leave_blocks_allocated: bool,
    pub size_bytes: u64,
    /// The identifier that the guest sees as its disk's (SCSI page 83).
    pub disk_id: Uuid,
    pub logical_sector_bytes: u32,
    pub physical_sector_bytes: u32,
    /// Where the rest of a differencing disk is.
    pub parent: Option<FileReference>,
}

/// Reads all items that say what disk this is (§2.6).
pub(super) fn read_metadata(file: &dyn HostFile, region: &Range<u64>) -> Result<Metadata> {
    let table = Table::read(file, region)?;
    table.check_known()?;
    let parameters: FileParameters = table.item(file, FILE_PARAMETERS, "file parameters")?;
    let size: U64 = table.item(file, VIRTUAL_DISK_SIZE, "virtual disk size")?;
    let disk_id: Guid = table.item(file, VIRTUAL_DISK_ID, "virtual disk id")?;
    let logical: U32 = table.item(file, LOGICAL_SECTOR_SIZE, "logical sector size")?;
    let physical: U32 = table.item(file, PHYSICAL_SECTOR_SIZE, "physical sector size")?;
    let metadata = Metadata {
        block_bytes: parameters.block_bytes.get().into(),
        leave_blocks_allocated: parameters.flags.get() & LEAVE_BLOCKS_ALLOCATED != 0,
        size_bytes: size.get(),
        disk_id: disk_id.into(),
        logical_sector_bytes: logical.get(),
        physical_sector_bytes: physical.get(),
        parent: table.parent(file, parameters.flags.get() & HAS_PARENT != 0)?,
    };
    metadata.check().map_err(|detail| ImageError::corrupt(READ_ITEM, detail).at_host(region.start))?;
    Ok(metadata)
}

impl Metadata {
    fn check(&self) -> std::result::Result<(), String> {
        let Metadata { block_bytes, size_bytes, logical_sector_bytes: logical, physical_sector_bytes, .. } = *self;
        if !block_bytes.is_power_of_two() || !(MIN_BLOCK_BYTES..=MAX_BLOCK_BYTES).contains(&block_bytes) {
            return Err(format!("the block size is {block_bytes}, expected a power of two from 1 MiB to 256 MiB"));
        }
        for (name, sector_bytes) in [("logical", logical), ("physical", physical_sector_bytes)] {
            if sector_bytes != 512 && sector_bytes != 4096 {
                return Err(format!("the {name} sector size is {sector_bytes}, expected 512 or 4096"));
            }
        }
        if size_bytes > MAX_VIRTUAL_DISK_BYTES || !size_bytes.is_multiple_of(logical.into()) {
            return Err(format!(
                "the disk has {size_bytes} bytes, expected a multiple of {logical} up to {MAX_VIRTUAL_DISK_BYTES}"
            ));
        }
        Ok(())
    }
}

/// The table of items.
pub(super) struct Table {
    region: Range<u64>,
    pub(super) entries: Vec<MetadataEntry>,
}

impl Table {
    /// Reads the table and checks that its items lie in the region (§2.6.1).
    pub(super) fn read(file: &dyn HostFile, region: &Range<u64>) -> Result<Table> {
        let fault = |detail: String| ImageError::corrupt(READ_TABLE, detail).at_host(region.start);
        let io = |cause| ImageError::io(READ_TABLE, cause).at_host(region.start);
        let mut header = MetadataTableHeader::new_zeroed();
        file.read_exact_at(region.start, header.as_mut_bytes()).map_err(io)?;
        let count = header.entry_count.get();
        if header.signature != METADATA_SIGNATURE {
            let found = header.signature.escape_ascii();
            return Err(fault(format!("found \"{found}\", expected \"metadata\"")));
        }
        if count > MAX_METADATA_ITEMS {
            return Err(fault(format!("it has {count} entries, at most {MAX_METADATA_ITEMS} are allowed")));
        }
        let mut entries = vec![MetadataEntry::new_zeroed(); count.into()];
        file.read_exact_at(region.start + size_of::<MetadataTableHeader>() as u64, entries.as_mut_bytes())
            .map_err(io)?;
        let table = Table { region: region.clone(), entries };
        for (index, entry) in table.entries.iter().enumerate() {
            table.check_place(entry).map_err(|detail| fault(format!("entry {index} {detail}")))?;
        }
        Ok(table)
    }

    /// §2.6.1.2: behind the table, at most 1 MiB long, inside the region; an empty item has no place.
    fn check_place(&self, entry: &MetadataEntry) -> std::result::Result<(), String> {
        let (offset, length) = (u64::from(entry.offset.get()), entry.length_bytes.get());
        if length == 0 && offset == 0 {
            return Ok(());
        }
        let inside = offset >= METADATA_TABLE_BYTES
            && length <= MAX_METADATA_ITEM_BYTES
            && offset + u64::from(length) <= self.region.end - self.region.start;
        if inside { Ok(()) } else { Err(format!("is at {offset:#x}, {length} bytes long, outside of its region")) }
    }

    /// Refuses items that must be understood and are not, and items that are there twice.
    fn check_known(&self) -> Result<()> {
        const KNOWN: [Uuid; 6] = [
            FILE_PARAMETERS,
            VIRTUAL_DISK_SIZE,
            VIRTUAL_DISK_ID,
            LOGICAL_SECTOR_SIZE,
            PHYSICAL_SECTOR_SIZE,
            PARENT_LOCATOR,
        ];
        let mut seen: Vec<Uuid> = Vec::new();
        for entry in &self.entries {
            let (item, flags) = (Uuid::from(entry.item), entry.flags.get());
            let known = flags & ITEM_IS_USER == 0 && KNOWN.contains(&item);
            if !known && flags & ITEM_IS_REQUIRED != 0 {
                let detail = format!("the item {item} is required and not known");
                return Err(ImageError::unsupported(READ_TABLE, detail).at_host(self.region.start));
            }
            if known && seen.contains(&item) {
                let detail = format!("the item {item} is listed twice");
                return Err(ImageError::corrupt(READ_TABLE, detail).at_host(self.region.start));
            }
            seen.extend(known.then_some(item));
        }
        Ok(())
    }

    /// Finds an item of the system's.
    pub(super) fn find(&self, item: Uuid) -> Option<&MetadataEntry> {
        self.entries.iter().find(|entry| Uuid::from(entry.item) == item && entry.flags.get() & ITEM_IS_USER == 0)
    }

    fn bytes(&self, file: &dyn HostFile, entry: &MetadataEntry) -> Result<Vec<u8>> {
        let host_offset = self.region.start + u64::from(entry.offset.get());
        let mut bytes = vec![0; entry.length_bytes.get() as usize];
        file.read_exact_at(host_offset, &mut bytes)
            .map_err(|cause| ImageError::io(READ_ITEM, cause).at_host(host_offset))?;
        Ok(bytes)
    }

    /// Reads an item that must be there and has one structure.
    fn item<T: FromBytes>(&self, file: &dyn HostFile, item: Uuid, name: &str) -> Result<T> {
        let fault = |detail: String| ImageError::corrupt(READ_ITEM, detail).at_host(self.region.start);
        let entry = self.find(item).ok_or_else(|| fault(format!("the {name} are not listed")))?;
        let (found, expected) = (entry.length_bytes.get() as usize, size_of::<T>());
        if found != expected {
            return Err(fault(format!("the {name} take {found} bytes, expected {expected}")));
        }
        T::read_from_bytes(&self.bytes(file, entry)?).map_err(|_| fault(format!("the {name} take {found} bytes")))
    }

    /// Reads the parent locator, which must be there if and only if the disk has a parent (§2.6.2.6).
    fn parent(&self, file: &dyn HostFile, has_parent: bool) -> Result<Option<FileReference>> {
        let fault = |detail: &str| ImageError::corrupt(READ_ITEM, detail).at_host(self.region.start);
        match (self.find(PARENT_LOCATOR), has_parent) {
            (Some(entry), true) => {
                let host_offset = self.region.start + u64::from(entry.offset.get());
                let bytes = self.bytes(file, entry)?;
                parent::parse_locator(&bytes).map(Some).map_err(|error| error.at_host(host_offset))
            }
            (None, false) => Ok(None),
            (None, true) => Err(fault("the disk has a parent, but no parent locator")),
            (Some(_), false) => Err(fault("there is a parent locator, but the disk has no parent")),
        }
    }
}
