//! Sources that something else uses: refused, taken as they are, or only warned of.

use std::path::Path;

use super::Listener;
use super::address::Address;
use crate::error::{Error, Kind, Result};
use crate::sources::{User, Watch};

/// What a torn copy is recorded as.
pub const LIVE: &str = "live";

/// A source that may be in use.
pub struct Admitted {
    name: String,
    watch: Watch,
    was_live: bool,
}

/// Refuses a source in use, unless it is to be taken as it is; `name` and `path` are what is said of it.
pub fn admit(name: String, path: &Path, watch: Watch, live: bool, listener: &dyn Listener) -> Result<Admitted> {
    let writers = watch.writers();
    if !writers.is_empty() && !live {
        let message = format!("the disk is in use: {}", listed(&writers));
        return Err(Error::new(Kind::DiskInUse, message).with_path(path));
    }
    let was_live = !writers.is_empty() || watch.is_shared_with_machine();
    if was_live {
        warn(&name, &writers, listener);
    }
    Ok(Admitted { name, watch, was_live })
}

/// Asks all sources again, at the end of the run; `live` as it was when they were admitted.
pub fn ask_again(sources: &[Admitted], live: bool, listener: &dyn Listener) -> Found {
    let mut found = Found { is_live: false, is_surprise: false };
    for source in sources {
        found.is_live |= source.was_live;
        let changes = if source.was_live { Vec::new() } else { source.watch.changes() };
        if !changes.is_empty() {
            let (name, what) = (&source.name, changes.join("; "));
            listener.warn(&format!("{name}: the disk changed while it was read, the copy may be torn: {what}"));
            found.is_live = true;
            found.is_surprise |= !live;
        }
    }
    found
}

/// What was found at the end.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// True if a source was in use, or was changed.
    pub is_live: bool,
    /// True if that was found only at the end, and not asked for.
    pub is_surprise: bool,
}

impl Admitted {
    /// True if it was in use when it was opened.
    pub fn was_live(&self) -> bool {
        self.was_live
    }

    /// Warns if what is written during the run lies on the disk that is read.
    pub fn warn_if_it_holds(&self, path: &Path, what: &str, listener: &dyn Listener) {
        if self.watch.holds(path) {
            let (disk, path) = (&self.name, path.display());
            listener.warn(&format!("{what} {path} lies on {disk}, the disk that is read, and changes it"));
        }
    }
}

/// Warns if a disk is in use that is only looked at.
pub fn warn_if_in_use(address: &Address, watch: &Watch, listener: &dyn Listener) {
    let writers = watch.writers();
    if !writers.is_empty() || watch.is_shared_with_machine() {
        warn(&address.to_string(), &writers, listener);
    }
}

fn warn(name: &str, writers: &[User], listener: &dyn Listener) {
    let users = if writers.is_empty() { "a running machine has it open".to_owned() } else { listed(writers) };
    listener.warn(&format!("{name}: the disk is in use, and what is read may be torn: {users}"));
}

fn listed(users: &[User]) -> String {
    users.iter().map(User::to_string).collect::<Vec<_>>().join("; ")
}
