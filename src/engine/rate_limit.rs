//! Keeps the rate of reading below a bound.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tintype_formats::locks::Unpoisoned as _;

use crate::error::Result;
use crate::progress::Progress;

/// How long a worker may sleep without looking whether the job was stopped.
const STEP: Duration = Duration::from_millis(100);

/// A bound on bytes per second, over all workers.
pub struct RateLimit {
    bytes_per_s: u64,
    /// When the bytes granted so far may have been used up.
    used_up_at: Mutex<Instant>,
}

impl RateLimit {
    /// A limit that begins now.
    pub fn new(bytes_per_s: u64) -> Self {
        RateLimit { bytes_per_s: bytes_per_s.max(1), used_up_at: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` more may be read, or the job is to stop.
    pub fn take(&self, bytes: u64, progress: &Progress) -> Result<()> {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
        let now = Instant::now();
        let wait_until = {
            let mut used_up_at = self.used_up_at.lock().unpoisoned();
            let begin = (*used_up_at).max(now);
            *used_up_at = begin + cost;
            *used_up_at
        };
        while let Some(left) = wait_until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            progress.check_cancelled()?;
            std::thread::sleep(left.min(STEP));
        }
        Ok(())
    }
}
