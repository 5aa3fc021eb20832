//! Keeps the map of a run in a file, so that another run can go on from there.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tintype_formats::HostFileMut;
use tintype_formats::locks::Unpoisoned as _;

use super::area_map::AreaMap;
use super::map_file::{self, About};
use crate::error::{Error, Result};

/// How often the map is written.
const INTERVAL: Duration = Duration::from_secs(30);

/// A map file that follows a run.
pub struct Journal {
    path: PathBuf,
    about: About,
    /// The target: what the map says of it is durable first.
    target: Arc<dyn HostFileMut>,
    written_at: Mutex<Instant>,
}

impl Journal {
    /// A map of `about`, in the file `path`, of bytes that are stored in `target`.
    pub fn new(path: PathBuf, about: About, target: Arc<dyn HostFileMut>) -> Self {
        Journal { path, about, target, written_at: Mutex::new(Instant::now()) }
    }

    /// True if it is time to write the map; false for others from then on.
    pub fn is_due(&self) -> bool {
        let mut written_at = self.written_at.lock().unpoisoned();
        let is_due = written_at.elapsed() >= INTERVAL;
        if is_due {
            *written_at = Instant::now();
        }
        is_due
    }

    /// Writes the map, after all that it calls finished is durable.
    pub fn write(&self, map: &AreaMap) -> Result<()> {
        self.target.sync_data().map_err(|cause| Error::io("make durable what the map says", cause))?;
        map_file::write(&self.path, map, &self.about)
    }
}
