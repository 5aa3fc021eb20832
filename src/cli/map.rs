//! `tintype map`

use clap::Args as ClapArgs;
use serde::Serialize;
use tintype_formats::BlockSource;
use tintype_formats::extent::{DiskExtent, DiskKind};

use super::address::{self, Address};
use super::failure::Failure;
use super::source_args::SourceArgs;
use super::{Global, Outcome, escape, output};
use crate::engine::map::for_each_extent;

/// Show which parts of a disk hold data, and where they are stored
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The disk
    #[arg(value_name = "IMAGE", value_parser = address::parser())]
    image: Address,
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

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let opened = args.source.open(&args.image, None, global)?;
    let disk = opened.disk.as_ref();
    let mut text = if global.json { "[".to_owned() } else { header() };
    let mut separator = "\n";
    let mut printed: Result<(), Failure> = Ok(());
    for_each_extent(disk, &mut |offset, extent| {
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
