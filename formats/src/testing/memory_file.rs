//! A sparse file in memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::host_file::{HostExtent, HostFile, HostFileMut};
use crate::locks::Unpoisoned as _;

const PAGE_BYTES: u64 = 4096;

/// A sparse file in memory; terabytes of nothing cost nothing.
#[derive(Default)]
pub struct MemoryFile(RwLock<Content>);

#[derive(Default, Clone)]
struct Content {
    len_bytes: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl MemoryFile {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file of `len_bytes` that is one hole.
    pub fn with_len(len_bytes: u64) -> Self {
        MemoryFile(RwLock::new(Content { len_bytes, pages: BTreeMap::new() }))
    }

    /// A file with this content.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let file = Self::new();
        file.write().store(0, bytes);
        file
    }

    /// A copy that goes its own way.
    pub fn duplicate(&self) -> Self {
        MemoryFile(RwLock::new(self.read().clone()))
    }

    /// All of the content; for small files.
    pub fn to_bytes(&self) -> Vec<u8> {
        let content = self.read();
        let mut bytes = vec![0; content.len_bytes as usize];
        content.load(0, &mut bytes);
        bytes
    }

    /// How many bytes are stored.
    pub fn stored_bytes(&self) -> u64 {
        self.read().pages.len() as u64 * PAGE_BYTES
    }

    fn read(&self) -> RwLockReadGuard<'_, Content> {
        self.0.read().unpoisoned()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Content> {
        self.0.write().unpoisoned()
    }
}

impl Content {
    fn load(&self, offset: u64, buffer: &mut [u8]) {
        for (page, within, range) in page_parts(offset, buffer.len()) {
            match self.pages.get(&page) {
                Some(bytes) => buffer[range.clone()].copy_from_slice(&bytes[within..within + range.len()]),
                None => buffer[range].fill(0),
            }
        }
    }

    fn store(&mut self, offset: u64, bytes: &[u8]) {
        for (page, within, range) in page_parts(offset, bytes.len()) {
            let stored = self.pages.entry(page).or_insert_with(|| vec![0; PAGE_BYTES as usize].into());
            stored[within..within + range.len()].copy_from_slice(&bytes[range]);
        }
        self.len_bytes = self.len_bytes.max(offset + bytes.len() as u64);
    }
}

/// Splits a range of the file by pages: page number, offset in the page, range of the buffer.
fn page_parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let position = offset + done as u64;
        let within = (position % PAGE_BYTES) as usize;
        let step = (PAGE_BYTES as usize - within).min(length - done);
        let part = (position / PAGE_BYTES, within, done..done + step);
        done += step;
        (step > 0).then_some(part)
    })
}

impl HostFile for MemoryFile {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.read().len_bytes)
    }

    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let content = self.read();
        match host_offset.checked_add(buffer.len() as u64) {
            Some(end) if end <= content.len_bytes => content.load(host_offset, buffer),
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }

    fn extent_at(&self, host_offset: u64, max_bytes: u64) -> io::Result<HostExtent> {
        let content = self.read();
        let (page, end) = (host_offset / PAGE_BYTES, host_offset + max_bytes);
        let hole = !content.pages.contains_key(&page);
        let next = if hole {
            content.pages.range(page..).next().map_or(end, |(next, _)| next * PAGE_BYTES)
        } else {
            (page..).find(|page| !content.pages.contains_key(page)).map_or(end, |hole| hole * PAGE_BYTES)
        };
        Ok(HostExtent { length_bytes: next.min(end) - host_offset, hole })
    }
}

impl HostFileMut for MemoryFile {
    fn write_all_at(&self, host_offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write().store(host_offset, bytes);
        Ok(())
    }

    fn write_zeros_at(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        let mut content = self.write();
        let (first, end) = (host_offset.next_multiple_of(PAGE_BYTES), host_offset + length_bytes);
        let last = end / PAGE_BYTES * PAGE_BYTES;
        if first >= last {
            content.store(host_offset, &vec![0; length_bytes as usize]);
            return Ok(());
        }
        content.store(host_offset, &vec![0; (first - host_offset) as usize]);
        content.pages.retain(|page, _| !(first..last).contains(&(page * PAGE_BYTES)));
        content.store(last, &vec![0; (end - last) as usize]);
        content.len_bytes = content.len_bytes.max(end);
        Ok(())
    }

    fn allocate(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        let mut content = self.write();
        content.len_bytes = content.len_bytes.max(host_offset + length_bytes);
        Ok(())
    }

    fn set_len_bytes(&self, length_bytes: u64) -> io::Result<()> {
        let mut content = self.write();
        content.pages.retain(|page, _| page * PAGE_BYTES < length_bytes);
        let within = (length_bytes % PAGE_BYTES) as usize;
        if let Some(bytes) = content.pages.get_mut(&(length_bytes / PAGE_BYTES)) {
            bytes[within..].fill(0);
        }
        content.len_bytes = length_bytes;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}
