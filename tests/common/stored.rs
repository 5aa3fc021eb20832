//! Backups and prunes by the library, without a command line.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tintype::engine::backup::{BackupDisk, BackupOptions, backup};
use tintype::engine::convert::Input;
use tintype::engine::salvage::Tolerance;
use tintype::engine::{NamedDisk, Progress};
use tintype::error::Result;
use tintype::repository::Repository;
use tintype::repository::prune::{Patience, PruneOptions, Pruned, prune};
use tintype_formats::BlockSource;
use tintype_formats::tin::disk_identity::DiskIdentity;
use tintype_formats::tin::id::Id;

/// Backs a disk up as a snapshot of this name, by this host and so many workers.
pub fn back_up(
    repository: &Arc<Repository>,
    name: &str,
    host: &str,
    disk: &dyn BlockSource,
    workers: usize,
) -> Result<Id> {
    let input = Input::Disk(NamedDisk { disk, path: Path::new("disk") });
    let (path, format, identity) = ("disk".to_owned(), "raw".to_owned(), DiskIdentity::default());
    let disk = BackupDisk {
        name: "disk".to_owned(),
        input,
        path,
        format,
        is_declared: true,
        sector_bytes: (512, 512),
        identity,
        is_device: false,
    };
    let mut disks = [disk];
    let options = BackupOptions {
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
    };
    let done = backup(repository, &mut disks, &options, &Progress::new())?;
    Ok(done.snapshot.expect("a snapshot"))
}

/// Deletes all that is not used; fences what began so long ago, and waits so long for the rest.
pub fn prune_all(repository: &Arc<Repository>, fence_after: Duration, wait: Duration) -> Result<Pruned> {
    let patience = Patience { wait, fence_after, lease_life: fence_after };
    let options = PruneOptions { max_unused_permille: 0, patience, dry_run: false, without: HashSet::new() };
    prune(repository, &options, &Progress::new())
}
