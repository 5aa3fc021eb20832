//! `tintype map`

use std::os::unix::fs::MetadataExt as _;

use clap::Args as ClapArgs;
use serde::Serialize;
use tintype_formats::extent::{DiskExtent, DiskKind};
use tintype_formats::{BlockSource, OpenFile};

use crate::access::Address;
use crate::cli::failure::Failure;
use crate::cli::source_args::{SourceArgs, address_parser};
use crate::cli::{Global, Outcome, escape, output};
use crate::engine::map::for_each_extent;

/// Show which parts of a disk hold data, and where they are stored
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The disk
    #[arg(value_name = "IMAGE", value_parser = address_parser())]
    image: Address,
    /// Stop after this many extents (exit code 3). Without it, only a map far longer than the image's files can hold is stopped
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_extents: Option<u64>,
    #[command(flatten)]
    source: SourceArgs,
}

#[derive(Serialize)]
struct Row<'a> {
    offset: u64,
    length_bytes: u64,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_offset: Option<u64>,
}

/// How much text is gathered before it is printed: a map may be longer than memory.
const PRINT_BYTES: usize = 1 << 16;

/// Extents that any image may have.
const MIN_MAX_EXTENTS: u64 = 1 << 16;

/// Stored bytes that an extent is expected to take at least. Tables have 4 to 16 bytes for each, and mostly there is data, too;
/// but a few tables can be named by many entries, and a hole is a table of millions of equal ones.
const MIN_EXTENT_BYTES: u64 = 4;

/// Returns how many extents the files of a disk can account for; a stored snapshot is made of checked chunks instead.
fn believable_extents(disk: &dyn BlockSource) -> u64 {
    let stored = |file: &OpenFile| {
        let found = file.file.as_file().and_then(|file| file.metadata().ok());
        let allocated = found.filter(|found| found.is_file()).map(|found| found.blocks().saturating_mul(512));
        allocated.or_else(|| file.file.len_bytes().ok()).unwrap_or_default()
    };
    let all = disk.host_files().iter().map(stored);
    let stored_bytes = if disk.host_files().is_empty() { u64::MAX } else { all.fold(0, u64::saturating_add) };
    (stored_bytes / MIN_EXTENT_BYTES).max(MIN_MAX_EXTENTS)
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let opened = args.source.open(&args.image, None, global)?;
    let disk = opened.disk.as_ref();
    let mut text = if global.json { "[".to_owned() } else { header() };
    let mut separator = "\n";
    let mut printed: Result<(), Failure> = Ok(());
    let max_extents = args.max_extents.unwrap_or_else(|| believable_extents(disk));
    let end = for_each_extent(disk, max_extents, &mut |offset, extent| {
        let row = row(disk, offset, extent);
        if global.json {
            text += separator;
            text += &serde_json::to_string(&row).unwrap_or_default();
            separator = ",\n";
        } else {
            text += &line(&row);
        }
        if text.len() >= PRINT_BYTES && printed.is_ok() {
            printed = output::print(&std::mem::take(&mut text));
        }
        Ok(())
    })?;
    printed?;
    if global.json {
        text += "\n]\n";
    }
    output::print(&text)?;
    if end < disk.geometry().size_bytes {
        let reason =
            if args.max_extents.is_some() { "as --max-extents says" } else { "more than its files account for" };
        let text =
            format!("the map ends at {end:#x}, after {max_extents} extents, {reason}; --max-extents N shows more");
        output::warn(&text, global);
        return Ok(Outcome::Incomplete);
    }
    Ok(Outcome::Done)
}

fn row(disk: &dyn BlockSource, offset: u64, extent: DiskExtent) -> Row<'_> {
    let range = match extent.kind {
        DiskKind::Data(range) => range,
        _ => None,
    };
    let file = range.and_then(|range| disk.host_files().get(range.file.0)).map(|file| file.name.as_str());
    Row {
        offset,
        length_bytes: extent.length_bytes,
        kind: kind_name(extent.kind),
        file,
        host_offset: range.map(|range| range.host_offset),
    }
}

fn kind_name(kind: DiskKind) -> &'static str {
    match kind {
        DiskKind::Data(_) => "data",
        DiskKind::Encoded => "compressed",
        DiskKind::Zero => "zero",
        DiskKind::Hole => "hole",
        DiskKind::Inherited => "inherited",
    }
}

fn header() -> String {
    format!("{:>18}  {:>16}  {:<10}  {:>18}  {}\n", "offset", "length", "kind", "host offset", "file")
}

fn line(row: &Row<'_>) -> String {
    let host_offset = row.host_offset.map(|offset| format!("{offset:#x}")).unwrap_or_default();
    let file = escape::printable(row.file.unwrap_or_default());
    let line = format!("{:>#18x}  {:>#16x}  {:<10}  {host_offset:>18}  {file}", row.offset, row.length_bytes, row.kind);
    line.trim_end().to_owned() + "\n"
}
