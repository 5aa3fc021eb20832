//! The steps from an open source to a finished target.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tintype_formats::host_file::FileIdentity;
use tintype_formats::reference_gate::ReferenceGate;
use tintype_formats::sink::ParentLink;
use tintype_formats::{BlockSource, Format, Geometry};

use super::{Source, TargetArgs, warn};
use crate::cli::failure::Failure;
use crate::cli::{Global, job, units};
use crate::engine::convert::{ConvertOptions, Converted, convert};
use crate::engine::digest::Algorithm;
use crate::engine::fit::{self, DiskSectors};
use crate::engine::salvage::{SalvageMap, joined};
use crate::sources::is_device;
use crate::targets::{Target, TargetOptions};

/// What is written where. The disk was made to [`fit`](TargetArgs::fit) before.
pub struct Writing<'a> {
    /// The arguments about the target.
    pub args: &'a TargetArgs,
    /// The target.
    pub target: &'a Path,
    /// The target's format, from [`TargetArgs::format`].
    pub format: &'static Format,
    /// How the target is opened.
    pub options: TargetOptions,
    /// The path that failures to read the source name.
    pub source_path: &'a Path,
    /// The files that must not be written to.
    pub sources: Vec<FileIdentity>,
    /// Ranges of the disk that are known to be missing, and are zeros, ascending.
    pub unreadable: Vec<Range<u64>>,
    /// What the new image inherits from.
    pub parent: Option<Parent<'a>>,
    /// The digest to make in the same pass.
    pub digest: Option<Algorithm>,
    /// Clone blocks where possible.
    pub reflink: bool,
    /// Keep a map of what was read.
    pub salvage_map: Option<SalvageMap>,
    /// Derive identifiers from the content.
    pub reproducible: bool,
    /// How many units are in the works at once.
    pub workers: usize,
    /// What the progress bar says.
    pub title: &'static str,
}

/// The image that a new one inherits from.
pub struct Parent<'a> {
    /// What the new image says of it.
    pub link: ParentLink,
    /// Its disk.
    pub disk: &'a dyn BlockSource,
    /// Finds it for the finished image.
    pub gate: Arc<dyn ReferenceGate>,
}

/// What writing came to.
pub struct Written {
    /// What was copied.
    pub converted: Converted,
    /// Size of the target, if it is a regular file.
    pub file_bytes: Option<u64>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Written {
    /// For people: how much was stored, and whether it was read back.
    pub fn shown(&self) -> String {
        let stored = units::size(self.converted.stored_bytes);
        let file = self.file_bytes.map(|bytes| format!(", file of {}", units::size(bytes))).unwrap_or_default();
        let verified = if self.converted.verified { ", read back and verified" } else { "" };
        format!("{stored} stored{file}{verified}")
    }
}

/// Writes the disk to its target, verifies it if asked to, and gives it its name.
pub fn write(mut source: Source, writing: Writing<'_>, global: Global) -> Result<Written, Failure> {
    let began = Instant::now();
    let Writing { args, format, parent, .. } = writing;
    let geometry = source.geometry();
    let mut create = args.create.options(format, geometry)?;
    let explicit = create.size_option("logical_sector")?.and_then(|size| u32::try_from(size).ok());
    let sectors = match explicit.is_some() || is_device(writing.target) {
        // Before signals are caught: a pipe may be slow to begin.
        true => source.sectors()?,
        false => DiskSectors::default(),
    };
    explicit.map_or(Ok(()), |size| check_sectors(args, sectors, size, writing.target))?;
    let (link, parent) = parent.map(|parent| (parent.link, (parent.disk, parent.gate))).unzip();
    create.parent = link;
    create.unreadable.clone_from(&writing.unreadable);
    warn(fit::unrecorded_sectors(format, geometry), global);
    let signals = job::catch_signals()?;
    let target = open(writing.target, geometry, &writing.sources, &writing.options, global)?;
    target.sector_bytes().map_or(Ok(()), |size| check_sectors(args, sectors, size, writing.target))?;
    let options = ConvertOptions {
        format,
        create,
        parent,
        workers: writing.workers,
        digest: writing.digest,
        verify: args.verify,
        reflink: writing.reflink,
        salvage: args.salvage.tolerance(),
        salvage_map: writing.salvage_map,
        rate_limit: args.rate_limit,
        reproducible: writing.reproducible,
    };
    let abandon = |error| job::with_aftermath(error, target.abandon());
    let mut converted = job::run_and_abandon(global, writing.title, signals, &abandon, |progress| {
        convert(source.input(writing.source_path), &target, options, progress)
    })?;
    converted.unreadable = joined(geometry.size_bytes, converted.unreadable.into_iter().chain(writing.unreadable));
    let found = std::fs::metadata(writing.target).ok().filter(std::fs::Metadata::is_file);
    Ok(Written { converted, file_bytes: found.map(|found| found.len()), elapsed: began.elapsed() })
}

/// Fails if the sectors of the target are not those of the disk, and that matters, and the user does not take the risk.
pub fn check_sectors(args: &TargetArgs, disk: DiskSectors, target_bytes: u32, path: &Path) -> Result<(), Failure> {
    match disk.check(target_bytes) {
        Err(error) if !args.keep_sectors => {
            let hint = "choose a target with the disk's sectors, or write it all the same with --keep-sectors";
            Err(Failure::from(error.with_path(path)).hinted(hint))
        }
        _ => Ok(()),
    }
}

/// Opens a target for a disk, and warns of what does not fit.
pub fn open(
    path: &Path,
    disk: Geometry,
    sources: &[FileIdentity],
    options: &TargetOptions,
    global: Global,
) -> Result<Target, Failure> {
    let target = Target::open(path, disk.size_bytes, sources, options)?;
    warn(fit::larger_target(&target, disk), global);
    Ok(target)
}

/// The end of a summary's line: how long it took, and how fast it was.
pub fn shown_rate(size_bytes: u64, elapsed: Duration) -> String {
    let elapsed_s = elapsed.as_secs_f64();
    let rate = (size_bytes as f64 / elapsed_s.max(0.001)) as u64;
    format!("in {elapsed_s:.1} s ({}/s)", units::size(rate))
}
