//! `tintype verify`

use std::time::Instant;

use clap::Args as ClapArgs;
use jiff::Timestamp;
use serde::Serialize;
use tintype_tin::id::Id;

use crate::access::SnapshotName;
use crate::cli::choice::ChoiceArgs;
use crate::cli::escape::printable;
use crate::cli::failure::Failure;
use crate::cli::findings::{DepthChoice, HitRow, SHOWN, findings_text, hit_text};
use crate::cli::repository_args::RepositoryArgs;
use crate::cli::source_args::ThreadArgs;
use crate::cli::verify_boot::{self, BootArgs};
use crate::cli::{Global, Outcome, job, output, units};
use crate::engine::verify::{Verified, VerifyOptions, verify};
use crate::repository::time;
use crate::repository::verify::{Depth, Finding};

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
