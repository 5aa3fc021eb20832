//! `tintype convert`

mod backing;
mod layers;
mod report;
mod salvage_map;
mod source;

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use tintype_formats::Format;
use tintype_formats::host_file::FileIdentity;

use self::backing::Backing;
use self::report::report;
use self::source::{OpenedSource, open_source};
use crate::access::{Address, Admitted};
use crate::cli::create_args::{formats_that, parse_bytes};
use crate::cli::digest_algorithm::DigestAlgorithm;
use crate::cli::failure::Failure;
use crate::cli::live_args::LiveArgs;
use crate::cli::source_args::{SourceArgs, address_parser, format_parser};
use crate::cli::target_args::{TargetArgs, write};
use crate::cli::{Global, Outcome};
use crate::engine::convert::ConvertOptions;
use crate::engine::disk_source::host_identities;
use crate::engine::write_disk::Writing;
use crate::sources::{self, is_nbd};
use crate::targets::Access;

/// Make another disk of a disk: an image in another format, a raw file, a device
///
/// The target appears under its name when it is whole and safely on the disk; a run that fails or is stopped leaves what
/// was there. Only a device, and with -n a file, is written in place. A target that is a symbolic link is replaced, not
/// followed; with -n a link to a file is refused. Who may not read the source may not read the
/// target. Holes and zeros take no space. The size of the disk never changes silently.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// The disk to read: an image, a device, or "-" for a raw stream on standard input (with -f raw)
    #[arg(value_name = "SOURCE", value_parser = address_parser())]
    source: Address,
    /// Where to write it: a file, a device, or "-" for standard output
    #[arg(value_name = "TARGET")]
    target: PathBuf,
    #[command(flatten)]
    input: SourceArgs,
    #[command(flatten)]
    to: TargetArgs,
    /// Let the target inherit from this image: only what differs from it is stored
    #[arg(long, value_name = "FILE")]
    backing: Option<PathBuf>,
    /// Format of the backing file; detected from the content if not given
    #[arg(long, value_name = "FORMAT", requires = "backing", value_parser = format_parser())]
    backing_format: Option<String>,
    /// Print the digest of the disk's content, made in the same pass
    #[arg(long, value_name = "ALGORITHM")]
    digest: Option<DigestAlgorithm>,
    /// Copy blocks even where the file system could share them
    #[arg(long)]
    no_reflink: bool,
    /// Begin this far into the disk (bytes, or with k, M, G, T)
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    offset: Option<u64>,
    /// Take this much of the disk; for standard input, how long the stream is
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    size: Option<u64>,
    /// Keep the chain: make a file of every file that the image inherits from, beside the target
    #[arg(long, conflicts_with_all = ["backing", "with_overlay", "offset", "size", "extend_to", "no_create", "profile"])]
    layers: bool,
    /// The file in the source's chain whose place the backing file takes
    #[arg(skip)]
    stands_for: Option<PathBuf>,
    /// Keep a map of what was read in FILE, in the format of ddrescue, and go on from there if it exists
    #[arg(long, value_name = "FILE", requires = "salvage")]
    #[arg(conflicts_with_all = ["verify", "digest", "reproducible", "backing", "layers", "offset", "size", "extend_to", "profile"])]
    salvage_map: Option<PathBuf>,
    /// Derive identifiers from the content, so that the same input gives the same file on any machine
    #[arg(long)]
    reproducible: bool,
    #[command(flatten)]
    live: LiveArgs,
}

pub fn run(args: &Args, mut global: Global) -> Result<Outcome, Failure> {
    if args.target == Path::new("-") {
        global = global.without_json("with a disk on standard output there is no --json")?;
    }
    if args.layers { layers::convert_all(args, global) } else { convert_one(args, global) }
}

fn convert_one(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let format = args.to.format(&args.target)?;
    check_combination(args, format)?;
    let OpenedSource { source, unreadable, mut in_use } = open_source(args, global)?;
    let is_incomplete = !unreadable.is_empty();
    let source = args.to.fit(source, global)?;
    let mut backing = args.backing.as_deref().map(|path| Backing::open(args, path, global)).transpose()?;
    in_use.extend(backing.as_mut().map(|backing| backing.admit(args.live, global)).transpose()?);
    let access = if args.source.stored.is_some() { Access::PRIVATE } else { source.access(&args.source.path) };
    let mut sources = source.identities(&args.source.path);
    sources.extend(backing.iter().flat_map(|backing| host_identities(backing.opened.disk.as_ref())));
    warn_if_target_is_held(&args.target, &in_use, &sources, global);
    let mut target_options = args.to.options(access, args.input.nbd.options());
    let salvage_map = args.salvage_map.as_deref();
    let salvage_map =
        salvage_map.map(|path| salvage_map::prepare(path, args, format, &source, &mut target_options)).transpose()?;
    let mut convert = args.to.convert_options(format, source.geometry(), args.to.threads.workers())?;
    convert.create.parent = backing.as_ref().map(|backing| backing.link(&args.target)).transpose()?;
    let parent = backing.as_ref().map(|backing| (backing.opened.disk.as_ref(), backing.gate(&args.target)));
    let writing = Writing {
        target: &args.target,
        target_options,
        source_path: args.source.shown(),
        sources,
        unreadable,
        disk: None,
        keep_sectors: args.to.keep_sectors,
        convert: ConvertOptions {
            parent,
            digest: args.digest.map(Into::into),
            reflink: !args.no_reflink && !args.reproducible,
            salvage_map,
            reproducible: args.reproducible,
            ..convert
        },
    };
    let goes_on = || args.salvage_map.as_ref().is_some_and(|map| map.is_file());
    let hint = || goes_on().then_some("the same command goes on from the map");
    let written = write(source, writing, "converting", global).map_err(|failure| failure.hinted_if(hint()))?;
    let found = args.live.ask_again(&in_use, global);
    report(args, format, &written, found.is_live, global)?;
    let complete = written.converted.unreadable.is_empty() && !found.is_surprise && !is_incomplete;
    Ok(if complete { Outcome::Done } else { Outcome::Incomplete })
}

/// Warns if the target lies on the disk that is read. One that is the source itself is refused later.
fn warn_if_target_is_held(target: &Path, in_use: &[Admitted], sources: &[FileIdentity], global: Global) {
    let is_source = sources::aliases(target).iter().any(|identity| sources.contains(identity));
    if target != Path::new("-") && !is_nbd(target) && !is_source {
        in_use.iter().for_each(|source| source.warn_if_it_holds(target, "the target", &global));
    }
}

fn check_combination(args: &Args, format: &Format) -> Result<(), Failure> {
    let to_stream = args.target == Path::new("-");
    if to_stream {
        check_streamable(args, format)?;
    }
    if to_stream && (args.to.verify || args.to.no_create) {
        let message = "with a disk on standard output there is no --verify and no --no-create";
        return Err(Failure::usage(message));
    }
    if args.backing.is_some() && !format.create.as_ref().is_some_and(|create| create.parents) {
        let able = formats_that(|create| create.parents);
        return Err(Failure::usage(format!("{} has no backing files; formats that have them: {able}", format.name)));
    }
    Ok(())
}

fn check_streamable(args: &Args, format: &Format) -> Result<(), Failure> {
    let Some(create) = &format.create else { return Ok(()) };
    if create.is_streamable(args.to.create.subformat()) {
        return Ok(());
    }
    let message = format!("a {} image cannot be written to a pipe: it is not written front to back", format.name);
    Err(match create.streamable {
        [] => Failure::usage(message),
        [subformat, ..] => Failure::usage(message).hinted(format!("--subformat {subformat} is")),
    })
}
