//! State shared by the threads of a server.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use tintype_formats::locks::Unpoisoned as _;

use super::budget::Budget;
use super::export::Exports;
use super::places::Places;
use super::settings::{Counters, Event, Limits, Settings};
use crate::channel::Socket;

/// State shared by the threads of a server.
pub struct Shared {
    pub(super) exports: Exports,
    pub(super) settings: Settings,
    pub(super) budget: Budget,
    pub(super) stopping: AtomicBool,
    /// Closed to wake those who listen.
    pub(super) stop_signal: Mutex<Option<OwnedFd>>,
    pub(super) state: Mutex<State>,
    /// A connection has gone, or the server is to stop.
    pub(super) changed: Condvar,
    pub(super) read_bytes: AtomicU64,
    pub(super) written_bytes: AtomicU64,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) open: Places,
    pub(super) clients: u64,
}

impl Shared {
    pub(super) fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(super) fn tell(&self, event: Event) {
        if let Some(observer) = &self.settings.observer {
            observer(event);
        }
    }

    pub(super) fn count_read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_written(&self, bytes: u64) {
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn counters(&self) -> Counters {
        let state = self.state.lock().unpoisoned();
        Counters {
            connections: state.open.count(),
            clients: state.clients,
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
        }
    }

    pub(super) fn begin_to_stop(&self) {
        // Under the lock, so that no one who has just looked goes to sleep.
        let state = self.state.lock().unpoisoned();
        self.stopping.store(true, Ordering::Relaxed);
        self.stop_signal.lock().unpoisoned().take();
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn for_each_open(&self, act: fn(&Socket)) {
        self.state.lock().unpoisoned().open.sockets().for_each(act);
    }

    pub(super) fn wait_until_empty(&self, limit: Duration) -> bool {
        let waiting =
            self.changed.wait_timeout_while(self.state.lock().unpoisoned(), limit, |state| !state.open.is_empty());
        waiting.unpoisoned().0.open.is_empty()
    }
}
