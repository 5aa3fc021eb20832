//! A file on a disk whose power is cut: what was not synced may be lost, torn, or written in another order.

use std::io;
use std::sync::{Mutex, MutexGuard};

use super::{MemoryFile, Random};
use crate::host_file::{HostExtent, HostFile, HostFileMut};
use crate::locks::Unpoisoned as _;

const SECTOR_BYTES: usize = 512;

/// A file that remembers what is durable and what is only on its way.
#[derive(Default)]
pub struct CrashFile {
    live: MemoryFile,
    disk: Mutex<DiskState>,
}

#[derive(Default)]
struct DiskState {
    durable: MemoryFile,
    pending: Vec<Change>,
    /// What the disk held at each sync, before and with what was pending then.
    syncs: Vec<(MemoryFile, Vec<Change>)>,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Zeros(u64, u64),
    Length(u64),
}

impl Change {
    fn apply(&self, file: &MemoryFile) -> io::Result<()> {
        match self {
            Change::Write(offset, bytes) => file.write_all_at(*offset, bytes),
            Change::Zeros(offset, length) => file.write_zeros_at(*offset, *length),
            Change::Length(length) => file.set_len_bytes(*length),
        }
    }

    /// A part of a write: sectors are atomic, writes are not.
    fn torn(&self, random: &mut Random) -> Change {
        match self {
            Change::Write(offset, bytes) => {
                let keep = (random.below(bytes.len() as u64 / SECTOR_BYTES as u64 + 1) as usize) * SECTOR_BYTES;
                Change::Write(*offset, bytes[..keep.min(bytes.len())].to_vec())
            }
            other => other.clone(),
        }
    }
}

impl CrashFile {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many syncs there were: power can be cut before each of them, and after the last.
    pub fn syncs(&self) -> usize {
        self.lock().syncs.len()
    }

    /// What a reboot finds if the power is cut just before sync number `sync` returns (or at the end, for the number of
    /// syncs): everything synced earlier, and of the rest a random part, torn and in random order.
    pub fn after_power_cut(&self, sync: usize, seed: u64) -> MemoryFile {
        let disk = self.lock();
        let (durable, pending) = match disk.syncs.get(sync) {
            Some((durable, pending)) => (durable, pending),
            None => (&disk.durable, &disk.pending),
        };
        let file = durable.duplicate();
        let mut random = Random(seed);
        let mut left: Vec<_> = pending.iter().collect();
        while !left.is_empty() {
            let change = left.swap_remove(random.below(left.len() as u64) as usize);
            let applied = match random.below(3) {
                0 => Ok(()),
                1 => change.torn(&mut random).apply(&file),
                _ => change.apply(&file),
            };
            applied.expect("memory files do not fail");
        }
        file
    }

    fn note(&self, change: Change) -> io::Result<()> {
        change.apply(&self.live)?;
        self.lock().pending.push(change);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, DiskState> {
        self.disk.lock().unpoisoned()
    }
}

impl HostFile for CrashFile {
    fn len_bytes(&self) -> io::Result<u64> {
        self.live.len_bytes()
    }

    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.live.read_exact_at(host_offset, buffer)
    }

    fn extent_at(&self, host_offset: u64, max_bytes: u64) -> io::Result<HostExtent> {
        self.live.extent_at(host_offset, max_bytes)
    }
}

impl HostFileMut for CrashFile {
    fn write_all_at(&self, host_offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.note(Change::Write(host_offset, bytes.to_vec()))
    }

    fn write_zeros_at(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        self.note(Change::Zeros(host_offset, length_bytes))
    }

    fn allocate(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        let length = self.live.len_bytes()?.max(host_offset + length_bytes);
        self.note(Change::Length(length))
    }

    fn set_len_bytes(&self, length_bytes: u64) -> io::Result<()> {
        self.note(Change::Length(length_bytes))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.lock();
        let pending = std::mem::take(&mut disk.pending);
        let before = disk.durable.duplicate();
        for change in &pending {
            change.apply(&disk.durable)?;
        }
        disk.syncs.push((before, pending));
        Ok(())
    }
}
