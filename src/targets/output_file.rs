//! A file or device that is written by many threads, past the page cache where that is possible.
//!
//! An image is written once and then synced: going through the page cache costs a copy and a wait at the end. Writes that
//! are aligned go directly to the disk; the others (tables, tails) go through the cache, to places that no direct write
//! touches.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;
use tintype_formats::host_file::{HostExtent, HostFile, HostFileMut};
use tintype_formats::local_file::file_extent_at;

use crate::system;

/// Direct writes have offset, length and memory at multiples of this: the largest sector size in use.
const DIRECT_ALIGNMENT: u64 = 4096;

/// A file or device open for writing and reading.
pub struct OutputFile {
    file: File,
    /// The same file, opened for direct I/O, where it can be.
    direct: Option<File>,
    is_device: bool,
    /// The length, kept here because files are extended ahead of the writes.
    length: Mutex<Length>,
}

#[derive(Clone, Copy)]
struct Length {
    /// Up to where something was written, or the length was set.
    used_bytes: u64,
    /// The file's own length.
    file_bytes: u64,
}

/// Files are extended by this much at a time: a write inside the file needs no lock on its length.
const EXTEND_BYTES: u64 = 256 << 20;

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

impl OutputFile {
    /// Takes a file that is open for reading and writing, with a path to open it by once more.
    pub fn new(file: File, path: &Path, is_device: bool) -> io::Result<Self> {
        let file_bytes = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
        let direct = File::options().read(true).write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path).ok();
        let length = Mutex::new(Length { used_bytes: file_bytes, file_bytes });
        Ok(OutputFile { file, direct, is_device, length })
    }

    /// The file, for what this type does not do.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Extends the file well past `end`, if it ends before.
    fn make_room(&self, end: u64) -> io::Result<()> {
        if self.is_device {
            return Ok(());
        }
        let mut length = self.length.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        length.used_bytes = length.used_bytes.max(end);
        if end > length.file_bytes {
            let file_bytes = end.checked_next_multiple_of(EXTEND_BYTES).unwrap_or(end);
            self.file.set_len(file_bytes)?;
            length.file_bytes = file_bytes;
        }
        Ok(())
    }

    fn write_plain_zeros(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        let mut done = 0;
        while done < length_bytes {
            let step = (length_bytes - done).min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..step as usize], host_offset + done)?;
            done += step;
        }
        Ok(())
    }
}

impl HostFile for OutputFile {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.length.lock().unwrap_or_else(std::sync::PoisonError::into_inner).used_bytes)
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

impl HostFileMut for OutputFile {
    fn write_all_at(&self, host_offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.make_room(host_offset + bytes.len() as u64)?;
        let aligned = (host_offset | bytes.len() as u64 | bytes.as_ptr() as u64).is_multiple_of(DIRECT_ALIGNMENT);
        match &self.direct {
            Some(direct) if aligned => match direct.write_all_at(bytes, host_offset) {
                Err(cause) if cause.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    self.file.write_all_at(bytes, host_offset)
                }
                written => written,
            },
            _ => self.file.write_all_at(bytes, host_offset),
        }
    }

    fn write_zeros_at(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        self.make_room(host_offset + length_bytes)?;
        for flags in [FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, FallocateFlags::ZERO_RANGE] {
            match rustix::fs::fallocate(&self.file, flags, host_offset, length_bytes) {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY) => {}
                done => return Ok(done?),
            }
        }
        self.write_plain_zeros(host_offset, length_bytes)
    }

    fn allocate(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        self.make_room(host_offset + length_bytes)?;
        if self.is_device {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), host_offset, length_bytes) {
            Err(Errno::OPNOTSUPP) => self.write_plain_zeros(host_offset, length_bytes),
            done => Ok(done?),
        }
    }

    fn set_len_bytes(&self, length_bytes: u64) -> io::Result<()> {
        if self.is_device {
            return Ok(());
        }
        let mut length = self.length.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.file.set_len(length_bytes)?;
        *length = Length { used_bytes: length_bytes, file_bytes: length_bytes };
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn clone_range(
        &self,
        source: &dyn HostFile,
        source_offset: u64,
        host_offset: u64,
        length_bytes: u64,
    ) -> io::Result<bool> {
        let Some(source) = source.as_file() else { return Ok(false) };
        self.make_room(host_offset + length_bytes)?;
        match system::clone_range(source, source_offset, &self.file, host_offset, length_bytes) {
            Ok(()) => Ok(true),
            Err(cause) if cause.kind() == io::ErrorKind::StorageFull => Err(cause),
            Err(_) => Ok(false),
        }
    }
}
