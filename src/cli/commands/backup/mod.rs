//! `tintype backup`

mod salvage_map;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args as ClapArgs;
use serde::Serialize;
use tintype_tin::disk_identity::DiskIdentity;
use tintype_tin::id::Id;
use tintype_tin::manifest::{DiskRecord, Manifest};

use crate::access::{self, Address, Admitted, LIVE, NamedAddress, Opened, disk_names, open_store, snapshot_name};
use crate::cli::create_args::{parse_bytes, parse_rate};
use crate::cli::failure::Failure;
use crate::cli::live_args::LiveArgs;
use crate::cli::salvage_args::SalvageArgs;
use crate::cli::source_args::{SourceArgs, ThreadArgs, named_address_parser};
use crate::cli::tag_arg::parse_tag;
use crate::cli::texts::unreadable_text;
use crate::cli::{Global, Outcome, job, output, units};
use crate::engine::NamedDisk;
use crate::engine::backup::{BackedUp, BackupDisk, BackupOptions, backup_as};
use crate::engine::convert::Input;
use crate::engine::salvage::{DEFAULT_PASSES, Tolerance};
use crate::repository::names;
use crate::sources;
use crate::system;

/// Back up disks into a repository, as one snapshot
///
/// Every snapshot is a full one; only what is not stored yet is stored. A backup that is stopped loses nothing: the next
/// one finds what it stored.
#[derive(Debug, ClapArgs)]
// --host is the one that the snapshot is made of.
#[command(mut_arg("snapshot_host", |arg| arg.long("source-host")))]
pub struct Args {
    /// The disks: images, devices, stored snapshots, or "-" for a raw stream on standard input (with -f raw and --size);
    /// NAME=SOURCE names the disk, which otherwise has the name of its file or device
    #[arg(value_name = "SOURCE", required = true, value_parser = named_address_parser())]
    sources: Vec<NamedAddress>,
    /// The repository
    #[arg(long, short, value_name = "REPO", env = access::REPOSITORY_VARIABLE)]
    repo: PathBuf,
    /// What it is a snapshot of, in at most 255 bytes; if not given, the name of the only disk, and of a device HOST-DISK
    #[arg(long, value_name = "NAME", env = "TINTYPE_NAME")]
    name: Option<String>,
    /// Name of the computer, for the record; for containers, whose own name changes with each run
    #[arg(long, value_name = "HOST", env = "TINTYPE_HOST")]
    host: Option<String>,
    /// Write something on the snapshot (can be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_tag)]
    tag: Vec<(String, String)>,
    /// How hard to compress: off, fast, default, best
    #[arg(long, value_name = "HOW", default_value = "default", env = "TINTYPE_BACKUP_COMPRESSION")]
    compression: CompressionChoice,
    /// In which state the disks are, for the record; unknown, or live if they are in use, if not given
    #[arg(long, value_name = "STATE")]
    consistency: Option<Consistency>,
    #[command(flatten)]
    live: LiveArgs,
    /// How long the stream on standard input is (bytes, or with k, M, G, T)
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    size: Option<u64>,
    /// Store nothing; say what would be stored
    #[arg(long)]
    dry_run: bool,
    /// Store what can be read of a device while no more than this is unreadable (bytes, or with k, M, G); 0: everything must be
    /// readable
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, env = "TINTYPE_MAX_UNREADABLE", default_value = "16M")]
    #[arg(conflicts_with = "salvage")]
    max_unreadable: u64,
    /// Take a disk of 0 bytes although the snapshot before has data of it
    #[arg(long)]
    allow_empty: bool,
    #[command(flatten)]
    salvage: SalvageArgs,
    /// Keep a map of what was read in FILE, in the format of ddrescue; if it exists, read only what is missing, and take all else
    /// from the snapshot that it names
    #[arg(long, value_name = "FILE", requires = "salvage", conflicts_with = "dry_run")]
    salvage_map: Option<PathBuf>,
    /// Read at most this many bytes a second (or with k, M, G)
    #[arg(long, value_name = "BYTES", value_parser = parse_rate, env = "TINTYPE_RATE_LIMIT")]
    rate_limit: Option<u64>,
    #[command(flatten)]
    input: SourceArgs,
    #[command(flatten)]
    threads: ThreadArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum CompressionChoice {
    Off,
    Fast,
    Default,
    Best,
}

impl CompressionChoice {
    fn level(self) -> Option<i32> {
        match self {
            CompressionChoice::Off => None,
            CompressionChoice::Fast => Some(1),
            CompressionChoice::Default => Some(3),
            CompressionChoice::Best => Some(12),
        }
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Consistency {
    /// Nobody knows
    Unknown,
    /// As after a power cut: the disk was in use
    Crash,
    /// File systems were frozen
    Frozen,
    /// Applications had written everything
    Application,
}

impl Consistency {
    fn name(self) -> &'static str {
        match self {
            Consistency::Unknown => "unknown",
            Consistency::Crash => "crash",
            Consistency::Frozen => "frozen",
            Consistency::Application => "application",
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    r#type: &'static str,
    snapshot: Option<Id>,
    name: &'a str,
    parent: Option<Id>,
    consistency: &'a str,
    read_bytes: u64,
    data_bytes: u64,
    changed_bytes: u64,
    new_bytes: u64,
    stored_bytes: u64,
    incomplete: bool,
    elapsed_s: f64,
    bytes_per_s: u64,
    disks: &'a [DiskRecord],
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let began = Instant::now();
    let disk_names = disk_names(&args.sources)?;
    let host = args.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(system::host_name);
    let name = match (&args.name, snapshot_name(&args.sources, &disk_names, &host)) {
        (Some(name), _) if name.is_empty() || name.contains("::") || name.contains('@') => {
            return Err(Failure::usage(format!(
                "the name \"{}\" has \"::\" or \"@\", or nothing, in it",
                name.escape_debug()
            )));
        }
        (Some(name), _) => name.clone(),
        (None, Some(name)) => name,
        (None, None) => return Err(Failure::usage("several disks were given: name the machine with --name")),
    };
    // Before anything is opened, or a password asked for.
    names::check_length("the name of a snapshot", &name)?;
    disk_names.iter().try_for_each(|name| names::check_length("the name of a disk", name))?;
    let tags: BTreeMap<_, _> = args.tag.iter().cloned().collect();
    names::check_tags(&tags)?;
    open_store(&args.repo)?;
    let addresses = args.sources.iter().map(|source| &source.address);
    let mut sources = addresses
        .map(|address| args.input.open_or_stream(address, None, args.size, global))
        .collect::<Result<Vec<_>, _>>()?;
    let in_use = admit(args, &mut sources, global)?;
    let repository = args.input.secrets.open(&args.repo)?;
    repository.require_adds("backup")?;
    let salvage_map = args.salvage_map.as_deref();
    let salvage_map = salvage_map.map(|path| salvage_map::prepare(path, args, &sources, &repository)).transpose()?;
    let (map, earlier) = salvage_map.unzip();
    let mut disks: Vec<BackupDisk<'_>> = sources
        .iter_mut()
        .zip(&args.sources)
        .zip(&disk_names)
        .map(|((source, named), name)| backup_disk(source, &named.address, name))
        .collect();
    if let [disk] = &mut *disks {
        disk.earlier = earlier.flatten();
    }
    let options = BackupOptions {
        name,
        host,
        tags,
        level: args.compression.level(),
        consistency: consistency(args, &in_use).to_owned(),
        workers: args.threads.workers(),
        rate_limit: args.rate_limit,
        dry_run: args.dry_run,
        tolerance: args.salvage.tolerance().unwrap_or(max_unreadable(args)),
        allow_empty: args.allow_empty,
    };
    // Asked when all is read and nothing committed yet: the snapshot is to say what was found.
    let found = Cell::new(None);
    let ask = |manifest: &mut Manifest| {
        let answer = args.live.ask_again(&in_use, global);
        if answer.is_live && !in_use.iter().any(Admitted::was_live) {
            LIVE.clone_into(&mut manifest.consistency);
        }
        found.set(Some((answer.is_surprise, manifest.consistency == LIVE)));
    };
    let done = job::run(global, "backing up", |progress| backup_as(&repository, &mut disks, &options, &ask, progress))?;
    let (is_surprise, is_live) = found.get().unwrap_or_default();
    let consistency = if is_live { LIVE.to_owned() } else { options.consistency.clone() };
    let outcome = report(&done, &BackupOptions { consistency, ..options }, began, global)?;
    let map_failed = map.and_then(|map| map.write(&done, &repository).err());
    if let Some(failure) = &map_failed {
        output::warn(&format!("the snapshot is committed, and its map is not written: {}", failure.message()), global);
    }
    Ok(if is_surprise || map_failed.is_some() { Outcome::Incomplete } else { outcome })
}

/// Refuses disks in use, unless they are to be taken as they are; warns of what would be written to the disks that are read.
fn admit(args: &Args, sources: &mut [Opened], global: Global) -> Result<Vec<Admitted>, Failure> {
    let mut admitted = Vec::new();
    for (source, named) in sources.iter_mut().zip(&args.sources) {
        if let Opened::Disk(opened) = source {
            admitted.push(args.live.admit(&named.address, std::mem::take(&mut opened.watch), global)?);
        }
    }
    for source in &admitted {
        source.warn_if_it_holds(&args.repo, "the repository", &global);
        if let Some(cache) = args.input.secrets.cache_folder() {
            source.warn_if_it_holds(&cache, "the cache", &global);
        }
    }
    Ok(admitted)
}

/// The state that the user names counts, then the one that was found.
fn consistency(args: &Args, sources: &[Admitted]) -> &'static str {
    match args.consistency {
        Some(named) => named.name(),
        None if sources.iter().any(Admitted::was_live) => LIVE,
        None => Consistency::Unknown.name(),
    }
}

fn max_unreadable(args: &Args) -> Tolerance {
    Tolerance { max_unreadable: args.max_unreadable, passes: DEFAULT_PASSES, ..Tolerance::NONE }
}

fn backup_disk<'a>(source: &'a mut Opened, address: &'a Address, name: &str) -> BackupDisk<'a> {
    let (name, path) = (name.to_owned(), address.to_string());
    match source {
        Opened::Disk(opened) => {
            let geometry = opened.disk.geometry();
            let format = opened.layers.first().map_or("raw", |(_, info)| info.format).to_owned();
            let sector_bytes = (geometry.logical_sector_bytes, geometry.physical_sector_bytes);
            let input = Input::Disk(NamedDisk { disk: opened.disk.as_ref(), path: address.shown() });
            let identify = || sources::identify(opened.disk.as_ref(), &address.path);
            let identity = opened.part.as_deref().cloned().unwrap_or_else(identify);
            let is_device = opened.layers.is_empty() && sources::is_device(&address.path);
            let unreadable = opened.unreadable.clone();
            let is_declared = opened.guess.is_none_or(|guess| guess.is_declared);
            BackupDisk {
                name,
                input,
                path,
                format,
                is_declared,
                sector_bytes,
                identity,
                is_device,
                unreadable,
                earlier: None,
            }
        }
        Opened::Pipe(pipe, geometry) => {
            let input = Input::Pipe(pipe, geometry.size_bytes);
            let (format, identity) = ("raw".to_owned(), DiskIdentity::default());
            let sector_bytes = (geometry.logical_sector_bytes, geometry.physical_sector_bytes);
            BackupDisk {
                name,
                input,
                path,
                format,
                is_declared: true,
                sector_bytes,
                identity,
                is_device: false,
                unreadable: Vec::new(),
                earlier: None,
            }
        }
    }
}

fn report(done: &BackedUp, options: &BackupOptions, began: Instant, global: Global) -> Result<Outcome, Failure> {
    let sum = |of: &dyn Fn(&DiskRecord) -> u64| done.disks.iter().map(of).sum::<u64>();
    let elapsed_s = began.elapsed().as_secs_f64();
    let read_bytes = sum(&|disk| disk.size_bytes);
    let unreadable = sum(&|disk| disk.unreadable.len() as u64);
    let report = Report {
        r#type: "backup",
        snapshot: done.snapshot,
        name: &options.name,
        parent: done.parent,
        consistency: &options.consistency,
        read_bytes,
        data_bytes: sum(&|disk| disk.statistics.data_bytes),
        changed_bytes: sum(&|disk| disk.statistics.changed_bytes),
        new_bytes: sum(&|disk| disk.statistics.new_bytes),
        stored_bytes: sum(&|disk| disk.statistics.stored_bytes),
        incomplete: unreadable > 0,
        elapsed_s,
        bytes_per_s: (read_bytes as f64 / elapsed_s.max(0.001)) as u64,
        disks: &done.disks,
    };
    if global.json {
        let done = match done.snapshot {
            Some(id) => format!("snapshot {id} of {} is stored", options.name),
            None => "the dry run is over".to_owned(),
        };
        output::reported(&done, output::print_json_line(&report), global);
    } else if !global.quiet {
        let what = match done.snapshot {
            Some(id) => format!("snapshot {id} of {}", options.name),
            None => format!("a snapshot of {} (a dry run: nothing was stored)", options.name),
        };
        let (data, changed) = (units::size(report.data_bytes), units::size(report.changed_bytes));
        let stored = units::size(report.stored_bytes);
        output::note(
            &format!("{what}: {data} of data, {changed} of it changed, {stored} stored, in {elapsed_s:.1} s"),
            global,
        );
    }
    for (name, before, now) in &done.shrunk {
        let (before, now) = (units::exact_size(*before), units::exact_size(*now));
        output::warn(&format!("{name} shrank: it has {now}, and had {before} in the snapshot before"), global);
    }
    for disk in done.disks.iter().filter(|disk| !disk.unreadable.is_empty()) {
        output::warn(&format!("the snapshot is incomplete: {}", unreadable_text(disk)), global);
    }
    Ok(if unreadable == 0 { Outcome::Done } else { Outcome::Incomplete })
}
