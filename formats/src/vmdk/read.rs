//! Reading: the header, the descriptor, and the parts of the disk, each in a file of its own kind.

use super::descriptor::{self, Descriptor, identity_text};
use super::grains::GrainReader;
use super::header::{self, Shape};
use super::info;
use super::on_disk::*;
use super::tables::GrainMap;
use crate::error::{ImageError, Result};
use crate::extent::{HostFileId, HostRange, LayerExtent, LayerKind};
use crate::host_file::{HostFile, OpenFile};
use crate::layer::{ImageInfo, ImageLayer};
use crate::reference_gate::FileReference;
use crate::source::Geometry;

pub(super) const OPEN: &str = "open VMDK image";
const READ: &str = "read VMDK extent";

/// Stored grains and flat extents can be read in any part; this is what file systems read at once.
const PLAIN_UNIT_BYTES: u64 = 4096;

/// A VMDK file whose header and descriptor are good.
pub(super) struct VmdkImage {
    pub file: OpenFile,
    pub file_bytes: u64,
    /// The file's own sparse extent; none if it is only a descriptor.
    pub shape: Option<Shape>,
    pub descriptor: Option<Descriptor>,
    pub info: ImageInfo,
    pub parent: Option<FileReference>,
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
    /// Reads the header and the descriptor.
    pub fn open(file: OpenFile) -> Result<VmdkImage> {
        let file_bytes = file.file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
        let (shape, descriptor) = read_parts(file.file.as_ref(), file_bytes)?;
        let geometry = geometry(shape.as_ref(), descriptor.as_ref())?;
        let info = info::describe(shape.as_ref(), descriptor.as_ref(), geometry);
        let parent = descriptor.as_ref().and_then(parent_of);
        Ok(VmdkImage { file, file_bytes, shape, descriptor, info, parent })
    }

    /// The disk's size.
    pub fn size_bytes(&self) -> u64 {
        self.info.geometry.size_bytes
    }
}

/// A disk of this file and the ones that it names.
pub(super) struct VmdkLayer {
    pub geometry: Geometry,
    pub files: Vec<OpenFile>,
    /// Ascending, adjoining, from 0 to the end of the disk; none is empty.
    pub extents: Vec<Extent>,
}

/// A part of the disk.
pub(super) struct Extent {
    pub guest_offset: u64,
    pub length_bytes: u64,
    pub storage: Storage,
}

impl Extent {
    /// The unit in which it is best read.
    pub fn unit_bytes(&self) -> u64 {
        match &self.storage {
            Storage::Sparse { map, .. } if map.shape.compressed => map.shape.grain_bytes,
            _ => PLAIN_UNIT_BYTES,
        }
    }
}

/// Where the bytes of a part are.
pub(super) enum Storage {
    /// In a file, as they are.
    Flat { file: usize, file_bytes: u64, host_offset: u64 },
    /// In a file, by grains.
    Sparse { file: usize, map: Box<GrainMap> },
    /// Nowhere.
    Zero,
}

impl ImageLayer for VmdkLayer {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let max_bytes = self.geometry.clamp(guest_offset, max_bytes)?;
        let (extent, within) = self.find(guest_offset, max_bytes)?;
        let max_bytes = max_bytes.min(extent.length_bytes - within);
        let found = match &extent.storage {
            Storage::Zero => Ok(LayerExtent { length_bytes: max_bytes, kind: LayerKind::Zero }),
            Storage::Flat { file, file_bytes, host_offset } => {
                stored(*file, *file_bytes, host_offset.saturating_add(within), max_bytes)
            }
            Storage::Sparse { file, map } => sparse_extent(*file, map, within, max_bytes),
        };
        found.map_err(|error| error.at_guest(guest_offset))
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.geometry.check_range(guest_offset, buffer.len() as u64)?;
        let (mut guest_offset, mut rest) = (guest_offset, buffer);
        while !rest.is_empty() {
            let extent = self.extent_at(guest_offset, rest.len() as u64)?;
            let (part, after) = rest.split_at_mut(extent.length_bytes.min(rest.len() as u64) as usize);
            match extent.kind {
                LayerKind::Data(range) => self.read_data(range, part),
                LayerKind::Encoded => self.read_compressed(guest_offset, part),
                LayerKind::Zero | LayerKind::Absent => {
                    part.fill(0);
                    Ok(())
                }
            }
            .map_err(|error| error.at_guest(guest_offset))?;
            guest_offset += part.len() as u64;
            rest = after;
        }
        Ok(())
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}

impl VmdkLayer {
    /// The part that holds a place of the disk, and how far into the part that is.
    fn find(&self, guest_offset: u64, length_bytes: u64) -> Result<(&Extent, u64)> {
        let after = self.extents.partition_point(|extent| extent.guest_offset <= guest_offset);
        let extent = after.checked_sub(1).and_then(|index| self.extents.get(index));
        match extent.map(|extent| (extent, guest_offset - extent.guest_offset)) {
            Some((extent, within)) if within < extent.length_bytes => Ok((extent, within)),
            _ => Err(ImageError::out_of_range(guest_offset, length_bytes, self.geometry.size_bytes)),
        }
    }

    fn read_data(&self, range: HostRange, target: &mut [u8]) -> Result<()> {
        match self.files.get(range.file.0) {
            Some(open) => open.file.read_exact_at(range.host_offset, target),
            None => Err(std::io::ErrorKind::NotFound.into()),
        }
        .map_err(|cause| ImageError::io(READ, cause).at_host(range.host_offset))
    }

    /// Reads a range that is known to be compressed, in one extent.
    fn read_compressed(&self, guest_offset: u64, target: &mut [u8]) -> Result<()> {
        let (extent, within) = self.find(guest_offset, target.len() as u64)?;
        let Storage::Sparse { map, .. } = &extent.storage else {
            return Err(ImageError::corrupt(READ, "only sparse extents are compressed"));
        };
        let grain_bytes = map.shape.grain_bytes;
        let (first, skip_bytes) = (within / grain_bytes, within % grain_bytes);
        let count = (skip_bytes + target.len() as u64).div_ceil(grain_bytes);
        let done = GrainReader::new(map, first, count)?.read(skip_bytes, target)?;
        if done < target.len() {
            return Err(ImageError::corrupt(READ, "a grain is missing"));
        }
        Ok(())
    }
}

/// What a file holds as it is: as much of it as is there.
fn stored(file: usize, file_bytes: u64, host_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
    let length_bytes = file_bytes.saturating_sub(host_offset).min(max_bytes);
    if length_bytes == 0 {
        let detail = format!("it is past the end of its file ({file_bytes:#x})");
        return Err(ImageError::truncated(READ, detail).at_host(host_offset));
    }
    let kind = LayerKind::Data(HostRange { file: HostFileId(file), host_offset });
    Ok(LayerExtent { length_bytes, kind })
}

fn sparse_extent(file: usize, map: &GrainMap, within: u64, max_bytes: u64) -> Result<LayerExtent> {
    let grain_bytes = map.shape.grain_bytes;
    let (grain, skip_bytes) = (within / grain_bytes, within % grain_bytes);
    let (found, grains) = map.run_at(grain, (skip_bytes + max_bytes).div_ceil(grain_bytes))?;
    let length_bytes = grains.saturating_mul(grain_bytes).saturating_sub(skip_bytes).min(max_bytes);
    let kind = match found {
        Grain::Absent => LayerKind::Absent,
        Grain::Zero => LayerKind::Zero,
        Grain::Stored(_) if map.shape.compressed => LayerKind::Encoded,
        Grain::Stored(host_offset) => {
            let (_, file_bytes) = map.file();
            return stored(file, file_bytes, host_offset.saturating_add(skip_bytes), length_bytes);
        }
        Grain::Bad(raw) => {
            let detail = format!("the table entry of grain {grain} is {raw:#x}, which is no grain");
            return Err(ImageError::corrupt(READ, detail));
        }
    };
    Ok(LayerExtent { length_bytes, kind })
}
