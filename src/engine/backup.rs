//! Backs disks up: one session, one snapshot.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use tintype_formats::sink::IdentitySeed;
use tintype_formats::tin::chunk::Level;
use tintype_formats::tin::disk_identity::{DiskIdentity, SameDisk};
use tintype_formats::tin::id::Id;
use tintype_formats::tin::manifest::{DiskRecord, Manifest, RootRecord, SourceRecord};
use tintype_formats::tin::map::Shape;
use tintype_formats::tin::read::MappedDisk;
use tintype_formats::tin::write::{ChunkSink, DiskWriter, Outcome, Statistics, StoredDisk};
use tintype_formats::{BlockSource, ImageWriter};

use super::convert::Input;
use super::copy::{CopyOptions, copy};
use super::pipeline::{Pipeline, Unreadable};
use super::plan::{DiskPlan, Feed, PipePlan, PlanOptions};
use super::rate_limit::RateLimit;
use super::salvage::{AreaMap, Retry, SetAside, Spool, State, Tolerance, amend, check_length};
use super::{NamedDisk, Progress};
use crate::error::{Error, Kind, OnPath as _, Result};
use crate::repository::session::WriteSession;
use crate::repository::snapshots::Snapshot;
use crate::repository::{PROGRAM, Repository, names, time};

/// A disk to back up.
pub struct BackupDisk<'a> {
    /// Its name in the snapshot.
    pub name: String,
    /// Where it is read from.
    pub input: Input<'a>,
    /// The path or address, for the record.
    pub path: String,
    /// The format's name, for the record.
    pub format: String,
    /// True if the user or the file's name states the format, false if only the content does.
    pub is_declared: bool,
    /// Its sectors: logical and physical size in bytes.
    pub sector_bytes: (u32, u32),
    /// What it is known by besides its name.
    pub identity: DiskIdentity,
    /// True if it is a device that is read as it is.
    pub is_device: bool,
}

/// How to back up.
#[derive(Clone)]
pub struct BackupOptions {
    /// What it is a snapshot of.
    pub name: String,
    /// The computer that makes it.
    pub host: String,
    /// What the user writes on it.
    pub tags: BTreeMap<String, String>,
    /// How hard to compress.
    pub level: Level,
    /// In which state the disks are.
    pub consistency: String,
    /// How many units may be in the works at once.
    pub workers: usize,
    /// How many bytes a second to read at most.
    pub rate_limit: Option<u64>,
    /// Store nothing, only count.
    pub dry_run: bool,
    /// How much of the disks may be unreadable.
    pub tolerance: Tolerance,
    /// Take a disk of 0 bytes that had a size in the snapshot before.
    pub allow_empty: bool,
}

/// What a backup came to.
#[derive(Debug)]
pub struct BackedUp {
    /// The snapshot; none after a dry run.
    pub snapshot: Option<Id>,
    /// The snapshot that it was compared with.
    pub parent: Option<Id>,
    /// The disks.
    pub disks: Vec<DiskRecord>,
    /// The disks that are smaller than in that snapshot: name, size before and size now, in bytes.
    pub shrunk: Vec<(String, u64, u64)>,
}

/// How often a backup begins again because a prune did not wait for it.
const ATTEMPTS: usize = 3;

/// Stores the disks as one snapshot.
pub fn backup(
    repository: &Arc<Repository>,
    disks: &mut [BackupDisk<'_>],
    options: &BackupOptions,
    progress: &Progress,
) -> Result<BackedUp> {
    backup_as(repository, disks, options, &|_| {}, progress)
}

/// Like [`backup`]; `amend` has the last word on what the manifest says.
pub fn backup_as(
    repository: &Arc<Repository>,
    disks: &mut [BackupDisk<'_>],
    options: &BackupOptions,
    amend: &dyn Fn(&mut Manifest),
    progress: &Progress,
) -> Result<BackedUp> {
    names::check_length("the name of a snapshot", &options.name)?;
    disks.iter().try_for_each(|disk| names::check_length("the name of a disk", &disk.name))?;
    names::check_tags(&options.tags)?;
    let again = can_begin_again(disks);
    for _ in 1..if again { ATTEMPTS } else { 1 } {
        match back_up_once(repository, disks, options, amend, progress) {
            Err(cause) if cause.kind() == Kind::Fenced => progress.note(format!("{cause}; it begins again")),
            other => return other,
        }
    }
    back_up_once(repository, disks, options, amend, progress)
}

/// A pipe can be read only once.
fn can_begin_again(disks: &[BackupDisk<'_>]) -> bool {
    disks.iter().all(|disk| matches!(disk.input, Input::Disk(_)))
}

fn back_up_once(
    repository: &Arc<Repository>,
    disks: &mut [BackupDisk<'_>],
    options: &BackupOptions,
    amend: &dyn Fn(&mut Manifest),
    progress: &Progress,
) -> Result<BackedUp> {
    let parent = repository.newest_own(&options.name)?;
    let shrunk = shrunk(disks, parent.as_ref(), options)?;
    let session = match options.dry_run {
        true => WriteSession::pretend(repository, "backup")?,
        false => WriteSession::begin(repository, "backup", can_begin_again(disks))?,
    };
    let session = Arc::new(session);
    let stored = store_all(repository, &session, disks, parent.as_ref(), options, progress);
    // Only the writers of the disks had a share of it, and they are gone.
    let session = Arc::into_inner(session);
    let (records, session) = match (stored, session) {
        (Ok(records), Some(session)) => (records, session),
        (Err(cause), Some(session)) => {
            session.abandon();
            return Err(cause);
        }
        (result, None) => return result.map(|disks| BackedUp { snapshot: None, parent: None, disks, shrunk }),
    };
    if options.dry_run {
        let parent = parent.map(|parent| parent.id);
        return Ok(BackedUp { snapshot: None, parent, disks: records, shrunk });
    }
    let mut manifest = Manifest {
        schema: Manifest::SCHEMA,
        features: Vec::new(),
        name: options.name.clone(),
        time: time::now(),
        host: options.host.clone(),
        tags: options.tags.clone(),
        parent: parent.as_ref().map(|parent| parent.id),
        original: None,
        program: PROGRAM.to_owned(),
        consistency: options.consistency.clone(),
        disks: records,
        machine: None,
    };
    let now = manifest.time.clone();
    amend(&mut manifest);
    if let Some(parent) = &parent {
        check_clock(parent, &mut manifest, &now, progress);
    }
    let parent = manifest.parent;
    progress.check_cancelled()?;
    let snapshot = session.commit(&manifest)?;
    Ok(BackedUp { snapshot: Some(snapshot), parent, disks: manifest.disks, shrunk })
}

/// Finds disks that are smaller than they were in the snapshot before; fails if one has nothing left.
fn shrunk(
    disks: &[BackupDisk<'_>],
    parent: Option<&Snapshot>,
    options: &BackupOptions,
) -> Result<Vec<(String, u64, u64)>> {
    let mut shrunk = Vec::new();
    for disk in disks {
        let before = parent.and_then(|parent| counterpart(&parent.manifest.disks, disk, disks.len() == 1));
        let (before_bytes, size_bytes) = (before.map_or(0, |record| record.size_bytes), disk.input.size_bytes());
        if size_bytes == 0 && before_bytes > 0 && !options.allow_empty {
            let message = format!("the disk has 0 bytes, and had {before_bytes} in the snapshot before");
            return Err(Error::new(Kind::ShrankToNothing, message).with_path(Path::new(&disk.path)));
        }
        if size_bytes < before_bytes {
            shrunk.push((disk.name.clone(), before_bytes, size_bytes));
        }
    }
    Ok(shrunk)
}

fn store_all(
    repository: &Arc<Repository>,
    session: &Arc<WriteSession>,
    disks: &mut [BackupDisk<'_>],
    parent: Option<&Snapshot>,
    options: &BackupOptions,
    progress: &Progress,
) -> Result<Vec<DiskRecord>> {
    let reader = repository.chunk_reader();
    let mut records = Vec::new();
    let alone = disks.len() == 1;
    let known = parent.map_or(&[][..], |parent| &parent.manifest.disks);
    disks.iter().try_for_each(|disk| check_format(disk, known, alone))?;
    for disk in disks {
        if let Some(warning) = other_disk(known, disk) {
            progress.note(warning);
        }
        let before = counterpart(known, disk, alone);
        let before = before.map(|record| Arc::new(repository.mapped(&reader, record)));
        records.push(store_disk(repository, session, disk, before, options, progress)?);
    }
    Ok(records)
}

/// A raw disk belongs to its guest, which can write another format's header into it to have itself read as that.
fn check_format(disk: &BackupDisk<'_>, before: &[DiskRecord], alone: bool) -> Result<()> {
    // What the guest wrote also decides which disk it seems to be, so the one of its name counts as well.
    let named = before.iter().find(|record| record.name == disk.name);
    let was_raw = |record: Option<&DiskRecord>| record.is_some_and(|record| record.source.format == "raw");
    if disk.is_declared || !(was_raw(named) || was_raw(counterpart(before, disk, alone))) {
        return Ok(());
    }
    let message = format!(
        "the content looks like {} now, and the snapshot before recorded a raw disk: its guest may have written that",
        disk.format
    );
    Err(Error::new(Kind::UndeclaredFormat, message)).on_path(Path::new(&disk.path))
}

/// Returns the disk of the parent that a disk is compared with: one that is known to be the same, of the same name first; else the
/// one of its name; else the only one with the only one, for an image whose file is named by the day is the same disk.
fn counterpart<'a>(before: &'a [DiskRecord], disk: &BackupDisk<'_>, alone: bool) -> Option<&'a DiskRecord> {
    let named = before.iter().find(|record| record.name == disk.name);
    let is_same = |record: &&DiskRecord| record.identity.compare(&disk.identity) == SameDisk::Yes;
    let same = named.filter(is_same).or_else(|| before.iter().find(is_same));
    let only = before.first().filter(|_| alone && before.len() == 1);
    same.or(named).or(only)
}

/// How long after its parent a snapshot may be without a word, in seconds.
const LONG_AFTER_S: i64 = 30 * 24 * 60 * 60;

/// Warns if the time of a snapshot and its parent's do not fit: a policy has nothing but these times. A snapshot that was given an
/// older time than now was not made from a parent that came later.
fn check_clock(parent: &Snapshot, manifest: &mut Manifest, now: &str, progress: &Progress) {
    let times = time::parse(&manifest.time).zip(time::parse(&parent.manifest.time));
    let Some((own, before)) = times else { return };
    if manifest.time != now {
        manifest.parent = manifest.parent.filter(|_| before <= own);
    } else if own < before {
        progress.note(format!(
            "the snapshot's time, {own}, is before its parent's, {before}: check this computer's clock; policies go by these \
             times"
        ));
    } else if own.as_second() - before.as_second() > LONG_AFTER_S {
        progress.note(format!(
            "the snapshot's time, {own}, is more than 30 days after its parent's, {before}: check this computer's clock if \
             there were backups since"
        ));
    }
}

/// Returns a warning if the parent has another disk of this name.
fn other_disk(before: &[DiskRecord], disk: &BackupDisk<'_>) -> Option<String> {
    let record = before.iter().find(|record| record.name == disk.name)?;
    if record.identity.compare(&disk.identity) != SameDisk::No {
        return None;
    }
    let facts = |identity: &DiskIdentity| identity.key().unwrap_or_default();
    let (now, then) = (facts(&disk.identity), facts(&record.identity));
    Some(format!("{} is another disk than in the parent snapshot: {now}; it was {then}", disk.name))
}

fn store_disk(
    repository: &Arc<Repository>,
    session: &Arc<WriteSession>,
    disk: &mut BackupDisk<'_>,
    parent: Option<Arc<MappedDisk>>,
    options: &BackupOptions,
    progress: &Progress,
) -> Result<DiskRecord> {
    let size_bytes = disk.input.size_bytes();
    progress.begin(size_bytes);
    let shape = repository.shape_of(size_bytes);
    let ring = Arc::clone(repository.ring());
    let (writer, outcome) = DiskWriter::new(Arc::clone(session), ring, shape, options.level, parent);
    let may_fail = matches!(disk.input, Input::Disk(_)) && options.tolerance.allows(disk.is_device);
    let not_tried = || AreaMap::new(size_bytes, State::NotTried);
    let set_aside = may_fail.then(|| SetAside::new(not_tried(), options.tolerance.bound()));
    run_copy(disk, &writer, size_bytes, set_aside.as_ref(), options, progress)?;
    let mut stored = finish(writer, &outcome).on_path(Path::new(&disk.path))?;
    let mut unreadable = Vec::new();
    if let (Some(set_aside), Input::Disk(source)) = (&set_aside, &disk.input) {
        let late = Late { repository, session, source, options, progress };
        let (rescued, missing) = late.rescue(set_aside, stored).on_path(source.path)?;
        stored = rescued;
        unreadable = missing.into_iter().map(|range| (range.start, range.end - range.start)).collect();
    }
    if let Input::Disk(source) = &disk.input {
        check_length(source.disk).on_path(source.path)?;
    }
    Ok(DiskRecord {
        name: disk.name.clone(),
        size_bytes,
        logical_sector_bytes: disk.sector_bytes.0,
        physical_sector_bytes: disk.sector_bytes.1,
        source: SourceRecord { path: disk.path.clone(), format: disk.format.clone() },
        identity: disk.identity.clone(),
        unreadable,
        root: stored.root.map(RootRecord::from),
        statistics: stored.statistics,
    })
}

fn finish<S: ChunkSink + 'static>(writer: DiskWriter<S>, outcome: &Outcome) -> Result<StoredDisk> {
    Box::new(writer).finish(&IdentitySeed([0; 32]))?;
    let stored = outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    Ok(stored.unwrap_or(StoredDisk { root: None, statistics: Statistics::default() }))
}

/// What comes after the first pass over a disk.
struct Late<'a> {
    repository: &'a Arc<Repository>,
    session: &'a Arc<WriteSession>,
    source: &'a NamedDisk<'a>,
    options: &'a BackupOptions,
    progress: &'a Progress,
}

impl Late<'_> {
    /// Retries what was set aside, and puts what is rescued into the stored disk; also returns what is still missing.
    fn rescue(&self, set_aside: &SetAside, stored: StoredDisk) -> Result<(StoredDisk, Vec<Range<u64>>)> {
        let size_bytes = self.source.disk.geometry().size_bytes;
        let mut map = set_aside.map().clone();
        map.finish_untried(0..size_bytes);
        let areas = map.unfinished();
        if areas.is_empty() {
            return Ok((stored, areas));
        }
        let shape = self.repository.shape_of(size_bytes);
        let mut spool = Spool::new(&areas, shape.chunk_bytes)?;
        if !self.options.dry_run {
            self.session.flush()?;
        }
        let retry = Retry {
            source: self.source.disk,
            witness: set_aside.witness(),
            options: self.options.tolerance.retry(),
            progress: self.progress,
        };
        retry.run(&mut map, &mut |guest_offset, bytes| spool.put(guest_offset, bytes), &mut |_| Ok(()))?;
        if !set_aside.witness().has_seen() {
            return Err(Error::new(Kind::Io, "nothing of the disk could be read"));
        }
        let stored = if spool.is_empty() || self.options.dry_run { stored } else { self.amend(shape, stored, &spool)? };
        Ok((stored, map.unfinished()))
    }

    fn amend(&self, shape: Shape, stored: StoredDisk, spool: &Spool) -> Result<StoredDisk> {
        self.session.flush()?;
        let before = Arc::new(MappedDisk::new(self.repository.chunk_reader(), shape, stored.root));
        let ring = Arc::clone(self.repository.ring());
        let (session, parent) = (Arc::clone(self.session), Some(Arc::clone(&before)));
        let (writer, outcome) = DiskWriter::new(session, ring, shape, self.options.level, parent);
        amend(&before, spool, &writer)?;
        let amended = finish(writer, &outcome)?;
        Ok(StoredDisk { statistics: stored.statistics.plus(amended.statistics), ..amended })
    }
}

/// Takes every unit of the disk through the writer.
fn run_copy(
    disk: &mut BackupDisk<'_>,
    writer: &dyn ImageWriter,
    size_bytes: u64,
    set_aside: Option<&SetAside>,
    options: &BackupOptions,
    progress: &Progress,
) -> Result<()> {
    let rate_limit = options.rate_limit.map(RateLimit::new);
    let layout = writer.layout();
    let path = disk.input.path().to_owned();
    let plan = PlanOptions {
        parent: None,
        with_zeros: false,
        with_inherited: false,
        clonable: &[],
        salvage: set_aside.is_some(),
    };
    let (source, mut feed): (Option<&dyn BlockSource>, Box<dyn Feed>) = match &mut disk.input {
        Input::Disk(source) => (Some(source.disk), Box::new(DiskPlan::new(source.disk, Some(layout), plan))),
        Input::Pipe(pipe, size) => (None, Box::new(PipePlan::new(pipe, *size, Some(layout), progress))),
    };
    let pipeline = Pipeline {
        source,
        source_path: &path,
        workers: options.workers,
        progress,
        rate_limit: rate_limit.as_ref(),
        unreadable: set_aside.map_or(Unreadable::Fail, Unreadable::SetAside),
    };
    let copy_options = CopyOptions { parent: None, explicit_zeros: false, ordered_writes: false, digest: None };
    copy(&pipeline, feed.as_mut(), size_bytes, writer, &copy_options).on_path(&path)?;
    Ok(())
}
