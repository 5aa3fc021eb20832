//! A file or device of this machine.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;

use crate::host_file::{HostExtent, HostFile};

/// A file or block device that is read through the operating system. Who opened it decided that it may be.
pub struct LocalFile {
    file: File,
    len_bytes: u64,
}

impl LocalFile {
    /// Wraps an open file, which is not to change its length any more.
    pub fn new(file: File) -> io::Result<Self> {
        let len_bytes = rustix::fs::seek(&file, SeekFrom::End(0))?;
        Ok(LocalFile { file, len_bytes })
    }
}

impl HostFile for LocalFile {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len_bytes)
    }

    fn len_bytes_now(&self) -> io::Result<u64> {
        Ok(rustix::fs::seek(&self.file, SeekFrom::End(0))?)
    }

    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, host_offset)
    }

    fn extent_at(&self, host_offset: u64, max_bytes: u64) -> io::Result<HostExtent> {
        file_extent_at(&self.file, host_offset, max_bytes)
    }

    fn as_file(&self) -> Option<&File> {
        Some(&self.file)
    }
}

/// Asks the file system for a hole; a file system or device that has none says data.
///
/// The seek moves the file's own position, which nothing here uses: reads and writes are positional.
pub fn file_extent_at(file: &File, host_offset: u64, max_bytes: u64) -> io::Result<HostExtent> {
    let end = host_offset + max_bytes;
    let data = |length_bytes| HostExtent { length_bytes, hole: false };
    let next_data = match rustix::fs::seek(file, SeekFrom::Data(host_offset)) {
        Ok(offset) => offset,
        // Somebody cut the file meanwhile: who takes that for data finds out that it is gone.
        Err(rustix::io::Errno::NXIO) if rustix::fs::seek(file, SeekFrom::End(0))? < end => return Ok(data(max_bytes)),
        Err(rustix::io::Errno::NXIO) => end,
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => return Ok(data(max_bytes)),
        Err(errno) => return Err(errno.into()),
    };
    if next_data > host_offset {
        return Ok(HostExtent { length_bytes: next_data.min(end) - host_offset, hole: true });
    }
    match rustix::fs::seek(file, SeekFrom::Hole(host_offset)) {
        Ok(next_hole) if next_hole > host_offset => Ok(data(next_hole.min(end) - host_offset)),
        Ok(_) | Err(rustix::io::Errno::NXIO | rustix::io::Errno::INVAL) => Ok(data(max_bytes)),
        Err(errno) => Err(errno.into()),
    }
}
