//! Locks that are taken whether or not a thread panicked while it held them.
//!
//! A panic in one worker ends the run anyway, and with its own message, not with one of each thread that comes after it.
//! Where a panic ends less (one connection of a server), the rest goes on. That is sound because what is behind a lock is
//! valid wherever a panic can come from: it is changed by statements that cannot, or says itself that it failed.

use std::sync::{LockResult, PoisonError};

/// The result of taking a lock, or of waiting with one.
pub trait Unpoisoned {
    /// What the lock guards, or the guard.
    type Guard;

    /// Returns the guard, also after a panic.
    fn unpoisoned(self) -> Self::Guard;
}

impl<T> Unpoisoned for LockResult<T> {
    type Guard = T;

    fn unpoisoned(self) -> T {
        self.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_lock_is_taken_after_a_panic() {
        let mutex = Mutex::new(1);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let _guard = mutex.lock();
                panic!("on purpose");
            });
            thread.join().unwrap_err();
        });
        assert!(mutex.is_poisoned());
        assert_eq!(*mutex.lock().unpoisoned(), 1);
    }
}
