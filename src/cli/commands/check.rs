//! `tintype check`

use clap::Args as ClapArgs;
use serde::Serialize;
use tintype_formats::check::{CheckReport, Severity};

use crate::cli::failure::Failure;
use crate::cli::source_args::{ImageArgs, ReferenceArgs};
use crate::cli::{Global, Outcome, escape::printable, output, units};
use crate::error::OnPath as _;
use crate::sources::{self, OpenedImage};

/// Look for damage in the structures of an image
///
/// Nothing is changed, and no other file is opened but those that the image itself consists of: segments, extents, images of
/// a bundle; no parents. With --no-references, only IMAGE itself is looked at. Exit code 0 if nothing was found, 3 if space is leaked or only refcounts are out of date (the content is safe), 4 if the image is damaged. With
/// --quiet only the exit code tells.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    references: ReferenceArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    path: String,
    format: &'a str,
    corruptions: u64,
    leaks: u64,
    outdated: u64,
    allocated_bytes: u64,
    size_bytes: u64,
    host_end_offset: u64,
    findings: Vec<Row<'a>>,
    warnings: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[derive(Serialize)]
struct Row<'a> {
    severity: &'static str,
    host_offset: Option<u64>,
    text: &'a str,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let address = &args.image.address;
    if address.snapshot.is_some() {
        let message = "check looks at the whole file, all snapshots included: it cannot look at one of them";
        return Err(Failure::usage(message).hinted("leave out what begins with the question mark"));
    }
    let policy = args.references.policy();
    let deny_all = policy.deny_all;
    let OpenedImage { file, image, guess, gate } = args.image.open("check", policy, global)?;
    let mut found = CheckReport::default();
    let checked = match deny_all {
        true => image.check(&mut found),
        false => image.check_all_files(gate.as_ref(), &mut found),
    };
    checked.map_err(|cause| sources::failed_to_follow(cause, guess.as_ref())).on_path(&address.path)?;
    let report = Report {
        path: address.to_string(),
        format: image.info().format,
        corruptions: found.corruptions,
        leaks: found.leaks,
        outdated: found.outdated,
        allocated_bytes: found.allocated_bytes,
        size_bytes: image.info().geometry.size_bytes,
        host_end_offset: found.host_end_offset,
        findings: found.findings.iter().map(row).collect(),
        warnings: &image.info().warnings,
        note: sources::guess_note(&file.name, guess.as_ref()),
    };
    if global.json {
        output::print_json(&report)?
    } else if !global.quiet {
        output::print(&text(&report))?
    }
    Ok(match found.corruptions {
        0 if found.is_clean() => Outcome::Done,
        0 => Outcome::Incomplete,
        _ => Outcome::Damaged,
    })
}

fn row(finding: &tintype_formats::check::Finding) -> Row<'_> {
    let severity = match finding.severity {
        Severity::Leak => "leak",
        Severity::Outdated => "outdated",
        Severity::Corruption => "corruption",
    };
    Row { severity, host_offset: finding.host_offset, text: &finding.text }
}

fn text(report: &Report<'_>) -> String {
    let mut text = String::new();
    for warning in report.warnings {
        text += &format!("warning: {}\n", printable(warning));
    }
    if let Some(note) = &report.note {
        text += &format!("note: {}\n", printable(note));
    }
    for row in &report.findings {
        let place = row.host_offset.map(|offset| format!(" at host offset {offset:#x}")).unwrap_or_default();
        text += &format!("{}{place}: {}\n", row.severity, printable(row.text));
    }
    let shown = report.findings.len() as u64;
    let all = report.corruptions + report.leaks + report.outdated;
    if all > shown {
        text += &format!("and {} more\n", all - shown);
    }
    text += &verdict(report);
    let (allocated, size) = (report.allocated_bytes, report.size_bytes);
    text + &format!("{} of {} are allocated.\n", units::size(allocated), units::size(size))
}

/// What the findings mean for the disk in the image, and what to do.
fn verdict(report: &Report<'_>) -> String {
    let counted = [
        (report.corruptions, "corruption", "corruptions"),
        (report.outdated, "entry out of date", "entries out of date"),
        (report.leaks, "leak", "leaks"),
    ];
    let counts: Vec<_> = counted
        .into_iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, one, many)| units::count(count, one, many))
        .collect();
    let counts = counts.join(", ");
    match report {
        Report { corruptions: 1.., .. } => format!("{counts}: the image is damaged.\n"),
        Report { outdated: 1.., .. } => format!(
            "{counts}, as the image was not closed properly: its data are whole, and are read right.\n\
             To mend it, convert it to a new image, or run \"qemu-img check -r all\" on it.\n"
        ),
        Report { leaks: 1.., .. } => format!("{counts}: space is wasted, the content is safe.\n"),
        _ => format!("No damage found in this {} image.\n", report.format),
    }
}
