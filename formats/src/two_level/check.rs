//! Checking: who uses what of the file, over all tables.

use super::parts::Part;
use super::{Cluster, L1, Shape};
use crate::check::CheckReport;
use crate::error::{ErrorKind, ImageError, Result};
use crate::host_file::HostFile;

/// Most separate places of the file that are kept account of: 256 MiB of memory. What was written in order is one place.
const MAX_CLAIMS: usize = 16 << 20;

/// Goes through all tables.
pub(crate) fn check(file: &dyn HostFile, shape: &Shape, report: &mut CheckReport) -> Result<()> {
    let l1 = L1::read(file, shape)?;
    let mut check = Check { file, shape, claims: Vec::new(), report };
    check.claim(0, shape.header_bytes)?;
    check.claim(shape.l1_offset, shape.l1_held_bytes)?;
    for (index, host_offset) in (0..).zip(&l1.entries).filter(|(_, host_offset)| **host_offset != 0) {
        check.table(index, *host_offset)?;
    }
    check.compare_claims();
    Ok(())
}

struct Check<'a> {
    file: &'a dyn HostFile,
    shape: &'a Shape,
    /// Used ranges: where they begin, and where they end.
    claims: Vec<(u64, u64)>,
    report: &'a mut CheckReport,
}

impl Check<'_> {
    fn claim(&mut self, host_offset: u64, length_bytes: u64) -> Result<()> {
        let end = host_offset.saturating_add(length_bytes).min(self.shape.file_bytes);
        if let Some(last) = self.claims.last_mut()
            && last.1 == host_offset
        {
            last.1 = end;
            return Ok(());
        }
        if self.claims.len() >= MAX_CLAIMS {
            let detail = format!("the clusters lie in more than {MAX_CLAIMS} separate places");
            return Err(ImageError::limit_exceeded("check the image's tables", detail));
        }
        self.claims.push((host_offset, end));
        Ok(())
    }

    /// One L2 table and what it names.
    fn table(&mut self, index: u64, table: u64) -> Result<()> {
        let shape = *self.shape;
        if let Err(problem) = shape.check_l2(table) {
            self.report.corruption(shape.l1_offset + index * 8, format_args!("L1 entry {index} {problem}"));
            return Ok(());
        }
        self.claim(table, shape.l2_bytes())?;
        let mut entry = 0;
        while entry < shape.l2_entries {
            let part = match Part::read(self.file, &shape, Part::key(table, entry)) {
                Err(error) if error.kind() != ErrorKind::Io => {
                    self.report.corruption(table, &error);
                    return Ok(());
                }
                part => part?,
            };
            for (number, raw) in part.numbered() {
                self.entry(index, table, number, raw)?;
                entry = number + 1;
            }
        }
        Ok(())
    }

    fn entry(&mut self, index: u64, table: u64, number: u64, raw: u64) -> Result<()> {
        let shape = *self.shape;
        let guest_offset = (index * shape.span_bytes()).saturating_add(number * shape.cluster_bytes);
        let cluster = shape.cluster(raw);
        if let Err(problem) = shape.check_cluster(cluster, guest_offset) {
            let text = format!("L2 entry {number} {problem}");
            self.report.corruption(table + number * 8, text);
            return Ok(());
        }
        let (host_offset, length_bytes) = match cluster {
            Cluster::Absent | Cluster::Zero => return Ok(()),
            Cluster::Data { host_offset } => (host_offset, shape.cluster_bytes),
            Cluster::Compressed { host_offset, stored_bytes } => (host_offset, stored_bytes),
        };
        self.report.allocated_bytes += shape.disk_bytes.saturating_sub(guest_offset).min(shape.cluster_bytes);
        self.claim(host_offset, length_bytes)
    }

    /// Finds what is used twice, and what by nothing.
    fn compare_claims(&mut self) {
        self.claims.sort_unstable();
        let mut used_to = 0;
        for (begin, end) in std::mem::take(&mut self.claims) {
            if begin < used_to && begin < end {
                let text = format!("what is from {begin:#x} to {:#x} is used twice", end.min(used_to));
                self.report.corruption(begin, text);
            }
            self.unused(used_to, begin);
            used_to = used_to.max(end);
        }
        self.report.host_end_offset = used_to;
        self.unused(used_to, self.shape.file_bytes);
    }

    /// Writers align: what cannot hold a cluster is no loss.
    fn unused(&mut self, begin: u64, end: u64) {
        let first = begin.next_multiple_of(self.shape.cluster_bytes);
        if end.saturating_sub(first) >= self.shape.cluster_bytes {
            self.report.leak(begin, format_args!("nothing uses the {:#x} bytes from {begin:#x} on", end - begin));
        }
    }
}
