//! Stores one disk: a first pass over all of it, then what that could not read; or only what an earlier backup missed.

use std::path::Path;
use std::sync::Arc;

use tintype_formats::locks::Unpoisoned as _;
use tintype_formats::sink::IdentitySeed;
use tintype_formats::tin::manifest::{DiskRecord, RootRecord, SourceRecord};
use tintype_formats::tin::map::Shape;
use tintype_formats::tin::read::MappedDisk;
use tintype_formats::tin::write::{ChunkSink, DiskWriter, Outcome, Statistics, StoredDisk};
use tintype_formats::{BlockSource, ImageWriter};

use super::{BackupDisk, BackupOptions, Earlier};
use crate::engine::NamedDisk;
use crate::engine::convert::Input;
use crate::engine::copy::{CopyOptions, copy};
use crate::engine::pipeline::{Pipeline, Unreadable};
use crate::engine::plan::{DiskPlan, Feed, PipePlan, PlanOptions};
use crate::engine::rate_limit::RateLimit;
use crate::engine::salvage::{AreaMap, Retry, SetAside, Spool, State, Witness, amend, check_length, joined};
use crate::error::{OnPath as _, Result};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::repository::session::WriteSession;

/// What the disks of a backup have in common.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub repository: &'a Arc<Repository>,
    pub session: &'a Arc<WriteSession>,
    pub options: &'a BackupOptions,
    pub progress: &'a Progress,
}

impl Job<'_> {
    /// Stores a disk, compared with what the parent has of it; also returns the map of what was read.
    pub(super) fn store(
        self,
        disk: &mut BackupDisk<'_>,
        parent: Option<Arc<MappedDisk>>,
    ) -> Result<(DiskRecord, AreaMap)> {
        let size_bytes = disk.input.size_bytes();
        let (stored, map) = match (&disk.earlier, &disk.input) {
            (Some(earlier), Input::Disk(source)) => self.go_on(source, earlier).on_path(source.path)?,
            _ => self.store_all(disk, parent)?,
        };
        if let Input::Disk(source) = &disk.input {
            check_length(source.disk).on_path(source.path)?;
        }
        let missing = joined(size_bytes, map.unfinished().into_iter().chain(disk.unreadable.iter().cloned()));
        let record = DiskRecord {
            name: disk.name.clone(),
            size_bytes,
            logical_sector_bytes: disk.sector_bytes.0,
            physical_sector_bytes: disk.sector_bytes.1,
            source: SourceRecord { path: disk.path.clone(), format: disk.format.clone() },
            identity: disk.identity.clone(),
            unreadable: missing.into_iter().map(|range| (range.start, range.end - range.start)).collect(),
            root: stored.root.map(RootRecord::from),
            statistics: stored.statistics,
        };
        Ok((record, map))
    }

    fn store_all(self, disk: &mut BackupDisk<'_>, parent: Option<Arc<MappedDisk>>) -> Result<(StoredDisk, AreaMap)> {
        let size_bytes = disk.input.size_bytes();
        self.progress.begin(size_bytes);
        let (writer, outcome) = self.writer(self.repository.shape_of(size_bytes), parent);
        let may_fail = matches!(disk.input, Input::Disk(_)) && self.options.tolerance.allows(disk.is_device);
        let not_tried = || AreaMap::new(size_bytes, State::NotTried);
        let set_aside = may_fail.then(|| SetAside::new(not_tried(), self.options.tolerance.bound()));
        self.run_copy(disk, &writer, set_aside.as_ref())?;
        let stored = finish(writer, &outcome).on_path(Path::new(&disk.path))?;
        match (&set_aside, &disk.input) {
            (Some(set_aside), Input::Disk(source)) => self.rescue(source, set_aside, stored).on_path(source.path),
            _ => Ok((stored, AreaMap::new(size_bytes, State::Finished))),
        }
    }

    fn writer(self, shape: Shape, parent: Option<Arc<MappedDisk>>) -> (DiskWriter<WriteSession>, Outcome) {
        let ring = Arc::clone(self.repository.ring());
        DiskWriter::new(Arc::clone(self.session), ring, shape, self.options.level, parent)
    }

    /// Takes every unit of the disk through the writer.
    fn run_copy(self, disk: &mut BackupDisk<'_>, writer: &dyn ImageWriter, set_aside: Option<&SetAside>) -> Result<()> {
        let rate_limit = self.options.rate_limit.map(RateLimit::new);
        let (layout, size_bytes) = (writer.layout(), disk.input.size_bytes());
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
            Input::Pipe(pipe, size) => (None, Box::new(PipePlan::new(pipe, *size, Some(layout), self.progress))),
        };
        let pipeline = Pipeline {
            source,
            source_path: &path,
            workers: self.options.workers,
            progress: self.progress,
            rate_limit: rate_limit.as_ref(),
            unreadable: set_aside.map_or(Unreadable::Fail, Unreadable::SetAside),
        };
        let copy_options = CopyOptions { parent: None, explicit_zeros: false, ordered_writes: false, digest: None };
        copy(&pipeline, feed.as_mut(), size_bytes, writer, &copy_options).on_path(&path)?;
        Ok(())
    }

    /// Retries what the first pass set aside, and puts what is rescued into the stored disk.
    fn rescue(self, source: &NamedDisk<'_>, set_aside: &SetAside, stored: StoredDisk) -> Result<(StoredDisk, AreaMap)> {
        let size_bytes = source.disk.geometry().size_bytes;
        let mut map = set_aside.map().clone();
        map.finish_untried(0..size_bytes);
        if map.unfinished_bytes() == 0 {
            return Ok((stored, map));
        }
        if !self.options.dry_run {
            self.session.flush()?;
        }
        let spool = self.retry(source, set_aside.witness(), &mut map)?;
        set_aside.check_anything_was_read()?;
        if spool.is_empty() || self.options.dry_run {
            return Ok((stored, map));
        }
        self.session.flush()?;
        let shape = self.repository.shape_of(size_bytes);
        let before = MappedDisk::new(self.repository.chunk_reader(), shape, stored.root);
        let amended = self.amend(before, &spool)?;
        Ok((StoredDisk { statistics: stored.statistics.plus(amended.statistics), ..amended }, map))
    }

    /// Reads what an earlier backup missed, and takes all else from there.
    fn go_on(self, source: &NamedDisk<'_>, earlier: &Earlier) -> Result<(StoredDisk, AreaMap)> {
        let mut map = earlier.map.clone();
        let spool = self.retry(source, &Witness::of(&map), &mut map)?;
        let before = self.repository.mapped(&self.repository.chunk_reader(), &earlier.record);
        let amended = self.amend(before, &spool)?;
        // Of what is kept nothing was counted.
        let data_bytes = earlier.record.statistics.data_bytes.max(amended.statistics.data_bytes);
        Ok((StoredDisk { statistics: Statistics { data_bytes, ..amended.statistics }, ..amended }, map))
    }

    /// Reads what is not finished in a map into a spool.
    fn retry(self, source: &NamedDisk<'_>, witness: &Witness, map: &mut AreaMap) -> Result<Spool> {
        let shape = self.repository.shape_of(source.disk.geometry().size_bytes);
        let mut spool = Spool::new(&map.unfinished(), shape.chunk_bytes)?;
        let options = self.options.tolerance.retry();
        let retry = Retry { source: source.disk, witness, options, progress: self.progress };
        retry.run(map, &mut |guest_offset, bytes| spool.put(guest_offset, bytes), &mut |_| Ok(()))?;
        Ok(spool)
    }

    fn amend(self, before: MappedDisk, spool: &Spool) -> Result<StoredDisk> {
        let before = Arc::new(before);
        let (writer, outcome) = self.writer(before.shape(), Some(Arc::clone(&before)));
        amend(&before, spool, &writer)?;
        finish(writer, &outcome)
    }
}

fn finish<S: ChunkSink + 'static>(writer: DiskWriter<S>, outcome: &Outcome) -> Result<StoredDisk> {
    Box::new(writer).finish(&IdentitySeed([0; 32]))?;
    let stored = outcome.lock().unpoisoned().take();
    Ok(stored.unwrap_or(StoredDisk { root: None, statistics: Statistics::default() }))
}
