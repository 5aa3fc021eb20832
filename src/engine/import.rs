//! Stores the snapshot in a `.tin` file in a repository.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tintype_formats::OpenFile;
use tintype_formats::tin::open::TinFile;
use tintype_tin::id::Id;
use tintype_tin::manifest::Manifest;

use super::NamedDisk;
use super::backup::{BackupDisk, BackupOptions, backup_as};
use super::convert::Input;
use super::salvage::Tolerance;
use crate::error::{OnPath as _, Result};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::repository::disk::SnapshotDisk;

/// Zstandard level of disks that are stored anew, as that of backup.
const LEVEL: i32 = 3;

/// A `.tin` file to import.
pub struct ImportFile {
    file: TinFile,
    path: PathBuf,
    /// True if its packs belong to the repository.
    is_own: bool,
}

/// What was stored.
#[derive(Debug)]
pub struct Imported {
    /// The new snapshot.
    pub snapshot: Option<Id>,
    /// True if packs were copied as they are.
    pub copied: bool,
    /// Number of bytes stored.
    pub stored_bytes: u64,
}

impl ImportFile {
    /// Opens a file with the keys of the repository, if it is one of its own; else with the secrets in `file`.
    pub fn open(file: &OpenFile, path: &Path, repository: &Repository) -> Result<ImportFile> {
        let own = TinFile::open_with(file, repository.ring()).on_path(path)?;
        let (is_own, path) = (own.is_some(), path.to_owned());
        let file = own.map_or_else(|| TinFile::load(file).on_path(&path), Ok)?;
        Ok(ImportFile { file, path, is_own })
    }

    /// Returns the manifest of the snapshot.
    pub fn manifest(&self) -> &Manifest {
        &self.file.manifest
    }
}

/// Stores the snapshot: its packs as they are, where they are of this repository and may still be used, else its disks as a backup
/// does.
pub fn import(
    from: &ImportFile,
    repository: &Arc<Repository>,
    workers: usize,
    progress: &Progress,
) -> Result<Imported> {
    if from.is_own
        && let Some((snapshot, done)) = repository.import(&from.file, progress)?
    {
        return Ok(Imported { snapshot: Some(snapshot), copied: true, stored_bytes: done.pack_bytes });
    }
    store_anew(from, repository, workers, progress)
}

/// Reads the disks, and stores them as a backup does. What the snapshot says of itself stays.
fn store_anew(
    from: &ImportFile,
    repository: &Arc<Repository>,
    workers: usize,
    progress: &Progress,
) -> Result<Imported> {
    let ImportFile { file, path, .. } = from;
    let Manifest { name, host, tags, consistency, disks: records, .. } = &file.manifest;
    let opened: Vec<_> = records.iter().map(|record| SnapshotDisk::of(file.mapped(record), record)).collect();
    let mut disks = Vec::new();
    for (record, disk) in records.iter().zip(&opened) {
        disks.push(BackupDisk {
            name: record.name.clone(),
            input: Input::Disk(NamedDisk { disk, path }),
            path: record.source.path.clone(),
            format: record.source.format.clone(),
            is_declared: true,
            sector_bytes: (record.logical_sector_bytes, record.physical_sector_bytes),
            identity: record.identity.clone(),
            is_device: false,
            unreadable: Vec::new(),
            earlier: None,
        });
    }
    let options = BackupOptions {
        name: name.clone(),
        host: host.clone(),
        tags: tags.clone(),
        level: Some(LEVEL),
        consistency: consistency.clone(),
        workers,
        rate_limit: None,
        dry_run: false,
        tolerance: Tolerance::NONE,
        allow_empty: true,
    };
    let done = backup_as(repository, &mut disks, &options, &|manifest| take_over(&file.manifest, manifest), progress)?;
    let stored_bytes = done.disks.iter().map(|disk| disk.statistics.stored_bytes).sum();
    Ok(Imported { snapshot: done.snapshot, copied: false, stored_bytes })
}

/// Copies the facts that only the first backup can know: its time, its machine, and the ranges that it could not read.
fn take_over(old: &Manifest, new: &mut Manifest) {
    new.time.clone_from(&old.time);
    new.machine.clone_from(&old.machine);
    for (disk, before) in new.disks.iter_mut().zip(&old.disks) {
        disk.unreadable.extend(&before.unreadable);
        disk.unreadable.sort_unstable();
    }
}
