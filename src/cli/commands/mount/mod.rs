//! `tintype mount`

mod background;
mod content;
mod stored;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use serde::Serialize;
use signal_hook::iterator::Signals;

use self::content::Content;
use crate::access::Address;
use crate::cli::failure::Failure;
use crate::cli::source_args::{SourceArgs, address_parser};
use crate::cli::units::parse_duration;
use crate::cli::{Global, Outcome, escape::printable, output, units};
use crate::error::{Error, Kind, in_words};
use crate::jobs::{catch_signals, is_stop};
use crate::serve::fuse::{self, HELPERS, MountEntry, Mounted, Observer, mount_at};
use tintype_formats::locks::Unpoisoned as _;

/// How long those who still use it may take when it ends.
const PATIENCE: Duration = Duration::from_millis(500);

/// Show a disk, the disks of a snapshot or a whole repository as files in a folder
///
/// A disk is shown as disk.raw, with partition-N.raw for each partition and info.json; several disks have a folder each. A
/// repository is shown as NAME/SNAPSHOT/..., with the newest snapshot of each name as "latest"; snapshots that are made later
/// appear by themselves. Nothing but what is read is fetched. It ends with Ctrl-C or "tintype unmount DIR".
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// What to show: a disk, a stored snapshot, or a repository
    #[arg(value_name = "SOURCE", value_parser = address_parser())]
    source: Address,
    /// The folder to show it in; it must be empty
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Let the disk be written to: what is written goes into this file, which is made if it is not there. It can be
    /// mounted again with the same disk
    #[arg(long, value_name = "FILE", conflicts_with = "writable", env = "TINTYPE_OVERLAY")]
    overlay: Option<PathBuf>,
    /// Let the disk be written to, and throw away what was written when it ends
    #[arg(long)]
    writable: bool,
    /// Go on in the background, once it is there
    #[arg(long)]
    daemon: bool,
    /// Let other users read it, too
    #[arg(long)]
    allow_other: bool,
    /// How long reads wait for a repository that is away, before they fail; they work again when it is back
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration, env = "TINTYPE_RETRY_TIME")]
    retry_time: Duration,
    #[command(flatten)]
    opening: SourceArgs,
}

impl Args {
    fn is_writable(&self) -> bool {
        self.writable || self.overlay.is_some()
    }
}

#[derive(Serialize)]
struct MountedEvent<'a> {
    r#type: &'static str,
    folder: &'a str,
    disks: Option<usize>,
    writable: bool,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    check_folder(&args.folder)?;
    check_system()?;
    if args.daemon && !background::is_child() {
        return background::start(global);
    }
    let signals = catch_signals()?;
    let content = content::open(args, global)?;
    let handle = signals.handle();
    let options = fuse::Options {
        source: args.source.to_string(),
        is_writable: content.writable.is_some(),
        allow_other: args.allow_other,
        total_bytes: content.total_bytes,
        threads: threads(),
        at_end: Box::new(move || handle.close()),
    };
    let observer = Arc::new(Reporter { global, told: Mutex::new((None, 0)) });
    let mounted = fuse::mount(&args.folder, Arc::clone(&content.root), observer, options).map_err(explain)?;
    announce(&mounted, &content, args.daemon, global)?;
    let served = serve(&mounted, signals, global);
    content.pool.clear();
    if let Some(disk) = content.writable {
        // Also after a failure: it is all that there is of it.
        disk.flush()?;
    }
    served
}

/// How many requests are answered at once: while some wait for the disk, others decode.
fn threads() -> usize {
    (std::thread::available_parallelism().map_or(2, usize::from) * 2).clamp(4, 16)
}

/// Waits until it is unmounted, or a signal wants it to be.
fn serve(mounted: &Mounted, mut signals: Signals, global: Global) -> Result<Outcome, Failure> {
    // The end of the mount ends the signals.
    let _ = signals.forever().any(is_stop);
    if !mounted.unmount(PATIENCE)? {
        output::warn("it was still in use: programs that have its files open get errors now", global);
    }
    Ok(Outcome::Done)
}

/// Says that it is there, and how it ends.
fn announce(mounted: &Mounted, content: &Content, in_background: bool, global: Global) -> Result<(), Failure> {
    let place = mounted.place().display().to_string();
    let line = if global.json {
        let (disks, writable) = (content.disks, content.writable.is_some());
        let event = MountedEvent { r#type: "mounted", folder: &place, disks, writable };
        crate::cli::escape::json(&serde_json::to_string(&event).unwrap_or_default())
    } else if global.quiet {
        String::new()
    } else {
        let what =
            content.disks.map_or("the repository".to_owned(), |disks| units::count(disks as u64, "disk", "disks"));
        let end = if in_background { "" } else { "Ctrl-C or " };
        printable(&format!("mounted {what} in {place}; {end}\"tintype unmount {place}\" ends it"))
    };
    if background::is_child() {
        return background::detach(&line);
    }
    if line.is_empty() { Ok(()) } else { output::print(&(line + "\n")) }
}

/// Fails unless something can be mounted there.
fn check_folder(folder: &Path) -> Result<(), Failure> {
    let unfit = |what: &str| Failure::from(Error::new(Kind::TargetUnfit, what).with_path(folder));
    if let Ok(Some(MountEntry { fs_type, .. })) = mount_at(folder) {
        let what = format!("something is mounted there already ({})", fs_type.escape_debug());
        let hint =
            format!("\"tintype unmount {}\" ends a mount of tintype; or choose another folder", folder.display());
        return Err(Failure::from(Error::new(Kind::TargetBusy, what).with_path(folder)).hinted(hint));
    }
    let mut entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            return Err(unfit("there is no such folder").hinted("make it first, with mkdir"));
        }
        Err(cause) if cause.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(unfit("it is no folder; expected an empty folder"));
        }
        Err(cause) => return Err(Error::io("look into the folder", cause).with_path(folder).into()),
    };
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(unfit("it is not empty, and what is in it would be hidden").hinted("choose an empty folder")),
    }
}

/// Fails unless this system has what a mount takes.
fn check_system() -> Result<(), Failure> {
    const DEVICE: &str = "/dev/fuse";
    let opened = std::fs::File::options().read(true).write(true).open(DEVICE);
    if let Err(cause) = opened {
        let missing =
            matches!(cause.kind(), std::io::ErrorKind::NotFound) || cause.raw_os_error() == Some(libc::ENODEV);
        let failure = Failure::from(Error::io("open for reading and writing", cause).with_path(Path::new(DEVICE)));
        return Err(failure.hinted(match missing {
            true => "the kernel has no FUSE here: \"modprobe fuse\" loads it; a container must be given the device",
            false => "run it as root, or have whoever runs this system allow it",
        }));
    }
    if !rustix::process::geteuid().is_root() && !has_helper() {
        let failure = Failure::from(Error::new(Kind::Io, "mount: this takes root, or the program fusermount3"));
        return Err(failure.hinted("install the package fuse3, or run it as root"));
    }
    Ok(())
}

/// Whether there is a program that mounts for those who are not root.
fn has_helper() -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| HELPERS.iter().any(|name| folder.join(name).is_file()))
}

/// What to do about a mount that failed.
fn explain(error: Error) -> Failure {
    let said = in_words(&error);
    let failure = Failure::from(error);
    if said.contains("user_allow_other") {
        return failure.hinted("leave --allow-other out, or have root put user_allow_other into /etc/fuse.conf");
    }
    if said.contains("EPERM") || said.contains("permitted") || said.contains("EACCES") {
        return failure.hinted("mounting takes root here, or the program fusermount3 (package fuse3)");
    }
    failure
}

/// Says what went wrong while it is mounted, at most once a second.
struct Reporter {
    global: Global,
    /// When something was said last, and how much was not said since.
    told: Mutex<(Option<Instant>, u64)>,
}

impl Observer for Reporter {
    fn failed(&self, doing: &str, cause: &Error) {
        let mut told = self.told.lock().unpoisoned();
        if told.0.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            told.1 += 1;
            return;
        }
        let more = if told.1 > 0 { format!(" (and {} more since the last warning)", told.1) } else { String::new() };
        *told = (Some(Instant::now()), 0);
        output::warn(&format!("{doing}: {}{more}", in_words(cause)), self.global);
    }
}

/// Writes a line where the one that waits for it reads.
fn write_line(line: &str) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(line.as_bytes())?;
    output.write_all(b"\n")?;
    output.flush()
}
