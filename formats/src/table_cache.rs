//! A bounded cache of the mapping tables of one image (L2 tables, block allocation tables), read in pages.
//!
//! Tables of large images are larger than memory and most lookups go near the one before; so entries are fetched by the
//! page, and the page that was used least recently makes room.

use std::sync::{Arc, Mutex};

use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::limits::TABLE_CACHE_BYTES;
use crate::locks::Unpoisoned as _;
use crate::lru::Lru;

/// The size of a page, in bytes: 4,096 entries of 8 bytes, 256 MiB of a guest with 64 KiB clusters.
pub const PAGE_BYTES: u64 = 32 << 10;

const MAX_PAGES: u64 = TABLE_CACHE_BYTES as u64 / PAGE_BYTES;

/// Cached pages of one host file. Pages lie at multiples of [`PAGE_BYTES`]; the one at the file's end is shorter.
pub struct TableCache {
    file: Arc<dyn HostFile>,
    file_len_bytes: u64,
    pages: Mutex<Lru<u64, Arc<[u8]>>>,
}

impl TableCache {
    /// A cache over `file`, which does not change while it is open.
    pub fn new(file: Arc<dyn HostFile>, file_len_bytes: u64) -> Self {
        TableCache { file, file_len_bytes, pages: Mutex::new(Lru::new(MAX_PAGES)) }
    }

    /// Returns the page that holds `host_offset`, and where in it that is.
    ///
    /// `doing` names the table for the error. The page ends where the file ends.
    pub fn page_at(&self, doing: &'static str, host_offset: u64) -> Result<(Arc<[u8]>, usize)> {
        if host_offset >= self.file_len_bytes {
            let detail = format!("the file ends at {:#x}", self.file_len_bytes);
            return Err(ImageError::truncated(doing, detail).at_host(host_offset));
        }
        let number = host_offset / PAGE_BYTES;
        let within = (host_offset % PAGE_BYTES) as usize;
        if let Some(bytes) = self.lock().get(number) {
            return Ok((bytes, within));
        }
        let start = number * PAGE_BYTES;
        let mut bytes = vec![0; PAGE_BYTES.min(self.file_len_bytes - start) as usize];
        self.file.read_exact_at(start, &mut bytes).map_err(|cause| ImageError::io(doing, cause).at_host(start))?;
        let bytes: Arc<[u8]> = bytes.into();
        self.lock().insert(number, Arc::clone(&bytes), 1);
        Ok((bytes, within))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lru<u64, Arc<[u8]>>> {
        self.pages.lock().unpoisoned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CountingFile, MemoryFile};

    #[test]
    fn a_page_is_read_once_while_it_is_kept_and_the_oldest_goes() {
        let len = PAGE_BYTES * (MAX_PAGES + 1) + 100;
        let file = Arc::new(CountingFile::new(MemoryFile::with_len(len)));
        let cache = TableCache::new(file.clone(), len);
        for page in 0..=MAX_PAGES {
            cache.page_at("read", page * PAGE_BYTES + 8).unwrap();
            cache.page_at("read", 9).unwrap();
        }
        assert_eq!(file.reads(), MAX_PAGES + 1);
        cache.page_at("read", PAGE_BYTES).unwrap();
        assert_eq!(file.reads(), MAX_PAGES + 2);
    }

    #[test]
    fn the_last_page_ends_with_the_file() {
        let cache = TableCache::new(Arc::new(MemoryFile::with_len(PAGE_BYTES + 10)), PAGE_BYTES + 10);
        let (page, within) = cache.page_at("read", PAGE_BYTES + 3).unwrap();
        assert_eq!((page.len(), within), (10, 3));
        assert_eq!(cache.page_at("read", PAGE_BYTES + 10).unwrap_err().kind(), crate::ErrorKind::Truncated);
    }
}
