//! A file whose n-th call fails.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::host_file::{HostExtent, HostFile, HostFileMut};

/// When calls fail, and how many there were; shared by all files of one test.
#[derive(Clone)]
pub struct FaultPlan {
    fail_at: u64,
    calls: Arc<AtomicU64>,
}

impl FaultPlan {
    /// Call number `n` (from 0) fails, and every one after it.
    pub fn fail_from(n: u64) -> Self {
        FaultPlan { fail_at: n, calls: Arc::default() }
    }

    /// Nothing fails; for counting.
    pub fn never() -> Self {
        Self::fail_from(u64::MAX)
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    fn pass(&self) -> io::Result<()> {
        if self.calls.fetch_add(1, Relaxed) >= self.fail_at { Err(io::Error::other("injected fault")) } else { Ok(()) }
    }
}

/// A file that fails by plan.
pub struct FaultyFile<F> {
    file: F,
    plan: FaultPlan,
}

impl<F> FaultyFile<F> {
    /// Lets `plan` decide over every call to `file`.
    pub fn new(file: F, plan: FaultPlan) -> Self {
        FaultyFile { file, plan }
    }
}

impl<F: HostFile> HostFile for FaultyFile<F> {
    fn len_bytes(&self) -> io::Result<u64> {
        self.plan.pass()?;
        self.file.len_bytes()
    }

    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.plan.pass()?;
        self.file.read_exact_at(host_offset, buffer)
    }

    fn extent_at(&self, host_offset: u64, max_bytes: u64) -> io::Result<HostExtent> {
        self.plan.pass()?;
        self.file.extent_at(host_offset, max_bytes)
    }
}

impl<F: HostFileMut> HostFileMut for FaultyFile<F> {
    fn write_all_at(&self, host_offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.plan.pass()?;
        self.file.write_all_at(host_offset, bytes)
    }

    fn write_zeros_at(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        self.plan.pass()?;
        self.file.write_zeros_at(host_offset, length_bytes)
    }

    fn allocate(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        self.plan.pass()?;
        self.file.allocate(host_offset, length_bytes)
    }

    fn set_len_bytes(&self, length_bytes: u64) -> io::Result<()> {
        self.plan.pass()?;
        self.file.set_len_bytes(length_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.plan.pass()?;
        self.file.sync_data()
    }
}
