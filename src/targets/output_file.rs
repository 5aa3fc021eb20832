//! A file or device that is written by many threads and synced at the end.
//!
//! An image is written once and then synced. Left alone, the kernel keeps everything in memory until the sync, and the disk
//! idles meanwhile; so every large write is followed by the advice that its pages will not be needed again, which starts
//! their way to the disk. Measured against direct I/O, this is faster: the kernel allocates and submits in larger pieces.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;
use tintype_formats::host_file::{HostExtent, HostFile, HostFileMut};
use tintype_formats::local::file_extent_at;

use crate::sources::DeviceFile;
use crate::system::{self, durable};

/// A file or device open for writing and reading.
pub struct OutputFile {
    file: File,
    /// Reads the device, if it is one.
    device: Option<DeviceFile>,
    is_changed: AtomicBool,
}

/// Writes from this length on are sent to the disk at once; smaller ones would become small requests.
const WRITE_BACK_BYTES: usize = 64 << 10;

/// Longest single write. One of 1 MiB at a whole MiB makes the kernel look for a page of that size, which took twice as long
/// on ext4 (Linux 6.18) as four writes of a quarter; raw, VHDX and VDI files are written at such places.
const MAX_WRITE_BYTES: usize = 256 << 10;

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

impl OutputFile {
    /// Takes a file that is open for reading and writing.
    pub fn new(file: File) -> Self {
        OutputFile { file, device: None, is_changed: AtomicBool::new(false) }
    }

    /// Takes a device that is open for reading and writing. It is read past the page cache.
    pub fn of_device(file: File) -> io::Result<Self> {
        let device = Some(DeviceFile::new(file.try_clone()?)?);
        Ok(OutputFile { file, device, is_changed: AtomicBool::new(false) })
    }

    /// The file, for what this type does not do.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether anything was written, or begun to be.
    pub fn is_changed(&self) -> bool {
        self.is_changed.load(Relaxed)
    }

    fn note_change(&self) {
        self.is_changed.store(true, Relaxed);
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
        match &self.device {
            Some(device) => device.len_bytes(),
            None => Ok(rustix::fs::seek(&self.file, rustix::fs::SeekFrom::End(0))?),
        }
    }

    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match &self.device {
            Some(device) => device.read_exact_at(host_offset, buffer),
            None => self.file.read_exact_at(buffer, host_offset),
        }
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
        self.note_change();
        for (part, place) in bytes.chunks(MAX_WRITE_BYTES).zip((host_offset..).step_by(MAX_WRITE_BYTES)) {
            self.file.write_all_at(part, place)?;
        }
        if bytes.len() >= WRITE_BACK_BYTES {
            rustix::fs::fadvise(&self.file, host_offset, NonZeroU64::new(bytes.len() as u64), Advice::DontNeed)?;
        }
        Ok(())
    }

    fn write_zeros_at(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        self.note_change();
        for flags in [FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, FallocateFlags::ZERO_RANGE] {
            match rustix::fs::fallocate(&self.file, flags, host_offset, length_bytes) {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY) => {}
                done => return Ok(done?),
            }
        }
        self.write_plain_zeros(host_offset, length_bytes)
    }

    fn allocate(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        if self.device.is_some() {
            return Ok(());
        }
        self.note_change();
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), host_offset, length_bytes) {
            Err(Errno::OPNOTSUPP) => self.write_plain_zeros(host_offset, length_bytes),
            done => Ok(done?),
        }
    }

    fn set_len_bytes(&self, length_bytes: u64) -> io::Result<()> {
        if self.device.is_some() {
            return Ok(());
        }
        self.note_change();
        self.file.set_len(length_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        // To sync all of the file system that a device's name is in would not sync the device.
        match self.device {
            Some(_) => self.file.sync_data(),
            None => durable::sync_data(&self.file),
        }
    }

    fn clone_range(
        &self,
        source: &dyn HostFile,
        source_offset: u64,
        host_offset: u64,
        length_bytes: u64,
    ) -> io::Result<bool> {
        let Some(source) = source.as_file() else { return Ok(false) };
        self.note_change();
        match system::clone_range(source, source_offset, &self.file, host_offset, length_bytes) {
            Ok(()) => Ok(true),
            Err(cause) if cause.kind() == io::ErrorKind::StorageFull => Err(cause),
            Err(_) => Ok(false),
        }
    }
}
