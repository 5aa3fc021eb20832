//! A file that counts what is asked of it: speed regressions without a clock.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::host_file::{HostExtent, HostFile, HostFileMut};

/// A file that counts the calls to it and their bytes.
pub struct CountingFile<F> {
    file: F,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    syncs: AtomicU64,
}

impl<F> CountingFile<F> {
    /// Counts from zero.
    pub fn new(file: F) -> Self {
        let zero = || AtomicU64::new(0);
        CountingFile { file, reads: zero(), read_bytes: zero(), writes: zero(), written_bytes: zero(), syncs: zero() }
    }

    /// How many reads there were.
    pub fn reads(&self) -> u64 {
        self.reads.load(Relaxed)
    }

    /// How many bytes were read.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Relaxed)
    }

    /// How many writes there were.
    pub fn writes(&self) -> u64 {
        self.writes.load(Relaxed)
    }

    /// How many bytes were written.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Relaxed)
    }

    /// How many syncs there were.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Relaxed)
    }
}

impl<F: HostFile> HostFile for CountingFile<F> {
    fn len_bytes(&self) -> io::Result<u64> {
        self.file.len_bytes()
    }

    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.reads.fetch_add(1, Relaxed);
        self.read_bytes.fetch_add(buffer.len() as u64, Relaxed);
        self.file.read_exact_at(host_offset, buffer)
    }

    fn extent_at(&self, host_offset: u64, max_bytes: u64) -> io::Result<HostExtent> {
        self.file.extent_at(host_offset, max_bytes)
    }
}

impl<F: HostFileMut> HostFileMut for CountingFile<F> {
    fn write_all_at(&self, host_offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.writes.fetch_add(1, Relaxed);
        self.written_bytes.fetch_add(bytes.len() as u64, Relaxed);
        self.file.write_all_at(host_offset, bytes)
    }

    fn write_zeros_at(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        self.writes.fetch_add(1, Relaxed);
        self.file.write_zeros_at(host_offset, length_bytes)
    }

    fn allocate(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        self.file.allocate(host_offset, length_bytes)
    }

    fn set_len_bytes(&self, length_bytes: u64) -> io::Result<()> {
        self.file.set_len_bytes(length_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Relaxed);
        self.file.sync_data()
    }
}
