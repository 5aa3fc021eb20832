//! `tintype diff`

use std::collections::BTreeSet;

use clap::Args as ClapArgs;
use serde::Serialize;
use tintype_tin::id::Id;
use tintype_tin::manifest::DiskRecord;

use crate::access::SnapshotName;
use crate::cli::choice::ChoiceArgs;
use crate::cli::escape::printable;
use crate::cli::failure::Failure;
use crate::cli::repository_args::RepositoryArgs;
use crate::cli::{Global, Outcome, job, output, units};
use crate::engine::diff::{Difference, diff};
use crate::repository::snapshots::Snapshot;

/// How many ranges of each disk a person gets to see.
const SHOWN_RANGES: usize = 20;

/// Show what changed between two snapshots of a repository
///
/// Only their maps are compared, chunk by chunk: this takes as long as there are changes, however large the disks are. A disk
/// of one of them is chosen like in an address: web@1f3a?disk=sda; otherwise disks of the same name are compared. Exit code 0
/// if nothing changed, 3 if something did.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// One snapshot (NAME, NAME@ID, NAME@2026-11-22, NAME@-7d or ID)
    #[arg(value_name = "A")]
    a: String,
    /// The other snapshot
    #[arg(value_name = "B")]
    b: String,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[command(flatten)]
    repository: RepositoryArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    r#type: &'static str,
    same: bool,
    snapshots: [Id; 2],
    changed_bytes: u64,
    disks: Vec<DiskRow<'a>>,
}

#[derive(Serialize)]
struct DiskRow<'a> {
    /// The names of the disk here and there; null where it is not.
    names: [Option<&'a str>; 2],
    sizes_bytes: [u64; 2],
    changed_bytes: u64,
    data_bytes: u64,
    pages_read: u64,
    changed: Vec<RangeRow>,
}

#[derive(Serialize)]
struct RangeRow {
    offset: u64,
    length_bytes: u64,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let ((a, a_disk), (b, b_disk)) = (address(&args.a)?, address(&args.b)?);
    let repository = args.repository.open_of([&a, &b])?;
    let snapshots = args.choice.choose_all(&repository, &[a.one()?, b.one()?], global)?;
    let snapshots: [Snapshot; 2] = snapshots.try_into().map_err(|_| Failure::usage("expected two snapshots"))?;
    let pairs = pairs(&snapshots, [a_disk, b_disk])?;
    let differences = job::run(global, "comparing", |progress| {
        pairs.iter().map(|pair| diff(&repository, *pair, progress)).collect::<Result<Vec<_>, _>>()
    })?;
    let same = differences.iter().all(|found| found.ranges.is_empty() && found.sizes_bytes[0] == found.sizes_bytes[1]);
    let names = |pair: &[Option<&DiskRecord>; 2]| pair.iter().all(Option::is_some);
    let same = same && pairs.iter().all(names);
    if global.json {
        let disks = pairs.iter().zip(&differences).map(|(pair, found)| row(*pair, found)).collect();
        let changed_bytes = differences.iter().map(Difference::bytes).sum();
        let ids = [snapshots[0].id, snapshots[1].id];
        output::print_json_line(&Report { r#type: "difference", same, snapshots: ids, changed_bytes, disks })?;
    } else if !global.quiet {
        let text: String = pairs.iter().zip(&differences).map(|(pair, found)| text(*pair, found)).collect();
        output::print(&text)?;
    }
    Ok(if same { Outcome::Done } else { Outcome::Incomplete })
}

/// The snapshot, and the disk that is chosen behind a question mark.
fn address(text: &str) -> Result<(SnapshotName, Option<&str>), Failure> {
    let named = |text: &str| {
        let Ok(name) = text.parse();
        name
    };
    match text.rsplit_once('?') {
        None => Ok((named(text), None)),
        Some((snapshot, choice)) => match choice.strip_prefix("disk=").filter(|name| !name.is_empty()) {
            Some(disk) => Ok((named(snapshot), Some(disk))),
            None => {
                let found = choice.escape_debug();
                Err(Failure::usage(format!("\"{found}\" after the question mark; expected disk=NAME")))
            }
        },
    }
}

/// Which disks are compared with which.
fn pairs<'a>(
    [a, b]: &'a [Snapshot; 2],
    chosen: [Option<&str>; 2],
) -> Result<Vec<[Option<&'a DiskRecord>; 2]>, Failure> {
    if chosen[0].or(chosen[1]).is_some() {
        let disk = |snapshot: &'a Snapshot, own: Option<&str>, other: Option<&str>| snapshot.disk(own.or(other));
        return Ok(vec![[Some(disk(a, chosen[0], chosen[1])?), Some(disk(b, chosen[1], chosen[0])?)]]);
    }
    let (ours, theirs) = (&a.manifest.disks, &b.manifest.disks);
    // Two single disks are the same machine's, whatever the files were called.
    if let ([one], [other]) = (ours.as_slice(), theirs.as_slice()) {
        return Ok(vec![[Some(one), Some(other)]]);
    }
    let names: BTreeSet<&str> = ours.iter().chain(theirs).map(|disk| disk.name.as_str()).collect();
    let find = |disks: &'a [DiskRecord], name: &str| disks.iter().find(|disk| disk.name == name);
    Ok(names.into_iter().map(|name| [find(ours, name), find(theirs, name)]).collect())
}

fn row<'a>(pair: [Option<&'a DiskRecord>; 2], found: &Difference) -> DiskRow<'a> {
    let range = |range: &std::ops::Range<u64>| RangeRow { offset: range.start, length_bytes: range.end - range.start };
    DiskRow {
        names: pair.map(|disk| disk.map(|disk| disk.name.as_str())),
        sizes_bytes: found.sizes_bytes,
        changed_bytes: found.bytes(),
        data_bytes: found.data_bytes,
        pages_read: found.pages,
        changed: found.ranges.iter().map(range).collect(),
    }
}

fn text(pair: [Option<&DiskRecord>; 2], found: &Difference) -> String {
    let [a, b] = found.sizes_bytes;
    let name = printable(pair[1].or(pair[0]).map_or("", |disk| &disk.name));
    let mut text = match pair {
        [Some(_), None] => format!("disk {name} is only in the first snapshot\n"),
        [None, Some(_)] => format!("disk {name} is only in the second snapshot\n"),
        _ if a != b => {
            format!("disk {name}: the sizes differ: {} and {}\n", units::exact_size(a), units::exact_size(b))
        }
        _ => String::new(),
    };
    if found.ranges.is_empty() {
        return text + &format!("disk {name}: nothing changed\n");
    }
    let places = units::count(found.ranges.len() as u64, "place", "places");
    text += &format!("disk {name}: {} changed, in {places}:\n", units::size(found.bytes()));
    for range in found.ranges.iter().take(SHOWN_RANGES) {
        text += &format!("  at guest offset {:#x}, {}\n", range.start, units::size(range.end - range.start));
    }
    if found.ranges.len() > SHOWN_RANGES {
        text += &format!("  and {} more\n", found.ranges.len() - SHOWN_RANGES);
    }
    text
}
