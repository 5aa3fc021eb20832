//! A block device as a disk: its size and sectors from the kernel.

use std::fs::File;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use tintype_formats::extent::{DiskExtent, DiskKind, HostFileId, HostRange};
use tintype_formats::{BlockSource, Geometry, ImageError, OpenFile};

/// A device that is read as it is.
pub struct PhysicalDisk {
    files: [OpenFile; 1],
    geometry: Geometry,
}

/// The logical and physical sector size of a device, in bytes.
pub fn sector_bytes(device: &File) -> std::io::Result<(u32, u32)> {
    Ok((rustix::fs::ioctl_blksszget(device)?, rustix::fs::ioctl_blkpbszget(device)?))
}

/// Returns the same for the device at this path, if there is one.
pub fn device_sector_bytes(path: &Path) -> Option<(u32, u32)> {
    is_device(path).then(|| sector_bytes(&File::open(path).ok()?).ok())?
}

impl PhysicalDisk {
    /// Takes an open device of these sector sizes.
    pub fn new(file: OpenFile, (logical_sector_bytes, physical_sector_bytes): (u32, u32)) -> Result<Self, ImageError> {
        let size_bytes = file.file.len_bytes().map_err(|cause| ImageError::io("find out the device's size", cause))?;
        let unit_bytes = u64::from(physical_sector_bytes);
        let geometry = Geometry { size_bytes, logical_sector_bytes, physical_sector_bytes, unit_bytes };
        Ok(PhysicalDisk { files: [file], geometry })
    }
}

impl BlockSource for PhysicalDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent, ImageError> {
        let length_bytes = self.geometry.clamp(guest_offset, max_bytes)?;
        let range = HostRange { file: HostFileId(0), host_offset: guest_offset };
        Ok(DiskExtent { length_bytes, kind: DiskKind::Data(Some(range)) })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.geometry.check_range(guest_offset, buffer.len() as u64)?;
        self.files[0]
            .file
            .read_exact_at(guest_offset, buffer)
            .map_err(|cause| ImageError::io("read the device", cause).at_guest(guest_offset))
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}

/// Whether there is a block device at this path.
pub fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device())
}
