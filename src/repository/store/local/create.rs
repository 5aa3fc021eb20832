//! A new folder for a repository: checked before anything is in it, and gone again if the work comes to nothing.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode};
use rustix::io::Errno;

use super::tree::{FOLDER_MODE, SHARED_BITS, SHARED_FOLDER_MODE, Tree, temporary_name};
use super::{LocalStore, reserve};
use crate::repository::store::{StoreError, StoreErrorKind};
use crate::system::durable;

const DOING: &str = "create folder";

/// Folders that a file system makes in its topmost folder: a repository may be at home there.
const NOT_OURS: &str = "lost+found";

/// What a repository that is being made may have left in its folder.
const BEGUN: [&str; 3] = ["keys", "tmp", reserve::NAME];

/// How a new store is to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct CreateOptions {
    /// Several users write to it: those in the folder's group.
    pub is_shared: bool,
    /// The length of its reserve in bytes.
    pub reserve_bytes: u64,
}

/// A folder in which a repository is being made. Unless it is kept, it is left as it was before.
pub struct NewFolder {
    path: PathBuf,
    is_made: bool,
    is_kept: bool,
    /// Open and locked: one at a time makes a repository here.
    lock: Option<File>,
}

impl LocalStore {
    /// Makes the folder durably, and opens it; one that exists must be empty. The folder above it must exist.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let (store, folder) = Self::create_with(path, CreateOptions::default())?;
        folder.keep();
        Ok(store)
    }

    /// The same; the folder is to be kept when all that belongs in it is there.
    pub fn create_with(path: &Path, options: CreateOptions) -> Result<(Self, NewFolder), StoreError> {
        let folder = NewFolder::make(path)?;
        set_mode(path, options.is_shared, folder.is_made)?;
        if folder.is_made {
            sync_folder_above(path).map_err(|cause| not_created(path, cause))?;
        }
        let store = Self::open(path)?;
        prove_durable(&store.tree).map_err(|cause| not_created(path, cause))?;
        let made = store.reserve.create(options.reserve_bytes);
        made.map_err(|cause| StoreError::io("make the reserve of", &path.to_string_lossy(), cause))?;
        store.unsynced.touch("");
        Ok((store, folder))
    }
}

impl NewFolder {
    fn make(path: &Path) -> Result<NewFolder, StoreError> {
        let made = match fs::DirBuilder::new().mode(FOLDER_MODE.bits()).create(path) {
            Ok(()) => true,
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => false,
            Err(cause) => return Err(not_created(path, cause)),
        };
        let mut folder = NewFolder { path: path.to_owned(), is_made: made, is_kept: true, lock: None };
        let taken = |detail| StoreError::new(StoreErrorKind::AlreadyExists, DOING, &path.to_string_lossy(), detail);
        let lock = File::open(path).map_err(|cause| not_created(path, cause))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            return Err(taken("another program makes a repository there"));
        }
        if !is_empty(path).map_err(|cause| not_created(path, cause))? {
            return Err(taken("it is there and not empty"));
        }
        folder.lock = Some(lock);
        // From here on all that is in it is this run's.
        folder.is_kept = false;
        Ok(folder)
    }

    /// Keeps the folder.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if self.is_kept || self.path.join("repository").symlink_metadata().is_ok() {
            return;
        }
        for name in BEGUN {
            let path = self.path.join(name);
            _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        }
        if self.is_made {
            _ = fs::remove_dir(&self.path);
        }
    }
}

/// Gives the topmost folder the mode by which later writers know whether the repository is shared.
fn set_mode(path: &Path, is_shared: bool, is_made: bool) -> Result<(), StoreError> {
    let failed = |cause| StoreError::io("set the mode of", &path.to_string_lossy(), cause);
    let found = Mode::from_raw_mode(fs::metadata(path).map_err(failed)?.mode());
    let wanted = match is_shared {
        true => SHARED_FOLDER_MODE,
        // One that exists may look shared, in a folder whose group all in it gets.
        false if !is_made && found.contains(SHARED_BITS) => found - Mode::WGRP,
        false => return Ok(()),
    };
    fs::set_permissions(path, fs::Permissions::from_mode(wanted.bits())).map_err(failed)?;
    let now = Mode::from_raw_mode(fs::metadata(path).map_err(failed)?.mode());
    match now.contains(SHARED_BITS) == is_shared {
        true => Ok(()),
        false => {
            let detail = format!("it has mode {:04o} after mode {:04o} was set", now.bits(), wanted.bits());
            Err(StoreError::new(StoreErrorKind::Unsupported, "set the mode of", &path.to_string_lossy(), detail))
        }
    }
}

/// Fails if the file system does not make files and names durable, before anybody relies on it.
fn prove_durable(tree: &Tree) -> io::Result<()> {
    let name = temporary_name()?;
    let file = tree.create_file(&name)?;
    let synced = durable::sync_file(&file).and_then(|()| durable::sync_folder(tree.root()));
    let removed = rustix::fs::unlinkat(tree.root().as_fd(), &name, AtFlags::empty());
    synced.and(removed.map_err(io::Error::from))
}

fn not_created(path: &Path, cause: io::Error) -> StoreError {
    StoreError::io(DOING, &path.to_string_lossy(), cause)
}

fn sync_folder_above(path: &Path) -> io::Result<()> {
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    durable::sync_folder(File::open(above)?)
}

fn is_empty(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        if entry?.file_name() != NOT_OURS {
            return Ok(false);
        }
    }
    Ok(true)
}
