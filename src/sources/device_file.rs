//! A block device that is read past the page cache.
//!
//! The cache of a block device is not coherent with that of a file system mounted on it, and is kept as long as anything
//! has the device open: what is read through it may be older than what is on the device. Reads of large folios also fail
//! as a whole where only one sector is bad.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::Mutex;

use rustix::fs::{Advice, OFlags, SeekFrom};
use rustix::io::Errno;
use tintype_formats::HostFile;
use tintype_formats::locks::Unpoisoned as _;

use super::aligned::{AlignedBuffer, is_aligned};

/// Longest read through memory of ours, in bytes.
const BOUNCE_BYTES: usize = 1 << 20;

/// Unit in which the page cache is dropped, in bytes.
const PAGE_BYTES: u64 = 4096;

/// An open device. Every read is one of exactly the logical sectors that cover the request (longer ones, into memory that
/// is not aligned, in steps of 1 MiB), with no retry and no cache.
pub struct DeviceFile {
    /// Opened with `O_DIRECT`; none where that is refused.
    direct: Option<File>,
    /// Reads through the page cache, if it has to be.
    cached: File,
    /// Whole sectors: the kernel reads no part of one, in no way.
    len_bytes: u64,
    left_out_bytes: u64,
    sector_bytes: u64,
    bounces: Mutex<Vec<AlignedBuffer>>,
}

impl DeviceFile {
    /// Takes a device that is open for reading, and opens it again for direct reads.
    pub fn new(device: File) -> io::Result<Self> {
        let sector_bytes = rustix::fs::ioctl_blksszget(&device)?;
        let path = format!("/proc/self/fd/{}", device.as_raw_fd());
        let flags = (OFlags::DIRECT | OFlags::NONBLOCK).bits() as i32;
        let direct = File::options().read(true).custom_flags(flags).open(path).ok();
        let file = DeviceFile::of_files(direct, device, u64::from(sector_bytes))?;
        Ok(if file.refuses_direct_reads() { DeviceFile { direct: None, ..file } } else { file })
    }

    fn of_files(direct: Option<File>, cached: File, sector_bytes: u64) -> io::Result<Self> {
        let all_bytes = rustix::fs::seek(&cached, SeekFrom::End(0))?;
        let left_out_bytes = all_bytes % sector_bytes;
        // Reading ahead would fill the cache beyond what is dropped again.
        let _ = rustix::fs::fadvise(&cached, 0, None, Advice::Random);
        let len_bytes = all_bytes - left_out_bytes;
        Ok(DeviceFile { direct, cached, len_bytes, left_out_bytes, sector_bytes, bounces: Mutex::default() })
    }

    /// Returns how many bytes at the end are not a whole sector, so that nothing can read them.
    pub fn left_out_bytes(&self) -> u64 {
        self.left_out_bytes
    }

    /// Returns true if the device is read past the page cache, and not through it.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Some drivers refuse `O_DIRECT` only when something is read. A sector that cannot be read says nothing.
    fn refuses_direct_reads(&self) -> bool {
        let Some(direct) = &self.direct else { return true };
        let mut sector = AlignedBuffer::zeroed(self.sector_bytes as usize);
        let refusals = [Errno::INVAL, Errno::OPNOTSUPP].map(|errno| Some(errno.raw_os_error()));
        self.len_bytes >= self.sector_bytes
            && direct.read_at(&mut sector, 0).is_err_and(|cause| refusals.contains(&cause.raw_os_error()))
    }

    fn read_direct(&self, direct: &File, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let sector_bytes = self.sector_bytes;
        let whole = host_offset.is_multiple_of(sector_bytes) && (buffer.len() as u64).is_multiple_of(sector_bytes);
        if whole && is_aligned(buffer) {
            return direct.read_exact_at(buffer, host_offset);
        }
        let mut bounce = self.take_bounce();
        let (mut position, mut rest) = (host_offset, buffer);
        while !rest.is_empty() {
            let begin = position - position % sector_bytes;
            let end = (position + rest.len() as u64).next_multiple_of(sector_bytes).min(begin + BOUNCE_BYTES as u64);
            let sectors = &mut bounce[..(end - begin) as usize];
            direct.read_exact_at(sectors, begin)?;
            let wanted = &sectors[(position - begin) as usize..];
            let (part, after) = rest.split_at_mut(wanted.len().min(rest.len()));
            part.copy_from_slice(&wanted[..part.len()]);
            position += part.len() as u64;
            rest = after;
        }
        self.bounces.lock().unpoisoned().push(bounce);
        Ok(())
    }

    /// As many buffers come to be as there are readers at once.
    fn take_bounce(&self) -> AlignedBuffer {
        let kept = self.bounces.lock().unpoisoned().pop();
        kept.unwrap_or_else(|| AlignedBuffer::zeroed(BOUNCE_BYTES))
    }

    /// Reads through the page cache, from which the range is dropped before and after.
    fn read_cached(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let begin = host_offset - host_offset % PAGE_BYTES;
        let end = (host_offset + buffer.len() as u64).next_multiple_of(PAGE_BYTES);
        let drop_pages = || {
            let length = NonZeroU64::new(end - begin);
            length.map_or(Ok(()), |_| rustix::fs::fadvise(&self.cached, begin, length, Advice::DontNeed))
        };
        drop_pages()?;
        let read = self.cached.read_exact_at(buffer, host_offset);
        drop_pages()?;
        read
    }
}

impl HostFile for DeviceFile {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len_bytes)
    }

    fn len_bytes_now(&self) -> io::Result<u64> {
        Ok(rustix::fs::seek(&self.cached, SeekFrom::End(0))?)
    }

    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = host_offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.len_bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &self.direct {
            Some(direct) => self.read_direct(direct, host_offset, buffer),
            None => self.read_cached(host_offset, buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    use tintype_formats::testing::Random;

    /// A file in place of a device, beside the build: `/tmp` may refuse direct reads.
    fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        let file = tempfile::NamedTempFile::new_in(folder).unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file.as_file().sync_all().unwrap();
        file
    }

    fn open(path: &Path, is_direct: bool, sector_bytes: u64) -> DeviceFile {
        let flags = OFlags::DIRECT.bits() as i32;
        let direct = is_direct.then(|| File::options().read(true).custom_flags(flags).open(path).unwrap());
        DeviceFile::of_files(direct, File::open(path).unwrap(), sector_bytes).unwrap()
    }

    #[test]
    fn any_range_reads_the_same_directly_through_the_cache_and_by_eight_threads() {
        let mut random = Random(11);
        let bytes: Vec<u8> = (0..(3 << 20) + 4096 + 700).map(|_| random.next_u64() as u8).collect();
        let file = file_of(&bytes);
        for (is_direct, sector_bytes) in [(true, 512), (true, 4096), (false, 512)] {
            let device = open(file.path(), is_direct, sector_bytes);
            let bytes = &bytes[..bytes.len() - bytes.len() % sector_bytes as usize];
            assert_eq!((device.is_direct(), device.len_bytes().unwrap()), (is_direct, bytes.len() as u64));
            std::thread::scope(|scope| {
                for thread in 0..8 {
                    let device = &device;
                    scope.spawn(move || {
                        let mut random = Random(thread);
                        for _ in 0..30 {
                            let offset = random.below(bytes.len() as u64) as usize;
                            let longest = [10, 5000, 3 << 20][random.below(3) as usize];
                            let length = (random.below(longest) as usize).min(bytes.len() - offset);
                            let mut found = vec![0; length];
                            device.read_exact_at(offset as u64, &mut found).unwrap();
                            assert!(found == bytes[offset..offset + length], "{length} bytes at {offset}");
                        }
                    });
                }
            });
            let mut aligned = AlignedBuffer::zeroed(2 << 20);
            device.read_exact_at(8192, &mut aligned).unwrap();
            assert!(*aligned == bytes[8192..8192 + (2 << 20)]);
            let past = device.read_exact_at(bytes.len() as u64 - 3, &mut [0; 4]);
            assert_eq!(past.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            assert!(device.read_exact_at(u64::MAX, &mut [0; 4]).is_err());
        }
    }
}
