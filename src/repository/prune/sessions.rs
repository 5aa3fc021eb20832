//! P5: waits for the sessions that were open when an epoch was condemned, or fences them.
//!
//! Clocks decide when to try, never what is safe: who was fenced begins again.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tintype_tin::id::Id;

use crate::error::Result;
use crate::progress::Progress;
use crate::repository::Repository;
use crate::repository::protocol::{Begun, End};

/// How long to wait between two looks.
const PAUSES: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(250), Duration::from_secs(1)];

/// How patient a prune is.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long to wait for sessions that began not long ago.
    pub wait: Duration,
    /// A session that began longer ago than this, as far as it says, is not waited for.
    pub fence_after: Duration,
    /// A lease that is older than this is that of a reader who died.
    pub lease_life: Duration,
}

/// What became of the sessions.
#[derive(Debug, Default)]
pub struct Waited {
    /// Those that were fenced.
    pub fenced: Vec<Id>,
    /// Those that go on.
    pub open: Vec<Id>,
}

/// Waits for every open session. Later ones need no waiting for: they do not build on what is condemned. Nor do leases, which
/// commit nothing: what they name is marked. Nor do those whose process has died on this computer. Nor do those whose manifest
/// is whole: it counts as visible from now on, and its end may be lost and never come.
pub fn wait(repository: &Repository, patience: Patience, progress: &Progress) -> Result<Waited> {
    let protocol = repository.protocol();
    let mut fenced = Vec::new();
    let mut waiting = Vec::new();
    let open = protocol.open_sessions()?;
    let mut manifests = if open.is_empty() { HashSet::new() } else { whole_manifests(repository)? };
    for session in open {
        let begun = protocol.session_begun(session)?;
        if is_whole(session, &begun, &manifests) {
            continue;
        }
        let is_lease = !begun.snapshots.is_empty();
        if is_old(begun.time, if is_lease { patience.lease_life } else { patience.fence_after }) {
            fenced.extend(fence(repository, session)?.then_some(session));
        } else if !is_lease {
            waiting.push((session, begun));
        }
    }
    let began = Instant::now();
    let mut pauses = PAUSES.into_iter();
    let mut pause = Duration::ZERO;
    loop {
        let mut open = Vec::new();
        for (session, begun) in waiting {
            if is_whole(session, &begun, &manifests) {
                continue;
            }
            if begun.process.as_ref().is_some_and(|process| process.has_died(repository.ring().repository())) {
                fenced.extend(fence(repository, session)?.then_some(session));
            } else if !protocol.has_ended(session)? {
                open.push((session, begun));
            }
        }
        if open.is_empty() || began.elapsed() >= patience.wait {
            return Ok(Waited { fenced, open: open.into_iter().map(|(session, _)| session).collect() });
        }
        waiting = open;
        manifests = whole_manifests(repository)?;
        progress.check_cancelled()?;
        pause = pauses.next().unwrap_or(pause);
        std::thread::sleep(pause.min(patience.wait.saturating_sub(began.elapsed())));
    }
}

/// The sessions of whole manifests without an end, and who signed them. Forgotten ones are none.
fn whole_manifests(repository: &Repository) -> Result<HashSet<(Id, [u8; 32])>> {
    let uncommitted = repository.lineup(&|_| false)?.uncommitted;
    Ok(uncommitted.into_iter().map(|snapshot| (snapshot.session, snapshot.signer.signing)).collect())
}

/// True if the session's own manifest is whole. Another's hand could name a session whose writer is still at work.
fn is_whole(session: Id, begun: &Begun, manifests: &HashSet<(Id, [u8; 32])>) -> bool {
    begun.signer.is_some_and(|signer| manifests.contains(&(session, signer)))
}

/// Whether a session began so long ago, or says something that cannot be true.
fn is_old(began: Option<Timestamp>, fence_after: Duration) -> bool {
    let Some(began) = began else { return true };
    crate::repository::time::clock().duration_since(began).unsigned_abs() >= fence_after
}

/// Fences a session; false if it had ended by itself.
fn fence(repository: &Repository, session: Id) -> Result<bool> {
    match repository.protocol().end_session(session, End::Fenced) {
        Ok(end) => Ok(end == End::Fenced),
        // An end that does not count is an end: nobody can commit any more.
        Err(_) if repository.protocol().has_ended(session)? => Ok(false),
        Err(cause) => Err(cause),
    }
}
