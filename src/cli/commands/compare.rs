//! `tintype compare`

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde::Serialize;

use crate::access::Address;
use crate::cli::choice::ChoiceArgs;
use crate::cli::failure::Failure;
use crate::cli::repository_args::SecretArgs;
use crate::cli::source_args::{NbdArgs, ReferenceArgs, SourceArgs, ThreadArgs, address_parser, format_parser};
use crate::cli::{Global, Outcome, job, output, units};
use crate::engine::NamedDisk;
use crate::engine::compare::{Comparison, compare};

/// Compare the content of two disks, whatever formats they are stored in
///
/// Disks of different sizes are the same if the rest of the longer one is zeros, unless --strict is given. Exit code 0
/// if they are the same, 3 if not. With --quiet only the exit code tells.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// One disk
    #[arg(value_name = "A", value_parser = address_parser())]
    a: Address,
    /// The other disk
    #[arg(value_name = "B", value_parser = address_parser())]
    b: Address,
    /// Format of A; detected from the content for files, raw for devices
    #[arg(long, short, value_name = "FORMAT", value_parser = format_parser())]
    format: Option<String>,
    /// Format of B
    #[arg(long, short = 'F', value_name = "FORMAT", value_parser = format_parser())]
    format_b: Option<String>,
    /// Read A with what was written over it while it was served or mounted: the file that --overlay named there
    #[arg(long, value_name = "FILE")]
    with_overlay: Option<PathBuf>,
    /// Disks of different sizes are different
    #[arg(long, short)]
    strict: bool,
    #[command(flatten)]
    references: ReferenceArgs,
    #[command(flatten)]
    nbd: NbdArgs,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[command(flatten)]
    secrets: SecretArgs,
    #[command(flatten)]
    threads: ThreadArgs,
}

#[derive(Serialize)]
struct Report {
    r#type: &'static str,
    same: bool,
    sizes_bytes: [u64; 2],
    differing_bytes: u64,
    differing: Vec<Range>,
}

#[derive(Serialize)]
struct Range {
    offset: u64,
    length_bytes: u64,
}

/// How many differing ranges a person gets to see.
const SHOWN_RANGES: usize = 10;

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let open = |address: &Address, format: &Option<String>, overlay: Option<&PathBuf>| {
        let (references, nbd, secrets) = (args.references.clone(), args.nbd.clone(), args.secrets.clone());
        let (format, with_overlay, choice) = (format.clone(), overlay.cloned(), args.choice.clone());
        let source = SourceArgs { format, with_overlay, sector_size: None, references, nbd, choice, secrets };
        source.open(address, None, global)
    };
    let a = open(&args.a, &args.format, args.with_overlay.as_ref())?;
    let b = open(&args.b, &args.format_b, None)?;
    let found = job::run(global, "comparing", |progress| {
        let a = NamedDisk { disk: a.disk.as_ref(), path: &args.a.path };
        let b = NamedDisk { disk: b.disk.as_ref(), path: &args.b.path };
        compare(a, b, args.threads.workers(), progress)
    })?;
    let same_size = found.sizes_bytes[0] == found.sizes_bytes[1];
    let same = found.differing_bytes == 0 && (same_size || !args.strict);
    if global.json {
        report_json(&found, same)?;
    } else if !global.quiet {
        output::print(&report_text(&found, same))?;
    }
    let is_complete = !a.is_incomplete() && !b.is_incomplete();
    Ok(if same && is_complete { Outcome::Done } else { Outcome::Incomplete })
}

fn report_json(found: &Comparison, same: bool) -> Result<(), Failure> {
    let range = |range: &std::ops::Range<u64>| Range { offset: range.start, length_bytes: range.end - range.start };
    output::print_json_line(&Report {
        r#type: "comparison",
        same,
        sizes_bytes: found.sizes_bytes,
        differing_bytes: found.differing_bytes,
        differing: found.differing.iter().map(range).collect(),
    })
}

fn report_text(found: &Comparison, same: bool) -> String {
    let [a, b] = found.sizes_bytes;
    let mut text = String::new();
    if a != b {
        text += &format!("The sizes differ: {} and {}.\n", units::exact_size(a), units::exact_size(b));
    }
    if same {
        return text + "The disks have the same content.\n";
    }
    let places = units::count(found.differing.len() as u64, "place", "places");
    text += &format!("{} differ, in {places}:\n", units::size(found.differing_bytes));
    for range in found.differing.iter().take(SHOWN_RANGES) {
        text += &format!("  at {:#x}, {}\n", range.start, units::size(range.end - range.start));
    }
    if found.differing.len() > SHOWN_RANGES {
        text += &format!("  and {} more\n", found.differing.len() - SHOWN_RANGES);
    }
    text
}
