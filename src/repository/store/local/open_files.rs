//! The files that were read last, kept open.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use tintype_formats::locks::Unpoisoned as _;

/// So many stay open. A restore reads from few packs at a time, and processes may have 1024 files by default.
const MAX_OPEN_FILES: usize = 64;

/// Open files by name, the one used last at the end. Objects never change, so that an open one is never stale.
#[derive(Default)]
pub(super) struct OpenFiles {
    files: Mutex<Vec<(String, Arc<File>)>>,
}

impl OpenFiles {
    /// The open file of this name; `open` opens it if it is not among those that stayed open.
    pub(super) fn get(&self, name: &str, open: impl FnOnce() -> io::Result<File>) -> io::Result<Arc<File>> {
        if let Some(file) = self.find(name) {
            return Ok(file);
        }
        // Not under the lock: opening can wait for the disk, while others have all they need.
        let file = Arc::new(open()?);
        let mut files = self.lock();
        // Two threads may have opened the same file. The one that is dropped here may be the other's: it has its own `Arc`.
        files.retain(|(other, _)| other != name);
        if files.len() >= MAX_OPEN_FILES {
            files.remove(0);
        }
        files.push((name.to_owned(), Arc::clone(&file)));
        Ok(file)
    }

    /// Closes a file, once nobody reads from it, so that its room on the disk becomes free.
    pub(super) fn forget(&self, name: &str) {
        self.lock().retain(|(other, _)| other != name);
    }

    fn find(&self, name: &str) -> Option<Arc<File>> {
        let mut files = self.lock();
        let position = files.iter().rposition(|(other, _)| other == name)?;
        let found = files.remove(position);
        let file = Arc::clone(&found.1);
        files.push(found);
        Some(file)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(String, Arc<File>)>> {
        self.files.lock().unpoisoned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_files_stay_open_and_the_last_used_are_kept() {
        let files = OpenFiles::default();
        let open = || File::open("/dev/null");
        for number in 0..MAX_OPEN_FILES * 2 {
            files.get("always", open).expect("it opens");
            files.get(&number.to_string(), open).expect("it opens");
        }
        assert_eq!(files.lock().len(), MAX_OPEN_FILES);
        let never = || panic!("it is open");
        files.get("always", never).expect("it stayed open");
        files.forget("always");
        let missing = files.get("always", || Err(io::ErrorKind::NotFound.into()));
        assert_eq!(missing.expect_err("it was closed").kind(), io::ErrorKind::NotFound);
    }
}
