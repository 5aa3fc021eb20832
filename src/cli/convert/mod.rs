//! `tintype convert`

mod backing;
mod layers;
mod report;
mod source;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args as ClapArgs;
use tintype_formats::{Format, Geometry, raw};

use self::backing::Backing;
use self::report::report;
use self::source::{host_identities, open_source};
use super::address::{self, Address};
use super::create_args::{CreateArgs, formats_that, parse_bytes, parse_rate};
use super::digest::DigestAlgorithm;
use super::failure::Failure;
use super::source_args::{SourceArgs, ThreadArgs, format_parser};
use super::{Global, Outcome, job, output, units};
use crate::engine::convert::{ConvertOptions, convert};

use crate::sources::is_device_or_export;
use crate::targets::{Target, TargetOptions};

/// Make another disk of a disk: an image in another format, a raw file, a device
///
/// The target appears under its name when it is whole and safely on the disk; a run that fails or is stopped leaves what
/// was there. Only a device, and with -n a file, is written in place. A target that is a symbolic link is replaced, not
/// followed. Holes and zeros take no space. The size of the disk never changes silently.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// The disk to read: an image, a device, or "-" for a raw stream on standard input (with -f raw)
    #[arg(value_name = "SOURCE", value_parser = address::parser())]
    source: Address,
    /// Where to write it: a file, a device, or "-" for standard output
    #[arg(value_name = "TARGET")]
    target: PathBuf,
    #[command(flatten)]
    input: SourceArgs,
    #[command(flatten)]
    create: CreateArgs,
    /// Let the target inherit from this image: only what differs from it is stored
    #[arg(long, value_name = "FILE")]
    backing: Option<PathBuf>,
    /// Format of the backing file; detected from the content if not given
    #[arg(long, value_name = "FORMAT", requires = "backing", value_parser = format_parser())]
    backing_format: Option<String>,
    /// Print the digest of the disk's content, made in the same pass
    #[arg(long, value_name = "ALGORITHM")]
    digest: Option<DigestAlgorithm>,
    /// Read the target back from the disk and compare it with the source before it gets its name
    #[arg(long)]
    verify: bool,
    /// Overwrite an existing file, or a device
    #[arg(long, env = "TINTYPE_FORCE", value_parser = clap::builder::FalseyValueParser::new())]
    force: bool,
    /// Write into an existing raw file or device, in place
    #[arg(long, short = 'n')]
    no_create: bool,
    /// Trust the existing target to read as zeros, and write no zeros to it
    #[arg(long)]
    target_is_zero: bool,
    /// Copy blocks even where the file system could share them
    #[arg(long)]
    no_reflink: bool,
    /// Begin this far into the disk (bytes, or with k, M, G, T)
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    offset: Option<u64>,
    /// Take this much of the disk; for standard input, how long the stream is
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    size: Option<u64>,
    /// Make the disk this large, with zeros after its end
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    extend_to: Option<u64>,
    /// Keep the chain: make a file of every file that the image inherits from, beside the target
    #[arg(long, conflicts_with_all = ["backing", "with_overlay", "offset", "size", "extend_to", "no_create", "profile"])]
    layers: bool,
    /// The file in the source's chain whose place the backing file takes
    #[arg(skip)]
    stands_for: Option<PathBuf>,
    /// Go past what cannot be read, put zeros there, and list it (exit code 3)
    #[arg(long)]
    salvage: bool,
    /// Read at most this many bytes a second (or with k, M, G)
    #[arg(long, value_name = "BYTES", value_parser = parse_rate, env = "TINTYPE_RATE_LIMIT")]
    rate_limit: Option<u64>,
    /// Derive identifiers from the content, so that the same input gives the same file on any machine
    #[arg(long)]
    reproducible: bool,
    #[command(flatten)]
    threads: ThreadArgs,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    if args.layers { layers::convert_all(args, global) } else { convert_one(args, global) }
}

fn convert_one(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let began = Instant::now();
    let format = args.create.format(Some(&args.target))?;
    check_combination(args, format, global)?;
    if let Some(choice) = args.create.platform_choice() {
        output::note(&choice, global);
    }
    let mut source = open_source(args, global)?;
    let backing = args.backing.as_deref().map(|path| Backing::open(args, path, global)).transpose()?;
    let geometry = source.geometry();
    let mut create = args.create.options(format, geometry)?;
    create.parent = backing.as_ref().map(|backing| backing.link(&args.target)).transpose()?;
    note_lost_sectors(format, geometry, global);
    let mut identities = source.identities(&args.source.path);
    identities.extend(backing.iter().flat_map(|backing| host_identities(backing.opened.disk.as_ref())));
    let signals = job::catch_signals()?;
    let target = Target::open(&args.target, geometry.size_bytes, &identities, &target_options(args))?;
    note_larger_target(&target, geometry, global);
    let options = ConvertOptions {
        format,
        create,
        parent: backing.as_ref().map(|backing| (backing.opened.disk.as_ref(), backing.gate(&args.target))),
        workers: args.threads.workers(),
        digest: args.digest.map(Into::into),
        verify: args.verify,
        reflink: !args.no_reflink && !args.reproducible,
        salvage: args.salvage,
        rate_limit: args.rate_limit,
        reproducible: args.reproducible,
    };
    let abandon = |error| job::with_aftermath(error, target.abandon());
    let converted = job::run_and_abandon(global, "converting", signals, &abandon, |progress| {
        convert(source.input(&args.source), &target, options, progress)
    })?;
    report(args, format, &converted, began, global)?;
    Ok(if converted.unreadable.is_empty() { Outcome::Done } else { Outcome::Incomplete })
}

fn check_combination(args: &Args, format: &Format, global: Global) -> Result<(), Failure> {
    let to_stream = args.target == Path::new("-");
    if to_stream {
        check_streamable(args, format)?;
    }
    if to_stream && (args.verify || args.no_create || global.json) {
        let message = "with a disk on standard output there is no --verify, no --no-create and no --json";
        return Err(Failure::usage(message));
    }
    let is_raw = std::ptr::eq(format, &raw::FORMAT);
    let device = is_device_or_export(&args.target);
    if (args.no_create || device) && !is_raw {
        let message = format!("an existing file or device is written as raw, not as {}", format.name);
        return Err(Failure::usage(message).hinted("say -O raw"));
    }
    if args.backing.is_some() && !format.create.as_ref().is_some_and(|create| create.parents) {
        let able = formats_that(|create| create.parents);
        return Err(Failure::usage(format!("{} has no backing files; formats that have them: {able}", format.name)));
    }
    if args.target_is_zero && !args.no_create && !device {
        return Err(Failure::usage("--target-is-zero is for existing targets, with --no-create or a device"));
    }
    Ok(())
}

fn check_streamable(args: &Args, format: &Format) -> Result<(), Failure> {
    let Some(create) = &format.create else { return Ok(()) };
    if create.is_streamable(args.create.subformat()) {
        return Ok(());
    }
    let message = format!("a {} image cannot be written to a pipe: it is not written front to back", format.name);
    Err(match create.streamable {
        [] => Failure::usage(message),
        [subformat, ..] => Failure::usage(message).hinted(format!("--subformat {subformat} is")),
    })
}

fn target_options(args: &Args) -> TargetOptions {
    TargetOptions {
        force: args.force,
        existing: args.no_create,
        target_is_zero: args.target_is_zero,
        nbd: args.input.nbd.options(),
    }
}

fn note_lost_sectors(format: &Format, geometry: Geometry, global: Global) {
    let records = format.create.as_ref().is_some_and(|create| create.records_sectors);
    if geometry.logical_sector_bytes != 512 && !records {
        let text = format!(
            "the disk has sectors of {} bytes, which {} does not record: its partition table is found only where the \
             machine is set up to present such sectors",
            geometry.logical_sector_bytes, format.name
        );
        output::warn(&text, global);
    }
}

fn note_larger_target(target: &Target, geometry: Geometry, global: Global) {
    let target_bytes = target.file().len_bytes().unwrap_or_default();
    if target.is_in_place() && target_bytes > geometry.size_bytes {
        let text = format!(
            "the target is larger than the disk: its last {} keep what they hold; a GPT disk misses its backup table there",
            units::exact_size(target_bytes - geometry.size_bytes)
        );
        output::warn(&text, global);
    }
}
