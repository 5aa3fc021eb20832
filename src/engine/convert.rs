//! Makes another disk of a disk.

use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use tintype_formats::layer::Choice;
use tintype_formats::reference_gate::ReferenceGate;
use tintype_formats::secrets::Secrets;
use tintype_formats::sink::{CreateOptions, IdentitySeed};
use tintype_formats::{BlockSource, Disk, Format, OpenFile};

use super::copy::{Copied, CopyOptions, copy};
use super::digest::{Algorithm, Digest, digest};
use super::pipeline::Pipeline;
use super::plan::{DiskPlan, Feed, PipePlan, PlanOptions};
use super::rate_limit::RateLimit;
use super::{NamedDisk, Progress, storage_order};
use crate::error::{Error, Kind, OnPath as _, Result};
use crate::targets::Target;

/// Where the bytes come from.
pub enum Input<'a> {
    /// A disk that can be read at any place.
    Disk(NamedDisk<'a>),
    /// A pipe of this many bytes.
    Pipe(&'a mut (dyn Read + Send), u64),
}

impl Input<'_> {
    /// How large the disk is, in bytes.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Input::Disk(source) => source.disk.geometry().size_bytes,
            Input::Pipe(_, size_bytes) => *size_bytes,
        }
    }

    /// The path that failures to read it name.
    pub fn path(&self) -> &Path {
        match self {
            Input::Disk(source) => source.path,
            Input::Pipe(..) => Path::new("standard input"),
        }
    }
}

/// How to convert.
pub struct ConvertOptions<'a> {
    /// The target's format.
    pub format: &'static Format,
    /// What to create.
    pub create: CreateOptions,
    /// What the new image inherits from, with the gate to open it through when the result is verified.
    pub parent: Option<(&'a dyn BlockSource, Arc<dyn ReferenceGate>)>,
    /// How many units are in the works at once.
    pub workers: usize,
    /// The digest of the guest content to make in the same pass.
    pub digest: Option<Algorithm>,
    /// Read the result back and compare.
    pub verify: bool,
    /// Clone blocks where possible.
    pub reflink: bool,
    /// Go past unreadable ranges.
    pub salvage: bool,
    /// How many guest bytes a second to read at most.
    pub rate_limit: Option<u64>,
    /// Derive the image's identifiers from its content.
    pub reproducible: bool,
}

/// What a conversion came to.
#[derive(Debug)]
pub struct Converted {
    /// The disk's size, in bytes.
    pub size_bytes: u64,
    /// How many guest bytes were stored.
    pub stored_bytes: u64,
    /// The digest, if one was asked for.
    pub digest: Option<Digest>,
    /// Whether the result was read back and found to be right.
    pub verified: bool,
    /// Guest ranges that could not be read and are zeros in the target.
    pub unreadable: Vec<Range<u64>>,
}

/// Writes `input` to `target`, finishes it, verifies it if asked to, and commits it; or gives the target up.
pub fn convert(
    mut input: Input<'_>,
    target: &Target,
    options: ConvertOptions<'_>,
    progress: &Progress,
) -> Result<Converted> {
    let converted = write(&mut input, target, options, progress).and_then(|converted| {
        target.commit()?;
        Ok(converted)
    });
    converted.map_err(|cause| match target.abandon() {
        Some(aftermath) => cause.with_aftermath(aftermath),
        None => cause,
    })
}

fn write(
    input: &mut Input<'_>,
    target: &Target,
    mut options: ConvertOptions<'_>,
    progress: &Progress,
) -> Result<Converted> {
    options.create.target_holds_old_data = target.holds_old_data();
    let size_bytes = options.create.geometry.size_bytes;
    progress.begin(size_bytes);
    let clonable = clonable_files(input, target, &options);
    let writer = options.format.begin(target, &options.create).on_path(target.path())?;
    let copied = run_copy(input, target, writer.as_ref(), &options, &clonable, progress)?;
    let seed = identity_seed(options.reproducible, copied.digest.as_ref())?;
    writer.finish(&seed).on_path(target.path())?;
    if options.verify {
        verify(input, target, &options, copied.digest.as_ref(), progress)?;
    }
    progress.check_cancelled()?;
    Ok(Converted {
        size_bytes,
        stored_bytes: copied.stored_bytes,
        digest: copied.digest.filter(|_| options.digest.is_some()),
        verified: options.verify,
        unreadable: copied.unreadable,
    })
}

fn run_copy(
    input: &mut Input<'_>,
    target: &Target,
    writer: &dyn tintype_formats::ImageWriter,
    options: &ConvertOptions<'_>,
    clonable: &[bool],
    progress: &Progress,
) -> Result<Copied> {
    let rate_limit = options.rate_limit.map(RateLimit::new);
    let layout = writer.layout();
    let parent = options.parent.as_ref().map(|(parent, _)| *parent);
    let digest = digest_to_make(options, input);
    let copy_options =
        CopyOptions { parent, explicit_zeros: target.holds_old_data(), ordered_writes: target.is_stream(), digest };
    let plan_options = PlanOptions {
        parent,
        with_zeros: target.holds_old_data() || digest.is_some(),
        with_inherited: digest.is_some(),
        clonable: if layout.clones { clonable } else { &[] },
        salvage: options.salvage,
    };
    let input_path = input.path().to_owned();
    let (source, mut feed): (_, Box<dyn Feed>) = match input {
        Input::Disk(source) if layout.in_place && parent.is_none() && digest.is_none() && !target.is_stream() => {
            (Some(source.disk), storage_order::plan(source.disk, layout, plan_options))
        }
        Input::Disk(source) => (Some(source.disk), Box::new(DiskPlan::new(source.disk, Some(layout), plan_options))),
        Input::Pipe(pipe, size_bytes) => (None, Box::new(PipePlan::new(pipe, *size_bytes, Some(layout), progress))),
    };
    let input_path = input_path.as_path();
    let (workers, salvage) = (options.workers, options.salvage);
    let pipeline =
        Pipeline { source, source_path: input_path, workers, progress, rate_limit: rate_limit.as_ref(), salvage };
    copy(&pipeline, feed.as_mut(), options.create.geometry.size_bytes, writer, &copy_options).on_path(target.path())
}

/// Which of the source's files can give blocks to the target without copying; none if somebody has to see every byte.
fn clonable_files(input: &Input<'_>, target: &Target, options: &ConvertOptions<'_>) -> Vec<bool> {
    match input {
        Input::Disk(source)
            if options.reflink
                // What is cloned is not read, and would stay unreadable.
                && !options.salvage
                && digest_to_make(options, input).is_none()
                && options.parent.is_none() =>
        {
            source.disk.host_files().iter().map(|file| target.can_clone_from(file.file.as_ref())).collect()
        }
        _ => Vec::new(),
    }
}

/// Identifiers need a digest too, if nobody asked for one, and so does the verification of what cannot be read again:
/// of a pipe, and of a disk with unreadable ranges, where the digest counts them as the zeros that are stored.
fn digest_to_make(options: &ConvertOptions<'_>, input: &Input<'_>) -> Option<Algorithm> {
    let once = matches!(input, Input::Pipe(..)) || options.salvage || !options.reflink;
    let needed = options.reproducible || (options.verify && once);
    options.digest.or(needed.then_some(Algorithm::Blake3))
}

fn identity_seed(reproducible: bool, content: Option<&Digest>) -> Result<IdentitySeed> {
    match content {
        Some(digest) if reproducible => Ok(IdentitySeed(digest.bytes)),
        _ => {
            let mut seed = [0; 32];
            rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
                .map_err(|errno| Error::io("get random bytes for identifiers", errno.into()))?;
            Ok(IdentitySeed(seed))
        }
    }
}

/// Reads the target back from the disk and compares its digest with the source's.
fn verify(
    input: &Input<'_>,
    target: &Target,
    options: &ConvertOptions<'_>,
    made: Option<&Digest>,
    progress: &Progress,
) -> Result<()> {
    let expected = match (made, input) {
        (Some(digest), _) => digest.clone(),
        (None, Input::Disk(source)) => digest(*source, Algorithm::Blake3, options.workers, progress)?,
        (None, Input::Pipe(..)) => return Err(Error::new(Kind::Usage, "a pipe cannot be read twice to verify it")),
    };
    let written = open_written(target, options)?;
    let written = NamedDisk { disk: written.as_ref(), path: target.path() };
    let found = digest(written, expected.algorithm, options.workers, progress)?;
    if found != expected {
        let message = format!(
            "what was read back has the {} digest {}, expected {}",
            expected.algorithm.name(),
            found.to_hex(),
            expected.to_hex()
        );
        return Err(Error::new(Kind::VerificationFailed, message).with_path(target.path()));
    }
    Ok(())
}

/// The disk in the target, which is larger than the disk where the target is a larger device.
fn open_written(target: &Target, options: &ConvertOptions<'_>) -> Result<Box<dyn BlockSource>> {
    let file = OpenFile {
        file: target.read_back()?,
        name: target.path().display().to_string(),
        identity: None,
        secrets: Secrets::default(),
    };
    let gate = match &options.parent {
        Some((_, gate)) => Arc::clone(gate),
        None => Arc::new(tintype_formats::reference_gate::NoReferences),
    };
    let gate = target.gate(gate)?;
    let disk = Disk::open(file, Some(options.format), Choice::default(), gate).on_path(target.path())?;
    let size_bytes = options.create.geometry.size_bytes;
    let has_bytes = disk.geometry().size_bytes;
    match target.is_in_place() && has_bytes > size_bytes {
        true => Ok(Box::new(crate::sources::Slice::new(disk, 0, Some(size_bytes))?)),
        false => Ok(Box::new(disk)),
    }
}

/// The name that a new image beside `target` should use for its parent: relative, if the parent is in the same folder or below.
pub fn parent_name(target: &Path, parent: &Path) -> Option<String> {
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let full = parent.canonicalize().ok()?;
    let relative = folder.canonicalize().ok().and_then(|folder| full.strip_prefix(folder).ok().map(Path::to_owned));
    relative.unwrap_or(full).to_str().map(str::to_owned)
}
