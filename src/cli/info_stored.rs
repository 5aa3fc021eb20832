//! `tintype info` of a stored snapshot.

use serde::Serialize;
use tintype_tin::id::Id;
use tintype_tin::manifest::Manifest;

use super::choice::ChoiceArgs;
use super::escape::printable;
use super::failure::Failure;
use super::repository_args::SecretArgs;
use super::{Global, Outcome, output, units};
use crate::access::Address;
use crate::repository::snapshots::Snapshot;
use crate::repository::time;

#[derive(Serialize)]
struct Report<'a> {
    repository: String,
    repository_id: Id,
    chunk_bytes: u64,
    encryption: &'a str,
    snapshot: Id,
    session: Id,
    signer: &'a str,
    incomplete: bool,
    #[serde(flatten)]
    manifest: &'a Manifest,
}

/// Prints what is known about the snapshot that `address` means; one of its disks, if it names one.
pub fn run(
    address: &Address,
    wanted: &str,
    (secrets, choice): (&SecretArgs, &ChoiceArgs),
    global: Global,
) -> Result<Outcome, Failure> {
    let repository = secrets.open(&address.path)?;
    let mut snapshot = choice.choose(&repository, wanted, global)?;
    if let Some(name) = &address.disk {
        snapshot.manifest.disks = vec![snapshot.disk(Some(name))?.clone()];
    }
    let config = repository.config();
    if global.json {
        let report = Report {
            repository: repository.store().shown(),
            repository_id: config.id,
            chunk_bytes: config.chunk_bytes,
            encryption: &config.encryption,
            snapshot: snapshot.id,
            session: snapshot.session,
            signer: &snapshot.signer.name,
            incomplete: snapshot.is_incomplete(),
            manifest: &snapshot.manifest,
        };
        output::print_json(&report)?;
    } else {
        output::print(&text(&repository.store().shown(), &snapshot))?;
    }
    Ok(Outcome::Done)
}

fn text(repository: &str, snapshot: &Snapshot) -> String {
    let manifest = &snapshot.manifest;
    let mut lines = vec![
        ("snapshot", snapshot.id.to_string()),
        ("repository", repository.to_owned()),
        ("name", manifest.name.clone()),
        ("time", time::local_text(&manifest.time)),
        ("host", manifest.host.clone()),
        ("made by", format!("{}, with the key of {}", manifest.program, snapshot.signer.name)),
        ("consistency", manifest.consistency.clone()),
    ];
    lines.extend(manifest.parent.map(|parent| ("parent", parent.to_string())));
    lines.extend(manifest.tags.iter().map(|(key, value)| ("tag", format!("{key}={value}"))));
    for disk in &manifest.disks {
        let sectors = format!("{}/{}", disk.logical_sector_bytes, disk.physical_sector_bytes);
        let statistics = disk.statistics;
        lines.push(("disk", disk.name.clone()));
        lines.push(("  size", units::exact_size(disk.size_bytes)));
        lines.push(("  sectors", format!("{sectors} bytes")));
        lines.push(("  source", format!("{} ({})", disk.source.path, disk.source.format)));
        lines.extend(disk.identity.key().map(|facts| ("  known by", facts)));
        lines.push(("  data", units::size(statistics.data_bytes)));
        lines.push(("  changed", units::size(statistics.changed_bytes)));
        lines.push(("  stored", units::size(statistics.stored_bytes)));
        if !disk.unreadable.is_empty() {
            let ranges = units::count(disk.unreadable.len() as u64, "range", "ranges");
            let text = format!("INCOMPLETE: {} in {ranges}", units::exact_size(disk.unreadable_bytes()));
            lines.push(("  unreadable", text));
        }
    }
    lines.iter().map(|(name, value)| format!("{name:<14}{}\n", printable(value))).collect()
}
