//! The digest of a disk's content: SHA-256 in guest order, BLAKE3 on all workers.

use std::sync::Mutex;

use super::NamedDisk;
use super::ordered_window::OrderedWindow;
use super::pipeline::{LoadedUnit, Pipeline, Stop, Unreadable};
use super::plan::{DiskPlan, Inherited, PlanOptions};
use crate::error::Result;
use crate::progress::Progress;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use sha2::{Digest as _, Sha256};
use tintype_formats::hex::to_hex;
use tintype_formats::locks::Unpoisoned as _;

/// How a disk is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256 (FIPS 180-4): one core.
    Sha256,
    /// BLAKE3: all cores.
    Blake3,
}

impl Algorithm {
    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Blake3 => "blake3",
        }
    }
}

/// A finished digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// How it was made.
    pub algorithm: Algorithm,
    /// Its 32 bytes.
    pub bytes: [u8; 32],
}

impl Digest {
    /// In hexadecimal.
    pub fn to_hex(&self) -> String {
        to_hex(&self.bytes)
    }
}

/// Hashes a disk by itself.
pub fn digest(source: NamedDisk<'_>, algorithm: Algorithm, workers: usize, progress: &Progress) -> Result<Digest> {
    let NamedDisk { disk, path } = source;
    let size_bytes = disk.geometry().size_bytes;
    progress.begin(size_bytes);
    let hasher = DiskHasher::new(algorithm, size_bytes);
    let options =
        PlanOptions { parent: None, with_zeros: true, inherited: Inherited::Read, clonable: &[], salvage: false };
    let mut plan = DiskPlan::new(disk, None, options);
    let pipeline = Pipeline {
        source: Some(disk),
        source_path: path,
        workers,
        progress,
        rate_limit: None,
        unreadable: Unreadable::Fail,
    };
    pipeline.run(&mut plan, &[hasher.window()], &|loaded| {
        hasher.add(loaded)?;
        progress.reach(loaded.unit.passed_bytes);
        Ok(())
    })?;
    Ok(hasher.finish())
}

/// Hashes the units of a disk as they come by, all of them, zeros included.
pub struct DiskHasher {
    algorithm: Algorithm,
    size_bytes: u64,
    window: OrderedWindow,
    state: Mutex<State>,
}

enum State {
    Sha256(Sha256),
    /// Subtrees that wait for their right neighbours, with their lengths, from left to right.
    Blake3(Vec<(ChainingValue, u64)>),
    /// A disk of one unit has no subtrees.
    Blake3Whole(blake3::Hash),
}

/// What a worker can hash before it is the unit's turn.
enum Prepared {
    Nothing,
    Subtree(ChainingValue),
    Whole(blake3::Hash),
}

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

impl DiskHasher {
    /// Begins the digest of a disk of this size.
    pub fn new(algorithm: Algorithm, size_bytes: u64) -> Self {
        let state = match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Blake3 => State::Blake3(Vec::new()),
        };
        DiskHasher { algorithm, size_bytes, window: OrderedWindow::default(), state: Mutex::new(state) }
    }

    /// Where units wait for their turn.
    pub fn window(&self) -> &OrderedWindow {
        &self.window
    }

    /// Adds a unit. Units adjoin; each but the last is a power of two long and begins at a multiple of its length.
    pub fn add(&self, loaded: &LoadedUnit<'_>) -> Result<(), Stop> {
        let prepared = self.prepare(loaded);
        self.window.pass(loaded.unit.index, || self.add_in_order(loaded, prepared))?;
        Ok(())
    }

    fn prepare(&self, loaded: &LoadedUnit<'_>) -> Prepared {
        let unit = loaded.unit;
        if self.algorithm == Algorithm::Sha256 {
            return Prepared::Nothing;
        }
        let mut hasher = blake3::Hasher::new();
        if unit.length_bytes == self.size_bytes {
            for_each_piece(loaded, |piece| _ = hasher.update(piece));
            return Prepared::Whole(hasher.finalize());
        }
        hasher.set_input_offset(unit.guest_offset);
        for_each_piece(loaded, |piece| _ = hasher.update(piece));
        Prepared::Subtree(hasher.finalize_non_root())
    }

    fn add_in_order(&self, loaded: &LoadedUnit<'_>, prepared: Prepared) {
        let mut state = self.state.lock().unpoisoned();
        match (&mut *state, prepared) {
            (State::Sha256(hasher), _) => for_each_piece(loaded, |piece| hasher.update(piece)),
            (State::Blake3(subtrees), Prepared::Subtree(value)) => {
                merge_equal(subtrees);
                subtrees.push((value, loaded.unit.length_bytes));
            }
            (state, Prepared::Whole(hash)) => *state = State::Blake3Whole(hash),
            _ => {}
        }
    }

    /// The digest of all that was added.
    pub fn finish(self) -> Digest {
        let bytes = match self.state.into_inner().unpoisoned() {
            State::Sha256(hasher) => hasher.finalize().into(),
            State::Blake3(subtrees) => root(subtrees).into(),
            State::Blake3Whole(hash) => hash.into(),
        };
        Digest { algorithm: self.algorithm, bytes }
    }
}

/// Hands out the bytes of a unit, or its zeros.
fn for_each_piece(loaded: &LoadedUnit<'_>, mut visit: impl FnMut(&[u8])) {
    if let Some(bytes) = loaded.bytes {
        return visit(bytes);
    }
    let mut left = loaded.unit.length_bytes;
    while left > 0 {
        let piece = left.min(ZEROS.len() as u64);
        visit(&ZEROS[..piece as usize]);
        left -= piece;
    }
}

/// Joins neighbours of equal length. More is to come on the right, so none of them is the root.
fn merge_equal(subtrees: &mut Vec<(ChainingValue, u64)>) {
    while let [.., (left, left_bytes), (right, right_bytes)] = subtrees.as_slice()
        && left_bytes == right_bytes
    {
        let merged = (merge_subtrees_non_root(left, right, Mode::Hash), left_bytes * 2);
        subtrees.truncate(subtrees.len() - 2);
        subtrees.push(merged);
    }
}

/// Joins what is left, from the right; nothing at all is the digest of nothing.
fn root(mut subtrees: Vec<(ChainingValue, u64)>) -> blake3::Hash {
    while let [.., (left, left_bytes), (right, right_bytes)] = subtrees.as_slice() {
        if subtrees.len() == 2 {
            return merge_subtrees_root(left, right, Mode::Hash);
        }
        let merged = (merge_subtrees_non_root(left, right, Mode::Hash), left_bytes + right_bytes);
        subtrees.truncate(subtrees.len() - 2);
        subtrees.push(merged);
    }
    blake3::hash(&[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    use tintype_formats::testing::{ModelDisk, read_all};

    #[test]
    fn digests_equal_those_of_the_whole_content_for_any_number_of_workers() {
        let sizes = [0, 512, 4096, 1 << 20, (1 << 20) + 512, (3 << 20) + 5 * 512, 7 << 20, 33 << 20, (64 << 20) + 512];
        for (seed, size) in sizes.into_iter().enumerate() {
            let disk = ModelDisk::random(seed as u64, size, 6, 600);
            let bytes = read_all(&disk).unwrap();
            let named = NamedDisk { disk: &disk, path: Path::new("disk") };
            for workers in [1, 3, 8] {
                let blake3 = digest(named, Algorithm::Blake3, workers, &Progress::new()).unwrap();
                assert_eq!(blake3.bytes, *blake3::hash(&bytes).as_bytes(), "blake3 of {size} bytes");
                let sha256 = digest(named, Algorithm::Sha256, workers, &Progress::new()).unwrap();
                assert_eq!(sha256.bytes[..], Sha256::digest(&bytes)[..], "sha256 of {size} bytes");
            }
        }
    }
}
