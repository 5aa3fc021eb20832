//! An overlay as a disk that is read.

use std::path::Path;
use std::sync::Arc;

use tintype_formats::extent::{DiskExtent, DiskKind, HostFileId, HostRange};
use tintype_formats::{BlockSource, Geometry, HostFile, ImageError, OpenFile};

use super::block_states::{BlockState, BlockStates};
use super::file::LocalOverlay;
use super::layout::{BLOCK_BYTES, BLOCKS_PER_PAGE, HEADER_BYTES, Layout, PAGE_BYTES, fingerprint};
use crate::error::{Error, Kind, OnPath as _, Result};

/// A disk with what was written over it. Reads take no lock.
pub struct OverlayReader {
    pub(super) layout: Layout,
    pub(super) states: BlockStates,
    base: Arc<dyn BlockSource>,
    /// Those of the disk below, and the overlay's own last.
    files: Vec<OpenFile>,
    file: Arc<dyn HostFile>,
}

impl OverlayReader {
    /// Opens an overlay only to read it; fails if another process writes to it, or if it was made for another disk.
    pub fn open(path: &Path, base: Arc<dyn BlockSource>) -> Result<Self> {
        let found = LocalOverlay::open(path, false).on_path(path)?;
        Self::load(found.known_as, base).on_path(path)
    }

    /// An overlay in which nothing is written yet.
    pub(super) fn empty(file: OpenFile, base: Arc<dyn BlockSource>, layout: Layout) -> Self {
        let mut files = base.host_files().to_vec();
        files.push(file.clone());
        OverlayReader { layout, states: BlockStates::new(&layout), base, files, file: file.file }
    }

    /// Reads the header and the table; fails if the overlay was made for another disk.
    pub(super) fn load(file: OpenFile, base: Arc<dyn BlockSource>) -> Result<Self> {
        let mut header = [0; HEADER_BYTES];
        let file_bytes = file.file.len_bytes().map_err(|cause| Error::io("find out the overlay's length", cause))?;
        let present = file_bytes.min(HEADER_BYTES as u64) as usize;
        read(&file, 0, &mut header[..present])?;
        let (layout, expected) = Layout::parse(&header)?;
        check_base(&layout, &expected, base.as_ref())?;
        if file_bytes < layout.file_bytes {
            let detail = format!("the file has {file_bytes} bytes; expected {}", layout.file_bytes);
            return Err(ImageError::truncated("read the overlay", detail).into());
        }
        let mut reader = Self::empty(file, base, layout);
        reader.load_table()?;
        Ok(reader)
    }

    fn load_table(&mut self) -> Result<()> {
        let (mut offset, end) = (self.layout.table_offset, self.layout.table_offset + self.layout.pages * PAGE_BYTES);
        while offset < end {
            let extent = self.file.extent_at(offset, end - offset);
            let extent = extent.map_err(|cause| Error::io("look for holes in the overlay's table", cause))?;
            if extent.hole && extent.length_bytes >= PAGE_BYTES {
                offset += extent.length_bytes / PAGE_BYTES * PAGE_BYTES;
                continue;
            }
            let mut page = [0; PAGE_BYTES as usize];
            read(&self.files[self.files.len() - 1], offset, &mut page)?;
            let index = (offset - self.layout.table_offset) / PAGE_BYTES;
            self.states.load(index as usize, &page).map_err(|cause| cause.at_host(offset))?;
            offset += PAGE_BYTES;
        }
        Ok(())
    }

    /// Where a place of the guest lies in the overlay's file, if it lies there.
    pub(super) fn host_offset(&self, guest_offset: u64) -> u64 {
        self.layout.data_offset + guest_offset
    }

    /// The state at a place, and for how many bytes at least, at most `max_bytes`.
    fn run_at(&self, guest_offset: u64, max_bytes: u64) -> (BlockState, u64) {
        let within = guest_offset % BLOCK_BYTES;
        let blocks = (within + max_bytes).div_ceil(BLOCK_BYTES).min(BLOCKS_PER_PAGE * 64);
        let (state, blocks) = self.states.run(guest_offset / BLOCK_BYTES, blocks);
        (state, (blocks * BLOCK_BYTES - within).min(max_bytes))
    }
}

fn read(file: &OpenFile, host_offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
    file.file
        .read_exact_at(host_offset, buffer)
        .map_err(|cause| ImageError::io("read the overlay", cause).at_host(host_offset))
}

fn check_base(layout: &Layout, expected: &[u8; 32], base: &dyn BlockSource) -> Result<()> {
    let size_bytes = base.geometry().size_bytes;
    let found = match layout.size_bytes == size_bytes {
        false => format!("it is for a disk of {} bytes, this one has {size_bytes}", layout.size_bytes),
        true if fingerprint(base)? != *expected => "the disk below is another one, or was changed since".to_owned(),
        true => return Ok(()),
    };
    Err(Error::new(Kind::Usage, format!("the overlay was not made for this disk: {found}")))
}

impl BlockSource for OverlayReader {
    fn geometry(&self) -> Geometry {
        self.base.geometry()
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent, ImageError> {
        let max_bytes = self.geometry().clamp(guest_offset, max_bytes)?;
        let (state, length_bytes) = self.run_at(guest_offset, max_bytes);
        let kind = match state {
            BlockState::Inherited => return self.base.extent_at(guest_offset, length_bytes),
            BlockState::Data => {
                let file = HostFileId(self.files.len() - 1);
                DiskKind::Data(Some(HostRange { file, host_offset: self.host_offset(guest_offset) }))
            }
            BlockState::Zero => DiskKind::Zero,
        };
        Ok(DiskExtent { length_bytes, kind })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.geometry().check_range(guest_offset, buffer.len() as u64)?;
        let (mut guest_offset, mut rest) = (guest_offset, buffer);
        while !rest.is_empty() {
            let (state, length_bytes) = self.run_at(guest_offset, rest.len() as u64);
            let (part, after) = rest.split_at_mut(length_bytes as usize);
            match state {
                BlockState::Inherited => self.base.read_at(guest_offset, part)?,
                BlockState::Zero => part.fill(0),
                BlockState::Data => {
                    let host_offset = self.host_offset(guest_offset);
                    self.file
                        .read_exact_at(host_offset, part)
                        .map_err(|cause| ImageError::io("read the overlay", cause).at_guest(guest_offset))?;
                }
            }
            guest_offset += length_bytes;
            rest = after;
        }
        Ok(())
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}
