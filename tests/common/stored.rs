//! Backups and prunes by the library, without a command line.
#![allow(dead_code, reason = "every test takes what it needs")]

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tintype::engine::NamedDisk;
use tintype::engine::backup::{BackupDisk, BackupOptions, backup};
use tintype::engine::convert::Input;
use tintype::engine::salvage::Tolerance;
use tintype::error::Result;
use tintype::progress::Progress;
use tintype::repository::Repository;
use tintype::repository::prune::{Patience, PruneOptions, Pruned, prune};
use tintype_formats::BlockSource;
use tintype_tin::disk_identity::DiskIdentity;
use tintype_tin::id::Id;

/// A disk of this name, as the library backs it up.
pub fn disk_to_back_up<'a>(name: &str, disk: &'a dyn BlockSource) -> BackupDisk<'a> {
    BackupDisk {
        name: name.to_owned(),
        input: Input::Disk(NamedDisk { disk, path: Path::new("disk") }),
        path: "disk".to_owned(),
        format: "raw".to_owned(),
        is_declared: true,
        sector_bytes: (512, 512),
        identity: DiskIdentity::default(),
        is_device: false,
        unreadable: Vec::new(),
        earlier: None,
    }
}

/// How tests back up: a snapshot of this name, by this host and so many workers.
pub fn backup_options(name: &str, host: &str, workers: usize) -> BackupOptions {
    BackupOptions {
        name: name.to_owned(),
        host: host.to_owned(),
        tags: BTreeMap::new(),
        level: Some(1),
        consistency: "unknown".to_owned(),
        workers,
        rate_limit: None,
        dry_run: false,
        tolerance: Tolerance::NONE,
        allow_empty: false,
    }
}

/// Backs a disk up as a snapshot of this name, by this host and so many workers.
pub fn back_up(
    repository: &Arc<Repository>,
    name: &str,
    host: &str,
    disk: &dyn BlockSource,
    workers: usize,
) -> Result<Id> {
    let mut disks = [disk_to_back_up("disk", disk)];
    let done = backup(repository, &mut disks, &backup_options(name, host, workers), &Progress::new())?;
    Ok(done.snapshot.expect("a snapshot"))
}

/// Deletes all that is not used; fences what began so long ago, and waits so long for the rest.
pub fn prune_all(repository: &Arc<Repository>, fence_after: Duration, wait: Duration) -> Result<Pruned> {
    let patience = Patience { wait, fence_after, lease_life: fence_after };
    let options = PruneOptions { max_unused_permille: 0, patience, dry_run: false, without: HashSet::new() };
    prune(repository, &options, &Progress::new())
}
