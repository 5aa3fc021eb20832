//! An open image: its header, its descriptor, and the layer that comes of both.

use std::collections::HashMap;
use std::sync::Arc;

use super::descriptor::{self, Access, Descriptor, ExtentKind, ExtentLine, identity_text};
use super::header::{self, Directory, Shape, SparseKind};
use super::on_disk::*;
use super::read::{Extent, Storage, VmdkLayer};
use super::tables::{GrainMap, TableCache};
use super::{check, info};
use crate::check::CheckReport;
use crate::contents::SnapshotInfo;
use crate::error::{ErrorKind, ImageError, Result};
use crate::host_file::{HostFile, OpenFile};
use crate::layer::{Image, ImageInfo, ImageLayer};
use crate::reference_gate::{FileReference, ReferenceGate};
use crate::source::Geometry;

const OPEN: &str = "open VMDK image";
const OPEN_EXTENT: &str = "open VMDK extent";

/// Stored grains and flat extents can be read in any part; this is what file systems read at once.
const PLAIN_UNIT_BYTES: u64 = 4096;

/// A VMDK file whose header and descriptor are good.
pub(super) struct VmdkImage {
    pub file: OpenFile,
    pub file_bytes: u64,
    /// The file's own sparse extent; none if it is only a descriptor.
    pub shape: Option<Shape>,
    pub descriptor: Option<Descriptor>,
    info: ImageInfo,
    parent: Option<FileReference>,
}

pub(super) fn open(file: OpenFile) -> Result<Box<dyn Image>> {
    let file_bytes = file.file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
    let (shape, descriptor) = read_parts(file.file.as_ref(), file_bytes)?;
    let geometry = geometry(shape.as_ref(), descriptor.as_ref())?;
    let info = info::describe(shape.as_ref(), descriptor.as_ref(), geometry);
    let parent = descriptor.as_ref().and_then(parent_of);
    Ok(Box::new(VmdkImage { file, file_bytes, shape, descriptor, info, parent }))
}

/// The header, if there is one, and the descriptor, if there is one.
fn read_parts(file: &dyn HostFile, file_bytes: u64) -> Result<(Option<Shape>, Option<Descriptor>)> {
    let mut head = vec![0; file_bytes.min(PLAIN_UNIT_BYTES) as usize];
    file.read_exact_at(0, &mut head).map_err(|cause| ImageError::io(OPEN, cause).at_host(0))?;
    let Some(kind) = header::sparse_kind(&head) else {
        if !descriptor::looks_like_descriptor(&head) {
            return Err(ImageError::not_this_format(OPEN, "it begins with neither a header nor a descriptor"));
        }
        return Ok((None, Some(read_descriptor(file, 0, file_bytes)?)));
    };
    let shape = header::read(file, file_bytes, kind)?;
    let descriptor = match shape.descriptor {
        Some((offset, length)) => Some(read_descriptor(file, offset, length)?),
        None => None,
    };
    // A header without a disk only holds the descriptor.
    let only_descriptor = shape.capacity_bytes == 0
        && descriptor.as_ref().is_some_and(|one| one.disk_bytes().is_ok_and(|bytes| bytes > 0));
    Ok((Some(shape).filter(|_| !only_descriptor), descriptor))
}

fn read_descriptor(file: &dyn HostFile, host_offset: u64, length_bytes: u64) -> Result<Descriptor> {
    const DOING: &str = "read VMDK descriptor";
    if length_bytes > MAX_DESCRIPTOR_BYTES {
        let detail = format!("it has {length_bytes} bytes, at most {MAX_DESCRIPTOR_BYTES} are read");
        return Err(ImageError::limit_exceeded(DOING, detail));
    }
    let mut bytes = vec![0; length_bytes as usize];
    file.read_exact_at(host_offset, &mut bytes).map_err(|cause| ImageError::io(DOING, cause).at_host(host_offset))?;
    descriptor::parse(&bytes).map_err(|error| error.at_host(host_offset))
}

fn geometry(shape: Option<&Shape>, descriptor: Option<&Descriptor>) -> Result<Geometry> {
    let unit_bytes = match shape {
        Some(shape) if shape.compressed => shape.grain_bytes,
        _ => PLAIN_UNIT_BYTES,
    };
    let size_bytes = match (shape, descriptor) {
        (Some(shape), Some(descriptor)) => embedded_size(shape, descriptor)?,
        (Some(shape), None) => shape.capacity_bytes,
        (None, Some(descriptor)) => descriptor.disk_bytes()?,
        (None, None) => 0,
    };
    Ok(Geometry::of_512_byte_sectors(size_bytes, unit_bytes))
}

/// The size of a disk that describes itself. Some writers (VirtualBox) round the header's capacity up to whole grains; the
/// descriptor then has the disk's own size.
fn embedded_size(shape: &Shape, descriptor: &Descriptor) -> Result<u64> {
    let [extent] = descriptor.extents.as_slice() else {
        let detail = format!("the descriptor inside of it names {} extents, expected itself", descriptor.extents.len());
        return Err(ImageError::unsupported(OPEN, detail));
    };
    match shape.capacity_bytes.checked_sub(extent.length_bytes) {
        Some(rounded) if rounded < shape.grain_bytes => Ok(extent.length_bytes),
        _ => Ok(shape.capacity_bytes),
    }
}

fn parent_of(descriptor: &Descriptor) -> Option<FileReference> {
    let cid = descriptor.parent_cid.filter(|_| descriptor.has_parent())?;
    Some(FileReference {
        names: descriptor.parent_names.clone(),
        format: Some(super::FORMAT.name.to_owned()),
        identities: vec![identity_text(cid)],
    })
}

impl VmdkImage {
    /// The disk's size.
    pub fn size_bytes(&self) -> u64 {
        self.info.geometry.size_bytes
    }
}

impl Image for VmdkImage {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn parent(&self) -> Option<&FileReference> {
        self.parent.as_ref()
    }

    fn snapshots(&self) -> &[SnapshotInfo] {
        &[]
    }

    fn layer(&self, snapshot: Option<&str>, gate: &dyn ReferenceGate) -> Result<Box<dyn ImageLayer>> {
        if let Some(name) = snapshot {
            return Err(ImageError::no_such_snapshot(name, &[]));
        }
        if self.parent.as_ref().is_some_and(|parent| parent.names.is_empty()) {
            return Err(ImageError::corrupt(OPEN, "it has a parent (parentCID), but does not name it"));
        }
        let mut layout = Layout::default();
        match (&self.shape, &self.descriptor) {
            (Some(shape), _) => {
                layout.files.push(self.file.clone());
                layout.push_sparse(0, shape.clone(), self.info.geometry.size_bytes)?;
            }
            (None, Some(descriptor)) => layout.open_extents(descriptor, gate)?,
            (None, None) => {}
        }
        let mut geometry = self.info.geometry;
        geometry.unit_bytes = layout.extents.iter().map(Extent::unit_bytes).max().unwrap_or(geometry.unit_bytes);
        Ok(Box::new(VmdkLayer { geometry, files: layout.files, extents: layout.extents }))
    }

    fn check(&self, report: &mut CheckReport) -> Result<()> {
        check::check(self, report)
    }

    fn check_all_files(&self, gate: &dyn ReferenceGate, report: &mut CheckReport) -> Result<()> {
        check::check_all_files(self, gate, report)
    }
}

impl Extent {
    fn unit_bytes(&self) -> u64 {
        match &self.storage {
            Storage::Sparse { map, .. } if map.shape.compressed => map.shape.grain_bytes,
            _ => PLAIN_UNIT_BYTES,
        }
    }
}

/// The layer while its extents are opened.
#[derive(Default)]
pub(super) struct Layout {
    files: Vec<OpenFile>,
    /// A flat file may hold several extents.
    by_name: HashMap<Vec<String>, usize>,
    pub extents: Vec<Extent>,
    /// Where the next extent begins.
    end: u64,
    /// The grain tables of all of them.
    tables: u64,
    cache: Arc<TableCache>,
}

impl Layout {
    fn open_extents(&mut self, descriptor: &Descriptor, gate: &dyn ReferenceGate) -> Result<()> {
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

    fn push_sparse(&mut self, file: usize, shape: Shape, length_bytes: u64) -> Result<()> {
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
