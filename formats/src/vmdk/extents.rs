//! Opening the extents that make up the disk, each in a file of its own or a part of one.

use std::collections::HashMap;
use std::sync::Arc;

use super::descriptor::{Access, Descriptor, ExtentKind, ExtentLine};
use super::header::{self, Directory, Shape, SparseKind};
use super::on_disk::*;
use super::read::{Extent, OPEN, Storage};
use super::tables::{GrainMap, TableCache};
use crate::error::{ErrorKind, ImageError, Result};
use crate::host_file::{HostFile, OpenFile};
use crate::reference_gate::{FileReference, ReferenceGate};

const OPEN_EXTENT: &str = "open VMDK extent";

/// The layer while its extents are opened.
#[derive(Default)]
pub(super) struct Layout {
    pub files: Vec<OpenFile>,
    /// A flat file may hold several extents.
    by_name: HashMap<Vec<String>, usize>,
    pub extents: Vec<Extent>,
    /// Offset of the next extent.
    end: u64,
    /// The grain tables of all of them.
    tables: u64,
    cache: Arc<TableCache>,
}

impl Layout {
    /// Opens all of a descriptor.
    pub fn open_extents(&mut self, descriptor: &Descriptor, gate: &dyn ReferenceGate) -> Result<()> {
        check_create_type(&descriptor.create_type)?;
        for (number, line) in (1..).zip(&descriptor.extents) {
            self.open_extent(line, gate).map_err(|cause| in_extent(number, line, cause))?;
        }
        self.check_ranges()
    }

    /// No range of a file may be two parts of the disk: a small file could be a disk of any size.
    pub fn check_ranges(&self) -> Result<()> {
        let range_of = |extent: &Extent| match &extent.storage {
            Storage::Flat { file, host_offset, .. } => Some((*file, *host_offset, extent.length_bytes)),
            Storage::Sparse { file, .. } => Some((*file, 0, u64::MAX)),
            Storage::Zero => None,
        };
        let mut ranges: Vec<_> = self.extents.iter().filter_map(range_of).collect();
        ranges.sort_unstable();
        let overlap = |pair: &&[(usize, u64, u64)]| pair[0].0 == pair[1].0 && pair[1].1 - pair[0].1 < pair[0].2;
        match ranges.windows(2).find(overlap).and_then(|pair| self.files.get(pair[0].0)) {
            None => Ok(()),
            Some(file) => {
                let detail = format!("two extents name the same part of \"{}\"", file.name.escape_debug());
                Err(ImageError::corrupt(OPEN, detail))
            }
        }
    }

    /// Opens the next extent; one without a length adds none.
    pub fn open_extent(&mut self, line: &ExtentLine, gate: &dyn ReferenceGate) -> Result<()> {
        let kind = match line.kind {
            // The guest may not see what is there.
            _ if line.access == Access::None => return self.push(line.length_bytes, Storage::Zero),
            ExtentKind::Zero => return self.push(line.length_bytes, Storage::Zero),
            ExtentKind::Device(name) => {
                let detail = format!("its type is {name}: its data is on a device, not in a file");
                return Err(ImageError::unsupported(OPEN_EXTENT, detail));
            }
            ExtentKind::Flat | ExtentKind::Vmfs => return self.open_flat(line, gate),
            ExtentKind::Sparse => SparseKind::Hosted,
            ExtentKind::VmfsSparse => SparseKind::Cowd,
            ExtentKind::SeSparse => SparseKind::SeSparse,
        };
        let file = self.open_file(line, gate)?;
        let (host, file_bytes) = self.host_file(file)?;
        let mut head = vec![0; file_bytes.min(SECTOR_BYTES) as usize];
        host.read_exact_at(0, &mut head).map_err(|cause| ImageError::io(OPEN_EXTENT, cause).at_host(0))?;
        if header::sparse_kind(&head) != Some(kind) {
            return Err(ImageError::corrupt(OPEN_EXTENT, format!("the file does not begin like a {kind} extent")));
        }
        let is_of = |extent: &Extent| matches!(&extent.storage, Storage::Sparse { file: other, .. } if *other == file);
        if self.extents.iter().any(is_of) {
            return Err(ImageError::corrupt(OPEN_EXTENT, "another extent names the same file"));
        }
        let shape = header::read(host.as_ref(), file_bytes, kind)?;
        if shape.directory == Directory::Lost {
            // One stream is looked through for its grains, but not thousands of them.
            let detail = "the end of the file is missing, with its tables: open it by itself to save what is left";
            return Err(ImageError::truncated(OPEN_EXTENT, detail));
        }
        self.push_sparse(file, shape, line.length_bytes)
    }

    fn open_flat(&mut self, line: &ExtentLine, gate: &dyn ReferenceGate) -> Result<()> {
        let file = self.open_file(line, gate)?;
        let (_, file_bytes) = self.host_file(file)?;
        self.push(line.length_bytes, Storage::Flat { file, file_bytes, host_offset: line.host_offset })
    }

    fn open_file(&mut self, line: &ExtentLine, gate: &dyn ReferenceGate) -> Result<usize> {
        if let Some(file) = self.by_name.get(&line.names) {
            return Ok(*file);
        }
        let reference = FileReference { names: line.names.clone(), format: None, identities: Vec::new() };
        let opened = gate.open(&reference)?.file;
        let same = |open: &OpenFile| open.identity.is_some() && open.identity == opened.identity;
        let file = self.files.iter().position(same).unwrap_or_else(|| {
            self.files.push(opened);
            self.files.len() - 1
        });
        self.by_name.insert(line.names.clone(), file);
        Ok(file)
    }

    /// A file of the extents, and its length.
    pub fn host_file(&self, index: usize) -> Result<(Arc<dyn HostFile>, u64)> {
        let file = self.files.get(index).map(|open| open.file.clone());
        let file = file.ok_or_else(|| ImageError::corrupt(OPEN_EXTENT, "its file is not open"))?;
        let file_bytes = file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
        Ok((file, file_bytes))
    }

    /// Adds a sparse extent.
    pub fn push_sparse(&mut self, file: usize, shape: Shape, length_bytes: u64) -> Result<()> {
        if shape.capacity_bytes < length_bytes {
            let detail = format!("it has {} bytes, the descriptor says {length_bytes}", shape.capacity_bytes);
            return Err(ImageError::corrupt(OPEN_EXTENT, detail));
        }
        self.tables += shape.table_count();
        if self.tables > MAX_TABLES {
            let detail = format!("all extents need {} grain tables, at most {MAX_TABLES} are read", self.tables);
            return Err(ImageError::limit_exceeded(OPEN_EXTENT, detail));
        }
        let (host, file_bytes) = self.host_file(file)?;
        let cache = Arc::clone(&self.cache);
        let map = Box::new(GrainMap::open(host, file_bytes, shape, self.extents.len(), cache)?);
        self.push(length_bytes, Storage::Sparse { file, map })
    }

    fn push(&mut self, length_bytes: u64, storage: Storage) -> Result<()> {
        if length_bytes > 0 {
            self.extents.push(Extent { guest_offset: self.end, length_bytes, storage });
            self.end += length_bytes;
        }
        Ok(())
    }
}

/// Disks that are devices of the host are nothing that could be copied with their descriptor.
fn check_create_type(create_type: &str) -> Result<()> {
    const DEVICES: [&str; 6] =
        ["fullDevice", "partitionedDevice", "vmfsRaw", "vmfsRawDeviceMap", "vmfsRDM", "vmfsPassthroughRawDeviceMap"];
    if DEVICES.iter().any(|device| device.eq_ignore_ascii_case(create_type)) {
        let detail = format!("its type is {create_type}: its data is on a device of the host, not in files");
        return Err(ImageError::unsupported(OPEN, detail));
    }
    Ok(())
}

pub(super) fn in_extent(number: usize, line: &ExtentLine, cause: ImageError) -> ImageError {
    let kind = match cause.kind() {
        ErrorKind::NotThisFormat => ErrorKind::Corrupt,
        kind => kind,
    };
    let name = line.names.first().map_or("", String::as_str);
    ImageError::new(kind, format!("open extent {number}, \"{}\"", name.escape_debug()), "it cannot be used")
        .caused_by(cause)
}
