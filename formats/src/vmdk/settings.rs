//! Settings shared by all variants of a new image.

use super::on_disk::*;
use super::write_descriptor::Hardware;
use crate::error::{ErrorKind, ImageError, Result};
use crate::limits::MAX_DISK_BYTES;
use crate::sink::CreateOptions;

pub(super) const CREATE: &str = "create VMDK image";

/// The size of a grain: everybody's.
pub(super) const GRAIN_BYTES: u64 = 64 << 10;

/// The entries of a grain table that is written.
pub(super) const TABLE_ENTRIES: u64 = 512;

/// The size of the disk, and the hardware that the descriptor names.
pub(super) struct Settings {
    pub size_bytes: u64,
    pub hardware: Hardware,
}

impl Settings {
    /// Takes them from the options; fails if no variant can have them.
    pub fn from_options(options: &CreateOptions) -> Result<Settings> {
        let size_bytes = options.geometry.size_bytes;
        if !size_bytes.is_multiple_of(SECTOR_BYTES) {
            let detail =
                format!("the disk has {size_bytes} bytes, which is no whole number of sectors of {SECTOR_BYTES}");
            return Err(ImageError::new(ErrorKind::InvalidOption, CREATE, detail));
        }
        if size_bytes > MAX_DISK_BYTES || size_bytes.div_ceil(GRAIN_BYTES * TABLE_ENTRIES) > MAX_TABLES {
            let most = MAX_TABLES * GRAIN_BYTES * TABLE_ENTRIES;
            let detail = format!("the disk has {size_bytes} bytes, at most {most} work");
            return Err(ImageError::limit_exceeded(CREATE, detail));
        }
        if options.target_holds_old_data {
            let detail = "a VMDK image can only be made in an empty file, not over old data";
            return Err(ImageError::unsupported(CREATE, detail));
        }
        Ok(Settings { size_bytes, hardware: Hardware::from_options(options)? })
    }
}
