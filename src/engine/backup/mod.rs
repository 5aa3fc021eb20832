//! Backs disks up: one session, one snapshot.

mod store;
#[cfg(all(test, feature = "testing"))]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use tintype_tin::chunk::Level;
use tintype_tin::disk_identity::{DiskIdentity, SameDisk};
use tintype_tin::id::Id;
use tintype_tin::manifest::{DiskRecord, Manifest};

use self::store::Job;
use super::convert::Input;
use super::salvage::{AreaMap, Tolerance};
use crate::error::{Error, Kind, OnPath as _, Result};
use crate::progress::Progress;
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
    /// Ranges that are known to be missing in it, and are zeros.
    pub unreadable: Vec<Range<u64>>,
    /// An incomplete backup to go on from: only the bytes that it misses are read.
    pub earlier: Option<Earlier>,
}

/// A disk of an earlier, incomplete snapshot.
pub struct Earlier {
    /// The snapshot's record of the disk.
    pub record: DiskRecord,
    /// The map of the bytes that were read.
    pub map: AreaMap,
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
    /// A map for each disk of the bytes that were read.
    pub maps: Vec<AreaMap>,
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
    let parent = repository.newest_own(&options.name, &options.host)?;
    let shrunk = shrunk(disks, parent.as_ref(), options)?;
    let session = match options.dry_run {
        true => WriteSession::pretend(repository, "backup")?,
        false => WriteSession::begin(repository, "backup", can_begin_again(disks))?,
    };
    let session = Arc::new(session);
    let stored = store_all(repository, &session, disks, parent.as_ref(), options, progress);
    // Only the writers of the disks had a share of it, and they are gone.
    let session = Arc::into_inner(session);
    let (stored, session) = match (stored, session) {
        (Ok(stored), session) => (stored, session),
        (Err(cause), session) => {
            session.into_iter().for_each(WriteSession::abandon);
            return Err(cause);
        }
    };
    let (records, maps) = stored.into_iter().unzip();
    let Some(session) = session.filter(|_| !options.dry_run) else {
        let parent = parent.map(|parent| parent.id);
        return Ok(BackedUp { snapshot: None, parent, disks: records, maps, shrunk });
    };
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
    progress.enter("syncing");
    let snapshot = session.commit(&manifest)?;
    Ok(BackedUp { snapshot: Some(snapshot), parent, disks: manifest.disks, maps, shrunk })
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
) -> Result<Vec<(DiskRecord, AreaMap)>> {
    let reader = repository.chunk_reader();
    let mut stored = Vec::new();
    let alone = disks.len() == 1;
    let known = parent.map_or(&[][..], |parent| &parent.manifest.disks);
    disks.iter().try_for_each(|disk| check_format(disk, known, alone))?;
    for disk in disks {
        if !alone {
            progress.enter_disk(&disk.name);
        }
        if let Some(warning) = other_disk(known, disk) {
            progress.note(warning);
        }
        let before = counterpart(known, disk, alone);
        let before = before.map(|record| Arc::new(repository.mapped(&reader, record)));
        stored.push(Job { repository, session, options, progress }.store(disk, before)?);
    }
    Ok(stored)
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
            "the snapshot's time, {}, is before its parent's, {}: check this computer's clock; policies go by these times",
            time::local(own),
            time::local(before)
        ));
    } else if own.as_second() - before.as_second() > LONG_AFTER_S {
        progress.note(format!(
            "the snapshot's time, {}, is more than 30 days after its parent's, {}: check this computer's clock if there were \
             backups since",
            time::local(own),
            time::local(before)
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
