//! A block device as a target: opened exclusively, so that nobody has it mounted.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::output_file::OutputFile;
use crate::error::{Error, Kind, OnPath as _, Result};
use crate::sources::{BlockDevice, write_back};
use crate::system;

/// Opens a device that nothing else uses: the kernel refuses `O_EXCL` while it is mounted, swapped to or claimed.
pub fn open(path: &Path) -> Result<OutputFile> {
    let file = File::options().read(true).write(true).custom_flags(OFlags::EXCL.bits() as i32).open(path);
    let file = match file {
        Err(cause) if cause.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
            let message = "the device is mounted or in use; it will not be overwritten";
            return Err(Error::new(Kind::TargetBusy, message).with_path(path));
        }
        other => other.map_err(|cause| Error::io("open the device for writing", cause)).on_path(path)?,
    };
    // The name may be a link that was turned meanwhile.
    let is_device = file.metadata().is_ok_and(|found| found.file_type().is_block_device());
    if !is_device {
        return Err(Error::new(Kind::TargetUnfit, "it is no block device any more").with_path(path));
    }
    // What the caches of its partitions hold would be written over the new content later.
    BlockDevice::of(&file).into_iter().for_each(write_back);
    OutputFile::of_device(file).map_err(|cause| Error::io("open the device for direct reads", cause)).on_path(path)
}

/// Lets the kernel see the new content: its cache and partition table were those of the old one.
pub fn announce(device: &OutputFile) {
    // Neither is needed for the data to be right: a device without partitions (a loop device, a partition) refuses both.
    let _ = system::drop_device_cache(device.file());
    let _ = system::reread_partition_table(device.file());
}
