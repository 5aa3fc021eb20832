//! What a check of an image found.

use crate::limits::MAX_CHECK_FINDINGS;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Space is held for nothing; the disk's content is safe.
    Leak,
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
pub struct CheckReport {
    /// The first findings ([`MAX_CHECK_FINDINGS`]).
    pub findings: Vec<Finding>,
    /// How many leaks there are.
    pub leaks: u64,
    /// How many corruptions there are.
    pub corruptions: u64,
    /// Guest bytes that have storage in this file.
    pub allocated_bytes: u64,
    /// Where the last used byte of the host file ends.
    pub host_end_offset: u64,
}

impl CheckReport {
    /// Notes held but unused space.
    pub fn leak(&mut self, host_offset: u64, text: impl Into<String>) {
        self.leaks += 1;
        self.add(Severity::Leak, Some(host_offset), text.into());
    }

    /// Notes a contradiction.
    pub fn corruption(&mut self, host_offset: impl Into<Option<u64>>, text: impl Into<String>) {
        self.corruptions += 1;
        self.add(Severity::Corruption, host_offset.into(), text.into());
    }

    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.leaks == 0 && self.corruptions == 0
    }

    fn add(&mut self, severity: Severity, host_offset: Option<u64>, text: String) {
        if self.findings.len() < MAX_CHECK_FINDINGS {
            self.findings.push(Finding { severity, text, host_offset });
        }
    }
}
