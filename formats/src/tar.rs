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

use std::sync::Arc;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{ErrorKind, ImageError, Result};
use crate::file_parts::FileParts;
use crate::host_file::HostFile;
use crate::zeros::is_zero;

/// What everything is padded to.
pub const BLOCK_BYTES: u64 = 512;

/// Archives are padded to a multiple of this, as tapes wanted it.
pub const RECORD_BYTES: u64 = 20 * BLOCK_BYTES;

/// Longest name or extended header that is read. Linux allows names of 4 KiB.
const MAX_EXTENSION_BYTES: u64 = 64 << 10;

/// How many parts a sparse member may have: 24 MiB of memory. The map is in the file, at 24 bytes each.
const MAX_SPARSE_PARTS: usize = 1 << 20;

/// The largest size that eleven octal digits hold.
const MAX_OCTAL_BYTES: u64 = (1 << 33) - 1;

const USTAR_MAGIC: [u8; 8] = *b"ustar\x0000";
const GNU_MAGIC: [u8; 8] = *b"ustar  \0";

/// A member's header. Numbers are octal digits.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    name: [u8; 100],
    mode: [u8; 8],
    user: [u8; 8],
    group: [u8; 8],
    size: [u8; 12],
    modified: [u8; 12],
    checksum: [u8; 8],
    kind: u8,
    link: [u8; 100],
    /// Magic and version.
    magic: [u8; 8],
    user_name: [u8; 32],
    group_name: [u8; 32],
    device: [[u8; 8]; 2],
    /// In ustar the name's begin; in the old GNU format times and the sparse map.
    prefix: [u8; 155],
    padding: [u8; 12],
}

const _: () = assert!(size_of::<Header>() as u64 == BLOCK_BYTES);

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

impl Header {
    fn has_magic(&self) -> bool {
        self.magic == USTAR_MAGIC || self.magic == GNU_MAGIC || self.magic.starts_with(b"ustar\0")
    }

    /// The sum of all bytes, those of the checksum counted as spaces. Some old writers took bytes as signed.
    fn sum_is_right(&self) -> bool {
        let found = number(&self.checksum);
        let sum = |value: fn(u8) -> i64| {
            let own: i64 = self.checksum.iter().map(|byte| value(*byte)).sum();
            let all: i64 = self.as_bytes().iter().map(|byte| value(*byte)).sum();
            u64::try_from(all - own + 8 * i64::from(b' ')).ok()
        };
        found.is_some() && (found == sum(i64::from) || found == sum(|byte| i64::from(byte as i8)))
    }

    fn set_sum(&mut self) {
        self.checksum = [b' '; 8];
        let sum: u64 = self.as_bytes().iter().map(|byte| u64::from(*byte)).sum();
        self.checksum[..7].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }

    fn size(&self) -> Option<u64> {
        number(&self.size)
    }

    fn name(&self) -> String {
        let name = text(&self.name);
        match self.magic != GNU_MAGIC && self.prefix[0] != 0 {
            true => format!("{}/{name}", text(&self.prefix)),
            false => name,
        }
    }
}

/// What an extended header says.
#[derive(Default)]
struct Pax {
    path: Option<String>,
    size: Option<u64>,
    sparse: bool,
}

impl Pax {
    /// Records "LENGTH KEY=VALUE\n", where the length is that of the whole record.
    fn parse(mut bytes: &[u8]) -> Option<Pax> {
        let mut found = Pax::default();
        while bytes.first().is_some_and(|byte| *byte != 0) {
            let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
            let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => found.path = Some(String::from_utf8_lossy(value).into_owned()),
                b"size" => found.size = Some(std::str::from_utf8(value).ok()?.parse().ok()?),
                key => found.sparse |= key.starts_with(b"GNU.sparse."),
            }
            bytes = &bytes[length..];
        }
        Some(found)
    }
}

/// Octal digits between spaces and zero bytes, or, with the first bit set, a big-endian number.
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, digits @ ..] = field {
        return digits.iter().try_fold(0u64, |sum, byte| Some(sum.checked_mul(256)? | u64::from(*byte)));
    }
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(digits.len());
    digits[..end].iter().try_fold(0u64, |sum, byte| match byte {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// A name up to its first zero byte.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Which of the two kinds of headers to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// POSIX.
    Ustar,
    /// GNU tar's before POSIX.
    OldGnu,
}

/// The header of a regular file, which belongs to nobody and was changed in 1970; `None` if the name has more than 100 bytes.
///
/// A size that octal digits cannot hold is written as a number of twelve bytes, as all of today's programs read it.
pub fn file_header(flavour: Flavour, name: &str, size_bytes: u64) -> Option<[u8; BLOCK_BYTES as usize]> {
    let mut header = Header::new_zeroed();
    header.name.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
    header.mode = *b"0000644\0";
    (header.user, header.group) = (*b"0000000\0", *b"0000000\0");
    if size_bytes <= MAX_OCTAL_BYTES {
        header.size.copy_from_slice(format!("{size_bytes:011o}\0").as_bytes());
    } else {
        header.size[0] = 0x80;
        header.size[4..].copy_from_slice(&size_bytes.to_be_bytes());
    }
    header.modified = *b"00000000000\0";
    header.kind = b'0';
    header.magic = if flavour == Flavour::Ustar { USTAR_MAGIC } else { GNU_MAGIC };
    header.set_sum();
    Some(zerocopy::transmute!(header))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryFile;

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, content) in members {
            bytes.extend(file_header(Flavour::Ustar, name, content.len() as u64).unwrap());
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.extend([0; 1024]);
        bytes
    }

    /// Changes a header and mends its checksum.
    fn changed(mut block: [u8; 512], change: impl FnOnce(&mut [u8; 512])) -> [u8; 512] {
        change(&mut block);
        let mut header = Header::read_from_bytes(&block).unwrap();
        header.set_sum();
        zerocopy::transmute!(header)
    }

    fn list(bytes: &[u8]) -> Result<Vec<Member>> {
        let file = MemoryFile::from_bytes(bytes);
        let (mut members, mut position) = (Vec::new(), 0);
        while let Some(member) = member_at(&file, position, Some(bytes.len() as u64))? {
            position = member.end().unwrap();
            members.push(member);
        }
        Ok(members)
    }

    #[test]
    fn members_are_found_with_their_places() {
        let members =
            list(&archive(&[("a", b"x"), ("folder/b", &[7; 512]), ("empty", b""), ("c", &[1; 513])])).unwrap();
        let found: Vec<_> = members.iter().map(|one| (one.name.as_str(), one.host_offset, one.stored_bytes)).collect();
        assert_eq!(found, [("a", 512, 1), ("folder/b", 1536, 512), ("empty", 2560, 0), ("c", 3072, 513)]);
    }

    #[test]
    fn long_names_and_large_sizes_come_from_headers_before() {
        let name = "n".repeat(300);
        let mut gnu = Vec::new();
        gnu.extend(changed(file_header(Flavour::OldGnu, "././@LongLink", 301).unwrap(), |block| block[156] = b'L'));
        gnu.extend(format!("{name:\0<512}").as_bytes());
        gnu.extend(file_header(Flavour::OldGnu, "nnn", 1 << 40).unwrap());
        let found = member_at(&MemoryFile::from_bytes(&gnu), 0, None).unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.stored_bytes, found.host_offset), (name.as_str(), 1 << 40, 1536));

        let records = format!("310 path={name}\n22 size=1099511627776\n");
        let mut pax = Vec::new();
        pax.extend(changed(file_header(Flavour::Ustar, "x", records.len() as u64).unwrap(), |block| block[156] = b'x'));
        pax.extend(format!("{records:\0<512}").as_bytes());
        pax.extend(file_header(Flavour::Ustar, "nnn", 0).unwrap());
        let found = member_at(&MemoryFile::from_bytes(&pax), 0, None).unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.stored_bytes, found.host_offset), (name.as_str(), 1 << 40, 1536));
    }

    #[test]
    fn sparse_members_have_holes() {
        let map = |block: &mut [u8], parts: &[(u64, u64)]| {
            for (entry, (offset, length)) in block.chunks_exact_mut(24).zip(parts) {
                entry.copy_from_slice(format!("{offset:011o}\0{length:011o}\0").as_bytes());
            }
        };
        let parts = [(512, 1), (1024, 2), (2000, 0), (3000, 3), (4000, 4), (5000, 0)];
        let sparse = |parts: &[(u64, u64)], len: u64, stored: u64| {
            let header = file_header(Flavour::OldGnu, "disk.raw", stored).unwrap();
            let mut bytes = Vec::from(changed(header, |block| {
                block[156] = b'S';
                map(&mut block[386..482], &parts[..parts.len().min(4)]);
                block[482] = u8::from(parts.len() > 4);
                block[483..495].copy_from_slice(format!("{len:011o}\0").as_bytes());
            }));
            if parts.len() > 4 {
                bytes.extend([0; 512]);
                map(&mut bytes[512..1016], &parts[4..]);
            }
            bytes.extend(*b"abbcccdddd");
            bytes
        };
        let file: Arc<dyn HostFile> = Arc::new(MemoryFile::from_bytes(&sparse(&parts, 6000, 10)));
        let member = member_at(file.as_ref(), 0, None).unwrap().unwrap();
        let found = member.open(&file).unwrap();
        let mut bytes = vec![9; 6000];
        found.read_exact_at(0, &mut bytes).unwrap();
        let mut expected = vec![0; 6000];
        for (place, content) in [(512, &b"a"[..]), (1024, b"bb"), (3000, b"ccc"), (4000, b"dddd")] {
            expected[place..place + content.len()].copy_from_slice(content);
        }
        assert!(bytes == expected);
        assert_eq!(found.stored_end(), 4004);

        for bad in [
            sparse(&parts, 4999, 10),
            sparse(&parts, 6000, 11),
            sparse(&[(10, 5), (12, 5)], 6000, 10),
            sparse(&[(0, 10)], 9, 10),
        ] {
            let error = member_at(&MemoryFile::from_bytes(&bad), 0, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
    }

    #[test]
    fn damage_gives_errors() {
        let good = archive(&[("a", b"x"), ("b", b"y")]);
        for place in [0, 100, 130, 150, 156, 257, 500, 1024 + 3] {
            let mut bytes = good.clone();
            bytes[place] ^= 0x15;
            assert_eq!(list(&bytes).unwrap_err().kind(), ErrorKind::Corrupt, "{place}");
        }
        for cut in [1, 511, 512, 513 + 512] {
            assert!(list(&good[..cut]).is_err_and(|error| error.kind() == ErrorKind::Truncated), "{cut}");
        }
        // Without its end, or without the padding of its last file, an archive is still whole.
        assert_eq!(list(&good[..1536 + 1]).unwrap().len(), 2);
        let endless: Vec<u8> = changed(file_header(Flavour::Ustar, "x", 0).unwrap(), |block| block[156] = b'x')
            .into_iter()
            .cycle()
            .take(512 * 100)
            .collect();
        assert_eq!(list(&endless).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn numbers_are_octal_or_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   17 \0"), Some(15));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\0\0\0\x01\0"), Some(256));
        assert_eq!(number(b"\x80\x01\0\0\0\0\0\0\0\0\0\0"), None);
        assert_eq!(number(b"0008"), None);
        assert_eq!(number(b"\xff\xff\xff\xff"), None);
    }
}
