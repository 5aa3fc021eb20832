//! `tintype check`

use clap::Args as ClapArgs;
use serde::Serialize;
use tintype_formats::check::{CheckReport, Severity};

use super::address::{self, Address};
use super::failure::Failure;
use super::{Global, Outcome, escape::printable, output, units};
use crate::sources;

/// Look for damage in the structures of an image
///
/// No file that the image names is opened, and nothing is changed. Exit code 0 if nothing was found, 3 if space is leaked
/// (the content is safe), 4 if the image is damaged.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The image
    #[arg(value_name = "IMAGE", value_parser = address::parser())]
    image: Address,
    /// Format of the image; detected from the content for files, raw for devices
    #[arg(long, short, value_name = "FORMAT", env = "TINTYPE_FORMAT")]
    format: Option<String>,
    /// Look at an image although a running machine writes to it
    #[arg(long)]
    force_share: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    path: String,
    format: &'a str,
    corruptions: u64,
    leaks: u64,
    allocated_bytes: u64,
    size_bytes: u64,
    host_end_offset: u64,
    findings: Vec<Row<'a>>,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Row<'a> {
    severity: &'static str,
    host_offset: Option<u64>,
    text: &'a str,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    if args.image.is_standard_input() || args.image.snapshot.is_some() {
        return Err(Failure::usage("check needs a whole image file"));
    }
    let (_, image) =
        sources::open_image(&args.image.path, args.format.as_deref(), args.image.disk.as_deref(), args.force_share)?;
    let mut found = CheckReport::default();
    image.check(&mut found).map_err(|cause| crate::error::Error::from(cause).with_path(&args.image.path))?;
    let report = Report {
        path: args.image.path.display().to_string(),
        format: image.info().format,
        corruptions: found.corruptions,
        leaks: found.leaks,
        allocated_bytes: found.allocated_bytes,
        size_bytes: image.info().geometry.size_bytes,
        host_end_offset: found.host_end_offset,
        findings: found.findings.iter().map(row).collect(),
        warnings: &image.info().warnings,
    };
    if global.json {
        output::print_json(&report)?
    } else {
        output::print(&text(&report))?
    }
    Ok(match (found.corruptions, found.leaks) {
        (0, 0) => Outcome::Done,
        (0, _) => Outcome::Incomplete,
        _ => Outcome::Damaged,
    })
}

fn row(finding: &tintype_formats::check::Finding) -> Row<'_> {
    let severity = match finding.severity {
        Severity::Leak => "leak",
        Severity::Corruption => "corruption",
    };
    Row { severity, host_offset: finding.host_offset, text: &finding.text }
}

fn text(report: &Report<'_>) -> String {
    let mut text = String::new();
    for warning in report.warnings {
        text += &format!("warning: {}\n", printable(warning));
    }
    for row in &report.findings {
        let place = row.host_offset.map(|offset| format!(" at host offset {offset:#x}")).unwrap_or_default();
        text += &format!("{}{place}: {}\n", row.severity, printable(row.text));
    }
    let shown = report.findings.len() as u64;
    let all = report.corruptions + report.leaks;
    if all > shown {
        text += &format!("and {} more\n", all - shown);
    }
    text += &match (report.corruptions, report.leaks) {
        (0, 0) => format!("No damage found in this {} image.\n", report.format),
        (0, leaks) => format!("{leaks} leaks: space is wasted, the content is safe.\n"),
        (corruptions, leaks) => format!("{corruptions} corruptions and {leaks} leaks: the image is damaged.\n"),
    };
    let (allocated, size) = (report.allocated_bytes, report.size_bytes);
    text + &format!("{} of {} are allocated.\n", units::size(allocated), units::size(size))
}
