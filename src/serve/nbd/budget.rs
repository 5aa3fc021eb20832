//! Bytes that the requests of one connection hold in memory, beside the small buffer that each worker keeps.

use std::sync::{Condvar, Mutex, PoisonError};

use super::lock;

/// A number of bytes that is shared.
pub struct Budget {
    left_bytes: Mutex<u64>,
    returned: Condvar,
}

/// A part of it, until dropped.
pub struct Share<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Budget {
    /// So many bytes.
    pub fn new(bytes: u64) -> Self {
        Budget { left_bytes: Mutex::new(bytes), returned: Condvar::new() }
    }

    /// Takes a part, no larger than the whole, as soon as it is there.
    pub fn take(&self, bytes: u64) -> Share<'_> {
        let left = lock(&self.left_bytes);
        let mut left = self.returned.wait_while(left, |left| *left < bytes).unwrap_or_else(PoisonError::into_inner);
        *left -= bytes;
        Share { budget: self, bytes }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        *lock(&self.budget.left_bytes) += self.bytes;
        self.budget.returned.notify_all();
    }
}
