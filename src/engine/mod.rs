//! The operations, each in a file of its own, over one copying pipeline. Prints nothing and knows no command line.
//!
//! An operation lives here if disks take part in it; one among the objects of a repository alone (prune, forget, keys) lives in
//! [`repository`](crate::repository).
//!
//! ```text
//!   plan ─────────────► load (all workers) ──► zero scan ──► encode ──► place (in order) ──► write (all workers)
//!   what to read, in    the guest's bytes                                  │
//!   the guest's order                                                      │
//!   or the storage's                                                       │
//!                                                           digest (in order, or merged in order)
//! ```

pub mod backup;
pub mod compare;
pub mod convert;
mod copy;
mod data_budget;
pub mod delta;
pub mod diff;
pub mod digest;
pub mod disk_source;
pub mod export;
pub mod fit;
pub mod import;
pub mod layers;
pub mod map;
mod ordered_window;
mod pipeline;
mod plan;
mod rate_limit;
pub mod repair;
mod rescue;
pub mod restore;
pub mod salvage;
mod storage_order;
pub mod verify;
pub mod verify_boot;
pub mod write_disk;
mod zero_scan;

use std::path::Path;

use tintype_formats::BlockSource;

/// A disk to work on, and what its user calls it.
#[derive(Clone, Copy)]
pub struct NamedDisk<'a> {
    /// The disk.
    pub disk: &'a dyn BlockSource,
    /// The path that failures to read it name.
    pub path: &'a Path,
}
