//! The frame of a `.tin` file: the header before the packs; the manifest, the directory and the trailer behind them (SPEC.md).

use std::sync::Arc;

use tintype_tin::id::Id;
use tintype_tin::keys::KeyRing;
use tintype_tin::manifest;
use tintype_tin::pack;
use tintype_tin::parts::Parts;
use tintype_tin::signed::ObjectKind;

use crate::error::{ImageError, Result};
use crate::host_file::{HostFile, HostFileMut};

/// What a file begins with.
pub const MAGIC: &[u8; 8] = b"TINFILE1";

/// The name that the directory is signed with.
const DIRECTORY_NAME: &str = "directory";

/// The lengths of a chunk that there can be, in bytes; powers of two only.
pub const CHUNK_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=4 << 20;

/// Most key slots of a file: each costs whoever has a password the work of trying it.
pub const MAX_SLOTS: usize = 64;

const TRAILER_MAGIC: &[u8; 8] = b"TINEND_1";
const TRAILER_BYTES: u64 = 32;
const VERSION: u16 = 1;
const HASH_BYTES: usize = 32;

/// The part of the header that says how long it is.
const PREFIX_BYTES: usize = 16;

/// The longest header: room for every slot.
const MAX_HEADER_BYTES: usize = 8 << 20;

/// The longest directory: the packs of 16 TiB.
const MAX_DIRECTORY_BYTES: u64 = 64 << 20;

const READ_HEADER: &str = "read the header of a .tin file";
const READ_DIRECTORY: &str = "read the directory of a .tin file";
const WRITE: &str = "write a .tin file";

/// What stands at a file's begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Whose keys it is for.
    pub repository: Id,
    /// The length of a chunk, in bytes.
    pub chunk_bytes: u64,
    /// Key slots; without one, the file is not encrypted.
    pub slots: Vec<Vec<u8>>,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let slots: usize = self.slots.iter().map(|slot| 4 + slot.len()).sum();
        let length = PREFIX_BYTES + 24 + slots + HASH_BYTES;
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(self.slots.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(length as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.chunk_bytes as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.repository.0);
        for slot in &self.slots {
            bytes.extend_from_slice(&(slot.len() as u32).to_le_bytes());
            bytes.extend_from_slice(slot);
        }
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        bytes
    }

    /// Reads and checks a header.
    pub fn parse(bytes: &[u8]) -> Result<Header> {
        let corrupt = |detail: String| ImageError::corrupt(READ_HEADER, detail).at_host(0);
        let (content, hash) = bytes
            .split_last_chunk::<HASH_BYTES>()
            .ok_or_else(|| ImageError::truncated(READ_HEADER, format!("it has {} bytes", bytes.len())))?;
        let mut parts = Parts::new(READ_HEADER, content);
        let (slots, length) = prefix(&mut parts)?;
        if length != bytes.len() {
            return Err(corrupt(format!("it says that it is {length} bytes long, and has {}", bytes.len())));
        }
        let slots = usize::from(slots);
        if blake3::hash(content).as_bytes() != hash {
            return Err(corrupt("its hash does not match".to_owned()));
        }
        let (chunk_bytes, reserved) = (u64::from(parts.u32()?), parts.u32()?);
        if !CHUNK_BYTES.contains(&chunk_bytes) || !chunk_bytes.is_power_of_two() || reserved != 0 {
            return Err(corrupt(format!(
                "its chunks have {chunk_bytes} bytes, expected a power of two from 64k to 4M"
            )));
        }
        if slots > MAX_SLOTS {
            let detail = format!("it has {slots} key slots, at most {MAX_SLOTS} are read");
            return Err(ImageError::limit_exceeded(READ_HEADER, detail));
        }
        let repository = Id(parts.array()?);
        let mut read_slot = || {
            let length = parts.u32()? as usize;
            parts.slice(length).map(<[u8]>::to_vec)
        };
        let slots = (0..slots).map(|_| read_slot()).collect::<tintype_tin::Result<_>>()?;
        parts.end()?;
        Ok(Header { repository, chunk_bytes, slots })
    }

    /// Reads the header of a file: it, its length in bytes, and its hash.
    fn read(file: &dyn HostFile) -> Result<(Header, u64, [u8; 32])> {
        let io = |cause| ImageError::io(READ_HEADER, cause).at_host(0);
        let mut start = [0; PREFIX_BYTES];
        file.read_exact_at(0, &mut start).map_err(io)?;
        let (_, length) = prefix(&mut Parts::new(READ_HEADER, &start))?;
        let mut bytes = vec![0; length];
        file.read_exact_at(0, &mut bytes).map_err(io)?;
        let header = Header::parse(&bytes)?;
        Ok((header, length as u64, *blake3::hash(&bytes).as_bytes()))
    }
}

/// The number of slots, and how long the header is.
fn prefix(parts: &mut Parts<'_>) -> Result<(u16, usize)> {
    if parts.array()? != *MAGIC {
        return Err(ImageError::not_this_format(READ_HEADER, "it does not begin with \"TINFILE1\""));
    }
    let (version, slots, length) = (parts.u16()?, parts.u16()?, parts.u32()? as usize);
    if version != VERSION {
        let detail = format!("it has version {version}, this program knows {VERSION}: use a newer one");
        return Err(ImageError::unsupported(READ_HEADER, detail));
    }
    if !(PREFIX_BYTES + HASH_BYTES..=MAX_HEADER_BYTES).contains(&length) {
        return Err(ImageError::corrupt(READ_HEADER, format!("it says that it is {length} bytes long")).at_host(0));
    }
    Ok((slots, length))
}

/// Where a pack or the manifest lies in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The pack's id, or the snapshot's.
    pub id: Id,
    /// Where it begins, in bytes.
    pub host_offset: u64,
    /// Its length in bytes.
    pub length_bytes: u64,
}

/// A file whose header was read, and nothing that takes a key.
pub struct Frame {
    /// The header.
    pub header: Header,
    header_bytes: u64,
    header_hash: [u8; 32],
    file_bytes: u64,
}

/// What a file's directory says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// The packs, in the file's order.
    pub packs: Vec<Place>,
    /// The manifest.
    pub manifest: Place,
}

impl Frame {
    /// Reads the header of a file.
    pub fn read(file: &dyn HostFile) -> Result<Frame> {
        let file_bytes = file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
        let (header, header_bytes, header_hash) = Header::read(file)?;
        Ok(Frame { header, header_bytes, header_hash, file_bytes })
    }

    /// Reads the directory, which has to be of somebody with these keys.
    pub fn directory(&self, file: &dyn HostFile, ring: &KeyRing) -> Result<Directory> {
        let cut = || {
            let detail = "it does not end with a trailer: the file was cut short, or never finished";
            ImageError::truncated(READ_DIRECTORY, detail)
        };
        let trailer_at = self.file_bytes.checked_sub(TRAILER_BYTES).ok_or_else(cut)?;
        let io = |cause| ImageError::io(READ_DIRECTORY, cause);
        let mut trailer = [0; TRAILER_BYTES as usize];
        file.read_exact_at(trailer_at, &mut trailer).map_err(io)?;
        let mut parts = Parts::new(READ_DIRECTORY, &trailer);
        let (magic, offset, length, check) = (parts.array::<8>()?, parts.u64()?, parts.u64()?, parts.array::<8>()?);
        if magic != *TRAILER_MAGIC || check != blake3::hash(&trailer[..24]).as_bytes()[..8] {
            return Err(cut());
        }
        if offset.checked_add(length) != Some(trailer_at) || length > MAX_DIRECTORY_BYTES {
            let detail =
                format!("it is said to be {length} bytes at {offset:#x}, before the trailer at {trailer_at:#x}");
            return Err(ImageError::corrupt(READ_DIRECTORY, detail));
        }
        let mut object = vec![0; length as usize];
        file.read_exact_at(offset, &mut object).map_err(io)?;
        let signed = ring.verify(ObjectKind::Directory, DIRECTORY_NAME, &object)?;
        self.parse_directory(signed.body, offset)
    }

    fn parse_directory(&self, body: &[u8], directory_at: u64) -> Result<Directory> {
        let corrupt = |detail: String| Err(ImageError::corrupt(READ_DIRECTORY, detail));
        let mut parts = Parts::new(READ_DIRECTORY, body);
        if parts.array::<32>()? != self.header_hash {
            return corrupt("it was made for another header".to_owned());
        }
        let (count, reserved) = (parts.u32()? as usize, parts.u32()?);
        let mut end = self.header_bytes;
        let mut place = |longest: u64| {
            let place = Place { id: Id(parts.array()?), host_offset: parts.u64()?, length_bytes: parts.u64()? };
            let next = place.host_offset.checked_add(place.length_bytes);
            match next.filter(|next| place.host_offset == end && *next <= directory_at && place.length_bytes <= longest)
            {
                Some(next) => end = next,
                None => {
                    let detail = format!("{place:?} does not follow what ends at {end:#x}");
                    return Err(ImageError::corrupt(READ_DIRECTORY, detail));
                }
            }
            Ok(place)
        };
        // The count is not believed: the bytes for each come first.
        let packs = (0..count).map(|_| place(pack::MAX_BYTES)).collect::<Result<Vec<_>>>()?;
        let manifest = place(manifest::MAX_BYTES)?;
        parts.end()?;
        if end != directory_at || reserved != 0 {
            return corrupt(format!("it begins at {directory_at:#x}, and the manifest ends at {end:#x}"));
        }
        Ok(Directory { packs, manifest })
    }
}

/// Reads the bytes of the manifest's object.
pub fn read_manifest(file: &dyn HostFile, place: &Place) -> Result<Vec<u8>> {
    let mut bytes = vec![0; place.length_bytes as usize];
    file.read_exact_at(place.host_offset, &mut bytes)
        .map_err(|cause| ImageError::io("read the manifest", cause).at_host(place.host_offset))?;
    Ok(bytes)
}

/// A file that is being written, from front to back.
pub struct FileBuilder {
    file: Arc<dyn HostFileMut>,
    header_hash: [u8; 32],
    packs: Vec<Place>,
    end: u64,
}

impl FileBuilder {
    /// Begins a file with its header.
    pub fn begin(file: Arc<dyn HostFileMut>, header: &Header) -> Result<FileBuilder> {
        let bytes = header.encode();
        let header_hash = *blake3::hash(&bytes).as_bytes();
        let mut builder = FileBuilder { file, header_hash, packs: Vec::new(), end: 0 };
        builder.append(&bytes)?;
        Ok(builder)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let host_offset = self.end;
        self.file
            .write_all_at(host_offset, bytes)
            .map_err(|cause| ImageError::io(WRITE, cause).at_host(host_offset))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Appends a pack.
    pub fn append_pack(&mut self, id: Id, bytes: &[u8]) -> Result<()> {
        self.packs.push(Place { id, host_offset: self.end, length_bytes: bytes.len() as u64 });
        self.append(bytes)
    }

    /// Appends the manifest, the directory and the trailer, and syncs the file. Returns its length in bytes.
    pub fn finish(mut self, ring: &KeyRing, snapshot: Id, manifest: &[u8]) -> Result<u64> {
        let manifest_place = Place { id: snapshot, host_offset: self.end, length_bytes: manifest.len() as u64 };
        self.append(manifest)?;
        let mut body = self.header_hash.to_vec();
        body.extend_from_slice(&(self.packs.len() as u32).to_le_bytes());
        body.extend_from_slice(&[0; 4]);
        for place in self.packs.iter().chain([&manifest_place]) {
            body.extend_from_slice(&place.id.0);
            body.extend_from_slice(&place.host_offset.to_le_bytes());
            body.extend_from_slice(&place.length_bytes.to_le_bytes());
        }
        let directory = ring.sign(ObjectKind::Directory, DIRECTORY_NAME, &body)?;
        if directory.len() as u64 > MAX_DIRECTORY_BYTES {
            let detail = format!("{} packs are more than its directory holds", self.packs.len());
            return Err(ImageError::limit_exceeded(WRITE, detail));
        }
        let directory_at = self.end;
        self.append(&directory)?;
        let mut trailer = TRAILER_MAGIC.to_vec();
        trailer.extend_from_slice(&directory_at.to_le_bytes());
        trailer.extend_from_slice(&(directory.len() as u64).to_le_bytes());
        let check = blake3::hash(&trailer);
        trailer.extend_from_slice(&check.as_bytes()[..8]);
        // The trailer makes the file valid: what it stands for is on the disk before.
        self.sync()?;
        self.append(&trailer)?;
        self.sync()?;
        Ok(self.end)
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|cause| ImageError::io(WRITE, cause))
    }
}
