//! `tintype verify`

use std::time::Instant;

use clap::Args as ClapArgs;
use jiff::Timestamp;
use serde::Serialize;
use tintype_tin::id::Id;

use super::choice::ChoiceArgs;
use super::escape::printable;
use super::failure::Failure;
use super::repository_args::RepositoryArgs;
use super::snapshot_name::SnapshotName;
use super::source_args::ThreadArgs;
use super::verify_boot::{self, BootArgs};
use super::{Global, Outcome, job, output, units};
use crate::engine::verify::{HitDisk, Verified, VerifyOptions, verify};
use crate::repository::time;
use crate::repository::verify::{Depth, Finding};

/// How many findings, and ranges of each disk, a person gets to see.
const SHOWN: usize = 20;

/// Verify that the snapshots of a repository are whole
///
/// Damaged and missing objects are named, and the snapshots, disks and guest ranges that they hit. Exit code 0 if all is
/// well, 4 if not. What was verified is noted in the repository's ledger.
///
/// With --boot, snapshots prove that they boot instead: each is started as a machine, without a network and without changing
/// anything, and watched until it comes as far as --until says. Exit code 0 if all do, 4 if not.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Only these, and the packs that they use (NAME, NAME@ID, NAME@2026-11-22, NAME@-7d or ID)
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<SnapshotName>,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[command(flatten)]
    repository: RepositoryArgs,
    /// How deeply; plain if the key opens the disks, stored if not
    #[arg(long, value_name = "DEPTH", env = "TINTYPE_VERIFY_DEPTH")]
    depth: Option<DepthChoice>,
    /// Read only such a share of the packs, those first that were not verified for the longest: 10%
    #[arg(long, value_name = "PERCENT", value_parser = parse_share)]
    sample: Option<f64>,
    /// Read only packs that were not verified for so long: 30d, 2w
    #[arg(long, value_name = "TIME", value_parser = parse_ago)]
    older_than: Option<Timestamp>,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    boot: BootArgs,
}

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

fn parse_share(text: &str) -> Result<f64, String> {
    let percent: Option<f64> = text.strip_suffix('%').unwrap_or(text).trim().parse().ok();
    let share = percent.map(|percent| percent / 100.0).filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "expected a share like 10%, more than 0% and at most 100%".to_owned())
}

fn parse_ago(text: &str) -> Result<Timestamp, String> {
    time::ago(text).ok_or_else(|| "expected a length of time like 30d, 2w or 12h".to_owned())
}

#[derive(Serialize)]
struct Report<'a> {
    r#type: &'static str,
    clean: bool,
    depth: Depth,
    snapshots: usize,
    sealed: usize,
    objects: usize,
    packs: usize,
    packs_read: usize,
    read_bytes: u64,
    chunks: u64,
    elapsed_s: f64,
    findings: &'a [Finding],
    hit: Vec<HitRow>,
    quarantined: &'a [Id],
    unfinished: &'a [Id],
    orphaned: Vec<Id>,
    orphaned_bytes: u64,
    unindexed: Vec<Id>,
    foreign: &'a [String],
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

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let began = Instant::now();
    let is_boot = args.boot.is_wanted()?;
    let repository = args.repository.open_of(&args.snapshots)?;
    let texts = match args.snapshots.as_slice() {
        // REPO:: is all of it.
        [SnapshotName { snapshot: None, .. }] if !is_boot => Vec::new(),
        names => names.iter().map(SnapshotName::one).collect::<Result<_, _>>()?,
    };
    let snapshots = match texts.as_slice() {
        [] => {
            args.choice.note_if_unused("all are verified", global);
            Vec::new()
        }
        texts => args.choice.choose_all(&repository, texts, global)?,
    };
    if is_boot {
        return verify_boot::run(&args.boot, &repository, &snapshots, global);
    }
    let depth = DepthChoice::or_deepest(args.depth, repository.ring().can_read_data());
    let options = VerifyOptions {
        snapshots,
        depth,
        sample: args.sample,
        verified_before: args.older_than,
        workers: args.threads.workers(),
    };
    let found = job::run(global, "verifying", |progress| verify(&repository, &options, progress))?;
    let elapsed_s = began.elapsed().as_secs_f64();
    let printed = match (global.json, global.quiet) {
        (true, _) => output::print_json_line(&report(&found, depth, elapsed_s)),
        (false, false) => output::print(&text(&found, depth, elapsed_s)),
        (false, true) => Ok(()),
    };
    if found.is_clean() {
        return printed.map(|()| Outcome::Done);
    }
    output::reported("damage was found", printed, global);
    Ok(Outcome::Damaged)
}

fn report(found: &Verified, depth: Depth, elapsed_s: f64) -> Report<'_> {
    Report {
        r#type: "verification",
        clean: found.is_clean(),
        depth,
        snapshots: found.snapshots,
        sealed: found.sealed,
        objects: found.objects,
        packs: found.packs,
        packs_read: found.packs_read,
        read_bytes: found.read_bytes,
        chunks: found.chunks,
        elapsed_s,
        findings: &found.findings,
        hit: found.hit.iter().map(HitRow::from).collect(),
        quarantined: &found.quarantined,
        unfinished: &found.unfinished,
        orphaned: found.orphaned.iter().map(|pack| pack.id).collect(),
        orphaned_bytes: found.orphaned.iter().map(|pack| pack.len_bytes).sum(),
        unindexed: found.unindexed.iter().map(|pack| pack.id).collect(),
        foreign: &found.foreign,
    }
}

fn text(found: &Verified, depth: Depth, elapsed_s: f64) -> String {
    let mut text = findings_text(&found.findings) + &hit_text(&found.hit);
    text += &remarks(found);
    let snapshots = units::count(found.snapshots as u64, "snapshot", "snapshots");
    let packs = units::count(found.packs as u64, "pack", "packs");
    text += &match depth {
        Depth::Structure => format!("Looked at the structure of {snapshots} and {packs}"),
        _ => {
            let (read, size) = (found.packs_read, units::size(found.read_bytes));
            format!("Looked at the {} bytes of {read} of {packs} ({size}), and at {snapshots}", depth.name())
        }
    };
    text += &format!(", in {elapsed_s:.1} s.\n");
    text + match (found.findings.is_empty(), found.hit.is_empty()) {
        (true, true) => "No damage found.\n",
        (_, false) => "Snapshots are damaged. \"tintype repair\" mends what can be mended.\n",
        (false, true) => {
            "Objects are damaged, and all snapshots that can be seen are whole. \"tintype repair\" mends what can be mended.\n"
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

/// What is no damage, and worth knowing.
fn remarks(found: &Verified) -> String {
    let orphaned_bytes = found.orphaned.iter().map(|pack| pack.len_bytes).sum();
    let counted = [
        (
            found.sealed,
            "snapshot of another host cannot be opened with this key",
            "snapshots of other hosts cannot be opened with this key",
        ),
        (
            found.unfinished.len(),
            "snapshot was never finished: its backup runs, or was stopped",
            "snapshots were never finished: their backups run, or were stopped",
        ),
        (found.quarantined.len(), "damaged pack is in quarantine", "damaged packs are in quarantine"),
        (
            found.unindexed.len(),
            "pack is in no index; the next backup adds it",
            "packs are in no index; the next backup adds them",
        ),
        (found.foreign.len(), "object is not one of a repository", "objects are not those of a repository"),
    ];
    let mut text = String::new();
    for (count, one, many) in counted.into_iter().filter(|(count, ..)| *count > 0) {
        text += &format!("note: {}\n", units::count(count as u64, one, many));
    }
    if !found.orphaned.is_empty() {
        let packs = units::count(found.orphaned.len() as u64, "pack", "packs");
        text += &format!("note: no snapshot uses {packs}, {}\n", units::size(orphaned_bytes));
    }
    for name in found.foreign.iter().take(SHOWN) {
        text += &format!("  {}\n", printable(name));
    }
    text
}
