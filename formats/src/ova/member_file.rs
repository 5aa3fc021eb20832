//! The disk's file while it is written into the archive: a window of the archive's file that makes its digest on the way.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use sha2::{Digest, Sha256};

use super::manifest::Algorithm;
use crate::error::Result;
use crate::file_parts::FileParts;
use crate::hex::to_hex;
use crate::host_file::{HostFile, HostFileMut};
use crate::locks::Unpoisoned as _;
use crate::sink::{SingleFile, TargetFiles};

/// A member of an archive that is being written, from `begin` of the archive's file on.
///
/// Writes come from several threads, about in order. What comes in order is hashed as it comes, what comes early is read
/// back from the page cache when its turn is there, and if anything is written twice or left out, all of it is read at the
/// end: the digest is always that of what is in the file.
pub struct MemberFile {
    file: Arc<dyn HostFileMut>,
    begin: u64,
    state: Mutex<State>,
}

struct State {
    hasher: Sha256,
    hashed_bytes: u64,
    len_bytes: u64,
    /// What was written past a gap: begins and ends.
    early: BTreeMap<u64, u64>,
    /// Something that was hashed has been written again.
    rewritten: bool,
}

impl MemberFile {
    /// A member of which nothing is written yet.
    pub fn new(file: Arc<dyn HostFileMut>, begin: u64) -> Self {
        let (hasher, early) = (Sha256::new(), BTreeMap::new());
        let state = State { hasher, hashed_bytes: 0, len_bytes: 0, early, rewritten: false };
        MemberFile { file, begin, state: Mutex::new(state) }
    }

    /// The length of what was written, and its SHA-256.
    pub fn digest(self: &Arc<Self>) -> io::Result<(u64, String)> {
        let state = self.lock();
        let len_bytes = state.len_bytes;
        if !state.rewritten && state.hashed_bytes == len_bytes {
            return Ok((len_bytes, to_hex(&state.hasher.clone().finalize())));
        }
        drop(state);
        let whole: Arc<dyn HostFile> = self.clone();
        let whole = FileParts::one(whole, 0, len_bytes).map_err(|cause| io::Error::other(cause.to_string()))?;
        Ok((len_bytes, Algorithm::Sha256.of_file(&whole)?))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unpoisoned()
    }

    /// Notes a range that is in the file now; `bytes` are what it holds, if they are at hand.
    fn written(&self, offset: u64, length_bytes: u64, bytes: Option<&[u8]>) -> io::Result<()> {
        let mut state = self.lock();
        let end = offset + length_bytes;
        state.len_bytes = state.len_bytes.max(end);
        state.rewritten |= offset < state.hashed_bytes;
        match bytes {
            Some(bytes) if offset == state.hashed_bytes => {
                state.hasher.update(bytes);
                state.hashed_bytes = end;
            }
            _ if length_bytes > 0 => {
                let known = state.early.entry(offset).or_insert(end);
                *known = end.max(*known);
            }
            _ => {}
        }
        self.hash_early(&mut state)
    }

    /// Hashes what was early and is not any more.
    fn hash_early(&self, state: &mut State) -> io::Result<()> {
        let mut buffer = Vec::new();
        while let Some((begin, end)) = state.early.first_key_value().map(|(begin, end)| (*begin, *end)) {
            if begin > state.hashed_bytes {
                break;
            }
            state.early.pop_first();
            state.rewritten |= begin < state.hashed_bytes;
            while state.hashed_bytes < end {
                buffer.resize((end - state.hashed_bytes).min(1 << 20) as usize, 0);
                self.file.read_exact_at(self.begin + state.hashed_bytes, &mut buffer)?;
                state.hasher.update(&buffer);
                state.hashed_bytes += buffer.len() as u64;
            }
        }
        Ok(())
    }
}

impl HostFile for MemberFile {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.lock().len_bytes)
    }

    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match host_offset.checked_add(buffer.len() as u64) {
            Some(end) if end <= self.len_bytes()? => self.file.read_exact_at(self.begin + host_offset, buffer),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl HostFileMut for MemberFile {
    fn write_all_at(&self, host_offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(self.begin + host_offset, bytes)?;
        self.written(host_offset, bytes.len() as u64, Some(bytes))
    }

    fn write_zeros_at(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        self.file.write_zeros_at(self.begin + host_offset, length_bytes)?;
        self.written(host_offset, length_bytes, None)
    }

    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn set_len_bytes(&self, length_bytes: u64) -> io::Result<()> {
        let mut state = self.lock();
        // The archive grows with what comes after the member.
        state.rewritten |= length_bytes < state.len_bytes;
        state.len_bytes = length_bytes;
        Ok(())
    }

    /// The archive is synced when it is whole.
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The member as the only file of a disk image.
pub struct MemberTarget {
    /// The member.
    pub file: Arc<MemberFile>,
    /// Its name.
    pub name: String,
}

impl TargetFiles for MemberTarget {
    fn main(&self) -> Arc<dyn HostFileMut> {
        self.file.clone()
    }

    fn main_name(&self) -> &str {
        &self.name
    }

    fn create(&self, name: &str) -> Result<Arc<dyn HostFileMut>> {
        SingleFile(self.main()).create(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CountingFile, MemoryFile, Random};

    #[test]
    fn the_digest_is_that_of_the_file_whatever_the_order() {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i / 7) as u8).collect();
        let expected = Algorithm::Sha256.of_bytes(&bytes);
        for seed in 0..50 {
            let mut random = Random(seed);
            let file = Arc::new(CountingFile::new(MemoryFile::new()));
            let member = Arc::new(MemberFile::new(file.clone(), 1536));
            let mut parts: Vec<_> = bytes.chunks(7000).enumerate().collect();
            // In order, or in any order, or in order and once more.
            let shuffles = if seed < 10 { 0 } else { parts.len() };
            for _ in 0..shuffles {
                let (a, b) = (random.below(parts.len() as u64), random.below(parts.len() as u64));
                parts.swap(a as usize, b as usize);
            }
            for (index, part) in &parts {
                if seed % 5 == 4 {
                    member.write_all_at(*index as u64 * 7000, &[9; 3]).unwrap();
                }
                member.write_all_at(*index as u64 * 7000, part).unwrap();
            }
            assert_eq!(member.digest().unwrap(), (100_000, expected.clone()), "seed {seed}");
            if seed < 4 {
                assert_eq!(file.reads(), 0, "what comes in order is not read back");
            }
        }
    }

    #[test]
    fn gaps_are_zeros() {
        let member = Arc::new(MemberFile::new(Arc::new(MemoryFile::new()), 512));
        member.write_all_at(10, b"end").unwrap();
        member.write_zeros_at(5, 2).unwrap();
        assert_eq!(member.digest().unwrap(), (13, Algorithm::Sha256.of_bytes(b"\0\0\0\0\0\0\0\0\0\0end")));
    }
}
