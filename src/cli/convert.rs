//! `tintype convert`

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args as ClapArgs;
use serde::Serialize;
use tintype_formats::host_file::FileIdentity;
use tintype_formats::sink::ParentLink;
use tintype_formats::{BlockSource, Format, Geometry, raw};

use super::address::{self, Address};
use super::create_args::{CreateArgs, formats_that, parse_bytes, parse_rate};
use super::digest::DigestAlgorithm;
use super::failure::Failure;
use super::source_args::{SourceArgs, ThreadArgs};
use super::{Global, Outcome, job, output, units};
use crate::engine::NamedDisk;
use crate::engine::convert::{ConvertOptions, Converted, Input, convert, parent_name};
use crate::sources::{self, FolderGate, OpenOptions, OpenedDisk, ReferencePolicy, Slice, StandardInput};
use crate::targets::{Target, TargetOptions};

/// Make another disk of a disk: an image in another format, a raw file, a device
///
/// The target appears under its name when it is whole and safely on the disk; a run that fails or is stopped leaves what
/// was there. Only a device, and with -n a file, is written in place. A target that is a symbolic link is replaced, not
/// followed. Holes and zeros take no space. The size of the disk never changes silently.
#[derive(Debug, ClapArgs)]
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
    #[arg(long, value_name = "FORMAT", requires = "backing")]
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

#[derive(Serialize)]
struct Summary<'a> {
    r#type: &'static str,
    target: String,
    format: &'a str,
    size_bytes: u64,
    stored_bytes: u64,
    file_bytes: Option<u64>,
    digest: Option<String>,
    verified: bool,
    unreadable: Vec<Unreadable>,
    elapsed_s: f64,
}

#[derive(Serialize)]
struct Unreadable {
    offset: u64,
    length_bytes: u64,
}

/// What was opened to read from.
enum Source {
    Disk(Box<dyn BlockSource>, Vec<FileIdentity>),
    Pipe(File, u64),
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let began = Instant::now();
    let format = args.create.format(Some(&args.target))?;
    check_combination(args, format, global)?;
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
    let device = std::fs::metadata(&args.target).is_ok_and(|found| {
        use std::os::unix::fs::FileTypeExt as _;
        found.file_type().is_block_device()
    });
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
    TargetOptions { force: args.force, existing: args.no_create, target_is_zero: args.target_is_zero }
}

fn open_source(args: &Args, global: Global) -> Result<Source, Failure> {
    if !args.source.is_standard_input() {
        let opened = args.input.open(&args.source, args.backing.as_deref(), global)?;
        return slice(opened.disk, args);
    }
    args.input.check_standard_input_format()?;
    match (sources::open_standard_input(args.size.is_none())?, args.size) {
        (StandardInput::Pipe(pipe), Some(size_bytes)) => {
            if args.offset.is_some() {
                return Err(Failure::usage("a pipe is read from its begin; --offset needs a file or a device"));
            }
            Ok(Source::Pipe(pipe, size_bytes))
        }
        (StandardInput::File(file), _) => slice(sources::open_raw(file)?.disk, args),
        (StandardInput::Pipe(_), None) => Err(Failure::usage("how long the stream is has to be said: --size")),
    }
}

fn slice(disk: Box<dyn BlockSource>, args: &Args) -> Result<Source, Failure> {
    let identities = host_identities(disk.as_ref());
    if args.offset.is_none() && args.size.is_none() {
        return Ok(Source::Disk(disk, identities));
    }
    let begin = args.offset.unwrap_or_default();
    if !begin.is_multiple_of(512) || args.size.is_some_and(|size| size % 512 != 0) {
        return Err(Failure::usage("--offset and --size are whole sectors: multiples of 512"));
    }
    check_slice(begin, args.size, disk.geometry().size_bytes)?;
    Ok(Source::Disk(Box::new(Slice::new(disk, begin, args.size)?), identities))
}

fn check_slice(begin: u64, size_bytes: Option<u64>, disk_bytes: u64) -> Result<(), Failure> {
    let message = match size_bytes {
        None if begin >= disk_bytes => {
            format!("--offset {begin} is past the end of the disk, which has {disk_bytes} bytes")
        }
        Some(size) if begin.checked_add(size).is_none_or(|end| end > disk_bytes) => {
            format!("--offset {begin} and --size {size} go past the end of the disk, which has {disk_bytes} bytes")
        }
        _ => return Ok(()),
    };
    Err(Failure::usage(message))
}

fn host_identities(disk: &dyn BlockSource) -> Vec<FileIdentity> {
    disk.host_files().iter().filter_map(|file| file.identity).collect()
}

impl Source {
    fn input<'a>(&'a mut self, address: &'a Address) -> Input<'a> {
        match self {
            Source::Disk(disk, _) => Input::Disk(NamedDisk { disk: &**disk, path: address.shown() }),
            Source::Pipe(pipe, size_bytes) => Input::Pipe(pipe, *size_bytes),
        }
    }

    fn geometry(&self) -> Geometry {
        match self {
            Source::Disk(disk, _) => disk.geometry(),
            Source::Pipe(_, size_bytes) => Geometry::of_512_byte_sectors(*size_bytes, 1),
        }
    }

    /// The files that must not be written to.
    fn identities(&self, path: &Path) -> Vec<FileIdentity> {
        match self {
            Source::Disk(_, identities) => {
                let mut all = identities.clone();
                all.extend(sources::aliases(path));
                all
            }
            Source::Pipe(..) => Vec::new(),
        }
    }
}

/// The image that the target is to inherit from.
struct Backing {
    path: PathBuf,
    opened: OpenedDisk,
    policy: ReferencePolicy,
}

impl Backing {
    fn open(args: &Args, path: &Path, global: Global) -> Result<Backing, Failure> {
        let policy = args.input.references.policy();
        let format = args.backing_format.clone();
        let options = OpenOptions { format, disk: None, snapshot: None, references: policy.clone() };
        let opened = sources::open_disk(path, &options, None).map_err(|error| args.input.references.explain(error))?;
        opened.warnings().for_each(|text| output::warn(&text, global));
        Ok(Backing { path: path.to_owned(), opened, policy })
    }

    /// What the target says of it.
    fn link(&self, target: &Path) -> Result<ParentLink, Failure> {
        let name = parent_name(target, &self.path)
            .ok_or_else(|| Failure::usage("the name of the backing file cannot be put into an image"))?;
        let info = self.opened.layers.first().map(|(_, info)| info);
        Ok(ParentLink {
            name,
            format: info.map_or(raw::FORMAT.name, |info| info.format).to_owned(),
            identity: info.and_then(|info| info.identity.clone()),
            size_bytes: self.opened.disk.geometry().size_bytes,
        })
    }

    /// The gate that lets the finished target find it: the user has named it, so its folder is allowed.
    fn gate(&self, target: &Path) -> Arc<dyn tintype_formats::reference_gate::ReferenceGate> {
        let mut policy = ReferencePolicy { deny_all: false, ..self.policy.clone() };
        policy.allowed_folders.extend(self.path.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned)));
        FolderGate::beside(target, Arc::new(policy))
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

fn report(args: &Args, format: &Format, converted: &Converted, began: Instant, global: Global) -> Result<(), Failure> {
    let file_bytes = std::fs::metadata(&args.target).ok().filter(|found| found.is_file()).map(|found| found.len());
    let elapsed_s = began.elapsed().as_secs_f64();
    let unreadable = |range: &Range<u64>| Unreadable { offset: range.start, length_bytes: range.end - range.start };
    if global.json {
        return output::print_json_line(&Summary {
            r#type: "summary",
            target: args.target.display().to_string(),
            format: format.name,
            size_bytes: converted.size_bytes,
            stored_bytes: converted.stored_bytes,
            file_bytes,
            digest: converted.digest.as_ref().map(|digest| format!("{}:{}", digest.algorithm.name(), digest.to_hex())),
            verified: converted.verified,
            unreadable: converted.unreadable.iter().map(unreadable).collect(),
            elapsed_s,
        });
    }
    for range in &converted.unreadable {
        output::say(&format!("unreadable at {:#x}, {}", range.start, units::exact_size(range.end - range.start)));
    }
    if let Some(digest) = &converted.digest {
        print_digest(args, &digest.to_hex())?;
    }
    if !global.quiet {
        say_summary(args, converted, file_bytes, elapsed_s);
    }
    Ok(())
}

/// On standard output, unless the disk went there.
fn print_digest(args: &Args, digest: &str) -> Result<(), Failure> {
    let line = format!("{digest}  {}", super::escape::printable(&args.source.to_string()));
    if args.target == Path::new("-") {
        output::say(&line);
        return Ok(());
    }
    output::print(&(line + "\n"))
}

fn shown_target(args: &Args) -> String {
    let is_output = args.target == Path::new("-");
    if is_output { "standard output".to_owned() } else { args.target.display().to_string() }
}

fn say_summary(args: &Args, converted: &Converted, file_bytes: Option<u64>, elapsed_s: f64) {
    let rate = (converted.size_bytes as f64 / elapsed_s.max(0.001)) as u64;
    let file = file_bytes.map(|bytes| format!(", file of {}", units::size(bytes))).unwrap_or_default();
    let verified = if converted.verified { ", read back and verified" } else { "" };
    output::say(&format!(
        "{}: disk of {}, {} stored{file}{verified}, in {elapsed_s:.1} s ({}/s)",
        super::escape::printable(&shown_target(args)),
        units::size(converted.size_bytes),
        units::size(converted.stored_bytes),
        units::size(rate)
    ));
}
