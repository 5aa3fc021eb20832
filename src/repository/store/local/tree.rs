//! The folders and files below a folder, opened part by part so that no symbolic link leads out of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::repository::store::Listed;
use crate::repository::store::name::{is_object_name, split_name};

/// Only the owner may enter, as in the repositories of restic and Borg: a repository holds whole disks, and even where it is
/// encrypted its names and lengths say which machine changed when. The umask can only take more away.
pub(super) const FOLDER_MODE: Mode = Mode::RWXU;

/// How folders are opened: to walk through, to list and to sync.
const FOLDER: OFlags = OFlags::DIRECTORY.union(LEAF);

/// How files are opened. Without waiting: a FIFO must not hang the reader, and is refused after that.
const LEAF: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// The bits of a topmost folder whose repository several users share: writable for the group, whose all in it is.
pub(super) const SHARED_BITS: Mode = Mode::WGRP.union(Mode::SGID);

/// The modes of files and folders in a shared repository, whatever the umask.
const SHARED_FILE_MODE: Mode = FILE_MODE.union(Mode::RGRP).union(Mode::WGRP);
pub(super) const SHARED_FOLDER_MODE: Mode = FOLDER_MODE.union(Mode::RWXG).union(Mode::SGID);

/// Readable for the owner only; see [`FOLDER_MODE`].
pub(super) const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// How names of what is not whole yet begin; no object's name does.
pub(super) const TEMPORARY_PREFIX: &str = ".tmp-";

/// An open folder.
pub(super) struct Tree {
    root: OwnedFd,
    is_shared: bool,
    /// Whose the folder is, if root works in it: what root makes there is theirs too.
    owner: Option<(Uid, Gid)>,
}

impl Tree {
    /// Opens a folder. Its own path may have symbolic links.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&root)?;
        let is_shared = Mode::from_raw_mode(stat.st_mode).contains(SHARED_BITS);
        let owner =
            (geteuid().is_root() && stat.st_uid != 0).then(|| (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid)));
        Ok(Tree { root, is_shared, owner })
    }

    /// The topmost folder.
    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The space that is free for this user, in bytes.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let found = rustix::fs::fstatvfs(&self.root).ok()?;
        found.f_bavail.checked_mul(found.f_frsize)
    }

    /// Gives a new file the owner and the mode that files have here.
    pub(super) fn dress_file(&self, file: &File) -> io::Result<()> {
        self.dress(file, SHARED_FILE_MODE)
    }

    fn dress(&self, made: impl AsFd, shared_mode: Mode) -> io::Result<()> {
        if let Some((user, group)) = self.owner {
            // Root may be nobody in particular on a network file system: then the file is whose the server says.
            _ = rustix::fs::fchown(&made, Some(user), Some(group));
        }
        match self.is_shared {
            true => Ok(rustix::fs::fchmod(&made, shared_mode)?),
            false => Ok(()),
        }
    }

    /// Makes a file in the topmost folder; one that is there is an error.
    pub(super) fn create_file(&self, leaf: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: File = rustix::fs::openat(&self.root, leaf, flags, FILE_MODE)?.into();
        self.dress_file(&file)?;
        Ok(file)
    }

    /// Opens a file in the topmost folder for reading and writing.
    pub(super) fn open_writable(&self, leaf: &str) -> io::Result<File> {
        let flags = OFlags::RDWR.union(LEAF);
        let file: File = rustix::fs::openat(&self.root, leaf, flags, Mode::empty())?.into();
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("it is not a regular file")),
        }
    }

    /// Says whose a file or folder is that this user may not use; nothing if it is the user's own.
    pub(super) fn whose(&self, name: &str) -> Option<String> {
        let mut nearest = (".".to_owned(), rustix::fs::fstat(&self.root).ok()?);
        let mut at = String::new();
        for part in parts(name) {
            at = joined(&at, part);
            match rustix::fs::statat(&self.root, &at, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => nearest = (at.clone(), stat),
                Err(_) => break,
            }
        }
        let (found, stat) = nearest;
        let own = geteuid().as_raw();
        (stat.st_uid != own).then(|| {
            let mode = stat.st_mode & 0o7777;
            format!("\"{found}\" belongs to {} (mode {mode:03o}), and this is {}", user(stat.st_uid), user(own))
        })
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
                Err(Errno::NOENT) => self.make_and_open(at, part)?,
                opened => opened?,
            };
        }
        Ok(at)
    }

    fn make_and_open(&self, parent: OwnedFd, part: &str) -> io::Result<OwnedFd> {
        if self.is_shared || self.owner.is_some() {
            self.make_dressed(&parent, part)?;
        }
        match rustix::fs::mkdirat(&parent, part, FOLDER_MODE) {
            // Somebody else was first, or it was made just now.
            Err(Errno::EXIST) => {}
            made => made?,
        }
        Ok(rustix::fs::openat(&parent, part, FOLDER, Mode::empty())?)
    }

    /// Makes a folder that has its owner and mode from the first moment on: another user may be about to write to it.
    fn make_dressed(&self, parent: &OwnedFd, part: &str) -> io::Result<()> {
        let temporary = temporary_name()?;
        rustix::fs::mkdirat(parent, &temporary, FOLDER_MODE)?;
        // The umask may have taken so much away that not even its owner can open it.
        rustix::fs::chmodat(parent, &temporary, FOLDER_MODE, AtFlags::empty())?;
        let made = rustix::fs::openat(parent, &temporary, FOLDER, Mode::empty()).map_err(io::Error::from);
        let dressed = made.and_then(|made| self.dress(&made, SHARED_FOLDER_MODE));
        let named = dressed.and_then(|()| {
            Ok(rustix::fs::renameat_with(parent, &temporary, parent, part, rustix::fs::RenameFlags::NOREPLACE)?)
        });
        if named.is_err() {
            _ = rustix::fs::unlinkat(parent, &temporary, AtFlags::REMOVEDIR);
        }
        match named {
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // A file system without such a rename.
            Err(cause) if [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP].contains(&raw(&cause)) => {
                match rustix::fs::mkdirat(parent, part, FOLDER_MODE) {
                    Err(Errno::EXIST) => Ok(()),
                    Err(errno) => Err(errno.into()),
                    Ok(()) => self.dress(rustix::fs::openat(parent, part, FOLDER, Mode::empty())?, SHARED_FOLDER_MODE),
                }
            }
            named => named,
        }
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

/// A name that nobody else has.
pub(super) fn temporary_name() -> io::Result<String> {
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{TEMPORARY_PREFIX}{:032x}", u128::from_le_bytes(random)))
}

fn raw(cause: &io::Error) -> Errno {
    Errno::from_io_error(cause).unwrap_or(Errno::IO)
}

/// A user, for people.
pub(super) fn user(number: u32) -> String {
    if number == 0 { "root".to_owned() } else { format!("user {number}") }
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
