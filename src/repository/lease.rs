//! Keeps what a long reader needs: while a lease is held, a prune waits.

use std::sync::Arc;

use tintype_formats::tin::id::Id;

use super::Repository;
use super::protocol::End;

/// A session that keeps a prune waiting until this is dropped (FORMAT.md §11, readers).
pub struct Lease {
    repository: Arc<Repository>,
    session: Id,
}

impl Lease {
    /// Takes a lease for this operation. None where nothing can be written: nothing is pruned from there either.
    pub fn take(repository: &Arc<Repository>, operation: &str) -> Option<Lease> {
        let session = repository.protocol().begin_session(operation).ok()?;
        Some(Lease { repository: Arc::clone(repository), session })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // If that fails, a prune fences the session in time.
        let _ = self.repository.protocol().end_session(self.session, End::Ended);
    }
}
