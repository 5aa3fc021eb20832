//! A folder as a store: every object is a file below it.
//!
//! ```text
//! put   unnamed file -> write -> fsync -> link (never replaces)     sync   fsync of each folder that has changed
//! ```
//!
//! Where the file system has no unnamed files, they have names like `tmp/.tmp-…` meanwhile (`new_file`). A failed fsync
//! is never tried again: the kernel forgets what it could not write, and the second try would succeed. So the first failure
//! ends the use of the store object.

mod create;
mod new_file;
mod open_files;
mod reserve;
#[cfg(test)]
mod tests;
mod tree;
mod unsynced;

use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::io::Errno;
use tintype_formats::locks::Unpoisoned as _;

pub use self::create::{CreateOptions, NewFolder};
pub(in crate::repository::store) use self::new_file::Way;
use self::new_file::{NewFiles, NotPlaced};
use self::open_files::OpenFiles;
pub use self::reserve::DEFAULT_BYTES as DEFAULT_RESERVE_BYTES;
use self::reserve::{LocalReserve, is_full};
use self::tree::Tree;
use self::unsynced::Unsynced;
use super::error::doing::{CREATE, DELETE, LENGTH, LIST, READ, SYNC};
use super::name::{check_name, check_prefix, split_name};
use super::{Listed, Reserve, Store, StoreError, StoreErrorKind};
use crate::system::durable;

/// Objects in a folder of this machine.
pub struct LocalStore {
    path: PathBuf,
    tree: Arc<Tree>,
    reserve: LocalReserve,
    new_files: NewFiles,
    open_files: OpenFiles,
    unsynced: Unsynced,
    /// One sync at a time: the second must not return while the first still syncs what both have found.
    syncing: Mutex<()>,
    /// The first failed fsync.
    failure: OnceLock<(StoreErrorKind, String)>,
}

impl LocalStore {
    /// Opens a folder. Removes what killed programs have left in it, unless it may only be read.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, Way::Unnamed)
    }

    /// Opens a folder as if its file system knew no better way than this to make files.
    pub(in crate::repository::store) fn open_with(path: &Path, first: Way) -> Result<Self, StoreError> {
        let tree = Tree::open(path).map_err(|cause| StoreError::io("open folder", &path.to_string_lossy(), cause))?;
        new_file::remove_leftovers(&tree);
        let tree = Arc::new(tree);
        Ok(LocalStore {
            path: path.to_owned(),
            reserve: LocalReserve::new(Arc::clone(&tree)),
            tree,
            new_files: NewFiles::new(first),
            open_files: OpenFiles::default(),
            unsynced: Unsynced::default(),
            syncing: Mutex::new(()),
            failure: OnceLock::new(),
        })
    }

    /// Refuses all work after a failed fsync.
    fn check_usable(&self, doing: &'static str, name: &str) -> Result<(), StoreError> {
        match self.failure.get() {
            None => Ok(()),
            Some((kind, failure)) => {
                let detail = format!("not tried, because what was stored before could not be made durable: {failure}");
                Err(StoreError::new(*kind, doing, name, detail))
            }
        }
    }

    /// Notes that something was not made durable, and can never be.
    fn give_up(&self, doing: &'static str, name: &str, cause: io::Error) -> StoreError {
        // Only the first counts.
        let text = cause.to_string();
        let error = StoreError::not_durable(doing, name, cause);
        _ = self.failure.set((error.kind(), text));
        error
    }

    fn not_placed(&self, name: &str, why: NotPlaced) -> StoreError {
        match why {
            NotPlaced::Taken => StoreError::taken(CREATE, name),
            NotPlaced::Unclear(cause) => StoreError::unclear(CREATE, name, cause),
            NotPlaced::NotSynced(cause) => self.give_up(CREATE, name, cause),
            NotPlaced::Failed(cause) => self.failed(CREATE, name, cause),
            NotPlaced::Unfit(cause) if cause.kind() == io::ErrorKind::PermissionDenied => {
                self.failed(CREATE, name, cause)
            }
            NotPlaced::Unfit(cause) => StoreError::io(CREATE, name, io::Error::new(io::ErrorKind::Unsupported, cause))
                .with_detail("the file system can neither link files nor rename them without replacing others"),
        }
    }

    fn place(&self, name: &str, bytes: &[u8]) -> Result<(), NotPlaced> {
        let (folder, leaf) = split_name(name);
        let opened = self.tree.make_folder(folder)?;
        let placed = self.new_files.create(&self.tree, &opened, leaf, bytes);
        // Also if it failed: it may be there in spite of that, or be another's that the caller is going to build on.
        self.unsynced.touch(folder);
        placed
    }

    /// The system's error, in words where its own would puzzle.
    fn failed(&self, doing: &'static str, name: &str, cause: io::Error) -> StoreError {
        let is_link =
            [Errno::LOOP, Errno::NOTDIR].iter().any(|errno| cause.raw_os_error() == Some(errno.raw_os_error()));
        let whose = (cause.kind() == io::ErrorKind::PermissionDenied).then(|| self.tree.whose(name)).flatten();
        let error = StoreError::io(doing, name, cause);
        match (is_link, whose) {
            (true, _) => {
                error.with_detail("it is, or is reached by, a symbolic link or a file where folders are expected")
            }
            (false, Some(whose)) => error.with_detail(whose),
            (false, None) => error,
        }
    }

    fn sync_folder(&self, folder: &str) -> Result<(), StoreError> {
        let synced = self.tree.open_folder(folder).and_then(durable::sync_folder);
        synced.map_err(|cause| self.give_up(SYNC, folder, cause))
    }
}

impl Store for LocalStore {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        check_name(CREATE, name)?;
        self.check_usable(CREATE, name)?;
        loop {
            match self.place(name, bytes) {
                Err(why) if why.is_full() && self.reserve.give_up_piece() => {}
                placed => return placed.map_err(|why| self.not_placed(name, why)),
            }
        }
    }

    fn adopt(&self, name: &str) {
        self.unsynced.touch(split_name(name).0);
    }

    fn get(&self, name: &str, max_bytes: u64) -> Result<Vec<u8>, StoreError> {
        check_name(READ, name)?;
        self.check_usable(READ, name)?;
        let opened = self.tree.open_file(name).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (len_bytes, file) = opened.map_err(|cause| self.failed(READ, name, cause))?;
        if len_bytes > max_bytes {
            return Err(StoreError::too_large(READ, name, len_bytes, max_bytes));
        }
        // No more than the caller allows.
        let mut bytes = Vec::with_capacity(usize::try_from(len_bytes).unwrap_or_default());
        file.take(len_bytes).read_to_end(&mut bytes).map_err(|cause| self.failed(READ, name, cause))?;
        match bytes.len() as u64 == len_bytes {
            true => Ok(bytes),
            false => Err(StoreError::truncated(READ, name, bytes.len() as u64, len_bytes)),
        }
    }

    fn get_range(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        check_name(READ, name)?;
        self.check_usable(READ, name)?;
        let opened = self.open_files.get(name, || self.tree.open_file(name));
        let file = opened.map_err(|cause| self.failed(READ, name, cause))?;
        let end = offset.saturating_add(buffer.len() as u64);
        let read = match i64::try_from(end) {
            Ok(_) => file.read_exact_at(buffer, offset),
            // The kernel has no name for such a place.
            Err(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        };
        read.map_err(|cause| match cause.kind() {
            io::ErrorKind::UnexpectedEof => {
                StoreError::truncated(READ, name, file.metadata().map_or(0, |found| found.len()), end)
            }
            _ => self.failed(READ, name, cause),
        })
    }

    fn len_bytes(&self, name: &str) -> Result<u64, StoreError> {
        check_name(LENGTH, name)?;
        self.check_usable(LENGTH, name)?;
        let found = self.tree.open_file(name).and_then(|file| file.metadata());
        Ok(found.map_err(|cause| self.failed(LENGTH, name, cause))?.len())
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        check_prefix(LIST, prefix)?;
        self.check_usable(LIST, prefix)?;
        let listed = self.tree.list(prefix.trim_end_matches('/'));
        let mut listed = listed.map_err(|(name, cause)| self.failed(LIST, &name, cause))?;
        listed.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        // Some network file systems show a name twice while others come and go.
        listed.dedup_by(|a, b| a.name == b.name);
        Ok(listed)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        check_name(DELETE, name)?;
        self.check_usable(DELETE, name)?;
        self.open_files.forget(name);
        let removed = loop {
            match self.tree.remove_file(name) {
                // Some file systems need space to free some.
                Err(cause) if is_full(&cause) && self.reserve.give_up_piece() => {}
                removed => break removed,
            }
        };
        let folder = split_name(name).0;
        // Also if it was not there: another may have deleted it, and not made that durable.
        if !matches!(removed, Ok(false)) || self.tree.open_folder(folder).is_ok() {
            self.unsynced.touch(folder);
        }
        removed.map_err(|cause| self.failed(DELETE, name, cause)).map(|_| ())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.syncing.lock().unpoisoned();
        self.check_usable(SYNC, "")?;
        let folders = self.unsynced.take();
        for folder in &folders {
            self.sync_folder(folder)?;
        }
        self.unsynced.settle(folders);
        Ok(())
    }

    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.tree.free_bytes()
    }

    fn reserve(&self) -> Option<&dyn Reserve> {
        Some(&self.reserve)
    }
}
