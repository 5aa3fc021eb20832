//! From what a user names to a disk, a snapshot or a repository: the same for every front end.
//!
//! It parses addresses, finds the repository and what opens it, and calls the floors below. Opening one file, device, export or
//! chain is for [`sources`](crate::sources). What a front end has to say of it comes in as an [`Opening`], [`Keys`] and a
//! [`Listener`].

mod address;
mod disk_names;
mod disks;
mod in_use;
mod repository;
mod snapshot_name;

use crate::repository::resolve::Chosen;
use tintype_tin::manifest::DiskRecord;

pub use address::{Address, REPOSITORY_VARIABLE};
pub use disk_names::{NamedAddress, disk_names, snapshot_name};
pub use disks::{Access, Opened, OpenedDisks, Opening};
pub use in_use::{Admitted, Found, LIVE, admit, ask_again, warn_if_in_use};
pub use repository::{Keys, open_repository, open_store, refuse_remote};
pub use snapshot_name::SnapshotName;

/// What to do where a snapshot has to be named.
const LIST_SNAPSHOTS: &str = "\"tintype snapshots\" lists what there is";

/// Who is told what is found on the way.
pub trait Listener {
    /// Tells what is worth knowing.
    fn note(&self, text: &str);

    /// Tells that something is not as it should be.
    fn warn(&self, text: &str);

    /// Tells which snapshot a name stood for.
    fn chose(&self, chosen: &Chosen);

    /// Tells that a stored disk has ranges that could not be read when it was backed up.
    fn misses(&self, record: &DiskRecord);
}
