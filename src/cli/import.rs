//! `tintype import`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args as ClapArgs;
use serde::Serialize;
use tintype_formats::OpenFile;
use tintype_formats::tin::id::Id;
use tintype_formats::tin::manifest::Manifest;
use tintype_formats::tin::open::TinFile;

use super::failure::Failure;
use super::repository_args::RepositoryArgs;
use super::snapshots::unreadable_text;
use super::source_args::ThreadArgs;
use super::{Global, Outcome, job, output, units};
use crate::engine::backup::{BackupDisk, BackupOptions, backup_as};
use crate::engine::convert::Input;
use crate::engine::salvage::Tolerance;
use crate::engine::{NamedDisk, Progress};
use crate::error::{OnPath as _, Result};
use crate::repository::Repository;
use crate::repository::disk::SnapshotDisk;
use crate::sources;

/// Zstandard level of disks that are stored anew, as that of backup.
const LEVEL: i32 = 3;

/// Store the snapshot in a .tin file in a repository
///
/// A file that was exported from the same repository brings its packs as they are. Any other one is read, and its disks are stored
/// anew: only what the repository does not have.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The .tin file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// File whose first line is the password of the .tin file, if it is not that of the repository
    #[arg(long, value_name = "FILE")]
    file_password_file: Option<PathBuf>,
    #[command(flatten)]
    repository: RepositoryArgs,
    #[command(flatten)]
    threads: ThreadArgs,
}

#[derive(Serialize)]
struct Report {
    r#type: &'static str,
    snapshot: Option<Id>,
    file: String,
    copied: bool,
    stored_bytes: u64,
    elapsed_s: f64,
}

/// What was stored.
struct Imported {
    snapshot: Option<Id>,
    /// Whether packs were taken as they are.
    copied: bool,
    stored_bytes: u64,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let began = Instant::now();
    let repository = args.repository.open()?;
    repository.require_adds("import")?;
    let mut file = sources::open_host_file(&args.file)?;
    file.secrets = match &args.file_password_file {
        Some(path) => args.repository.secrets.with_password_file(path).for_images(),
        None => args.repository.secrets.for_images(),
    };
    let own = TinFile::open_with(&file, repository.ring()).on_path(&args.file)?;
    let imported = match own {
        Some(own) => Source { file: own, is_own: true },
        None => Source { file: open_foreign(args, &file)?, is_own: false },
    };
    let done = job::run(global, "importing", |progress| match &imported {
        Source { file, is_own: true } => import_own(args, &repository, file, progress),
        Source { file, is_own: false } => store_anew(args, &repository, file, progress),
    })?;
    report(args, done, began, global)?;
    let manifest = &imported.file.manifest;
    for disk in manifest.disks.iter().filter(|disk| disk.is_incomplete()) {
        output::warn(&format!("the snapshot is incomplete: {}", unreadable_text(disk)), global);
    }
    Ok(if manifest.is_incomplete() { Outcome::Incomplete } else { Outcome::Done })
}

/// The file, and whether its packs are of this repository.
struct Source {
    file: TinFile,
    is_own: bool,
}

fn open_foreign(args: &Args, file: &OpenFile) -> Result<TinFile> {
    TinFile::load(file).on_path(&args.file)
}

/// Takes the packs as they are, if they may still be used.
fn import_own(args: &Args, repository: &Arc<Repository>, file: &TinFile, progress: &Progress) -> Result<Imported> {
    let watch = |done_bytes, total_bytes| {
        progress.begin(total_bytes);
        progress.reach(done_bytes);
        progress.check_cancelled()
    };
    match repository.import(file, &watch)? {
        Some((snapshot, done)) => {
            Ok(Imported { snapshot: Some(snapshot), copied: true, stored_bytes: done.pack_bytes })
        }
        None => store_anew(args, repository, file, progress),
    }
}

/// Reads the disks, and stores them as a backup does. What the snapshot says of itself stays.
fn store_anew(args: &Args, repository: &Arc<Repository>, file: &TinFile, progress: &Progress) -> Result<Imported> {
    let Manifest { name, host, tags, consistency, disks: records, .. } = &file.manifest;
    let opened: Vec<_> = records.iter().map(|record| SnapshotDisk::of(file.mapped(record), record)).collect();
    let mut disks = Vec::new();
    for (record, disk) in records.iter().zip(&opened) {
        disks.push(BackupDisk {
            name: record.name.clone(),
            input: Input::Disk(NamedDisk { disk, path: &args.file }),
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
        workers: args.threads.workers(),
        rate_limit: None,
        dry_run: false,
        tolerance: Tolerance::NONE,
        allow_empty: true,
    };
    let done = backup_as(repository, &mut disks, &options, &|manifest| take_over(&file.manifest, manifest), progress)?;
    let stored_bytes = done.disks.iter().map(|disk| disk.statistics.stored_bytes).sum();
    Ok(Imported { snapshot: done.snapshot, copied: false, stored_bytes })
}

/// What only the first backup can know: when it was, what the machine was, and what could not be read then.
fn take_over(old: &Manifest, new: &mut Manifest) {
    new.time.clone_from(&old.time);
    new.machine.clone_from(&old.machine);
    for (disk, before) in new.disks.iter_mut().zip(&old.disks) {
        disk.unreadable.extend(&before.unreadable);
        disk.unreadable.sort_unstable();
    }
}

fn report(args: &Args, done: Imported, began: Instant, global: Global) -> Result<(), Failure> {
    let elapsed_s = began.elapsed().as_secs_f64();
    let Imported { snapshot, copied, stored_bytes } = done;
    let file = args.file.display().to_string();
    if global.json {
        let report = Report { r#type: "import", snapshot, file, copied, stored_bytes, elapsed_s };
        output::reported("the snapshot is stored", output::print_json_line(&report), global);
    } else {
        let id = snapshot.map(|id| id.to_string()).unwrap_or_default();
        let (how, size) = (if copied { "packs copied" } else { "stored anew" }, units::size(stored_bytes));
        output::note(&format!("snapshot {id}: {size} stored ({how}), in {elapsed_s:.1} s"), global);
    }
    Ok(())
}
