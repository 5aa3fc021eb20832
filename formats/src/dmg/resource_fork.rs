//! The resource fork, which held the chunk tables before there were property lists (Mac OS 9 and 10.0 to 10.1).
//!
//! ```text
//!   header ──► data: length, bytes; length, bytes; ...
//!          └─► map: types ("blkx", count, list) ──► references (id, name, offset into data)
//! ```

use zerocopy::FromBytes;

use super::on_disk::ResourceHeader;
use crate::error::{ImageError, Result};

const DOING: &str = "read DMG resource fork";

/// Offsets in the map, in bytes.
const TYPE_LIST_FIELD: usize = 24;
const NAME_LIST_FIELD: usize = 26;
const TYPE_BYTES: usize = 8;
const REFERENCE_BYTES: usize = 12;

/// A name of −1 is none.
const NO_NAME: u16 = u16::MAX;

/// A chunk table as it was found, with its name.
#[derive(Debug)]
pub(super) struct TableBytes {
    pub name: String,
    pub bytes: Vec<u8>,
}

pub(super) fn read_tables(fork: &[u8]) -> Result<Vec<TableBytes>> {
    let fork = Fork::new(fork).ok_or_else(|| ImageError::corrupt(DOING, "its parts reach past its end"))?;
    let references = fork.references(*b"blkx");
    let references = references.ok_or_else(|| ImageError::corrupt(DOING, "it has no chunk tables (\"blkx\")"))?;
    let (mut tables, mut total_bytes) = (Vec::new(), 0);
    for (index, reference) in references.chunks_exact(REFERENCE_BYTES).enumerate() {
        let table = fork.resource(reference).ok_or_else(|| {
            ImageError::corrupt(DOING, format!("the chunk table {index} reaches past the end of the data"))
        })?;
        total_bytes += table.bytes.len();
        if total_bytes > fork.data.len() {
            return Err(ImageError::corrupt(DOING, "several chunk tables lie in the same place"));
        }
        tables.push(table);
    }
    Ok(tables)
}

struct Fork<'a> {
    data: &'a [u8],
    types: &'a [u8],
    names: &'a [u8],
}

impl<'a> Fork<'a> {
    fn new(fork: &'a [u8]) -> Option<Self> {
        let (header, _) = ResourceHeader::ref_from_prefix(fork).ok()?;
        let part = |offset: u32, length: u32| fork.get(offset as usize..)?.get(..length as usize);
        let data = part(header.data_offset.get(), header.data_bytes.get())?;
        let map = part(header.map_offset.get(), header.map_bytes.get())?;
        let types = map.get(usize::from(read_u16(map, TYPE_LIST_FIELD)?)..)?;
        let names = map.get(usize::from(read_u16(map, NAME_LIST_FIELD)?)..).unwrap_or_default();
        Some(Fork { data, types, names })
    }

    /// The references to resources of a type. Counts are one less than there are.
    fn references(&self, wanted: [u8; 4]) -> Option<&'a [u8]> {
        let count = usize::from(read_u16(self.types, 0)?.wrapping_add(1));
        let types = self.types.get(2..)?.get(..count * TYPE_BYTES)?;
        let found = types.chunks_exact(TYPE_BYTES).find(|one| one.starts_with(&wanted))?;
        let count = usize::from(read_u16(found, 4)?) + 1;
        self.types.get(usize::from(read_u16(found, 6)?)..)?.get(..count * REFERENCE_BYTES)
    }

    fn resource(&self, reference: &[u8]) -> Option<TableBytes> {
        let name = match read_u16(reference, 2)? {
            NO_NAME => String::new(),
            offset => self.name(usize::from(offset)).unwrap_or_default(),
        };
        let offset = (read_u32(reference, 4)? & 0x00ff_ffff) as usize;
        let length = read_u32(self.data, offset)? as usize;
        let bytes = self.data.get(offset.checked_add(4)?..)?.get(..length)?.to_vec();
        Some(TableBytes { name, bytes })
    }

    /// A name of one length byte and Mac Roman text, of which only ASCII is shown as it is.
    fn name(&self, offset: usize) -> Option<String> {
        let (length, text) = self.names.get(offset..)?.split_first()?;
        Some(String::from_utf8_lossy(text.get(..usize::from(*length))?).into_owned())
    }
}

fn read_u16(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().copied().map(u16::from_be_bytes)
}

fn read_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().copied().map(u32::from_be_bytes)
}
