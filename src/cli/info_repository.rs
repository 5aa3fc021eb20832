//! `tintype info` of a whole repository.

use std::collections::BTreeSet;

use serde::Serialize;
use tintype_tin::id::Id;

use super::escape::printable;
use super::failure::Failure;
use super::repository_args::SecretArgs;
use super::{Global, Outcome, output, units};
use crate::access::Address;
use crate::repository::time;

#[derive(Serialize)]
struct Report<'a> {
    repository: String,
    repository_id: Id,
    format: u32,
    chunk_bytes: u64,
    encryption: &'a str,
    /// Whose key opened it, and what that may do.
    holder: &'a str,
    role: String,
    names: usize,
    snapshots: usize,
    sealed_snapshots: usize,
    damaged_snapshots: usize,
    uncommitted_snapshots: usize,
    oldest: Option<&'a str>,
    newest: Option<&'a str>,
    packs: usize,
    stored_bytes: u64,
}

/// Prints what is known about a repository without reading its maps.
pub fn run(address: &Address, secrets: &SecretArgs, global: Global) -> Result<Outcome, Failure> {
    if !address.choices().is_empty() {
        return Err(Failure::usage(format!("{address}: choose a snapshot, too (REPO::NAME?disk=...)")));
    }
    let repository = secrets.open(&address.path)?;
    let (config, listing, packs) = (repository.config(), repository.snapshots()?, repository.protocol().packs()?);
    let manifests = || listing.snapshots.iter().map(|snapshot| &snapshot.manifest);
    let report = Report {
        repository: repository.store().shown(),
        repository_id: config.id,
        format: config.format,
        chunk_bytes: config.chunk_bytes,
        encryption: &config.encryption,
        holder: &repository.ring().certificate().name,
        role: repository.ring().role().to_string(),
        names: manifests().map(|manifest| &manifest.name).collect::<BTreeSet<_>>().len(),
        snapshots: listing.snapshots.len(),
        sealed_snapshots: listing.sealed,
        damaged_snapshots: listing.damaged.len(),
        uncommitted_snapshots: listing.uncommitted.len(),
        oldest: manifests().next().map(|manifest| manifest.time.as_str()),
        newest: manifests().next_back().map(|manifest| manifest.time.as_str()),
        packs: packs.len(),
        stored_bytes: packs.iter().map(|pack| pack.len_bytes).sum(),
    };
    if global.json {
        output::print_json(&report)?;
    } else {
        output::print(&text(&report))?;
    }
    Ok(if report.damaged_snapshots == 0 { Outcome::Done } else { Outcome::Incomplete })
}

fn text(report: &Report<'_>) -> String {
    let mut lines = vec![
        ("repository", report.repository.clone()),
        ("id", report.repository_id.to_string()),
        ("format", format!("version {}, chunks of {}", report.format, units::size(report.chunk_bytes))),
        ("encryption", report.encryption.to_owned()),
        ("opened by", format!("the key of {}, whose role is {}", report.holder, report.role)),
        ("snapshots", format!("{} of {}", report.snapshots, units::count(report.names as u64, "name", "names"))),
    ];
    let others = [
        ("sealed", report.sealed_snapshots, "of other hosts, which this key does not open"),
        ("damaged", report.damaged_snapshots, "which \"tintype repair\" may mend"),
        ("not committed", report.uncommitted_snapshots, "by a backup that runs, or died"),
    ];
    for (what, count, why) in others.into_iter().filter(|(_, count, _)| *count > 0) {
        lines.push((what, format!("{}, {why}", units::count(count as u64, "snapshot", "snapshots"))));
    }
    lines.extend(report.oldest.map(|at| ("oldest", time::local_text(at))));
    lines.extend(report.newest.map(|at| ("newest", time::local_text(at))));
    let packs = units::count(report.packs as u64, "pack", "packs");
    lines.push(("stored", format!("{} in {packs}", units::exact_size(report.stored_bytes))));
    lines.iter().map(|(name, value)| format!("{name:<14}{}\n", printable(value))).collect()
}
