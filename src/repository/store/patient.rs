//! A store whose place may be away for a while: a disk that was unplugged, a server that restarts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tintype_formats::locks::Unpoisoned as _;

use super::{Listed, LocalStore, Store, StoreError};

/// How often is looked whether it is back.
const PAUSE: Duration = Duration::from_millis(200);

/// The longest mark that is looked at, in bytes.
const MAX_MARK_BYTES: u64 = 1 << 20;

/// A folder as a store for a long reader.
///
/// A read that fails because the place is away waits for it, and is done again when it is back, even if the folder is
/// another one by then (a copy, a new mount): which one it is, an object tells that never changes, the *mark*. All that wait
/// have the same deadline; whoever comes later fails at once, after a look whether it is back. Writes are not tried again.
pub struct PatientStore {
    path: PathBuf,
    patience: Duration,
    mark: (&'static str, Vec<u8>),
    state: Mutex<State>,
}

struct State {
    store: Arc<LocalStore>,
    away_since: Option<Instant>,
}

impl PatientStore {
    /// Opens a folder that has this object now.
    pub fn open(path: &Path, mark: &'static str, patience: Duration) -> Result<Self, StoreError> {
        let store = LocalStore::open(path)?;
        let content = store.get(mark, MAX_MARK_BYTES)?;
        let state = Mutex::new(State { store: Arc::new(store), away_since: None });
        Ok(PatientStore { path: path.to_owned(), patience, mark: (mark, content), state })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unpoisoned()
    }

    fn current(&self) -> Arc<LocalStore> {
        Arc::clone(&self.lock().store)
    }

    fn is_there(&self, store: &LocalStore) -> bool {
        store.get(self.mark.0, MAX_MARK_BYTES).is_ok_and(|found| found == self.mark.1)
    }

    fn patiently<T>(&self, read: impl Fn(&LocalStore) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let store = self.current();
        match read(&store) {
            // Of a place that is there, the error is about the object.
            Err(cause) if self.is_there(&store) => Err(cause),
            Err(cause) => match self.wait() {
                true => read(&self.current()),
                false => Err(cause),
            },
            done => done,
        }
    }

    /// Waits until the place is back; false if it takes too long.
    fn wait(&self) -> bool {
        let deadline = *self.lock().away_since.get_or_insert_with(Instant::now) + self.patience;
        loop {
            if let Ok(store) = LocalStore::open(&self.path)
                && self.is_there(&store)
            {
                *self.lock() = State { store: Arc::new(store), away_since: None };
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Store for PatientStore {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.current().put(name, bytes)
    }

    fn get(&self, name: &str, max_bytes: u64) -> Result<Vec<u8>, StoreError> {
        self.patiently(|store| store.get(name, max_bytes))
    }

    fn get_range(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        // A cell because what is tried again is the same closure; no other thread sees it.
        let buffer = std::cell::RefCell::new(buffer);
        self.patiently(|store| store.get_range(name, offset, &mut buffer.borrow_mut()))
    }

    fn len_bytes(&self, name: &str) -> Result<u64, StoreError> {
        self.patiently(|store| store.len_bytes(name))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.patiently(|store| {
            let listed = store.list(prefix)?;
            // A folder that is not there is empty, and so looks a place that is away.
            if listed.is_empty() && !self.is_there(store) {
                store.len_bytes(self.mark.0)?;
            }
            Ok(listed)
        })
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.current().delete(name)
    }

    fn adopt(&self, name: &str) {
        self.current().adopt(name);
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.current().sync()
    }

    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.current().free_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_place_that_comes_back_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let original = LocalStore::create(&at("store")).unwrap();
        original.put("mark", b"this one").unwrap();
        original.put("packs/a", b"content").unwrap();
        let store = PatientStore::open(&at("store"), "mark", Duration::from_millis(400)).unwrap();
        let read = |name: &str| store.get(name, 100).map_err(|cause| cause.to_string());
        assert_eq!(read("packs/a").unwrap(), b"content");
        let began = Instant::now();
        assert!(read("packs/b").is_err() && began.elapsed() < Duration::from_millis(300), "it is not away");
        fs::create_dir(at("copy")).unwrap();
        fs::create_dir(at("copy/packs")).unwrap();
        ["mark", "packs/a"].iter().for_each(|name| {
            fs::copy(at("store").join(name), at("copy").join(name)).unwrap();
        });
        fs::remove_dir_all(at("store")).unwrap();
        let began = Instant::now();
        assert!(read("packs/a").is_err() && began.elapsed() >= Duration::from_millis(400));
        let began = Instant::now();
        assert!(read("packs/a").is_err() && began.elapsed() < Duration::from_millis(300), "the deadline is over");
        assert!(store.list("packs/").is_err());
        fs::create_dir(at("store")).unwrap();
        fs::write(at("store/mark"), b"another one").unwrap();
        assert!(read("packs/a").is_err());
        fs::remove_dir_all(at("store")).unwrap();
        fs::rename(at("copy"), at("store")).unwrap();
        assert_eq!(read("packs/a").unwrap(), b"content");
        assert_eq!(store.list("packs/").unwrap().len(), 1);
    }
}
