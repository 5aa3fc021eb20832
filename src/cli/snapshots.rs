//! `tintype snapshots`

use std::collections::BTreeMap;

use clap::Args as ClapArgs;
use serde::Serialize;
use tintype_formats::tin::id::Id;

use super::escape::printable;
use super::failure::Failure;
use super::repository_args::RepositoryArgs;
use super::{Global, Outcome, output, units};
use crate::repository::snapshots::{Listing, Snapshot};

/// How many digits of an id are shown: enough to name it for years.
pub const SHOWN_DIGITS: usize = 16;

/// List the snapshots of a repository
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Only those of this name
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    repository: RepositoryArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    snapshots: Vec<Row<'a>>,
    sealed: usize,
    damaged: Vec<String>,
}

#[derive(Serialize)]
struct Row<'a> {
    id: Id,
    name: &'a str,
    time: &'a str,
    host: &'a str,
    signer: &'a str,
    consistency: &'a str,
    parent: Option<Id>,
    tags: &'a BTreeMap<String, String>,
    disks: Vec<Disk<'a>>,
}

#[derive(Serialize)]
struct Disk<'a> {
    name: &'a str,
    size_bytes: u64,
    data_bytes: u64,
    changed_bytes: u64,
    stored_bytes: u64,
    unreadable_ranges: usize,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let repository = args.repository.open()?;
    let mut listing = repository.snapshots()?;
    if let Some(name) = &args.name {
        listing.snapshots.retain(|snapshot| snapshot.manifest.name == *name);
    }
    let damaged: Vec<String> = listing.damaged.iter().map(|(id, cause)| format!("snapshot {id}: {cause}")).collect();
    damaged.iter().for_each(|text| output::warn(text, global));
    if global.json {
        let snapshots = listing.snapshots.iter().map(row).collect();
        output::print_json(&Report { snapshots, sealed: listing.sealed, damaged: damaged.clone() })?;
    } else {
        output::print(&text(&listing))?;
        if listing.sealed > 0 {
            output::note(&format!("{} of other hosts cannot be opened with this key", listing.sealed), global);
        }
    }
    Ok(if damaged.is_empty() { Outcome::Done } else { Outcome::Incomplete })
}

fn row(snapshot: &Snapshot) -> Row<'_> {
    let manifest = &snapshot.manifest;
    let disk = |disk: &'_ tintype_formats::tin::manifest::DiskRecord| {
        (disk.size_bytes, disk.statistics, disk.unreadable.len())
    };
    let disks = manifest.disks.iter().map(|record| {
        let (size_bytes, statistics, unreadable_ranges) = disk(record);
        Disk {
            name: &record.name,
            size_bytes,
            data_bytes: statistics.data_bytes,
            changed_bytes: statistics.changed_bytes,
            stored_bytes: statistics.stored_bytes,
            unreadable_ranges,
        }
    });
    Row {
        id: snapshot.id,
        name: &manifest.name,
        time: &manifest.time,
        host: &manifest.host,
        signer: &snapshot.origin.name,
        consistency: &manifest.consistency,
        parent: manifest.parent,
        tags: &manifest.tags,
        disks: disks.collect(),
    }
}

fn text(listing: &Listing) -> String {
    if listing.snapshots.is_empty() {
        return "no snapshots\n".to_owned();
    }
    let mut rows = vec![["id", "time", "name", "disks", "size", "changed", "stored", "tags"].map(str::to_owned)];
    for Snapshot { id, manifest, .. } in &listing.snapshots {
        let sum = |of: &dyn Fn(&tintype_formats::tin::manifest::DiskRecord) -> u64| manifest.disks.iter().map(of).sum();
        let tags: Vec<_> = manifest.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        rows.push([
            id.to_string()[..SHOWN_DIGITS].to_owned(),
            printable(&manifest.time),
            printable(&manifest.name),
            printable(&manifest.disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>().join(",")),
            units::size(sum(&|disk| disk.size_bytes)),
            units::size(sum(&|disk| disk.statistics.changed_bytes)),
            units::size(sum(&|disk| disk.statistics.stored_bytes)),
            printable(&tags.join(",")),
        ]);
    }
    table(&rows)
}

/// Columns, as wide as they have to be.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}
