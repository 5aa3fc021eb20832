//! Progress and cancellation of long jobs: the job updates counters, and a front end reads them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tintype_formats::locks::Unpoisoned as _;

use crate::error::{Error, Result};

/// The state of a running job. The job never waits for its observers.
#[derive(Debug, Default)]
pub struct Progress {
    total_bytes: AtomicU64,
    done_bytes: AtomicU64,
    cancelled: AtomicBool,
    now: Mutex<Now>,
    notes: Mutex<Vec<String>>,
}

/// The current phase of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Now {
    /// The part of the job.
    pub phase: &'static str,
    /// The disk that it is about, where there are several.
    pub disk: Option<String>,
}

impl Progress {
    /// Nothing done yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the current phase: "converting", "syncing", "verifying".
    pub fn enter(&self, phase: &'static str) {
        tracing::info!(phase, "enter");
        self.now.lock().unpoisoned().phase = phase;
    }

    /// Sets the disk that the next phases are about, where there are several.
    pub fn enter_disk(&self, name: &str) {
        tracing::info!(name, "enter disk");
        self.now.lock().unpoisoned().disk = Some(name.to_owned());
    }

    /// Returns the current phase.
    pub fn now(&self) -> Now {
        self.now.lock().unpoisoned().clone()
    }

    /// Counts anew: so many guest bytes are to be passed.
    pub fn begin(&self, total_bytes: u64) {
        tracing::info!(total_bytes, "begin");
        self.done_bytes.store(0, Relaxed);
        self.total_bytes.store(total_bytes, Relaxed);
    }

    /// Notes that so much of the guest's disk has been passed, holes included.
    pub fn reach(&self, passed_bytes: u64) {
        self.done_bytes.fetch_max(passed_bytes, Relaxed);
    }

    /// Guest bytes passed, of how many.
    pub fn position(&self) -> (u64, u64) {
        (self.done_bytes.load(Relaxed), self.total_bytes.load(Relaxed))
    }

    /// Asks the job to stop soon.
    pub fn cancel(&self) {
        tracing::info!("asked to stop");
        self.cancelled.store(true, Relaxed);
    }

    /// Whether the job was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    /// Fails if the job was asked to stop.
    pub fn check_cancelled(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// Leaves a word for the user that is no failure.
    pub fn note(&self, text: impl Into<String>) {
        let text = text.into();
        tracing::warn!("{text}");
        self.notes.lock().unpoisoned().push(text);
    }

    /// Takes the words left so far.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.lock().unpoisoned())
    }
}
