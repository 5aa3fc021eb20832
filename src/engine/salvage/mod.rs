//! Goes on past what cannot be read: everything else first, then the edges of what failed, then its single sectors.
//!
//! ```text
//!   first pass      all workers, large reads; a read that fails is set aside, and nothing is retried   ? -> + or *
//!   ── what was read is durable ──
//!   edges           one worker, sector by sector from both sides, up to the first that fails           * -> + - /
//!   single sectors  one worker, what is left between the edges                                         / -> + or -
//!   more passes     one worker, the sectors that failed                                                - -> + or -
//! ```
//!
//! A drive takes seconds to give a bad sector up, and microseconds to read a good one from its own cache. So each bad sector
//! is asked for once alone, and once as a part of the large read that failed. What lies encoded in an image (a compressed
//! cluster, a chunk) fails as a whole; it is halved instead.
//!
//! A source that is gone fails everywhere. After an error, a block that was readable is read again: if that fails too, the
//! run ends.

mod amend;
mod area_map;
mod journal;
pub mod map_file;
mod retry;
mod samples;
mod set_aside;
mod verify;
mod witness;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use amend::{Spool, amend};
pub use area_map::{AreaMap, State, joined};
pub use journal::Journal;
pub use retry::{Retry, RetryOptions};
pub use samples::first_difference;
pub use set_aside::SetAside;
pub use verify::{Masked, RescuedSum};
pub use witness::{Witness, check_length, is_lost};

/// How long a backup that does not salvage tries again what failed.
const RETRY_TIME: Duration = Duration::from_secs(10 * 60);

/// The passes that are made if nothing else is said: large reads, edges, single sectors.
pub const DEFAULT_PASSES: u32 = 3;

/// How much of a source may be unreadable, and how hard is tried.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// Take what can be read of any source, whatever is missing.
    pub salvage: bool,
    /// Otherwise: how many bytes of a device may be unreadable.
    pub max_unreadable: u64,
    /// Number of passes (see [`RetryOptions::passes`]).
    pub passes: u32,
    /// How long to try again what failed.
    pub time: Option<Duration>,
}

impl Tolerance {
    /// Everything must be readable.
    pub const NONE: Tolerance = Tolerance { salvage: false, max_unreadable: 0, passes: 1, time: None };

    /// Take what can be read.
    pub const SALVAGE: Tolerance = Tolerance { salvage: true, max_unreadable: 0, passes: DEFAULT_PASSES, time: None };

    /// True if reads of a source may fail.
    pub fn allows(&self, is_device: bool) -> bool {
        self.salvage || (is_device && self.max_unreadable > 0)
    }

    /// Most bytes that may be unreadable; none if there is no bound.
    pub fn bound(&self) -> Option<u64> {
        (!self.salvage).then_some(self.max_unreadable)
    }

    /// How to try again what failed, from now on.
    pub fn retry(&self) -> RetryOptions {
        let time = self.time.or((!self.salvage).then_some(RETRY_TIME));
        let deadline = time.and_then(|time| Instant::now().checked_add(time));
        RetryOptions { passes: self.passes, deadline, max_unreadable: self.bound() }
    }
}

/// A map that is kept of a run.
pub struct SalvageMap {
    /// The file.
    pub path: PathBuf,
    /// What it is of.
    pub about: map_file::About,
    /// The map of an earlier run, which is continued.
    pub continued: Option<AreaMap>,
}
