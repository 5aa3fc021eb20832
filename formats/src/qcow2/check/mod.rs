//! Checking an image: goes through everything that refers to host clusters, counts the references, and compares the
//! counts with the refcounts in the file.
//!
//! ```text
//!   header, L1 tables, L2 tables, clusters, snapshot table, refcount table, LUKS header, bitmaps, refcount blocks
//!       ──► references, counted for one window of the file at a time ──► compared with the refcounts
//! ```
//!
//! Invariants: structural damage is reported in the first window only; memory is bounded by the window and one table,
//! whatever the image says; an L2 table that an L1 table names twice is gone through once, and tables of one sort are
//! not read further than the file is long. In an image that was not closed, refcounts that are too low where nothing is
//! used twice are no damage: lazy refcounts are written when the image is closed.

mod bitmaps;

use std::collections::HashSet;

use super::entry::{Cluster, EntryRules, L2Entry};
use super::header::TablePlace;
use super::on_disk::*;
use super::read::{Qcow2Image, rules};
use super::references::{RefcountBlock, ReferenceCounts, StoredRefcounts, same_count};
use super::snapshots;
use crate::check::{CheckReport, Severity};
use crate::error::{ErrorKind, ImageError, Result};

const READ_TABLE: &str = "read table for checking";

/// How much of a table of 8-byte entries is read at once.
const PIECE_BYTES: u64 = 64 << 10;

pub(super) fn check(image: &Qcow2Image, report: &mut CheckReport) -> Result<()> {
    let refcounts = match StoredRefcounts::read(image)? {
        Ok(refcounts) => Some(refcounts),
        Err(problem) => {
            report.corruption(image.header.refcount_table.host_offset, format_args!("the refcount table: {problem}"));
            None
        }
    };
    let file_clusters = image.header.shape.clusters_for(image.file_bytes);
    let mut checker = Checker {
        image,
        shape: image.header.shape,
        rules: rules(&image.header),
        counts: ReferenceCounts::new(file_clusters)?,
        refcounts: refcounts.as_ref(),
        first_window: true,
        complete: true,
        l1_bytes_left: image.file_bytes,
        bitmap_bytes_left: image.file_bytes,
        report,
    };
    loop {
        checker.count_references()?;
        checker.compare_refcounts()?;
        let is_counted = |clusters| refcounts.as_ref().is_some_and(|refcounts| refcounts.has_blocks_for(clusters));
        if !checker.counts.next_window(is_counted) {
            return Ok(());
        }
        checker.first_window = false;
    }
}

struct Checker<'a> {
    image: &'a Qcow2Image,
    shape: Shape,
    rules: EntryRules,
    counts: ReferenceCounts,
    refcounts: Option<&'a StoredRefcounts>,
    first_window: bool,
    /// Whether everything that refers to clusters could be read: what has too few references is a leak only then.
    complete: bool,
    /// How much of L1 tables of snapshots may still be read: all of them together cannot be longer than the file.
    l1_bytes_left: u64,
    bitmap_bytes_left: u64,
    report: &'a mut CheckReport,
}

impl Checker<'_> {
    fn count_references(&mut self) -> Result<()> {
        let header = &self.image.header;
        (self.l1_bytes_left, self.bitmap_bytes_left) = (self.image.file_bytes, self.image.file_bytes);
        self.refer_to("the header", 0, self.shape.cluster_bytes());
        self.check_l1("the active L1 table", header.l1, true)?;
        self.check_snapshots()?;
        if self.refcounts.is_some() {
            let table = header.refcount_table;
            self.refer_to("the refcount table", table.host_offset, table.length_bytes());
        }
        if let Some(place) = header.extensions.crypto_header {
            self.refer_to("the LUKS header", place.host_offset, place.length_bytes);
        }
        self.check_bitmaps()?;
        self.check_refcount_blocks();
        Ok(())
    }

    /// Notes damage, once.
    fn corruption(&mut self, host_offset: u64, text: impl FnOnce() -> String) {
        if self.first_window {
            self.report.corruption(host_offset, text());
        }
    }

    /// Counts a reference to a range of the file. The last cluster may end past the end of the file, not more.
    fn refer_to(&mut self, what: &str, host_offset: u64, length_bytes: u64) {
        if length_bytes == 0 {
            return;
        }
        let file_bytes = self.image.file_bytes;
        match host_offset.checked_add(length_bytes) {
            Some(end) if end.saturating_sub(file_bytes) < self.shape.cluster_bytes() => {
                let cluster_of = |offset: u64| offset >> self.shape.cluster_bits;
                self.counts.add(cluster_of(host_offset), cluster_of(end - 1));
            }
            _ => self.corruption(host_offset, || {
                format!("{what} ({length_bytes} bytes) lies past the end of the file ({file_bytes:#x})")
            }),
        }
    }

    fn check_snapshots(&mut self) -> Result<()> {
        let header = &self.image.header;
        let table = &self.image.snapshot_table;
        if header.snapshot_count > 0 && table.snapshots.is_empty() {
            return self.report_unreadable_snapshots();
        }
        if header.snapshot_count > 0 && header.features.data_file() {
            self.corruption(header.snapshots_offset, || "there are both snapshots and an external data file".into());
        }
        for snapshot in &table.snapshots {
            let name = format!("the L1 table of snapshot \"{}\"", snapshot.info.id.escape_debug());
            // "Version 3 images must include extra data at least up to byte 55."
            if header.version >= 3 && !snapshot.complete {
                self.corruption(header.snapshots_offset, || {
                    format!("{name}: its entry in the snapshot table is incomplete")
                });
            }
            if snapshot.l1.length_bytes() > self.l1_bytes_left {
                self.corruption(snapshot.l1.host_offset, || {
                    format!("{name} and those before it have no room in the file")
                });
                continue;
            }
            self.l1_bytes_left -= snapshot.l1.length_bytes();
            self.check_l1(&name, snapshot.l1, false)?;
        }
        self.refer_to("the snapshot table", header.snapshots_offset, table.length_bytes);
        Ok(())
    }

    fn report_unreadable_snapshots(&mut self) -> Result<()> {
        let read = snapshots::read(self.image.file.file.as_ref(), self.image.file_bytes, &self.image.header);
        match read.map_err(damage_or_error) {
            Err(Err(error)) => Err(error),
            Err(Ok(problem)) => {
                self.complete = false;
                self.corruption(self.image.header.snapshots_offset, || problem);
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    fn check_l1(&mut self, name: &str, l1: TablePlace, active: bool) -> Result<()> {
        if self.shape.within_cluster(l1.host_offset) != 0 {
            self.corruption(l1.host_offset, || format!("{name} does not begin at a cluster"));
            return Ok(());
        }
        if l1.length_bytes() > MAX_L1_TABLE_BYTES {
            self.corruption(l1.host_offset, || format!("{name} has {} entries, which is too many", l1.entries));
            return Ok(());
        }
        self.refer_to(name, l1.host_offset, l1.length_bytes());
        let mut seen = HashSet::new();
        self.for_each_entry(l1.host_offset, l1.entries, &mut |checker, index, entry| {
            if entry == 0 {
                return Ok(());
            }
            let l2_table = checker.check_l1_entry(name, l1.host_offset, index, entry, active)?;
            match l2_table.filter(|table| seen.insert(*table)) {
                Some(table) => checker.check_l2(table, index, active),
                None => Ok(()),
            }
        })
    }

    /// Checks an entry that is not 0; returns where its L2 table lies if that can be read.
    fn check_l1_entry(&mut self, name: &str, table: u64, index: u64, entry: u64, active: bool) -> Result<Option<u64>> {
        let l2_offset = entry & ENTRY_OFFSET_MASK;
        if entry & L1_RESERVED_MASK != 0 {
            self.corruption(table, || format!("{name}: entry {index} has reserved bits set ({entry:#x})"));
        }
        if l2_offset == 0 {
            self.corruption(table, || format!("{name}: entry {index} ({entry:#x}) points to the header"));
            return Ok(None);
        }
        self.refer_to("an L2 table", l2_offset, self.shape.cluster_bytes());
        if active {
            self.check_copied("L1", table, index, entry, l2_offset)?;
        }
        if self.shape.within_cluster(l2_offset) != 0 {
            self.corruption(table, || format!("{name}: entry {index} points to {l2_offset:#x}, which is no cluster"));
            return Ok(None);
        }
        Ok(Some(l2_offset).filter(|offset| *offset < self.image.file_bytes))
    }

    fn check_l2(&mut self, table: u64, l1_index: u64, active: bool) -> Result<()> {
        let words = self.shape.l2_entry_bytes() / 8;
        let first_guest_offset = l1_index.saturating_mul(self.shape.l2_span_bytes());
        let mut descriptor = 0;
        self.for_each_entry(table, self.shape.l2_entries() * words, &mut |checker, index, word| {
            if words == 2 && index % 2 == 0 {
                descriptor = word;
                return Ok(());
            }
            let entry = match words {
                2 => L2Entry { descriptor, bitmap: word },
                _ => L2Entry { descriptor: word, bitmap: 0 },
            };
            if (entry.descriptor, entry.bitmap) == (0, 0) {
                return Ok(());
            }
            let l2_index = index / words;
            let guest_offset = first_guest_offset.saturating_add(l2_index * checker.shape.cluster_bytes());
            checker.check_l2_entry(table, l2_index, entry, guest_offset, active)
        })
    }

    fn check_l2_entry(
        &mut self,
        table: u64,
        index: u64,
        entry: L2Entry,
        guest_offset: u64,
        active: bool,
    ) -> Result<()> {
        match entry.decode(self.rules, guest_offset) {
            Err(problem) => self.corruption(table, || format!("L2 table: entry {index} {problem}")),
            Ok(cluster) if active && self.first_window => self.report.allocated_bytes += self.stored_bytes(cluster),
            Ok(_) => {}
        }
        if entry.is_compressed() {
            if entry.is_copied() {
                self.corruption(table, || format!("L2 table: entry {index} is compressed and has the COPIED flag"));
            }
            let (host_offset, length_bytes) = entry.compressed_range(self.shape.cluster_bits);
            if !self.rules.data_file && entry.bitmap == 0 {
                self.refer_to("a compressed cluster", host_offset, length_bytes);
            }
            return Ok(());
        }
        let Some(host_offset) = entry.host_offset(self.rules.data_file) else { return Ok(()) };
        if !self.rules.data_file {
            self.refer_to("a cluster", host_offset, self.shape.cluster_bytes());
        }
        if active { self.check_copied("L2", table, index, entry.descriptor, host_offset) } else { Ok(()) }
    }

    fn stored_bytes(&self, cluster: Cluster) -> u64 {
        match cluster {
            Cluster::Absent | Cluster::Zero { reserved_offset: None } => 0,
            Cluster::Data { .. } | Cluster::Compressed { .. } | Cluster::Zero { .. } => self.shape.cluster_bytes(),
            Cluster::Subclusters { stored, .. } => u64::from(stored.count_ones()) * self.shape.allocation_bytes(),
        }
    }

    /// COPIED must say whether the refcount is exactly 1; in an external data file it always is.
    fn check_copied(&mut self, level: &str, table: u64, index: u64, entry: u64, host_offset: u64) -> Result<()> {
        if !self.first_window {
            return Ok(());
        }
        let refcount = match self.refcounts {
            _ if level == "L2" && self.rules.data_file => Some(1),
            Some(refcounts) => refcounts.get(host_offset >> self.shape.cluster_bits)?,
            None => None,
        };
        let copied = entry & ENTRY_COPIED != 0;
        if let Some(refcount) = refcount.filter(|refcount| (*refcount == 1) != copied) {
            let flag = if copied { "has" } else { "lacks" };
            let text = format!(
                "{level} table: entry {index} {flag} the COPIED flag, the refcount of {host_offset:#x} is {refcount}"
            );
            let outdated = self.refcounts_lag() && refcount < 2;
            self.report.add(if outdated { Severity::Outdated } else { Severity::Corruption }, Some(table), text);
        }
        Ok(())
    }

    /// Refcount blocks come last: nothing else may use their clusters.
    fn check_refcount_blocks(&mut self) {
        let Some(refcounts) = self.refcounts else { return };
        let table = self.image.header.refcount_table.host_offset;
        for (index, entry) in refcounts.table.iter().enumerate().filter(|(_, entry)| **entry != 0) {
            if let Some(problem) = refcounts.entry_problem(*entry) {
                self.corruption(table, || format!("refcount table: entry {index} {problem}"));
                continue;
            }
            self.refer_to("a refcount block", *entry, self.shape.cluster_bytes());
            if let Some(count) = self.counts.get(entry >> self.shape.cluster_bits).filter(|count| *count != 1) {
                self.report
                    .corruption(*entry, format!("refcount block {index} is used by others, references found: {count}"));
            }
        }
    }

    fn compare_refcounts(&mut self) -> Result<()> {
        let Some(refcounts) = self.refcounts else { return Ok(()) };
        // A window is a whole number of blocks: both are powers of two, and no block counts more than 2^24 clusters.
        let block_clusters = refcounts.block_clusters();
        let first_block = self.counts.first_cluster() / block_clusters;
        for (block, counts) in (first_block..).zip(self.counts.counts().chunks(block_clusters as usize)) {
            let stored = refcounts.block(block)?;
            if matches!(stored, RefcountBlock::Absent) && counts.iter().all(|count| *count == 0) {
                continue;
            }
            for (index, counted) in (0..).zip(counts.iter().copied()) {
                let host_offset = (block * block_clusters + index) << self.shape.cluster_bits;
                let stored = stored.get(index);
                if let Some((severity, text)) = self.difference(stored, counted) {
                    self.report.add(severity, Some(host_offset), text);
                }
                if counted > 0 || stored.is_some_and(|stored| stored > 0) {
                    self.report.host_end_offset = host_offset + self.shape.cluster_bytes();
                }
            }
        }
        Ok(())
    }

    /// Whether refcounts are expected to be too low. In an image that is marked as corrupt nothing is taken to be right.
    fn refcounts_lag(&self) -> bool {
        let features = self.image.header.features;
        features.dirty() && features.incompatible & INCOMPATIBLE_CORRUPT == 0
    }

    /// What is wrong with a cluster's refcount.
    fn difference(&self, stored: Option<u64>, counted: u16) -> Option<(Severity, String)> {
        let Some(stored) = stored else {
            return (counted > 0)
                .then(|| (Severity::Corruption, format!("its refcount is lost, references found: {counted}")));
        };
        let severity = match stored {
            stored if same_count(stored, counted) => return None,
            // What is used twice is shared by mistake, unless its refcount says so.
            0 if self.refcounts_lag() && counted == 1 => Severity::Outdated,
            stored if stored < u64::from(counted) => Severity::Corruption,
            _ if self.complete => Severity::Leak,
            _ => return None,
        };
        Some((severity, format!("the refcount is {stored}, references found: {counted}")))
    }

    /// Goes through a table of 8-byte entries; what the file lacks of it is zeros.
    fn for_each_entry(
        &mut self,
        host_offset: u64,
        entries: u64,
        visit: &mut dyn FnMut(&mut Self, u64, u64) -> Result<()>,
    ) -> Result<()> {
        let mut piece = vec![0; (entries * 8).min(PIECE_BYTES) as usize];
        let mut done = 0;
        while done < entries {
            let place = host_offset.saturating_add(done * 8);
            let wanted = ((entries - done) * 8).min(piece.len() as u64);
            let available = self.image.file_bytes.saturating_sub(place).min(wanted) / 8 * 8;
            if available == 0 {
                return Ok(());
            }
            let bytes = piece.get_mut(..available as usize).unwrap_or_default();
            let read = self.image.file.file.read_exact_at(place, bytes);
            read.map_err(|cause| ImageError::io(READ_TABLE, cause).at_host(place))?;
            for (index, entry) in (done..).zip(bytes.as_chunks::<8>().0) {
                visit(self, index, u64::from_be_bytes(*entry))?;
            }
            done += available / 8;
        }
        Ok(())
    }
}

/// Damage is a finding of the check, a failure to read ends it.
fn damage_or_error(error: ImageError) -> std::result::Result<String, ImageError> {
    if error.kind() == ErrorKind::Io { Err(error) } else { Ok(error.to_string()) }
}
