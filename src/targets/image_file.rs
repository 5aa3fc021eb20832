//! A new file: written under a temporary name beside the target, and renamed when it is whole and durable.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use tempfile::{NamedTempFile, TempPath};
use tintype_formats::locks::Unpoisoned as _;

use super::access::Access;
use super::output_file::OutputFile;
use super::temporary_name;
use crate::error::{Error, Kind, OnPath as _, Result};
use crate::system::durable;

/// A file that does not exist yet under its own name. Dropped without [`commit`](Self::commit), it never existed.
pub struct ImageFile {
    /// Taken when the file gets its name, or is given up.
    temporary: Mutex<Option<TempPath>>,
    temporary_path: PathBuf,
    target: PathBuf,
    replace: bool,
    output: Arc<OutputFile>,
}

impl ImageFile {
    /// Begins the file; fails if the target exists and is not to be replaced.
    pub fn create(target: &Path, replace: bool, access: Access) -> Result<Self> {
        refuse_existing(target, replace)?;
        let folder = existing_folder_of(target)?;
        let temporary = tempfile::Builder::new()
            .prefix(&temporary_name::prefix(target))
            .suffix(temporary_name::SUFFIX)
            .permissions(PermissionsExt::from_mode(access.mode()))
            .tempfile_in(&folder)
            .and_then(|file| access.settle(file.as_file()).map(|()| file))
            .map_err(|cause| Error::io("create a temporary file in its folder", without_path(cause)))
            .on_path(target)?;
        let (file, temporary) = NamedTempFile::into_parts(temporary);
        let output = Arc::new(OutputFile::new(file));
        let temporary_path = temporary.to_path_buf();
        let temporary = Mutex::new(Some(temporary));
        Ok(ImageFile { temporary, temporary_path, target: target.to_owned(), replace, output })
    }

    /// The file to write to.
    pub fn output(&self) -> &Arc<OutputFile> {
        &self.output
    }

    /// The name that it is going to have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Where it is until it is committed.
    pub fn temporary_path(&self) -> &Path {
        &self.temporary_path
    }

    /// Gives the file its name, durably. It was synced before.
    pub fn commit(&self) -> Result<()> {
        self.rename()?;
        File::open(folder_of(&self.target))
            .and_then(durable::sync_folder)
            .map_err(|cause| Error::io("make the file's name durable", cause))
            .on_path(&self.target)
    }

    fn rename(&self) -> Result<()> {
        // Held until the file has its name: giving it up comes before that, or too late.
        let mut held = self.lock();
        let temporary = held.take().ok_or_else(Error::cancelled)?;
        let renamed = match self.replace {
            true => temporary.persist(&self.target),
            false => temporary.persist_noclobber(&self.target),
        };
        renamed.map_err(|cause| Error::io("give the finished file its name", cause.error)).on_path(&self.target)
    }

    /// Removes the file, whatever thread is writing to it; false if it has its name already.
    pub fn abandon(&self) -> bool {
        self.lock().take().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<TempPath>> {
        self.temporary.lock().unpoisoned()
    }
}

fn refuse_existing(target: &Path, replace: bool) -> Result<()> {
    match std::fs::symlink_metadata(target) {
        Err(_) => Ok(()),
        Ok(found) if found.is_dir() => {
            Err(Error::new(Kind::TargetUnfit, "it is a folder; expected the name of a file").with_path(target))
        }
        Ok(_) if std::fs::metadata(target).is_ok_and(|found| !found.is_file()) => {
            Err(Error::new(Kind::TargetUnfit, "it is no regular file and will not be replaced").with_path(target))
        }
        Ok(_) if replace => Ok(()),
        Ok(_) => Err(Error::new(Kind::TargetExists, "it exists already").with_path(target)),
    }
}

/// The temporary name in the error would puzzle who has not given it.
fn without_path(cause: std::io::Error) -> std::io::Error {
    match cause.kind() {
        std::io::ErrorKind::Other => cause,
        kind => kind.into(),
    }
}

fn existing_folder_of(target: &Path) -> Result<PathBuf> {
    let folder = folder_of(target);
    match std::fs::metadata(&folder) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            let message = format!("there is no folder \"{}\"", folder.display().to_string().escape_debug());
            Err(Error::new(Kind::Io, message).with_path(target))
        }
        _ => Ok(folder),
    }
}

fn folder_of(target: &Path) -> PathBuf {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
