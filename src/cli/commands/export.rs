//! `tintype export`

use std::path::PathBuf;
use std::time::Instant;

use clap::Args as ClapArgs;
use serde::Serialize;
use tintype_tin::id::Id;

use crate::access::SnapshotName;
use crate::cli::choice::ChoiceArgs;
use crate::cli::failure::Failure;
use crate::cli::repository_args::RepositoryArgs;
use crate::cli::texts::unreadable_text;
use crate::cli::{Global, Outcome, job, output, units};
use crate::engine::export::export;
use crate::jobs::{catch_signals, with_aftermath};
use crate::targets::{Access, Target, TargetOptions};

/// Write a snapshot into one .tin file
///
/// The file is an image like any other (convert, map, compare, import), with all disks of the snapshot. It stays encrypted, and
/// opens with the passwords of the repository that can read. Packs are copied whole, so it may be larger than what it holds.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The snapshot: NAME (its newest), NAME@ID, NAME@2026-11-22 (the newest by the end of that day), NAME@-7d, or an id
    #[arg(value_name = "SNAPSHOT")]
    snapshot: SnapshotName,
    /// The new file, or "-" for standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[command(flatten)]
    repository: RepositoryArgs,
}

#[derive(Serialize)]
struct Report {
    r#type: &'static str,
    snapshot: Id,
    name: String,
    packs: u64,
    pack_bytes: u64,
    elapsed_s: f64,
}

pub fn run(args: &Args, mut global: Global) -> Result<Outcome, Failure> {
    let began = Instant::now();
    if args.file.as_os_str() == "-" {
        global = global.without_json("with the file on standard output there is no --json")?;
    }
    let repository = args.repository.open_of([&args.snapshot])?;
    let snapshot = args.choice.choose(&repository, args.snapshot.one()?, global)?;
    let is_incomplete = snapshot.is_incomplete();
    for disk in snapshot.manifest.disks.iter().filter(|disk| disk.is_incomplete()) {
        output::warn(&unreadable_text(disk), global);
    }
    let signals = catch_signals()?;
    let options = TargetOptions { force: args.force, access: Access::PRIVATE, ..TargetOptions::default() };
    let target = Target::open(&args.file, 0, &[], &options)?;
    if target.is_in_place() {
        return Err(Failure::usage("a .tin file cannot be written to a device"));
    }
    let abandon = |error| with_aftermath(error, target.abandon());
    let exported = job::run_and_abandon(global, "exporting", signals, &abandon, |progress| {
        export(&repository, &snapshot, &target, progress)
    })?;
    let (packs, pack_bytes) = (exported.packs, exported.pack_bytes);
    let elapsed_s = began.elapsed().as_secs_f64();
    let name = snapshot.manifest.name;
    if global.json {
        let report = Report { r#type: "export", snapshot: snapshot.id, name, packs, pack_bytes, elapsed_s };
        output::reported("the file is written", output::print_json_line(&report), global);
    } else {
        let (packs, size) = (units::count(packs, "pack", "packs"), units::size(pack_bytes));
        output::note(&format!("snapshot {} of {name}: {packs}, {size}, in {elapsed_s:.1} s", snapshot.id), global);
    }
    Ok(if is_incomplete { Outcome::Incomplete } else { Outcome::Done })
}
