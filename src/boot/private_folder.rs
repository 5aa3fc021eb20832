//! Folders that only the same user can enter, which are gone when their process is: at once, or when the next one comes.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use super::confine::is_ours;

const PREFIX: &str = "tintype-boot-";

/// A folder for one process, which holds a lock on it as long as it lives.
#[derive(Debug)]
pub struct PrivateFolder {
    // Dropped in this order: whoever gets the lock may remove the folder.
    folder: TempDir,
    _lock: File,
}

impl PrivateFolder {
    /// Creates a folder in this one, and removes those whose processes were killed.
    pub fn create(parent: &Path) -> io::Result<PrivateFolder> {
        remove_dead(parent);
        loop {
            // Private from the first moment, whatever the umask is.
            let private = Permissions::from_mode(0o700);
            let folder = tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir_in(parent)?;
            let lock = open(folder.path())?;
            lock.lock()?;
            // Somebody may have taken it for a dead one before it was locked.
            if folder.path().symlink_metadata().is_ok_and(|found| is_same(&lock, &found)) {
                return Ok(PrivateFolder { folder, _lock: lock });
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

fn is_same(lock: &File, found: &std::fs::Metadata) -> bool {
    lock.metadata().is_ok_and(|locked| (locked.dev(), locked.ino()) == (found.dev(), found.ino()))
}

/// Removes this user's folders that nobody holds any more.
fn remove_dead(parent: &Path) {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let Ok(lock) = open(&entry.path()) else { continue };
        let is_mine = lock.metadata().is_ok_and(|found| is_ours(found.uid()));
        if is_mine && lock.try_lock().is_ok() {
            // What cannot be removed is left to the next one.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_go_with_their_processes_or_when_the_next_one_comes() {
        let parent = tempfile::tempdir().unwrap();
        let names = || std::fs::read_dir(parent.path()).unwrap().count();
        let first = PrivateFolder::create(parent.path()).unwrap();
        let dead = parent.path().join("tintype-boot-dead");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join("nbd"), b"").unwrap();
        let other = parent.path().join("tintype-other");
        std::fs::create_dir(&other).unwrap();
        let second = PrivateFolder::create(parent.path()).unwrap();
        assert!(!dead.exists() && other.exists() && first.path().is_dir());
        drop((first, second));
        assert_eq!(names(), 1);
    }
}
