//! A bounded cache over a device, for programs that read the same places again and again.

use std::io;

use tintype_formats::host_file::HostExtent;
use tintype_formats::unit_cache::UnitCache;
use tintype_formats::{HostFile, ImageError};

use super::device_file::DeviceFile;

/// Length of what is kept together, in bytes.
const BLOCK_BYTES: u64 = 64 << 10;

/// Memory that the cache takes, in bytes.
const CACHE_BYTES: u64 = 64 << 20;

/// A device whose blocks are kept for a while. What is written to the device meanwhile is seen when a block is read again.
pub struct CachedDevice {
    device: DeviceFile,
    blocks: UnitCache,
    len_bytes: u64,
}

impl CachedDevice {
    /// Takes a device.
    pub fn new(device: DeviceFile) -> io::Result<Self> {
        Ok(CachedDevice { len_bytes: device.len_bytes()?, device, blocks: UnitCache::of_bytes(CACHE_BYTES) })
    }

    /// Reads within one block.
    fn read_part(&self, host_offset: u64, part: &mut [u8]) -> io::Result<()> {
        let (index, skip_bytes) = (host_offset / BLOCK_BYTES, host_offset % BLOCK_BYTES);
        let begin = index * BLOCK_BYTES;
        let length_bytes = BLOCK_BYTES.min(self.len_bytes - begin);
        let read = |block: &mut [u8]| {
            self.device.read_exact_at(begin, block).map_err(|cause| ImageError::io("read the device", cause))
        };
        let cached = self.blocks.read(index, length_bytes, skip_bytes, part, read);
        // Another part of the block may be what cannot be read.
        cached.or_else(|_| self.device.read_exact_at(host_offset, part))
    }
}

impl HostFile for CachedDevice {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len_bytes)
    }

    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = host_offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.len_bytes) || buffer.len() as u64 >= BLOCK_BYTES {
            return self.device.read_exact_at(host_offset, buffer);
        }
        let to_boundary = (BLOCK_BYTES - host_offset % BLOCK_BYTES) as usize;
        let (first, second) = buffer.split_at_mut(to_boundary.min(buffer.len()));
        for (place, part) in [(host_offset, &mut *first), (host_offset + to_boundary as u64, second)] {
            if !part.is_empty() {
                self.read_part(place, part)?;
            }
        }
        Ok(())
    }

    fn extent_at(&self, host_offset: u64, max_bytes: u64) -> io::Result<HostExtent> {
        self.device.extent_at(host_offset, max_bytes)
    }
}
