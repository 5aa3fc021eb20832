//! A bound on the data that an image can stand for, so that a small file cannot fill a disk.
//!
//! What is stored as it is takes as many bytes of the host files as of the disk, and what is compressed a few bytes for each
//! unit. An image that comes to more names the same bytes several times, which no program does, but a hostile one could: a
//! table of a few kibibytes that is named by every entry of the one above it is a disk of any size.

use tintype_formats::extent::{DiskExtent, DiskKind};
use tintype_formats::{BlockSource, ImageError};

/// What a compressed unit takes at least, with its entry in a table, in bytes. A Zstandard frame has 9, an entry 4.
const MIN_ENCODED_BYTES: u64 = 8;

/// The last unit of a file may be cut, in bytes.
const SLACK_BYTES: u64 = 64 << 20;

/// What a disk may still come to. Extents are counted once, in the order of the disk.
#[derive(Debug, Clone, Copy)]
pub struct DataBudget {
    host_bytes: u64,
    stored_bytes: u64,
    encoded_bytes: u64,
    counted_to: u64,
}

impl DataBudget {
    /// What the files of a disk can hold; anything, if it has none.
    pub fn of(source: &dyn BlockSource) -> Self {
        let files = source.host_files();
        let lengths = files.iter().map(|file| file.file.len_bytes().unwrap_or(u64::MAX));
        let host_bytes = if files.is_empty() { u64::MAX } else { lengths.fold(0, u64::saturating_add) };
        let units = host_bytes / MIN_ENCODED_BYTES;
        DataBudget {
            host_bytes,
            stored_bytes: host_bytes.saturating_add(SLACK_BYTES),
            encoded_bytes: units.saturating_mul(source.geometry().unit_bytes).saturating_add(SLACK_BYTES),
            counted_to: 0,
        }
    }

    /// Takes what an extent adds to those before it; fails if that is more than the files can hold.
    pub fn take(mut self, guest_offset: u64, extent: DiskExtent) -> Result<Self, ImageError> {
        let end = guest_offset.saturating_add(extent.length_bytes);
        let new_bytes = end.saturating_sub(self.counted_to.max(guest_offset));
        self.counted_to = self.counted_to.max(end);
        let left = match extent.kind {
            DiskKind::Data(Some(_)) => &mut self.stored_bytes,
            DiskKind::Encoded => &mut self.encoded_bytes,
            _ => return Ok(self),
        };
        match left.checked_sub(new_bytes) {
            Some(rest) => *left = rest,
            None => {
                let detail = format!(
                    "up to here, the image names more data than the {} bytes of its files can stand for: it uses the same bytes \
                     several times",
                    self.host_bytes
                );
                return Err(ImageError::corrupt("read the disk", detail).at_guest(guest_offset));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tintype_formats::extent::{HostFileId, HostRange};

    const STORED: DiskKind = DiskKind::Data(Some(HostRange { file: HostFileId(0), host_offset: 0 }));

    fn budget(host_bytes: u64) -> DataBudget {
        DataBudget { host_bytes, stored_bytes: host_bytes, encoded_bytes: 2 * host_bytes, counted_to: 0 }
    }

    #[test]
    fn what_the_files_hold_is_enough_and_one_byte_more_is_not() {
        let extent = |length_bytes, kind| DiskExtent { length_bytes, kind };
        let used = budget(100).take(0, extent(60, STORED)).unwrap().take(60, extent(200, DiskKind::Encoded)).unwrap();
        let used = used.take(260, extent(u64::MAX / 2, DiskKind::Hole)).unwrap();
        let end = used.counted_to;
        assert!(used.take(end, extent(40, STORED)).is_ok());
        assert!(used.take(end, extent(41, STORED)).is_err());
        assert!(used.take(end, extent(1, DiskKind::Encoded)).is_err());
    }

    #[test]
    fn what_is_looked_up_again_counts_once() {
        let extent = DiskExtent { length_bytes: 60, kind: STORED };
        let used = budget(100).take(0, extent).unwrap().take(0, extent).unwrap().take(40, extent).unwrap();
        assert!(used.take(41, extent).is_err());
    }
}
