//! The header: what it says, in one form for all versions.
//!
//! Invariant: whoever holds a [`Header`] knows that the block map is in the file, that it has an entry for every block of
//! the disk, and that blocks come after it.

use uuid::Uuid;
use zerocopy::FromBytes;

use super::on_disk::*;
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::limits::MAX_DISK_BYTES;

const READ: &str = "read VDI header";

/// What sort of image it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Dynamic,
    Fixed,
    Undo,
    Differencing,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Dynamic => "dynamic",
            Kind::Fixed => "fixed",
            Kind::Undo => "undo",
            Kind::Differencing => "differencing",
        }
    }
}

/// The state of an image: which one it is, and since when it holds what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub create: Uuid,
    pub modify: Uuid,
}

impl State {
    fn is_known(self) -> bool {
        !self.create.is_nil() && !self.modify.is_nil()
    }

    /// As it is compared and shown.
    pub fn text(self) -> String {
        format!("{}/{}", self.create, self.modify)
    }
}

/// What the header says.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub version: (u16, u16),
    pub kind: Kind,
    pub banner: String,
    pub comment: String,
    pub map_offset: u64,
    pub data_offset: u64,
    /// As stated; any number of bytes.
    pub disk_bytes: u64,
    pub block_bytes: u64,
    pub extra_bytes: u64,
    pub block_count: u64,
    pub allocated_count: u64,
    pub own: State,
    pub parent: Option<State>,
}

/// Whether these first bytes of a file carry the signature.
pub(super) fn looks_like_vdi(head: &[u8]) -> bool {
    let found = head.get(SIGNATURE_OFFSET..).and_then(|rest| rest.first_chunk());
    found.is_some_and(|found| u32::from_le_bytes(*found) == SIGNATURE)
}

/// Reads and checks the header of a file of `file_bytes`.
pub(super) fn read(file: &dyn HostFile, file_bytes: u64) -> Result<Header> {
    let mut head = vec![0; file_bytes.min(size_of::<NewHeader>() as u64) as usize];
    file.read_exact_at(0, &mut head).map_err(|cause| ImageError::io(READ, cause).at_host(0))?;
    if !looks_like_vdi(&head) {
        let detail = format!("there is no signature {SIGNATURE:#x} at {SIGNATURE_OFFSET:#x}");
        return Err(ImageError::not_this_format(READ, detail));
    }
    let cut = || ImageError::truncated(READ, format!("the file has only {file_bytes} bytes"));
    let (pre, rest) = PreHeader::ref_from_prefix(&head).map_err(|_| cut())?;
    let (major, minor) = ((pre.version.get() >> 16) as u16, pre.version.get() as u16);
    let header = match (major, minor) {
        (0, _) => {
            let (v0, _) = HeaderV0::ref_from_prefix(rest).map_err(|_| cut())?;
            Header::of_v0(minor, text(&pre.banner), v0)?
        }
        (1, 0 | 1) => {
            let (v1, _) = HeaderV1::ref_from_prefix(rest).map_err(|_| cut())?;
            Header::of_v1(minor, text(&pre.banner), v1)?
        }
        _ => {
            let detail = format!("version {major}.{minor} was found; 0.x, 1.0 and 1.1 are read");
            return Err(ImageError::unsupported(READ, detail));
        }
    };
    header.check(file_bytes)?;
    Ok(header)
}

/// A text that ends with a NUL or its field.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(field.get(..end).unwrap_or_default()).trim().to_owned()
}

fn kind(image_type: u32) -> Result<Kind> {
    match image_type {
        DYNAMIC => Ok(Kind::Dynamic),
        FIXED => Ok(Kind::Fixed),
        UNDO => Ok(Kind::Undo),
        DIFFERENCING => Ok(Kind::Differencing),
        other => Err(corrupt(format!("the image type is {other}, expected 1 to 4"))),
    }
}

fn corrupt(detail: String) -> ImageError {
    ImageError::corrupt(READ, detail).at_host(0)
}

impl Header {
    fn of_v0(minor: u16, banner: String, v0: &HeaderV0) -> Result<Header> {
        let kind = kind(v0.image_type.get())?;
        if matches!(kind, Kind::Undo | Kind::Differencing) {
            let detail =
                format!("{} images of version 0 do not say which state of their parent they belong to", kind.name());
            return Err(ImageError::unsupported(READ, detail));
        }
        let map_offset = (size_of::<PreHeader>() + size_of::<HeaderV0>()) as u64;
        let block_count = u64::from(v0.block_count.get());
        let none = DiskUuid::from(Uuid::nil());
        Ok(Header {
            version: (0, minor),
            kind,
            banner,
            comment: text(&v0.comment),
            map_offset,
            data_offset: map_offset + block_count * ENTRY_BYTES,
            disk_bytes: v0.disk_bytes.get(),
            block_bytes: v0.block_bytes.get().into(),
            extra_bytes: 0,
            block_count,
            allocated_count: v0.allocated_count.get().into(),
            own: State { create: v0.create.into(), modify: v0.modify.into() },
            parent: parent(kind, v0.parent_create, none)?,
        })
    }

    fn of_v1(minor: u16, banner: String, v1: &HeaderV1) -> Result<Header> {
        let kind = kind(v1.image_type.get())?;
        let least = size_of::<HeaderV1>() as u32;
        if v1.header_bytes.get() < least {
            let found = v1.header_bytes.get();
            return Err(corrupt(format!("the header says that it has {found} bytes, expected at least {least}")));
        }
        Ok(Header {
            version: (1, minor),
            kind,
            banner,
            comment: text(&v1.comment),
            map_offset: v1.map_offset.get().into(),
            data_offset: v1.data_offset.get().into(),
            disk_bytes: v1.disk_bytes.get(),
            block_bytes: v1.block_bytes.get().into(),
            extra_bytes: v1.extra_bytes.get().into(),
            block_count: v1.block_count.get().into(),
            allocated_count: v1.allocated_count.get().into(),
            own: State { create: v1.create.into(), modify: v1.modify.into() },
            parent: parent(kind, v1.parent_create, v1.parent_modify)?,
        })
    }

    /// Its own state, if both parts are there.
    pub fn identity(&self) -> Option<String> {
        self.own.is_known().then(|| self.own.text())
    }

    /// The disk's size, in whole sectors.
    pub fn sectored_bytes(&self) -> u64 {
        self.disk_bytes.next_multiple_of(512)
    }

    /// The blocks that the disk reaches into.
    pub fn used_block_count(&self) -> u64 {
        self.sectored_bytes().div_ceil(self.block_bytes)
    }

    /// What one block takes in the file.
    pub fn stored_block_bytes(&self) -> u64 {
        self.block_bytes + self.extra_bytes
    }

    /// Where the map's last entry ends.
    pub fn map_end(&self) -> u64 {
        self.map_offset + self.block_count * ENTRY_BYTES
    }

    fn check(&self, file_bytes: u64) -> Result<()> {
        if !self.block_bytes.is_power_of_two() || self.block_bytes < MIN_BLOCK_BYTES.into() {
            let found = self.block_bytes;
            return Err(corrupt(format!("the block size is {found}, expected a power of two from {MIN_BLOCK_BYTES}")));
        }
        if self.disk_bytes > MAX_DISK_BYTES {
            let detail = format!("the disk has {} bytes, at most {MAX_DISK_BYTES} work", self.disk_bytes);
            return Err(ImageError::limit_exceeded(READ, detail));
        }
        if self.used_block_count() > self.block_count {
            return Err(corrupt(format!(
                "there are {} blocks of {} bytes, too few for a disk of {} bytes",
                self.block_count, self.block_bytes, self.disk_bytes
            )));
        }
        self.check_places(file_bytes)
    }

    /// Header, map and blocks lie in this order.
    fn check_places(&self, file_bytes: u64) -> Result<()> {
        let header_end = (size_of::<PreHeader>() + size_of::<HeaderV1>()) as u64;
        if self.version.0 >= 1 && (self.map_offset < header_end || !self.map_offset.is_multiple_of(ENTRY_BYTES)) {
            return Err(corrupt(format!(
                "the block map is at {:#x}, expected a multiple of {ENTRY_BYTES} from {header_end:#x} on",
                self.map_offset
            )));
        }
        let map_bytes = self.block_count * ENTRY_BYTES;
        if map_bytes > MAX_MAP_BYTES {
            let detail = format!(
                "the block map has {} entries, at most {} are read",
                self.block_count,
                MAX_MAP_BYTES / ENTRY_BYTES
            );
            return Err(ImageError::limit_exceeded(READ, detail));
        }
        if self.data_offset < self.map_end() {
            return Err(corrupt(format!(
                "the blocks begin at {:#x}, inside of the block map (up to {:#x})",
                self.data_offset,
                self.map_end()
            )));
        }
        if self.map_end() > file_bytes {
            let detail =
                format!("the block map ends at {:#x}, past the end of the file ({file_bytes:#x})", self.map_end());
            return Err(ImageError::truncated(READ, detail));
        }
        Ok(())
    }
}

/// The state of the parent that an image of this kind has, or may not have.
fn parent(kind: Kind, create: DiskUuid, modify: DiskUuid) -> Result<Option<State>> {
    let parent = State { create: create.into(), modify: modify.into() };
    match kind {
        Kind::Undo | Kind::Differencing if parent.is_known() => Ok(Some(parent)),
        Kind::Undo | Kind::Differencing => Err(corrupt(format!(
            "the {} image does not say who its parent is: the UUIDs are {}",
            kind.name(),
            parent.text()
        ))),
        // Whether the missing blocks are the parent's or zeros, nobody can tell.
        Kind::Dynamic | Kind::Fixed if !parent.create.is_nil() => {
            Err(corrupt(format!("the {} image has a parent, {}", kind.name(), parent.create)))
        }
        Kind::Dynamic | Kind::Fixed => Ok(None),
    }
}
