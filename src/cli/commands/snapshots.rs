//! `tintype snapshots`

use std::collections::{BTreeMap, BTreeSet, HashMap};

use clap::Args as ClapArgs;
use jiff::Timestamp;
use serde::Serialize;
use tintype_formats::hex::to_hex;
use tintype_tin::id::Id;
use tintype_tin::keys::Certificate;
use tintype_tin::manifest::Manifest;

use crate::access::SnapshotName;
use crate::cli::escape::printable;
use crate::cli::failure::Failure;
use crate::cli::repository_args::RepositoryArgs;
use crate::cli::short_ids::ShortIds;
use crate::cli::texts::{no_such_name, table};
use crate::cli::{Global, Outcome, output, units};
use crate::repository::ledger::Boot;
use crate::repository::lineup::Damaged;
use crate::repository::listing::Listing;
use crate::repository::snapshots::Snapshot;
use crate::repository::time;

/// List the snapshots of a repository
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Only those of this name; REPO:: for all of a repository
    #[arg(value_name = "NAME")]
    name: Option<SnapshotName>,
    #[command(flatten)]
    repository: RepositoryArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    snapshots: Vec<Row<'a>>,
    sealed: usize,
    damaged: Vec<DamagedRow<'a>>,
    uncommitted: Vec<UncommittedRow<'a>>,
}

/// A snapshot that was committed and cannot be read.
#[derive(Serialize)]
struct DamagedRow<'a> {
    id: Id,
    /// What it says of itself, if its manifest can be read.
    name: Option<&'a str>,
    time: Option<&'a str>,
    host: Option<&'a str>,
    /// Null if it may be anybody's.
    holder: Option<&'a str>,
    cause: &'a str,
}

/// A whole manifest without an end of its session.
#[derive(Serialize)]
struct UncommittedRow<'a> {
    id: Id,
    name: &'a str,
    time: &'a str,
    host: &'a str,
    holder: &'a str,
}

#[derive(Serialize)]
struct Row<'a> {
    id: Id,
    name: &'a str,
    time: &'a str,
    host: &'a str,
    signer: &'a str,
    signing_key: String,
    consistency: &'a str,
    incomplete: bool,
    parent: Option<Id>,
    tags: &'a BTreeMap<String, String>,
    disks: Vec<Disk<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boots: Option<BootRow>,
}

/// The last time that it was started as a machine.
#[derive(Serialize)]
struct BootRow {
    ok: bool,
    until: String,
    time: String,
    seconds: u64,
}

type Boots = HashMap<Id, (Timestamp, Boot)>;

/// What came of booting a snapshot, also before its tags were changed.
fn boot_of<'a>(boots: &'a Boots, snapshot: &Snapshot) -> Option<&'a (Timestamp, Boot)> {
    let before = snapshot.manifest.original.as_ref().map(|original| &original.id);
    boots.get(&snapshot.id).or_else(|| boots.get(before?))
}

#[derive(Serialize)]
struct Disk<'a> {
    name: &'a str,
    size_bytes: u64,
    data_bytes: u64,
    changed_bytes: u64,
    stored_bytes: u64,
    unreadable_ranges: usize,
    unreadable_bytes: u64,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let repository = args.repository.open_of(&args.name)?;
    let mut listing = repository.snapshots()?;
    let ids = ShortIds::of_listing(&listing);
    if let Some(name) = args.name.as_ref().and_then(|name| name.snapshot.as_ref()) {
        listing.snapshots.retain(|snapshot| snapshot.manifest.name == *name);
        listing.uncommitted.retain(|snapshot| snapshot.manifest.name == *name);
        // Of whose name nothing is known, it may be of this one.
        listing.damaged.retain(|damage| damage.fact.as_ref().is_none_or(|fact| fact.name == *name));
        if listing.snapshots.is_empty() && listing.uncommitted.is_empty() && listing.damaged.is_empty() {
            return Err(no_such_name(name));
        }
    }
    let boots = repository.last_boots()?;
    if global.json {
        let snapshots = listing.snapshots.iter().map(|snapshot| row(snapshot, &boots)).collect();
        let damaged = listing.damaged.iter().map(damaged_row).collect();
        let uncommitted = listing.uncommitted.iter().map(uncommitted_row).collect();
        output::print_json(&Report { snapshots, sealed: listing.sealed, damaged, uncommitted })?;
    } else {
        output::print(&(text(&listing, &boots, &ids) + &not_visible_text(&listing, &ids)))?;
        if listing.sealed > 0 {
            output::note(&format!("{} of other hosts cannot be opened with this key", listing.sealed), global);
        }
    }
    Ok(if listing.damaged.is_empty() { Outcome::Done } else { Outcome::Incomplete })
}

fn row<'a>(snapshot: &'a Snapshot, boots: &Boots) -> Row<'a> {
    let manifest = &snapshot.manifest;
    let disks = manifest.disks.iter().map(|record| Disk {
        name: &record.name,
        size_bytes: record.size_bytes,
        data_bytes: record.statistics.data_bytes,
        changed_bytes: record.statistics.changed_bytes,
        stored_bytes: record.statistics.stored_bytes,
        unreadable_ranges: record.unreadable.len(),
        unreadable_bytes: record.unreadable_bytes(),
    });
    Row {
        id: snapshot.id,
        name: &manifest.name,
        time: &manifest.time,
        host: &manifest.host,
        signer: &snapshot.origin.name,
        signing_key: to_hex(&snapshot.origin.signing),
        consistency: &manifest.consistency,
        incomplete: snapshot.is_incomplete(),
        parent: manifest.parent,
        tags: &manifest.tags,
        disks: disks.collect(),
        boots: boot_of(boots, snapshot).map(|(time, boot)| BootRow {
            ok: boot.ok,
            until: boot.until.clone(),
            time: time.to_string(),
            seconds: boot.seconds,
        }),
    }
}

fn text(listing: &Listing, boots: &Boots, ids: &ShortIds) -> String {
    if listing.snapshots.is_empty() {
        return "no snapshots\n".to_owned();
    }
    let holders = holders(listing);
    let hosts: BTreeSet<&str> = listing.snapshots.iter().map(|snapshot| snapshot.manifest.host.as_str()).collect();
    let mut rows = vec![
        [
            "id", "time", "name", "holder", "host", "disks", "size", "changed", "stored", "state", "missing", "tags",
            "boots",
        ]
        .map(str::to_owned),
    ];
    for (snapshot, holder) in listing.snapshots.iter().zip(holders) {
        let Snapshot { id, manifest, .. } = snapshot;
        let sum = |of: &dyn Fn(&tintype_tin::manifest::DiskRecord) -> u64| manifest.disks.iter().map(of).sum();
        let tags: Vec<_> = manifest.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        rows.push([
            ids.show(*id),
            printable(&time::local_text(&manifest.time)),
            printable(&manifest.name),
            holder,
            if hosts.len() > 1 { printable(&manifest.host) } else { String::new() },
            printable(&manifest.disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>().join(",")),
            units::size(sum(&|disk| disk.size_bytes)),
            units::size(sum(&|disk| disk.statistics.changed_bytes)),
            units::size(sum(&|disk| disk.statistics.stored_bytes)),
            if manifest.consistency == "unknown" { String::new() } else { printable(&manifest.consistency) },
            missing(manifest),
            printable(&tags.join(",")),
            boot_of(boots, snapshot).map(boot_text).unwrap_or_default(),
        ]);
    }
    let says_nothing = |column: usize| rows.iter().skip(1).all(|row| row[column].is_empty());
    let columns = [HOLDER, HOST, STATE, MISSING, BOOTS];
    let left_out: Vec<_> = columns.into_iter().filter(|column| says_nothing(*column)).collect();
    let mut shown = rows.into_iter().map(Vec::from).collect::<Vec<_>>();
    for column in left_out.into_iter().rev() {
        shown.iter_mut().for_each(|row| drop(row.remove(column)));
    }
    table(&shown)
}

fn damaged_row(damage: &Damaged) -> DamagedRow<'_> {
    let fact = damage.fact.as_ref();
    DamagedRow {
        id: damage.id,
        name: fact.map(|fact| fact.name.as_str()),
        time: fact.map(|fact| fact.time.as_str()),
        host: fact.map(|fact| fact.host.as_str()),
        holder: damage.holder.as_deref(),
        cause: &damage.cause,
    }
}

fn uncommitted_row(snapshot: &Snapshot) -> UncommittedRow<'_> {
    let manifest = &snapshot.manifest;
    UncommittedRow {
        id: snapshot.id,
        name: &manifest.name,
        time: &manifest.time,
        host: &manifest.host,
        holder: &snapshot.origin.name,
    }
}

/// The snapshots that are not visible: damaged ones, and those without an end.
fn not_visible_text(listing: &Listing, ids: &ShortIds) -> String {
    let mut text = String::new();
    if !listing.damaged.is_empty() {
        text += "\ndamaged (\"tintype repair\" may mend them, \"tintype forget ID\" discards them):\n";
        let row = |damage: &Damaged| {
            let made = damage.made().map(time::local).unwrap_or_default();
            let name = damage.fact.as_ref().map(|fact| printable(&fact.name)).unwrap_or_default();
            [ids.show(damage.id), made, name, printable(&damage.cause)]
        };
        text += &table(&listing.damaged.iter().map(row).collect::<Vec<_>>());
    }
    if !listing.uncommitted.is_empty() {
        text += "\nnot committed (a backup runs, or died; \"tintype repair\" commits them, \"tintype forget ID\" discards them):\n";
        let row = |snapshot: &Snapshot| {
            let manifest = &snapshot.manifest;
            let made = printable(&time::local_text(&manifest.time));
            [ids.show(snapshot.id), made, printable(&manifest.name)]
        };
        text += &table(&listing.uncommitted.iter().map(row).collect::<Vec<_>>());
    }
    text
}

/// The columns that are left out where nobody needs them.
const HOLDER: usize = 3;
const HOST: usize = 4;
const STATE: usize = 9;
const MISSING: usize = 10;
const BOOTS: usize = 12;

/// The mark of an incomplete snapshot: how much of its disks could not be read.
fn missing(manifest: &Manifest) -> String {
    let bytes = manifest.disks.iter().fold(0u64, |sum, disk| sum.saturating_add(disk.unreadable_bytes()));
    if manifest.is_incomplete() { format!("INCOMPLETE ({})", units::size(bytes)) } else { String::new() }
}

/// The holder of the key that made each snapshot; nothing if one made all. Names are given by people: where two keys have the same,
/// a part of each tells them apart.
fn holders(listing: &Listing) -> Vec<String> {
    let origins = listing.snapshots.iter().map(|snapshot| &snapshot.origin);
    let all: BTreeMap<_, _> = origins.clone().map(|origin| (origin.signing, origin.name.as_str())).collect();
    let shown = |origin: &Certificate| {
        let namesakes = all.values().filter(|name| **name == origin.name).count();
        match (all.len(), namesakes) {
            (0 | 1, _) => String::new(),
            (_, 0 | 1) => printable(&origin.name),
            _ => {
                let [a, b, c, ..] = origin.signing;
                format!("{} ({a:02x}{b:02x}{c:02x})", printable(&origin.name))
            }
        }
    };
    origins.map(shown).collect()
}

/// `yes, 2026-11-23 (serial)`
fn boot_text((time, boot): &(Timestamp, Boot)) -> String {
    let day = time.strftime("%Y-%m-%d");
    format!("{}, {day} ({})", if boot.ok { "yes" } else { "no" }, printable(&boot.until))
}
