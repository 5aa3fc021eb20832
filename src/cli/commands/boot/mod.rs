//! `tintype boot`

mod disks;
mod terminal;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args as ClapArgs;
use serde::Serialize;
use signal_hook::iterator::Signals;

use self::disks::Disks;
use self::terminal::Terminal;
use crate::access::Address;
use crate::boot::{Display, End, Event, Exports, Machine, Network, Plan, Serial, Settings, warn_of};
use crate::cli::escape::printable;
use crate::cli::failure::Failure;
use crate::cli::machine_args::{MachineArgs, choice};
use crate::cli::source_args::{SourceArgs, address_parser};
use crate::cli::{Global, Outcome, output, units};
use crate::engine::verify_boot::plan_for;
use crate::error::{Error, Kind};
use crate::jobs::{catch_signals, is_stop};

/// Start a disk as a machine, without changing it
///
/// Nothing that the machine writes reaches the image, the device or the repository: it goes to an overlay, which is thrown
/// away when the machine ends, or kept with --keep. QEMU runs the machine; how it is put together is chosen by what is on
/// the disk. Of a stored snapshot all disks are attached, unless one is named (?disk=NAME).
///
/// Ends when the machine powers itself off or its window is closed: exit code 0. Ctrl-C pulls the plug: exit code 130. With
/// the serial port at the terminal Ctrl-C is for the machine, and Ctrl-A X pulls the plug.
///
/// QEMU runs in its sandbox, without this program's environment. If root starts it, it runs as the user tintype-boot, or as
/// user 65530 if there is none. It keeps root's rights with a window, with --serial FILE, with QEMU-ARGS, and where only root
/// may use KVM: start it as another user then.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The disks, in the order in which they are tried
    #[arg(value_name = "SOURCE", required = true, value_parser = address_parser())]
    sources: Vec<Address>,
    #[command(flatten)]
    input: SourceArgs,
    #[command(flatten)]
    machine: MachineArgs,
    /// What it is connected to: nothing, or the network of this computer, as one of its programs
    #[arg(long, value_name = "NETWORK", default_value = "none", value_parser = choice(NETWORKS))]
    net: Network,
    /// Where its screen is shown: nowhere, in a window (gtk), or by VNC on loopback; a window where there is a desktop
    #[arg(long, value_name = "DISPLAY", value_parser = choice(DISPLAYS))]
    display: Option<Display>,
    /// Where its first serial port leads: "stdio" is this terminal; that is the default without a screen
    #[arg(long, value_name = "stdio|FILE")]
    serial: Option<PathBuf>,
    /// Keep what it writes in this file, an overlay in the format qcow2; goes on from it if it exists. More disks than one
    /// have FILE-2 and so on
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
    /// More arguments for QEMU
    #[arg(last = true, value_name = "QEMU-ARGS")]
    qemu: Vec<OsString>,
}

const NETWORKS: &[(&str, Network)] = &[("none", Network::None), ("user", Network::User)];
const DISPLAYS: &[(&str, Display)] = &[("none", Display::None), ("gtk", Display::Gtk), ("vnc", Display::Vnc)];

/// How often is looked whether to stop.
const STEP: Duration = Duration::from_millis(100);

#[derive(Serialize)]
struct Report<'a> {
    r#type: &'static str,
    end: &'static str,
    machine: &'a str,
    kept: Vec<String>,
}

pub fn run(args: &Args, mut global: Global) -> Result<Outcome, Failure> {
    if args.serial.as_deref() == Some(Path::new("stdio")) {
        global = global.without_json("--serial stdio and --json both write to standard output")?;
    }
    let settings = settings(args, global)?;
    let mut signals = catch_signals()?;
    let disks = Disks::open(&args.sources, &args.input, args.keep.as_deref(), global)?;
    let plan = plan_for(disks.sources(), &settings)?;
    let exports = Exports::start(disks.sources())?;
    let attached = disks.attach(&exports)?;
    // QEMU makes the terminal its own, and may end without giving it back.
    let terminal = (settings.serial == Serial::Stdio).then(Terminal::remember);
    plan.remarks.iter().for_each(|remark| output::note(remark, global));
    let mut machine = Machine::start(&plan, &settings, &attached, &exports)?;
    machine.remarks.iter().for_each(|remark| output::note(remark, global));
    let summary = format!("{}, {}", plan.summary(), machine.accelerator);
    greet(&mut machine, &summary, (&plan, &settings), global);
    let end = watch(machine, &mut signals, global);
    drop(terminal);
    exports.take_complaints().iter().for_each(|complaint| output::warn(complaint, global));
    disks.tell_what_is_kept(global);
    let end = end?;
    if global.json {
        let kept = disks.kept().map(|path| path.display().to_string()).collect();
        output::print_json_line(&Report { r#type: "boot", end, machine: &summary, kept })?;
    }
    Ok(Outcome::Done)
}

fn settings(args: &Args, global: Global) -> Result<Settings, Failure> {
    let has_desktop =
        ["WAYLAND_DISPLAY", "DISPLAY"].iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    let display = args.display.unwrap_or(if has_desktop { Display::Gtk } else { Display::None });
    if display == Display::Gtk && !has_desktop {
        return Err(Failure::usage(
            "there is no desktop for a window here: neither DISPLAY nor WAYLAND_DISPLAY is set",
        )
        .hinted("--display vnc shows the screen to a VNC viewer"));
    }
    let serial = match &args.serial {
        Some(path) if path.as_os_str() == "stdio" => Serial::Stdio,
        Some(path) => {
            make_private(path);
            Serial::File(path.clone())
        }
        None if display == Display::None && !global.json => Serial::Stdio,
        None => Serial::None,
    };
    Ok(Settings { network: args.net, display, serial, more: args.qemu.clone(), ..args.machine.settings() })
}

/// Makes the file that the serial port is written to, for its owner alone: the guest's console says what its disk holds. One that
/// is there stays as it is, and QEMU says what it cannot open.
fn make_private(path: &Path) {
    let _ = File::options().write(true).create_new(true).mode(0o600).open(path);
}

/// Tells what was started, and how it is ended.
fn greet(machine: &mut Machine, summary: &str, (plan, settings): (&Plan, &Settings), global: Global) {
    let (memory, cpus) = (units::size(plan.memory_bytes), units::count(plan.cpus.into(), "processor", "processors"));
    output::note(&format!("the machine runs: {summary}, {memory}, {cpus}"), global);
    if settings.display == Display::Vnc {
        let address = machine.vnc_address().unwrap_or_else(|| "an address that QEMU does not tell".to_owned());
        output::note(&format!("its screen is shown by VNC at {address}"), global);
    }
    let has_terminal = settings.serial == Serial::Stdio && io::stdin().is_terminal();
    let end = if has_terminal { "its serial port is here; Ctrl-A X pulls the plug" } else { "Ctrl-C pulls the plug" };
    output::note(end, global);
}

/// Waits until the machine ends, or is to.
fn watch(mut machine: Machine, signals: &mut Signals, global: Global) -> Result<&'static str, Failure> {
    let (mut text, mut is_warned) = (Vec::new(), false);
    loop {
        if signals.pending().any(is_stop) {
            machine.stop();
            return Err(Error::cancelled().into());
        }
        match machine.next_event(STEP) {
            Some(Event::Gone) => break,
            Some(event) => {
                if event.is_out_of_space() {
                    output::warn("the machine stands still: there is no space for what it writes", global);
                }
                if let Some(failure) = warn_of(&mut text, &event).filter(|_| !is_warned) {
                    is_warned = true;
                    output::warn(&format!("the machine says \"{failure}\""), global);
                }
            }
            None => {}
        }
    }
    let end = machine.wait();
    // A signal that QEMU got as well has ended both.
    if signals.pending().any(is_stop) {
        return Err(Error::cancelled().into());
    }
    match end {
        End::PoweredOff => Ok("powered-off"),
        End::Closed => Ok("closed"),
        End::Failed(how) => Err(Error::new(Kind::Io, printable(&how)).into()),
    }
}
