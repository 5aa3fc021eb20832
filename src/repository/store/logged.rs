//! Writes every request to a store into the log of the run.

use std::time::Instant;

use super::{Listed, Reserve, Store, StoreError};

/// A store whose requests are logged: what was asked, how long it took, and why it failed.
pub struct LoggedStore(Box<dyn Store>);

impl LoggedStore {
    /// Logs the requests to this store.
    pub fn new(store: Box<dyn Store>) -> LoggedStore {
        tracing::info!(place = store.shown(), "open store");
        LoggedStore(store)
    }
}

fn logged<T>(
    request: &'static str,
    name: &str,
    bytes: usize,
    run: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let began = Instant::now();
    let result = run();
    let took = began.elapsed();
    match &result {
        Ok(_) => tracing::debug!(name, bytes, ?took, "{request}"),
        Err(cause) => tracing::debug!(name, bytes, ?took, %cause, "{request} failed"),
    }
    result
}

impl Store for LoggedStore {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        logged("put", name, bytes.len(), || self.0.put(name, bytes))
    }

    fn get(&self, name: &str, max_bytes: u64) -> Result<Vec<u8>, StoreError> {
        logged("get", name, 0, || self.0.get(name, max_bytes))
    }

    fn get_range(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        logged("get a part", name, buffer.len(), || self.0.get_range(name, offset, buffer))
    }

    fn len_bytes(&self, name: &str) -> Result<u64, StoreError> {
        logged("ask the length", name, 0, || self.0.len_bytes(name))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        logged("list", prefix, 0, || self.0.list(prefix))
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        logged("delete", name, 0, || self.0.delete(name))
    }

    fn adopt(&self, name: &str) {
        self.0.adopt(name);
    }

    fn sync(&self) -> Result<(), StoreError> {
        logged("sync", "", 0, || self.0.sync())
    }

    fn shown(&self) -> String {
        self.0.shown()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.0.free_bytes()
    }

    fn reserve(&self) -> Option<&dyn Reserve> {
        self.0.reserve()
    }
}
