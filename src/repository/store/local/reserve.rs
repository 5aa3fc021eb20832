//! The reserve: disk space that a local store holds, so that a full disk has a way out (FORMAT.md §1).
//!
//! Whoever frees space has to write a little first: a tombstone, a verdict. Where the disk is full to the last block, the
//! file gives up a piece of its end for that. Its bytes come from a seed at its start, so that no file system stores them in
//! less space, and that a damaged one is found out.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::tree::Tree;
use crate::repository::store::{Reserve, StoreError};
use crate::system::durable;

/// The file; no object has such a name.
pub(super) const NAME: &str = ".reserve";

/// The length of the reserve unless another is asked for, in bytes.
pub const DEFAULT_BYTES: u64 = 16 << 20;

/// What is given up at once: enough for an object and the folders that it may need, in file systems that allocate in large
/// steps.
const PIECE_BYTES: u64 = 1 << 20;

/// The reserve takes at most this part of the space that is free without it.
const MAX_PART: u64 = 4;

const MAGIC: &[u8; 8] = b"TINRESV1";
const HEAD_BYTES: u64 = 80;
const STEP_BYTES: usize = 256 << 10;

/// The reserve of a local store.
pub(super) struct LocalReserve {
    tree: Arc<Tree>,
    may_give: AtomicBool,
}

/// What stands at the start of the file.
struct Head {
    reserve_bytes: u64,
    seed: [u8; 32],
}

impl Head {
    fn new(reserve_bytes: u64) -> io::Result<Head> {
        let mut seed = [0; 32];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
        Ok(Head { reserve_bytes, seed })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = [MAGIC.as_slice(), &self.reserve_bytes.to_le_bytes(), &self.seed].concat();
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        bytes
    }

    fn read(file: &File) -> io::Result<Option<Head>> {
        let mut bytes = [0; HEAD_BYTES as usize];
        match file.read_exact_at(&mut bytes, 0) {
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let (said, hash) = bytes.split_at(48);
        let (mut length, mut seed) = ([0; 8], [0; 32]);
        length.copy_from_slice(&said[8..16]);
        seed.copy_from_slice(&said[16..]);
        let is_whole = said[..8] == *MAGIC && blake3::hash(said).as_bytes() == hash;
        Ok(is_whole.then(|| Head { reserve_bytes: u64::from_le_bytes(length), seed }))
    }

    /// The bytes that stand from an offset of the file on.
    fn fill(&self, offset: u64, buffer: &mut [u8]) {
        let mut stream = blake3::Hasher::new_keyed(&self.seed).finalize_xof();
        stream.set_position(offset - HEAD_BYTES);
        stream.fill(buffer);
    }
}

impl LocalReserve {
    pub(super) fn new(tree: Arc<Tree>) -> Self {
        LocalReserve { tree, may_give: AtomicBool::new(false) }
    }

    /// Makes the file, with as many of the bytes as there is space for.
    pub(super) fn create(&self, reserve_bytes: u64) -> io::Result<()> {
        if reserve_bytes == 0 {
            return Ok(());
        }
        let file = self.tree.create_file(NAME)?;
        let head = Head::new(reserve_bytes.max(HEAD_BYTES))?;
        file.write_all_at(&head.encode(), 0)?;
        self.grow(&file, &head)?;
        durable::sync_file(&file)
    }

    /// Gives up a piece; false if that is not allowed or nothing is left.
    pub(super) fn give_up_piece(&self) -> bool {
        self.may_give.load(Relaxed) && self.shrink().unwrap_or(false)
    }

    fn shrink(&self) -> io::Result<bool> {
        let file = self.tree.open_writable(NAME)?;
        // Two that need space at once give up two pieces.
        lock(&file, FlockOperation::LockExclusive)?;
        let length = file.metadata()?.len();
        if length <= HEAD_BYTES {
            return Ok(false);
        }
        file.set_len(length.saturating_sub(PIECE_BYTES).max(HEAD_BYTES))?;
        // Journaling file systems hand freed blocks out again when that is in the journal.
        _ = durable::sync_file(&file);
        Ok(true)
    }

    /// Adds what is missing, as far as the free space allows.
    fn grow(&self, file: &File, head: &Head) -> io::Result<()> {
        let length = file.metadata()?.len();
        let free = self.tree.free_bytes().unwrap_or(0);
        let wanted = head.reserve_bytes.min(free.saturating_add(length) / MAX_PART);
        let mut at = length;
        let mut buffer = vec![0; STEP_BYTES];
        while at < wanted {
            let step = (wanted - at).min(STEP_BYTES as u64) as usize;
            head.fill(at, &mut buffer[..step]);
            if let Err(cause) = file.write_all_at(&buffer[..step], at) {
                // A quota, or somebody else who needs the space.
                file.set_len(length)?;
                return match is_full(&cause) {
                    true => Ok(()),
                    false => Err(cause),
                };
            }
            at += step as u64;
        }
        Ok(())
    }

    fn try_refill(&self) -> io::Result<()> {
        let file = self.tree.open_writable(NAME)?;
        if !lock(&file, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(());
        }
        let Some(head) = Head::read(&file)? else { return Ok(()) };
        if file.metadata()?.len() < head.reserve_bytes {
            self.grow(&file, &head)?;
            durable::sync_file(&file)?;
        }
        Ok(())
    }

    fn find_problem(&self) -> io::Result<Option<String>> {
        let file = match self.tree.open_file(NAME) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        // Nobody else shortens it while it is compared.
        lock(&file, FlockOperation::LockShared)?;
        let Some(head) = Head::read(&file)? else {
            return Ok(Some("its first bytes are not those of a reserve".to_owned()));
        };
        let (length, mut at) = (file.metadata()?.len(), HEAD_BYTES);
        let (mut expected, mut found) = (vec![0; STEP_BYTES], vec![0; STEP_BYTES]);
        while at < length {
            let step = (length - at).min(STEP_BYTES as u64) as usize;
            head.fill(at, &mut expected[..step]);
            file.read_exact_at(&mut found[..step], at)?;
            if expected[..step] != found[..step] {
                return Ok(Some("its bytes are not those that were written".to_owned()));
            }
            at += step as u64;
        }
        Ok(None)
    }
}

impl Reserve for LocalReserve {
    fn allow(&self, allowed: bool) {
        self.may_give.store(allowed, Relaxed);
    }

    fn refill(&self) {
        // It is there to help; where it cannot be made now, the next run tries again.
        _ = self.try_refill();
    }

    fn problem(&self) -> Option<(String, String)> {
        let problem = self.find_problem().unwrap_or_else(|cause| Some(cause.to_string()));
        problem.map(|problem| (NAME.to_owned(), problem))
    }

    fn remake(&self) -> Result<(), StoreError> {
        let remake = || {
            let kept = self.tree.open_file(NAME).and_then(|file| Head::read(&file));
            let reserve_bytes = kept.ok().flatten().map_or(DEFAULT_BYTES, |head| head.reserve_bytes);
            self.tree.remove_file(NAME)?;
            self.create(reserve_bytes)
        };
        remake().map_err(|cause: io::Error| StoreError::io("make the reserve again", NAME, cause))
    }
}

/// Locks a file; false if another has it. A file system without locks has one user, or two that lose a piece more.
fn lock(file: &File, how: FlockOperation) -> io::Result<bool> {
    match rustix::fs::flock(file, how) {
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(Errno::INTR) => lock(file, how),
        _ => Ok(true),
    }
}

/// Whether there is no space left, on the disk or in the quota.
pub(super) fn is_full(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
