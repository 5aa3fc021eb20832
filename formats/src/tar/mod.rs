//! Archives in the tar format: what is in one and where, and the header of a member.
//!
//! A *member* is a file in the archive: a header of 512 bytes, then its bytes, padded to whole blocks of 512. Members that
//! only say something about the next one (its long name, its extended header) are read with that one.
//!
//! ```text
//!   | header | bytes, padded | header | bytes, padded | ... | two blocks of zeros |
//! ```
//!
//! Sources: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Interchange Format"; GNU tar manual, "Basic Tar Format"
//! and "Storing Sparse Files" (the old GNU format).

mod header;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::error::{ErrorKind, ImageError, Result};
use crate::file_parts::FileParts;
use crate::host_file::HostFile;
use crate::zeros::is_zero;
pub use header::{Flavour, file_header};
use header::{GNU_MAGIC, Header, Pax, number, text};

/// What everything is padded to.
pub const BLOCK_BYTES: u64 = 512;

/// Archives are padded to a multiple of this, as tapes wanted it.
pub const RECORD_BYTES: u64 = 20 * BLOCK_BYTES;

/// Longest name or extended header that is read. Linux allows names of 4 KiB.
const MAX_EXTENSION_BYTES: u64 = 64 << 10;

/// How many parts a sparse member may have: 24 MiB of memory. The map is in the file, at 24 bytes each.
const MAX_SPARSE_PARTS: usize = 1 << 20;

/// A file in an archive.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name, with what is not UTF-8 replaced.
    pub name: String,
    /// What it is.
    pub kind: MemberKind,
    /// Where its bytes begin.
    pub host_offset: u64,
    /// How many bytes the archive stores of it.
    pub stored_bytes: u64,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A file.
    File,
    /// A file of this length of which only these parts (offset, length) are stored, one after the other.
    Sparse(u64, Vec<(u64, u64)>),
    /// A folder, a link, a device: nothing with bytes of a disk.
    Other,
}

impl Member {
    /// Where the next header is.
    pub fn end(&self) -> Option<u64> {
        self.host_offset.checked_add(self.stored_bytes.checked_next_multiple_of(BLOCK_BYTES)?)
    }

    /// The member's bytes in `archive`.
    pub fn open(&self, archive: &Arc<dyn HostFile>) -> Result<FileParts> {
        match &self.kind {
            MemberKind::File => FileParts::one(Arc::clone(archive), self.host_offset, self.stored_bytes),
            MemberKind::Sparse(len_bytes, map) => self.open_sparse(archive, *len_bytes, map),
            MemberKind::Other => Err(ImageError::corrupt(
                "open a member of the archive",
                format!("\"{}\" is not a regular file", self.name.escape_debug()),
            )),
        }
    }

    fn open_sparse(&self, archive: &Arc<dyn HostFile>, len_bytes: u64, map: &[(u64, u64)]) -> Result<FileParts> {
        let (mut parts, mut position, mut stored) = (FileParts::default(), 0u64, self.host_offset);
        for (offset, length) in map {
            parts.push_hole(offset - position)?;
            parts.push(Arc::clone(archive), stored, *length)?;
            position = offset + length;
            stored += length;
        }
        parts.push_hole(len_bytes - position)?;
        Ok(parts)
    }
}

/// The name of the first member in an archive that begins so, as its own header says; for probing.
pub fn first_name(head: &[u8]) -> Option<String> {
    let mut rest = head;
    loop {
        let (header, after) = Header::ref_from_prefix(rest).ok()?;
        if !header.has_magic() || !header.sum_is_right() {
            return None;
        }
        if !matches!(header.kind, b'x' | b'g' | b'L' | b'K') {
            return Some(header.name());
        }
        let extension_bytes = usize::try_from(header.size()?).ok()?.checked_next_multiple_of(BLOCK_BYTES as usize)?;
        rest = after.get(extension_bytes..)?;
    }
}

/// Reads the member whose header is at `host_offset`; `None` at the end of the archive.
///
/// `len_bytes` is the archive's length if it is known: then all of the member is checked to be inside.
pub fn member_at(archive: &dyn HostFile, host_offset: u64, len_bytes: Option<u64>) -> Result<Option<Member>> {
    let mut reader = Reader { archive, position: host_offset, len_bytes };
    let (mut long_name, mut size) = (None, None);
    // What may precede a member: a global header, an extended header, a long name, a long link.
    for _ in 0..8 {
        let Some(header) = reader.header()? else { return Ok(None) };
        let stored_bytes = header.size().ok_or_else(|| reader.damaged("its size is not a number"))?;
        match header.kind {
            b'x' => {
                let records = Pax::parse(&reader.extension(stored_bytes)?)
                    .ok_or_else(|| reader.damaged("its extended header is not made of records \"LENGTH KEY=VALUE\""))?;
                if records.sparse {
                    let detail = "a sparse file in the pax format; only the old GNU format of them is read";
                    return Err(ImageError::unsupported(DOING, detail).at_host(reader.position));
                }
                (long_name, size) = (records.path.or(long_name), records.size.or(size));
            }
            b'L' => {
                let name = reader.extension(stored_bytes)?;
                long_name = Some(text(&name));
            }
            b'g' | b'K' => {
                reader.extension(stored_bytes)?;
            }
            kind => {
                let stored_bytes = size.unwrap_or(stored_bytes);
                let name = long_name.unwrap_or_else(|| header.name());
                let kind = match kind {
                    b'0' | 0 | b'7' => MemberKind::File,
                    b'S' if header.magic == GNU_MAGIC => reader.sparse_map(&header, stored_bytes)?,
                    _ => MemberKind::Other,
                };
                // Links have a size, but no bytes.
                let stored_bytes = if (b'1'..=b'6').contains(&header.kind) { 0 } else { stored_bytes };
                let member = Member { name, kind, host_offset: reader.position, stored_bytes };
                reader.check_inside(&member)?;
                return Ok(Some(member));
            }
        }
    }
    Err(reader.damaged("extended headers follow each other without a file"))
}

const DOING: &str = "read tar header";

struct Reader<'a> {
    archive: &'a dyn HostFile,
    position: u64,
    len_bytes: Option<u64>,
}

impl Reader<'_> {
    /// The header here; `None` for a block of zeros, or the end of the file.
    fn header(&mut self) -> Result<Option<Header>> {
        if self.len_bytes.is_some_and(|len_bytes| self.position >= len_bytes) {
            return Ok(None);
        }
        let mut header = Header::new_zeroed();
        self.read(header.as_mut_bytes())?;
        if is_zero(header.as_bytes()) {
            return Ok(None);
        }
        if !header.sum_is_right() {
            return Err(self.damaged("its checksum is wrong"));
        }
        self.advance(BLOCK_BYTES)?;
        Ok(Some(header))
    }

    /// The bytes of a member that says something about the next one.
    fn extension(&mut self, stored_bytes: u64) -> Result<Vec<u8>> {
        if stored_bytes > MAX_EXTENSION_BYTES {
            let detail = format!("an extended header has {stored_bytes} bytes, at most {MAX_EXTENSION_BYTES} are read");
            return Err(ImageError::limit_exceeded(DOING, detail).at_host(self.position));
        }
        let mut bytes = vec![0; stored_bytes as usize];
        self.read(&mut bytes)?;
        self.advance(stored_bytes.next_multiple_of(BLOCK_BYTES))?;
        Ok(bytes)
    }

    /// The map of a sparse member in the old GNU format: four parts in the header, then blocks with 21 each.
    fn sparse_map(&mut self, header: &Header, stored_bytes: u64) -> Result<MemberKind> {
        const ENTRY_BYTES: usize = 24;
        let gnu = &header.as_bytes()[386..];
        let mut map = Vec::new();
        let mut more = self.add_parts(&mut map, &gnu[..4 * ENTRY_BYTES])? && gnu[4 * ENTRY_BYTES] != 0;
        let len_bytes =
            number(&gnu[4 * ENTRY_BYTES + 1..][..12]).ok_or_else(|| self.damaged("its size is no number"))?;
        while more {
            let mut block = [0; BLOCK_BYTES as usize];
            self.read(&mut block)?;
            self.advance(BLOCK_BYTES)?;
            let (parts, rest) = block.split_at(21 * ENTRY_BYTES);
            more = self.add_parts(&mut map, parts)? && rest[0] != 0;
        }
        let total = map.iter().try_fold(0u64, |sum, (_, length)| sum.checked_add(*length));
        let end = map.last().map_or(0, |(offset, length)| offset + length);
        if total != Some(stored_bytes) || end > len_bytes {
            return Err(self.damaged("its sparse map does not fit the size of the file"));
        }
        Ok(MemberKind::Sparse(len_bytes, map))
    }

    /// Adds a part of the map; returns whether it goes on.
    fn add_parts(&self, map: &mut Vec<(u64, u64)>, entries: &[u8]) -> Result<bool> {
        for entry in entries.chunks_exact(24) {
            if entry[12] == 0 {
                return Ok(false);
            }
            let (Some(offset), Some(length)) = (number(&entry[..12]), number(&entry[12..])) else {
                return Err(self.damaged("its sparse map is not made of numbers"));
            };
            let before = map.last().map_or(0, |(offset, length)| offset + length);
            if offset < before || offset.checked_add(length).is_none() {
                return Err(self.damaged("its sparse map does not ascend"));
            }
            if map.len() >= MAX_SPARSE_PARTS {
                let detail = format!("a sparse file has more than {MAX_SPARSE_PARTS} parts");
                return Err(ImageError::limit_exceeded(DOING, detail).at_host(self.position));
            }
            map.push((offset, length));
        }
        Ok(true)
    }

    fn check_inside(&self, member: &Member) -> Result<()> {
        let end = member.host_offset.checked_add(member.stored_bytes);
        match (end, self.len_bytes) {
            (Some(end), Some(len_bytes)) if end > len_bytes => {
                let name = member.name.escape_debug();
                let detail = format!("\"{name}\" goes to {end:#x}, past the end of the file ({len_bytes:#x})");
                Err(ImageError::truncated(DOING, detail).at_host(member.host_offset))
            }
            (Some(_), _) => Ok(()),
            (None, _) => Err(self.damaged("its size leads past the largest offset")),
        }
    }

    fn read(&self, buffer: &mut [u8]) -> Result<()> {
        let read = self.archive.read_exact_at(self.position, buffer);
        read.map_err(|cause| ImageError::io(DOING, cause).at_host(self.position))
    }

    fn advance(&mut self, bytes: u64) -> Result<()> {
        self.position = self.position.checked_add(bytes).ok_or_else(|| self.damaged("the archive never ends"))?;
        Ok(())
    }

    fn damaged(&self, detail: &'static str) -> ImageError {
        ImageError::new(ErrorKind::Corrupt, DOING, detail).at_host(self.position)
    }
}
