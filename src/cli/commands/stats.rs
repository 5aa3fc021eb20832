//! `tintype stats`

use std::collections::BTreeSet;

use clap::Args as ClapArgs;
use serde::Serialize;

use crate::cli::failure::Failure;
use crate::cli::repository_args::RepositoryArgs;
use crate::cli::{Global, Outcome, job, output, units};
use crate::error::{Error, Kind};
use crate::repository::listing::Listing;
use crate::repository::prune::{Assumptions, Survey};

/// Say how much a repository holds, and what of it is used
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    repository: RepositoryArgs,
}

#[derive(Serialize, Default)]
struct Report {
    snapshots: usize,
    sealed_snapshots: usize,
    names: usize,
    disks: usize,
    disk_bytes: u64,
    data_bytes: u64,
    packs: usize,
    stored_bytes: u64,
    /// What a prune that leaves nothing over frees; only who reads all maps knows.
    unused_bytes: Option<u64>,
    deduplication: Option<f64>,
    index_segments: usize,
    index_bytes: u64,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let repository = args.repository.open()?;
    let listing = repository.snapshots()?;
    let mut report = totals(&listing);
    let mut damage: Vec<String> =
        listing.damaged.iter().map(|damage| format!("snapshot {}: {}", damage.id, damage.cause)).collect();
    for listed in repository.store().list("index/").map_err(Error::from)? {
        report.index_segments += 1;
        report.index_bytes += listed.len_bytes;
    }
    let packs = repository.protocol().packs()?;
    report.packs = packs.len();
    report.stored_bytes = packs.iter().map(|pack| pack.len_bytes).sum();
    if repository.ring().can_read_maps() && listing.damaged.is_empty() && listing.sealed == 0 {
        let dead = repository.protocol().epochs()?.dead();
        let assumptions = Assumptions { dead, ..Assumptions::default() };
        match job::run(global, "looking", |progress| Survey::new(&repository, &assumptions, progress)) {
            Ok(survey) => report.unused_bytes = Some(survey.unused_bytes()),
            Err(failure) if failure.kind() == Kind::Cancelled => return Err(failure),
            Err(failure) => damage.push(format!("what is unused is not known: {}", failure.message())),
        }
    }
    report.deduplication =
        Some(report.data_bytes as f64 / report.stored_bytes as f64).filter(|ratio| ratio.is_finite());
    if global.json {
        output::print_json(&report)?;
    } else {
        output::print(&text(&report))?;
    }
    damage.iter().for_each(|text| output::warn(text, global));
    Ok(if damage.is_empty() { Outcome::Done } else { Outcome::Incomplete })
}

fn totals(listing: &Listing) -> Report {
    let names: BTreeSet<&str> = listing.snapshots.iter().map(|snapshot| snapshot.manifest.name.as_str()).collect();
    let disks = || listing.snapshots.iter().flat_map(|snapshot| &snapshot.manifest.disks);
    Report {
        snapshots: listing.snapshots.len(),
        sealed_snapshots: listing.sealed,
        names: names.len(),
        disks: disks().count(),
        disk_bytes: disks().map(|disk| disk.size_bytes).sum(),
        data_bytes: disks().map(|disk| disk.statistics.data_bytes).sum(),
        ..Report::default()
    }
}

fn text(report: &Report) -> String {
    let size = units::exact_size;
    let snapshots = units::count(report.snapshots as u64, "snapshot", "snapshots");
    let names = units::count(report.names as u64, "name", "names");
    let mut lines = vec![
        format!("snapshots      {snapshots} of {names}, with {} disks", report.disks),
        format!("disks          {}", size(report.disk_bytes)),
        format!("data on them   {}", size(report.data_bytes)),
        format!("stored         {} in {} packs", size(report.stored_bytes), report.packs),
        format!("index          {} in {} segments", size(report.index_bytes), report.index_segments),
    ];
    if let Some(unused) = report.unused_bytes {
        lines.push(format!("unused         {}", size(unused)));
    }
    if let Some(ratio) = report.deduplication {
        lines.push(format!("data : stored  {ratio:.2}"));
    }
    if report.sealed_snapshots > 0 {
        lines.push(format!("of other hosts {} snapshots, which this key does not open", report.sealed_snapshots));
    }
    lines.join("\n") + "\n"
}
