//! Makes another disk of a disk.

use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use tintype_formats::layer::Choice;
use tintype_formats::reference_gate::ReferenceGate;
use tintype_formats::secrets::Secrets;
use tintype_formats::sink::{CreateOptions, IdentitySeed};
use tintype_formats::{BlockSource, Disk, Format, OpenFile, UnitTarget, raw};

use super::copy::{Copied, CopyOptions, copy};
use super::digest::{Algorithm, Digest, digest};
use super::pipeline::{Pipeline, Unreadable};
use super::plan::{DiskPlan, Feed, Inherited, PipePlan, PlanOptions};
use super::rate_limit::RateLimit;
use super::rescue::{FirstPass, Late, retry, stage, verify_late};
use super::salvage::{AreaMap, Journal, SalvageMap, SetAside, State, Tolerance, check_length, joined};
use super::{NamedDisk, storage_order};
use crate::error::{Error, Kind, OnPath as _, Result};
use crate::progress::Progress;
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
    /// Go on past unreadable ranges.
    pub salvage: Option<Tolerance>,
    /// Keep a map of what was read; only for raw targets that are written in place.
    pub salvage_map: Option<SalvageMap>,
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
        progress.enter("syncing");
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
    if let (Some(tolerance), Input::Disk(source)) = (options.salvage, &*input)
        && is_staged(target, &options)
    {
        let staged = stage(*source, folder_of(target), tolerance, (options.workers, options.rate_limit), progress)?;
        let source = NamedDisk { disk: &staged.disk, path: source.path };
        options.create.unreadable.extend(staged.unreadable.iter().cloned());
        let options = ConvertOptions { salvage: None, salvage_map: None, reflink: false, ..options };
        let converted = write(&mut Input::Disk(source), target, options, progress)?;
        return Ok(Converted { unreadable: staged.unreadable, ..converted });
    }
    options.create.target_holds_old_data = target.holds_old_data();
    let size_bytes = options.create.geometry.size_bytes;
    options.create.unreadable = joined(size_bytes, options.create.unreadable);
    progress.begin(size_bytes);
    let clonable = clonable_files(input, target, &options);
    let writer = options.format.begin(target, &options.create).on_path(target.path())?;
    let (set_aside, first_pass) = set_aside_for(input, &mut options, target);
    let mut copied = match first_pass {
        FirstPass::Earlier => Copied { digest: None, stored_bytes: 0 },
        FirstPass::Done => {
            let copied = run_copy(input, target, writer.as_ref(), &options, &clonable, set_aside.as_ref(), progress);
            if let (Err(_), Some(set_aside)) = (&copied, &set_aside) {
                let map = set_aside.map().clone();
                // The first failure is the one to tell.
                let _ = set_aside.save(&map);
            }
            copied?
        }
    };
    let late = match (&set_aside, &*input) {
        (Some(set_aside), Input::Disk(source)) => {
            let tolerance = options.salvage.unwrap_or(Tolerance::NONE);
            let late = retry(*source, set_aside, target.file().as_ref(), (tolerance, first_pass), progress);
            Some(late.on_path(source.path)?)
        }
        _ => None,
    };
    let seed = identity_seed(options.reproducible, copied.digest.as_ref())?;
    progress.enter("syncing");
    writer.finish(&seed).on_path(target.path())?;
    match &late {
        Some(late) if late.is_changed => {
            copied.digest = read_back(target, &options, late, copied.digest, progress)?;
        }
        _ if options.verify => verify(input, target, &options, copied.digest.as_ref(), progress)?,
        _ => {}
    }
    if let Input::Disk(source) = &*input {
        check_length(source.disk).on_path(source.path)?;
    }
    progress.check_cancelled()?;
    Ok(Converted {
        size_bytes,
        stored_bytes: copied.stored_bytes + late.as_ref().map_or(0, |late| late.stored_bytes),
        digest: copied.digest.filter(|_| options.digest.is_some()),
        verified: options.verify,
        unreadable: late.map(|late| late.unreadable).unwrap_or_default(),
    })
}

/// True if a raw copy is made first: the format places what it stores in the order of the disk, and takes nothing late.
fn is_staged(target: &Target, options: &ConvertOptions<'_>) -> bool {
    options.parent.is_none() && !target.is_stream() && !std::ptr::eq(options.format, &raw::FORMAT)
}

fn folder_of(target: &Target) -> &Path {
    target.path().parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Reads a target back that got bytes after the first pass: verifies it, if asked to, and returns the digest of all of it, if
/// the first pass made one.
fn read_back(
    target: &Target,
    options: &ConvertOptions<'_>,
    late: &Late,
    made: Option<Digest>,
    progress: &Progress,
) -> Result<Option<Digest>> {
    let Some(made) = made else { return Ok(None) };
    progress.enter("verifying");
    let disk = open_written(target, options)?;
    let written = NamedDisk { disk: disk.as_ref(), path: target.path() };
    if options.verify {
        verify_late(written, late, &made, options.workers, progress)?;
    }
    digest(written, made.algorithm, options.workers, progress).map(Some)
}

/// Where unreadable ranges are set aside. A pipe takes nothing late, and neither does an image with a parent: there, what
/// fails is retried at once.
fn set_aside_for(
    input: &Input<'_>,
    options: &mut ConvertOptions<'_>,
    target: &Target,
) -> (Option<SetAside>, FirstPass) {
    let (Some(tolerance), Input::Disk(source)) = (options.salvage, input) else { return (None, FirstPass::Done) };
    let size_bytes = source.disk.geometry().size_bytes;
    if options.parent.is_some() || target.is_stream() {
        return (Some(SetAside::at_once(size_bytes, tolerance.retry())), FirstPass::Done);
    }
    let not_tried = || AreaMap::new(size_bytes, State::NotTried);
    let Some(SalvageMap { path, about, continued }) = options.salvage_map.take() else {
        return (Some(SetAside::new(not_tried(), tolerance.bound())), FirstPass::Done);
    };
    let first_pass = if continued.is_some() { FirstPass::Earlier } else { FirstPass::Done };
    let journal = Journal::new(path, about, target.file());
    let set_aside = SetAside::new(continued.unwrap_or_else(not_tried), tolerance.bound());
    (Some(set_aside.with_journal(Some(journal))), first_pass)
}

fn run_copy(
    input: &mut Input<'_>,
    target: &Target,
    writer: &dyn UnitTarget,
    options: &ConvertOptions<'_>,
    clonable: &[bool],
    set_aside: Option<&SetAside>,
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
        inherited: match parent {
            Some(_) if digest.is_none() => Inherited::LeftOut,
            _ => Inherited::Read,
        },
        clonable: if layout.clones { clonable } else { &[] },
        salvage: set_aside.is_some(),
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
    let workers = options.workers;
    let unreadable = set_aside.map_or(Unreadable::Fail, Unreadable::SetAside);
    let pipeline =
        Pipeline { source, source_path: input_path, workers, progress, rate_limit: rate_limit.as_ref(), unreadable };
    copy(&pipeline, feed.as_mut(), options.create.geometry.size_bytes, writer, &copy_options).on_path(target.path())
}

/// Which of the source's files can give blocks to the target without copying; none if somebody has to see every byte.
fn clonable_files(input: &Input<'_>, target: &Target, options: &ConvertOptions<'_>) -> Vec<bool> {
    match input {
        Input::Disk(source)
            if options.reflink
                // What is cloned is not read, and would stay unreadable.
                && options.salvage.is_none()
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
    let once = matches!(input, Input::Pipe(..)) || options.salvage.is_some() || !options.reflink;
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
    progress.enter("verifying");
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
