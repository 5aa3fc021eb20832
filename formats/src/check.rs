//! What a check of an image found.

use std::fmt::Display;

use crate::limits::MAX_CHECK_FINDINGS;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Space is held for nothing; the disk's content is safe.
    Leak,
    /// What only writers need does not match the disk, because whoever wrote last did not get to the end; the content is safe.
    Outdated,
    /// The structures contradict each other: content may be wrong, or writing to the image would make it so.
    Corruption,
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is, in one line.
    pub text: String,
    /// Where in the host file, in bytes, if there is one place.
    pub host_offset: Option<u64>,
}

/// The result of a check. Only the first findings are kept, all are counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// The first findings ([`MAX_CHECK_FINDINGS`]).
    pub findings: Vec<Finding>,
    /// How many leaks there are.
    pub leaks: u64,
    /// How many entries that only writers need are out of date.
    pub outdated: u64,
    /// How many corruptions there are.
    pub corruptions: u64,
    /// Guest bytes that have storage in this file.
    pub allocated_bytes: u64,
    /// Where the last used byte of the host file ends.
    pub host_end_offset: u64,
}

impl CheckReport {
    /// Notes held but unused space.
    pub fn leak(&mut self, host_offset: u64, text: impl Display) {
        self.add(Severity::Leak, Some(host_offset), text);
    }

    /// Notes a contradiction.
    pub fn corruption(&mut self, host_offset: impl Into<Option<u64>>, text: impl Display) {
        self.add(Severity::Corruption, host_offset.into(), text);
    }

    /// Counts a finding, and keeps it if there is room. It is put into words only then: a damaged table may hold millions.
    pub fn add(&mut self, severity: Severity, host_offset: Option<u64>, text: impl Display) {
        *match severity {
            Severity::Leak => &mut self.leaks,
            Severity::Outdated => &mut self.outdated,
            Severity::Corruption => &mut self.corruptions,
        } += 1;
        // Lesser findings leave room: damage must not go unseen behind them.
        let room = if severity == Severity::Corruption { MAX_CHECK_FINDINGS } else { MAX_CHECK_FINDINGS / 2 };
        if self.findings.len() < room {
            self.findings.push(Finding { severity, text: text.to_string(), host_offset });
        }
    }

    /// Adds what was found in another file of the image, or in one inside of it; places in that file are told in words.
    pub fn add_file(&mut self, name: &str, found: CheckReport) {
        let (leaks, outdated, corruptions) = (
            self.leaks.saturating_add(found.leaks),
            self.outdated.saturating_add(found.outdated),
            self.corruptions.saturating_add(found.corruptions),
        );
        for finding in found.findings {
            let place = finding.host_offset.map_or(String::new(), |offset| format!(" (at {offset:#x} in it)"));
            let text = format!("\"{}\": {}{place}", name.escape_debug(), finding.text);
            self.add(finding.severity, None, text);
        }
        (self.leaks, self.outdated, self.corruptions) = (leaks, outdated, corruptions);
        self.allocated_bytes = self.allocated_bytes.saturating_add(found.allocated_bytes);
    }

    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.leaks == 0 && self.outdated == 0 && self.corruptions == 0
    }
}
