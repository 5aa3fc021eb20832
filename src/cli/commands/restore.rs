//! `tintype restore`

use std::ops::Range;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use serde::Serialize;
use tintype_formats::{BlockSource, Format, Geometry, raw};
use tintype_tin::manifest::DiskRecord;
use tintype_volumes::partitions::Partition;

use crate::access::SnapshotName;
use crate::cli::choice::ChoiceArgs;
use crate::cli::escape::printable;
use crate::cli::failure::Failure;
use crate::cli::repository_args::RepositoryArgs;
use crate::cli::source_args::NbdArgs;
use crate::cli::target_args::{TargetArgs, Unreadable, shown_rate, shown_writing, warn, write};
use crate::cli::texts::unreadable_text;
use crate::cli::{Global, Outcome, job, output, units};
use crate::engine::delta::{DeltaOptions, rewrite};
use crate::engine::disk_source::{DiskSource, parts_within};
use crate::engine::fit::DiskSectors;
use crate::engine::restore::files_in;
use crate::engine::write_disk::{Writing, open_target};
use crate::error::{Error, Kind, OnPath as _};
use crate::jobs::{catch_signals, with_aftermath};
use crate::repository::Repository;
use crate::repository::disk::SnapshotDisk;
use crate::repository::snapshots::Snapshot;
use crate::sources::{Slice, partition_of};
use crate::targets::{Access, TargetOptions};

/// How many chunks are read at once at least: a store may be far away.
const MIN_WORKERS: usize = 16;

/// Restore the disks of a snapshot, to files of any format or to devices
///
/// Every chunk is proved by its hash when it is read. A file appears under its name when it is whole; a device is
/// written in place.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The snapshot: NAME (its newest), NAME@ID, NAME@2026-11-22 (the newest by the end of that day), NAME@2026-11-22T14:00,
    /// NAME@-7d, or an id
    #[arg(value_name = "SNAPSHOT")]
    snapshot: SnapshotName,
    /// Where to write it: a file or a device; a folder, for several disks, which get a file each
    #[arg(value_name = "TARGET")]
    target: PathBuf,
    /// Only this disk, by name or number
    #[arg(long, value_name = "DISK")]
    disk: Option<String>,
    /// Only this partition of the disk, by its number as Linux counts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    partition: Option<u32>,
    #[command(flatten)]
    to: TargetArgs,
    /// Compare with what the raw file or device holds, and write only what differs
    #[arg(long, conflicts_with_all = [
        "output_format", "profile", "subformat", "options", "salvage", "verify", "no_create", "target_is_zero", "extend_to",
    ])]
    delta: bool,
    #[command(flatten)]
    nbd: NbdArgs,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[command(flatten)]
    repository: RepositoryArgs,
}

/// What became of one disk.
#[derive(Default, Serialize)]
struct Report {
    disk: String,
    target: String,
    format: &'static str,
    size_bytes: u64,
    stored_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    zeroed_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_bytes: Option<u64>,
    verified: bool,
    unreadable: Vec<(u64, u64)>,
    /// The same for people.
    #[serde(skip)]
    what: String,
    #[serde(skip)]
    elapsed: Duration,
}

#[derive(Serialize)]
struct Event<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    report: &'a Report,
    elapsed_s: f64,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    if args.target == Path::new("-") {
        return Err(Failure::usage("a snapshot is restored to files and devices")
            .hinted("\"tintype convert REPO::SNAPSHOT -\" writes a disk to standard output"));
    }
    let repository = args.repository.open_of([&args.snapshot])?;
    repository.require_data("restore")?;
    let snapshot = args.choice.choose(&repository, args.snapshot.one()?, global)?;
    let mut complete = true;
    let mut restored = Vec::new();
    let targets = targets(args, &snapshot)?;
    for (record, path) in &targets {
        let name = (targets.len() > 1).then_some(record.name.as_str());
        let outcome = restore(args, &repository, (record, name), path, global);
        complete &= outcome.map_err(|failure| with_restored(failure, &restored))?;
        restored.push(path);
    }
    Ok(if complete { Outcome::Done } else { Outcome::Incomplete })
}

/// Fails if a file is in the way of any of several disks: before the first of them is restored.
fn check_all_are_new(args: &Args, paths: &[PathBuf]) -> Result<(), Failure> {
    let may_exist = args.to.force || args.to.no_create || args.delta;
    match paths.iter().find(|path| !may_exist && path.symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(path) => Err(Error::new(Kind::TargetExists, "it exists already").with_path(path).into()),
    }
}

/// Adds the disks that were restored before a failure to its hint: the set may be of two moments now.
fn with_restored(failure: Failure, restored: &[&PathBuf]) -> Failure {
    if restored.is_empty() {
        return failure;
    }
    let names: Vec<_> = restored.iter().map(|path| path.display().to_string()).collect();
    failure.hinted(format!("restored before it failed: {}; the other disks are not", names.join(", ")))
}

/// What goes where.
fn targets<'a>(args: &Args, snapshot: &'a Snapshot) -> Result<Vec<(&'a DiskRecord, PathBuf)>, Failure> {
    let disks = &snapshot.manifest.disks;
    let to_folder = args.target.is_dir();
    let files = |disks: &[DiskRecord]| -> Result<Vec<PathBuf>, Failure> {
        let format = if args.delta { &raw::FORMAT } else { args.to.create.format(Some(Path::new("disk.raw")))? };
        Ok(files_in(&args.target, disks, format))
    };
    if args.disk.is_some() || args.partition.is_some() || (disks.len() == 1 && !to_folder) {
        let record = snapshot.disk(args.disk.as_deref())?;
        let path = match to_folder {
            true => files(std::slice::from_ref(record))?.remove(0),
            false => args.target.clone(),
        };
        return Ok(vec![(record, path)]);
    }
    if !to_folder {
        if args.target.symlink_metadata().is_ok() {
            let names: Vec<_> = disks.iter().map(|disk| disk.name.escape_debug().to_string()).collect();
            let message = format!(
                "the snapshot has {} disks ({}), and the target is no folder; choose one with --disk",
                disks.len(),
                names.join(", ")
            );
            return Err(Error::new(Kind::Usage, message).with_path(&args.target).into());
        }
        let mut folder = std::fs::DirBuilder::new();
        folder
            .mode(0o700)
            .create(&args.target)
            .map_err(|cause| Error::io("make the folder", cause))
            .on_path(&args.target)?;
    }
    let paths = files(disks)?;
    check_all_are_new(args, &paths)?;
    Ok(disks.iter().zip(paths).collect())
}

fn format_of(args: &Args, path: &Path) -> Result<&'static Format, Failure> {
    if !args.delta {
        return args.to.format(path);
    }
    args.to.create.check(&raw::FORMAT)?;
    Ok(&raw::FORMAT)
}

/// A disk, or a part of one, and the path to restore it to.
struct Piece<'a> {
    /// The disk's name, where it is one of several.
    name: Option<&'a str>,
    part: Option<Partition>,
    /// Ranges that could not be read when it was backed up.
    missing: Vec<Range<u64>>,
    path: &'a Path,
}

/// Restores one disk, or a partition of it; false if something could not be read.
fn restore(
    args: &Args,
    repository: &Arc<Repository>,
    (record, name): (&DiskRecord, Option<&str>),
    path: &Path,
    global: Global,
) -> Result<bool, Failure> {
    if record.is_incomplete() {
        output::warn(&unreadable_text(record), global);
    }
    let disk = SnapshotDisk::open(repository, record)?;
    let part = args.partition.map(|number| partition_of(&disk, number)).transpose()?;
    let range = part.as_ref().map_or(0..record.size_bytes, |part| part.begin..part.begin + part.size_bytes);
    let missing = parts_within(&record.unreadable_ranges(), range);
    let piece = Piece { name, part, missing, path };
    let report = match args.delta {
        true => write_delta(args, repository, &disk, &piece, global)?,
        false => write_all(args, disk, &piece, global)?,
    };
    let report = Report { disk: record.name.clone(), ..report };
    output::reported("the disk is restored", say(&report, global), global);
    Ok(report.unreadable.is_empty())
}

fn write_all(args: &Args, disk: SnapshotDisk, piece: &Piece<'_>, global: Global) -> Result<Report, Failure> {
    let path = piece.path;
    let format = format_of(args, path)?;
    let disk: Box<dyn BlockSource> = match &piece.part {
        Some(part) => Box::new(Slice::new(disk, part.begin, Some(part.size_bytes))?),
        None => Box::new(disk),
    };
    let source = args.to.fit(DiskSource::of(disk), global)?;
    let writing = Writing {
        target: path,
        target_options: args.to.options(Access::PRIVATE, args.nbd.options()),
        source_path: Path::new("the repository"),
        sources: Vec::new(),
        unreadable: piece.missing.clone(),
        disk: piece.name,
        keep_sectors: args.to.keep_sectors,
        convert: args.to.convert_options(format, source.geometry(), workers(args))?,
    };
    let written = write(source, writing, "restoring", global)?;
    let unreadable = pairs(&written.converted.unreadable);
    Ok(Report {
        size_bytes: written.converted.size_bytes,
        stored_bytes: written.converted.stored_bytes,
        file_bytes: written.file_bytes,
        verified: written.converted.verified,
        unreadable,
        what: shown_writing(&written),
        elapsed: written.elapsed,
        ..Report::new(path, format)
    })
}

fn write_delta(
    args: &Args,
    repository: &Arc<Repository>,
    disk: &SnapshotDisk,
    piece: &Piece<'_>,
    global: Global,
) -> Result<Report, Failure> {
    let (began, path) = (Instant::now(), piece.path);
    let format = format_of(args, path)?;
    let geometry = disk.geometry();
    let range = piece.part.as_ref().map_or(0..geometry.size_bytes, |part| part.begin..part.begin + part.size_bytes);
    let geometry = Geometry { size_bytes: range.end - range.start, ..geometry };
    let options = TargetOptions { existing: true, ..args.to.options(Access::PRIVATE, args.nbd.options()) };
    let slice = Slice::new(disk, range.start, Some(geometry.size_bytes))?;
    let sectors = DiskSectors::of(&slice);
    let signals = catch_signals()?;
    let (target, caution) = open_target(path, geometry, sectors, &[], &options, args.to.keep_sectors)?;
    warn(caution, global);
    let options = DeltaOptions { workers: workers(args), rate_limit: args.to.rate_limit };
    let abandon = |error| with_aftermath(error, target.abandon());
    let done = job::run_and_abandon(global, "restoring", signals, &abandon, |progress| {
        piece.name.into_iter().for_each(|name| progress.enter_disk(name));
        rewrite(disk, repository.ring(), range, &target, options, progress)
    })?;
    let (differed, zeroed) = (units::size(done.written_bytes), units::size(done.zeroed_bytes));
    Ok(Report {
        size_bytes: done.compared_bytes,
        stored_bytes: done.written_bytes,
        zeroed_bytes: Some(done.zeroed_bytes),
        unreadable: pairs(&piece.missing),
        what: format!("{differed} differed and were written, {zeroed} made zeros"),
        elapsed: began.elapsed(),
        ..Report::new(path, format)
    })
}

fn workers(args: &Args) -> usize {
    args.to.threads.workers_at_least(MIN_WORKERS)
}

/// Offset and length of each range.
fn pairs(ranges: &[Range<u64>]) -> Vec<(u64, u64)> {
    ranges.iter().map(|range| (range.start, range.end - range.start)).collect()
}

impl Report {
    fn new(path: &Path, format: &Format) -> Self {
        Report { target: path.display().to_string(), format: format.name, ..Report::default() }
    }
}

fn say(report: &Report, global: Global) -> Result<(), Failure> {
    if global.json {
        return output::print_json_line(&Event { r#type: "restore", report, elapsed_s: report.elapsed.as_secs_f64() });
    }
    for (at, length) in &report.unreadable {
        output::say(&Unreadable::from(&(*at..at + length)).to_string());
    }
    if global.quiet {
        return Ok(());
    }
    let (disk, target) = (printable(&report.disk), printable(&report.target));
    let (size, what) = (units::size(report.size_bytes), &report.what);
    let rate = shown_rate(report.size_bytes, report.elapsed);
    output::say(&format!("{disk} to {target}: disk of {size}, {what}, {rate}"));
    Ok(())
}
