//! A new file that gets its name when it is whole and durable, and never in place of another.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::reserve::is_full;
use super::tree::{FILE_MODE, TEMPORARY_PREFIX, Tree, temporary_name};
use crate::system::durable;

/// Where files are that have a name before they are whole.
const TEMPORARY_FOLDER: &str = "tmp";

/// Longest single write. One of 1 MiB makes the kernel look for a page of that size, which takes longer.
const MAX_WRITE_BYTES: usize = 256 << 10;

/// How a file gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::repository::store) enum Way {
    /// It has none before: a killed program leaves nothing.
    Unnamed = 0,
    /// It has a temporary name, and gets another.
    Linked = 1,
    /// Its temporary name is changed to its own.
    Renamed = 2,
}

impl Way {
    /// The best first.
    const ALL: [Way; 3] = [Way::Unnamed, Way::Linked, Way::Renamed];
}

/// Why a file did not get its name.
#[derive(Debug)]
pub(super) enum NotPlaced {
    /// The file system cannot do it this way, or says so.
    Unfit(io::Error),
    /// The name is taken.
    Taken,
    /// The answer was lost.
    Unclear(io::Error),
    /// The content could not be made durable.
    NotSynced(io::Error),
    /// Anything else.
    Failed(io::Error),
}

impl NotPlaced {
    /// Whether there was no space. What could not be made durable for that was a new file, which is gone: it is written anew.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, NotPlaced::Failed(cause) | NotPlaced::NotSynced(cause) if is_full(cause))
    }
}

impl From<io::Error> for NotPlaced {
    fn from(cause: io::Error) -> Self {
        NotPlaced::Failed(cause)
    }
}

impl From<Errno> for NotPlaced {
    fn from(errno: Errno) -> Self {
        NotPlaced::Failed(errno.into())
    }
}

/// Makes new files; remembers which way the file system can.
pub(super) struct NewFiles {
    /// The place in [`Way::ALL`] from which on to try.
    first: AtomicU8,
}

impl NewFiles {
    /// Begins with this way.
    pub(super) fn new(first: Way) -> Self {
        NewFiles { first: AtomicU8::new(first as u8) }
    }

    /// Makes a file of these bytes in a folder.
    pub(super) fn create(&self, tree: &Tree, folder: &OwnedFd, leaf: &str, bytes: &[u8]) -> Result<(), NotPlaced> {
        let mut unfit = NotPlaced::Unfit(io::ErrorKind::Unsupported.into());
        for way in Way::ALL.into_iter().skip(usize::from(self.first.load(Relaxed))) {
            let placed = match way {
                Way::Unnamed => create_unnamed(tree, folder, leaf, bytes),
                Way::Linked | Way::Renamed => create_named(way, tree, folder, leaf, bytes),
            };
            match placed {
                Err(NotPlaced::Unfit(cause)) => unfit = NotPlaced::Unfit(cause),
                placed => {
                    if matches!(placed, Ok(()) | Err(NotPlaced::Taken)) {
                        self.first.store(way as u8, Relaxed);
                    }
                    return placed;
                }
            }
        }
        Err(unfit)
    }
}

fn create_unnamed(tree: &Tree, folder: &OwnedFd, leaf: &str, bytes: &[u8]) -> Result<(), NotPlaced> {
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    let file: File = match rustix::fs::openat(folder, ".", flags, FILE_MODE) {
        // IsDir is what kernels answer that do not know the flag.
        Err(errno @ (Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL)) => return Err(NotPlaced::Unfit(errno.into())),
        opened => opened?.into(),
    };
    tree.dress_file(&file)?;
    fill(&file, bytes)?;
    // To link the file itself takes a privilege, its name in /proc does not.
    let own_name = format!("/proc/self/fd/{}", file.as_raw_fd());
    named(rustix::fs::linkat(CWD, own_name, folder, leaf, AtFlags::SYMLINK_FOLLOW))
}

fn create_named(way: Way, tree: &Tree, folder: &OwnedFd, leaf: &str, bytes: &[u8]) -> Result<(), NotPlaced> {
    let temporary = Temporary::create(tree)?;
    fill(&temporary.file, bytes)?;
    let (old_folder, old_name) = (&temporary.folder, &temporary.name);
    if way == Way::Renamed {
        return named(rustix::fs::renameat_with(old_folder, old_name, folder, leaf, RenameFlags::NOREPLACE));
    }
    match named(rustix::fs::linkat(old_folder, old_name, folder, leaf, AtFlags::empty())) {
        // NFS sends a request again when the answer got lost, and then finds its own link there.
        Err(_) if rustix::fs::fstat(&temporary.file).is_ok_and(|stat| stat.st_nlink == 2) => Ok(()),
        linked => linked,
    }
}

/// Writes all bytes, and makes them durable.
fn fill(mut file: &File, bytes: &[u8]) -> Result<(), NotPlaced> {
    for part in bytes.chunks(MAX_WRITE_BYTES) {
        file.write_all(part)?;
    }
    durable::sync_file(file).map_err(NotPlaced::NotSynced)
}

/// What the answer to a link or rename means.
fn named(answer: Result<(), Errno>) -> Result<(), NotPlaced> {
    match answer {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(NotPlaced::Taken),
        // Some file systems that have no links answer that they are not permitted; and so looks a missing /proc.
        Err(errno @ (Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM | Errno::XDEV | Errno::NOENT)) => {
            Err(NotPlaced::Unfit(errno.into()))
        }
        // Network file systems and FUSE: the server may have done it.
        Err(
            errno @ (Errno::IO | Errno::TIMEDOUT | Errno::STALE | Errno::INTR | Errno::NOTCONN | Errno::CONNABORTED),
        ) => Err(NotPlaced::Unclear(errno.into())),
        Err(errno) => Err(errno.into()),
    }
}

/// A file with a temporary name, which goes away with this. Its lock says that somebody still writes to it.
struct Temporary {
    folder: OwnedFd,
    name: String,
    file: File,
}

impl Temporary {
    fn create(tree: &Tree) -> Result<Self, NotPlaced> {
        let folder = tree.make_folder(TEMPORARY_FOLDER)?;
        // Whoever cleans up may find the file before it is locked. It would take more than bad luck to lose it each time.
        for _ in 0..16 {
            let name = temporary_name()?;
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file: File = rustix::fs::openat(&folder, &name, flags, FILE_MODE)?.into();
            tree.dress_file(&file)?;
            let temporary = Temporary { folder: folder.try_clone()?, name, file };
            if temporary.lock()? {
                return Ok(temporary);
            }
        }
        Err(NotPlaced::Failed(io::Error::other("its temporary file was removed again and again")))
    }

    /// Locks the file; false if it is being removed.
    fn lock(&self) -> io::Result<bool> {
        // Any other error is a file system without locks: nobody else can lock it either, and so nobody removes it.
        if rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            return Ok(false);
        }
        Ok(rustix::fs::fstat(&self.file)?.st_nlink > 0)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename it is not there. What cannot be removed is ignored by all, and removed by the next who opens.
        _ = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty());
    }
}

/// Removes the temporary files that nobody holds a lock on: those who wrote them are gone. Where that cannot be done, they
/// stay and harm nobody.
pub(super) fn remove_leftovers(tree: &Tree) {
    let Ok(folder) = tree.open_folder(TEMPORARY_FOLDER) else { return };
    let Ok(entries) = rustix::fs::Dir::read_from(&folder) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()) {
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(file) = rustix::fs::openat(&folder, entry.file_name(), flags, Mode::empty()) else { continue };
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                _ = rustix::fs::unlinkat(&folder, entry.file_name(), AtFlags::empty());
            }
        }
    }
}
