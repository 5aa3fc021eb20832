//! What a look through a repository found.

use serde::Serialize;
use tintype_tin::id::Id;

use super::escape::printable;
use super::units;
use crate::engine::verify::HitDisk;
use crate::repository::verify::{Depth, Finding};

/// How many findings, and ranges of each disk, a person gets to see.
pub const SHOWN: usize = 20;

/// How deeply to look.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum DepthChoice {
    /// Every object is what it should be, and all that snapshots need is there
    Structure,
    /// Also every stored byte is the one that was written
    Stored,
    /// Also every chunk decrypts and decompresses to the bytes that its id is made of
    Plain,
}

impl DepthChoice {
    /// The depth that was chosen. By default the one that proves most: only plain bytes tell that a disk can be restored, and
    /// they take no more reading than the stored ones.
    pub fn or_deepest(choice: Option<DepthChoice>, can_read_data: bool) -> Depth {
        match choice {
            Some(DepthChoice::Structure) => Depth::Structure,
            Some(DepthChoice::Stored) => Depth::Stored,
            Some(DepthChoice::Plain) => Depth::Plain,
            None if can_read_data => Depth::Plain,
            None => Depth::Stored,
        }
    }
}

/// A disk of which something is lost, for programs.
#[derive(Serialize)]
pub struct HitRow {
    snapshot: Id,
    name: String,
    disk: String,
    lost_bytes: u64,
    ranges: Vec<RangeRow>,
}

#[derive(Serialize)]
struct RangeRow {
    offset: u64,
    length_bytes: u64,
}

impl From<&HitDisk> for HitRow {
    fn from(hit: &HitDisk) -> Self {
        let range =
            |range: &std::ops::Range<u64>| RangeRow { offset: range.start, length_bytes: range.end - range.start };
        HitRow {
            snapshot: hit.snapshot.id,
            name: hit.snapshot.manifest.name.clone(),
            disk: hit.record().name.clone(),
            lost_bytes: hit.lost_bytes(),
            ranges: hit.ranges.iter().map(range).collect(),
        }
    }
}

/// The damaged and missing objects, for people.
pub fn findings_text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings.iter().take(SHOWN) {
        let wrong = match finding.wrong {
            crate::repository::verify::Wrong::Damaged => "damaged",
            crate::repository::verify::Wrong::Missing => "missing",
        };
        text += &format!("{wrong}: {}: {}\n", printable(&finding.object), printable(&finding.detail));
    }
    if findings.len() > SHOWN {
        text += &format!("and {} more\n", findings.len() - SHOWN);
    }
    text
}

/// The disks of which something is lost, for people.
pub fn hit_text(hit: &[HitDisk]) -> String {
    let mut text = String::new();
    for hit in hit {
        let (snapshot, disk) = (&hit.snapshot, &hit.record().name);
        let name = printable(&snapshot.manifest.name);
        let lost = units::size(hit.lost_bytes());
        let places = units::count(hit.ranges.len() as u64, "place", "places");
        text += &format!("lost: {lost} of disk {} of {name}@{}, in {places}:\n", printable(disk), snapshot.id);
        for range in hit.ranges.iter().take(SHOWN) {
            text += &format!("  at guest offset {:#x}, {}\n", range.start, units::size(range.end - range.start));
        }
        if hit.ranges.len() > SHOWN {
            text += &format!("  and {} more\n", hit.ranges.len() - SHOWN);
        }
    }
    text
}
