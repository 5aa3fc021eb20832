//! `tintype verify --boot`

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tintype_tin::id::Id;

use super::escape::printable;
use super::failure::Failure;
use super::machine_args::MachineArgs;
use super::texts::unreadable_text;
use super::units::parse_some_time;
use super::{Global, Outcome, output};
use crate::boot::{Condition, Serial, Settings};
use crate::engine::verify_boot::{BootReport, BootTest, verify_boot};
use crate::error::{Error, Kind, OnPath as _};
use crate::jobs::cancel_by_signals;
use crate::repository::Repository;
use crate::repository::snapshots::Snapshot;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// How a snapshot is to prove that it boots.
#[derive(Debug, Clone, Args)]
pub struct BootArgs {
    /// Start the snapshots as machines instead, one after the other, and see whether they boot
    #[arg(help_heading = "Boot", long, conflicts_with_all = ["depth", "sample", "older_than"], requires = "snapshots")]
    boot: bool,
    /// What proves that one has booted. serial:REGEX: a line on its first serial port matches. screen (the default): its screen
    /// shows something that is not the firmware's, no error that is known, and stays so for 5 s; a boot loader's menu is
    /// enough for that. port:22: something answers at that TCP port
    #[arg(help_heading = "Boot", long, value_name = "CONDITION", requires = "boot", value_parser = clap::value_parser!(Condition))]
    until: Option<Condition>,
    /// How long it may take; 5m by default
    #[arg(help_heading = "Boot", long, value_name = "TIME", requires = "boot", value_parser = parse_some_time)]
    timeout: Option<Duration>,
    /// Write a picture of its screen in the end into this file, as PNG
    #[arg(help_heading = "Boot", long, value_name = "FILE.png", requires = "boot")]
    screenshot: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArgs,
}

impl BootArgs {
    /// Whether this is what is wanted; an error if only its options are.
    pub fn is_wanted(&self) -> Result<bool, Failure> {
        if !self.boot && self.machine.is_said() {
            return Err(Failure::usage("only --boot starts a machine"));
        }
        Ok(self.boot)
    }
}

#[derive(Serialize)]
struct Report<'a> {
    r#type: &'static str,
    snapshot: Id,
    name: &'a str,
    boots: bool,
    until: String,
    seen: &'a str,
    machine: &'a str,
    elapsed_s: f64,
    screenshot: Option<String>,
}

/// Boots each of these snapshots.
pub fn run(
    args: &BootArgs,
    repository: &Arc<Repository>,
    snapshots: &[Snapshot],
    global: Global,
) -> Result<Outcome, Failure> {
    if args.screenshot.is_some() && snapshots.len() > 1 {
        return Err(Failure::usage("--screenshot is for one snapshot; verify them one by one"));
    }
    repository.require_data("verify --boot")?;
    let progress = cancel_by_signals()?;
    let test = BootTest {
        settings: Settings { serial: Serial::Watched, stays_when_off: true, ..args.machine.settings() },
        condition: args.until.clone().unwrap_or(Condition::Screen),
        limit: args.timeout.unwrap_or(DEFAULT_TIMEOUT),
        picture: args.screenshot.is_some(),
    };
    let mut outcome = Outcome::Done;
    for snapshot in snapshots {
        let name = &snapshot.manifest.name;
        for disk in snapshot.manifest.disks.iter().filter(|disk| disk.is_incomplete()) {
            output::warn(&unreadable_text(disk), global);
        }
        output::note(&format!("booting {name}@{}, until {}", snapshot.id, test.condition), global);
        let report = verify_boot(repository, snapshot, &test, &progress)?;
        report.remarks.iter().for_each(|remark| output::note(remark, global));
        if let (Some(path), Some(picture)) = (&args.screenshot, &report.picture) {
            write_picture(path, picture)?;
        }
        tell(args, snapshot, &test, &report, global)?;
        if !report.verdict.met {
            outcome = Outcome::Damaged;
        }
    }
    Ok(outcome)
}

fn tell(
    args: &BootArgs,
    snapshot: &Snapshot,
    test: &BootTest,
    report: &BootReport,
    global: Global,
) -> Result<(), Failure> {
    let (verdict, elapsed_s) = (&report.verdict, report.elapsed.as_secs_f64());
    if global.json {
        let picture = args.screenshot.as_ref().filter(|_| report.picture.is_some());
        return output::print_json_line(&Report {
            r#type: "boot_verification",
            snapshot: snapshot.id,
            name: &snapshot.manifest.name,
            boots: verdict.met,
            until: test.condition.to_string(),
            seen: &verdict.seen,
            machine: &report.machine,
            elapsed_s,
            screenshot: picture.map(|path| path.display().to_string()),
        });
    }
    if global.quiet {
        return Ok(());
    }
    let name = format!("{}@{}", printable(&snapshot.manifest.name), snapshot.id);
    let how = if verdict.met { "boots" } else { "does not boot" };
    output::print(&format!("{name} {how} ({}, {elapsed_s:.1} s): {}\n", report.machine, printable(&verdict.seen)))
}

/// A picture of before may be replaced; anything else is not what the user means.
fn is_free_for_picture(path: &Path) -> bool {
    let Ok(mut file) = File::open(path) else { return path.symlink_metadata().is_err() };
    let mut begin = [0; 8];
    let length = file.metadata().map_or(0, |found| found.len());
    length == 0 || file.read_exact(&mut begin).is_ok() && begin == *b"\x89PNG\r\n\x1a\n"
}

/// Writes the picture beside its name first: half a picture is none.
fn write_picture(path: &Path, picture: &[u8]) -> Result<(), Failure> {
    if !is_free_for_picture(path) {
        return Err(Error::new(Kind::TargetExists, "it exists, and is no picture").with_path(path).into());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        let mut file = tempfile::Builder::new().prefix(".tintype-").suffix(".partial").tempfile_in(folder)?;
        file.write_all(picture)?;
        file.persist(path).map_err(|cause| cause.error)
    };
    write().map_err(|cause| Error::io("write the picture of the screen", cause)).on_path(path)?;
    Ok(())
}
