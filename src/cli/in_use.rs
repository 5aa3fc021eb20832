//! Sources that something else uses: refused, taken as they are, or only warned of.

use std::path::Path;

use clap::Args;

use super::address::Address;
use super::failure::Failure;
use super::{Global, output};
use crate::error::{Error, Kind};
use crate::sources::{User, Watch};

/// What a torn copy is recorded as.
pub const LIVE: &str = "live";

/// Whether disks in use are taken.
#[derive(Debug, Clone, Copy, Args)]
pub struct LiveArgs {
    /// Read a disk although it is mounted or otherwise in use: the copy may be torn
    #[arg(long, env = "TINTYPE_LIVE", value_parser = clap::builder::BoolishValueParser::new())]
    pub live: bool,
}

/// A source that may be in use.
pub struct Source {
    name: String,
    watch: Watch,
    was_live: bool,
}

impl LiveArgs {
    /// Refuses a source in use, unless it is to be taken as it is.
    pub fn admit(self, address: &Address, watch: Watch, global: Global) -> Result<Source, Failure> {
        self.admit_named(address.to_string(), address.shown(), watch, global)
    }

    /// The same, of the file at `path`.
    pub fn admit_named(self, name: String, path: &Path, watch: Watch, global: Global) -> Result<Source, Failure> {
        let writers = watch.writers();
        if !writers.is_empty() && !self.live {
            let message = format!("the disk is in use: {}", listed(&writers));
            let error = Error::new(Kind::ImageInUse, message).with_path(path);
            return Err(Failure::from(error).hinted(
                "unmount it or stop what uses it, or take a snapshot (of LVM, of the hypervisor) and read that; --live \
                 reads it as it is, and the copy may be torn",
            ));
        }
        let was_live = !writers.is_empty() || watch.is_shared_with_machine();
        if was_live {
            warn(&name, &writers, global);
        }
        Ok(Source { name, watch, was_live })
    }

    /// Asks all sources again, at the end of the run.
    pub fn ask_again(self, sources: &[Source], global: Global) -> Found {
        let mut found = Found { is_live: false, is_surprise: false };
        for source in sources {
            found.is_live |= source.was_live;
            let changes = if source.was_live { Vec::new() } else { source.watch.changes() };
            if !changes.is_empty() {
                let (name, what) = (&source.name, changes.join("; "));
                let text = format!("{name}: the disk changed while it was read, the copy may be torn: {what}");
                output::warn(&text, global);
                found.is_live = true;
                found.is_surprise |= !self.live;
            }
        }
        found
    }
}

/// What was found at the end.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// True if a source was in use, or was changed.
    pub is_live: bool,
    /// True if that was found only at the end, and not asked for.
    pub is_surprise: bool,
}

impl Source {
    /// True if it was in use when it was opened.
    pub fn was_live(&self) -> bool {
        self.was_live
    }

    /// Warns if what is written during the run lies on the disk that is read.
    pub fn warn_if_it_holds(&self, path: &Path, what: &str, global: Global) {
        if self.watch.holds(path) {
            let (disk, path) = (&self.name, path.display());
            output::warn(&format!("{what} {path} lies on {disk}, the disk that is read, and changes it"), global);
        }
    }
}

/// Warns if a disk is in use that a command only looks at.
pub fn warn_if_in_use(address: &Address, watch: &Watch, global: Global) {
    let writers = watch.writers();
    if !writers.is_empty() || watch.is_shared_with_machine() {
        warn(&address.to_string(), &writers, global);
    }
}

fn warn(name: &str, writers: &[User], global: Global) {
    let users = if writers.is_empty() { "a running machine has it open".to_owned() } else { listed(writers) };
    let text = format!("{name}: the disk is in use, and what is read may be torn: {users}");
    output::warn(&text, global);
}

fn listed(users: &[User]) -> String {
    users.iter().map(User::to_string).collect::<Vec<_>>().join("; ")
}
