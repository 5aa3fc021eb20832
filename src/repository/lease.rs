//! Leases: what a reader that stays long holds, so that no prune takes away what it reads (FORMAT.md §11).

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use tintype_tin::id::Id;

use super::Repository;
use super::protocol::End;
use super::snapshots::Snapshot;
use crate::error::{Error, Kind, Result};

/// How often a lease is made anew. A prune takes one that is a day old (by default) for that of a reader who died.
const RENEWAL: Duration = Duration::from_secs(60 * 60);

/// The age at which a lease may count as that of a reader who died, and not before: one that lives has made it anew, late
/// once at most.
pub const LEAST_LIFE: Duration = Duration::from_secs(2 * 60 * 60);

/// Keeps what a snapshot needs, also if it is forgotten meanwhile, until this is dropped.
pub struct Lease {
    stop: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Repository {
    /// Takes a lease on a snapshot; fails if it is not there any more, or where nothing can be written.
    ///
    /// First the lease, then the look: a prune reads the snapshots first, and then the leases.
    pub fn lease(self: &Arc<Self>, operation: &'static str, snapshot: &Snapshot) -> Result<Lease> {
        self.lease_for(operation, snapshot, RENEWAL)
    }

    fn lease_for(self: &Arc<Self>, operation: &'static str, snapshot: &Snapshot, renewal: Duration) -> Result<Lease> {
        let id = snapshot.id;
        let session = self.protocol().begin_session(operation, &[id], false)?;
        let is_visible = self.snapshot_ids().map(|ids| ids.contains(&id));
        if !matches!(is_visible, Ok(true)) {
            self.end_lease(session);
            let gone = || Error::new(Kind::NoSnapshot, format!("{operation}: snapshot {id} was forgotten meanwhile"));
            return Err(is_visible.err().unwrap_or_else(gone));
        }
        let (stop, stopped) = mpsc::channel();
        let repository = Arc::clone(self);
        let keep = move || {
            let mut held = session;
            while stopped.recv_timeout(renewal) == Err(RecvTimeoutError::Timeout) {
                // Where it cannot be made anew now, the old one goes on, and the next time comes.
                if let Ok(next) = repository.protocol().begin_session(operation, &[id], false) {
                    repository.end_lease(held);
                    held = next;
                }
            }
            repository.end_lease(held);
        };
        let keeper = std::thread::Builder::new().name("lease".to_owned()).spawn(keep);
        let keeper = keeper.map_err(|cause| Error::io("start a thread", cause))?;
        Ok(Lease { stop: Some(stop), keeper: Some(keeper) })
    }

    fn end_lease(&self, session: Id) {
        // One that cannot be ended is fenced when it is old.
        let _ = self.protocol().end_session(session, End::Ended);
    }

    /// The snapshots that open leases name. Whoever asks has read the visible snapshots before.
    pub(super) fn leased_snapshots(&self) -> Result<Vec<Id>> {
        let mut leased = Vec::new();
        for session in self.protocol().open_sessions()? {
            leased.extend(self.protocol().session_begun(session)?.snapshots);
        }
        leased.sort_unstable();
        leased.dedup();
        Ok(leased)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::repository::InitOptions;
    use crate::repository::session::WriteSession;
    use crate::repository::store::simulated::{Faults, Simulation};
    use tintype_tin::manifest::Manifest;
    use tintype_tin::slot::Cost;

    #[test]
    fn a_lease_is_made_anew_and_ends_with_its_reader() {
        let simulation = Simulation::new(1, Faults::default());
        let options =
            InitOptions { chunk_bytes: 64 << 10, secret: None, recovery: None, holder: "test", cost: Cost::default() };
        let repository = Repository::init(Box::new(simulation.client()), None, &options).unwrap();
        let session = WriteSession::begin(&repository, "backup", false).unwrap();
        let text = r#"{"schema":1,"name":"vm","time":"","host":"","program":"","consistency":"unknown","disks":[]}"#;
        let id = session.commit(&serde_json::from_str::<Manifest>(text).unwrap()).unwrap();
        let snapshot = repository.committed(id).unwrap().unwrap().unwrap();
        let lease = repository.lease_for("serve", &snapshot, Duration::from_millis(5)).unwrap();
        let first = repository.protocol().open_sessions().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(repository.leased_snapshots().unwrap(), [id]);
        assert_ne!(repository.protocol().open_sessions().unwrap(), first);
        drop(lease);
        assert_eq!(repository.protocol().open_sessions().unwrap(), []);
    }
}
