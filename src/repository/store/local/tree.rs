//! The folders and files below a folder, opened part by part so that no symbolic link leads out of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::repository::store::Listed;
use crate::repository::store::name::{is_object_name, split_name};

/// Only the owner may enter, as in the repositories of restic and Borg: a repository holds whole disks, and even where it is
/// encrypted its names and lengths say which machine changed when. The umask can only take more away.
pub(super) const FOLDER_MODE: Mode = Mode::RWXU;

/// How folders are opened: to walk through, to list and to sync.
const FOLDER: OFlags = OFlags::DIRECTORY.union(LEAF);

/// How files are opened. Without waiting: a FIFO must not hang the reader, and is refused after that.
const LEAF: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// An open folder.
pub(super) struct Tree {
    root: OwnedFd,
}

impl Tree {
    /// Opens a folder. Its own path may have symbolic links.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Tree { root: rustix::fs::openat(CWD, path, flags, Mode::empty())? })
    }

    /// Opens a folder below; the topmost has the empty name.
    pub(super) fn open_folder(&self, folder: &str) -> io::Result<OwnedFd> {
        let mut at = rustix::fs::openat(&self.root, ".", FOLDER, Mode::empty())?;
        for part in parts(folder) {
            at = rustix::fs::openat(&at, part, FOLDER, Mode::empty())?;
        }
        Ok(at)
    }

    /// Opens a folder below, and makes it and those above it where they are missing.
    pub(super) fn make_folder(&self, folder: &str) -> io::Result<OwnedFd> {
        let mut at = rustix::fs::openat(&self.root, ".", FOLDER, Mode::empty())?;
        for part in parts(folder) {
            at = match rustix::fs::openat(&at, part, FOLDER, Mode::empty()) {
                Err(Errno::NOENT) => make_and_open(at, part)?,
                opened => opened?,
            };
        }
        Ok(at)
    }

    /// Opens a regular file for reading.
    pub(super) fn open_file(&self, name: &str) -> io::Result<File> {
        let (folder, leaf) = split_name(name);
        let file: File = rustix::fs::openat(self.open_folder(folder)?, leaf, LEAF, Mode::empty())?.into();
        match file.metadata()?.file_type() {
            found if found.is_file() => Ok(file),
            found if found.is_dir() => Err(io::ErrorKind::NotFound.into()),
            _ => Err(io::Error::other("it is neither a file nor a folder")),
        }
    }

    /// Removes a file; false if it was not there.
    pub(super) fn remove_file(&self, name: &str) -> io::Result<bool> {
        let (folder, leaf) = split_name(name);
        let removed = match self.open_folder(folder) {
            Ok(folder) => rustix::fs::unlinkat(folder, leaf, AtFlags::empty()).map_err(io::Error::from),
            Err(cause) => Err(cause),
        };
        match removed {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
            // A folder: there is no object of that name.
            Err(cause) if cause.kind() == io::ErrorKind::IsADirectory => Ok(false),
            removed => removed.map(|()| true),
        }
    }

    /// All objects in a folder and below it, in no order. Fails with the name that it failed at.
    pub(super) fn list(&self, folder: &str) -> Result<Vec<Listed>, (String, io::Error)> {
        let mut found = Vec::new();
        let mut waiting = vec![folder.to_owned()];
        while let Some(folder) = waiting.pop() {
            match self.open_folder(&folder) {
                Ok(opened) => list_folder(&folder, &opened, &mut found, &mut waiting)?,
                // It went away meanwhile, or never was.
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => return Err((folder, cause)),
            }
        }
        Ok(found)
    }
}

fn parts(folder: &str) -> impl Iterator<Item = &str> {
    folder.split('/').filter(|part| !part.is_empty())
}

fn make_and_open(parent: OwnedFd, part: &str) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(&parent, part, FOLDER_MODE) {
        // Somebody else was first.
        Err(Errno::EXIST) => {}
        made => made?,
    }
    Ok(rustix::fs::openat(&parent, part, FOLDER, Mode::empty())?)
}

/// Adds the folder's objects to `found` and its folders to `waiting`.
fn list_folder(
    folder: &str,
    opened: &OwnedFd,
    found: &mut Vec<Listed>,
    waiting: &mut Vec<String>,
) -> Result<(), (String, io::Error)> {
    let failed = |name: &str, errno: Errno| (name.to_owned(), io::Error::from(errno));
    for entry in Dir::read_from(opened).map_err(|errno| failed(folder, errno))? {
        let entry = entry.map_err(|errno| failed(folder, errno))?;
        let Some(name) = entry.file_name().to_str().ok().map(|leaf| joined(folder, leaf)) else { continue };
        if !is_object_name(&name) {
            continue;
        }
        match rustix::fs::statat(opened.as_fd(), entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            // Deleted meanwhile.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(&name, errno)),
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => found.push(Listed { name, len_bytes: stat.st_size.cast_unsigned() }),
                FileType::Directory => waiting.push(name),
                // Passed over, it could hide a whole folder of objects.
                _ => return Err((name, io::Error::other("it is neither a file nor a folder"))),
            },
        }
    }
    Ok(())
}

fn joined(folder: &str, leaf: &str) -> String {
    match folder.is_empty() {
        true => leaf.to_owned(),
        false => format!("{folder}/{leaf}"),
    }
}
