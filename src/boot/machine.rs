//! A running machine: its process, and what is heard of it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::json;

use super::confine::{Confinement, clean_environment};
use super::event::Event;
use super::exports::{BootDisk, Exports};
use super::firmware::Flash;
use super::inbox::{Receiver, Sender, inbox};
use super::kvm;
use super::qemu::{self, Descriptors, Drive, PROGRAM};
use super::qmp::Qmp;
use super::screen::{Picture, Screen};
use super::settings::{Accelerator, Display, Plan, Serial, Settings};
use super::variables;
use crate::error::{Error, Kind, Result};
use crate::sources::{OpenOptions, open_disk};
use crate::system;

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It powered itself off.
    PoweredOff,
    /// Its user closed it: its window, or by QEMU's monitor.
    Closed,
    /// QEMU failed: how, and what it said.
    Failed(String),
}

/// How long a command to QEMU may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// For how long KVM is watched: where it does not work, QEMU ends when the processor is to run its first instructions.
const TRIAL: Duration = Duration::from_secs(3);

/// How long QEMU may take to end when it is told to. One that has a file to keep writes what it still holds.
const END_LIMIT: Duration = Duration::from_millis(700);
const KEPT_END_LIMIT: Duration = Duration::from_secs(10);

/// The largest flash that QEMU's machines take for a firmware's variables.
const MAX_VARIABLES_BYTES: u64 = 8 << 20;

/// How much is kept of what QEMU says about itself.
const MAX_STDERR_BYTES: usize = 4096;

/// A machine that runs, until this is dropped.
pub struct Machine {
    child: Child,
    qmp: Qmp,
    events: Receiver,
    /// True if something was heard that only a processor that runs can cause.
    has_run: bool,
    /// Heard while it was not known yet whether KVM works.
    early: std::vec::IntoIter<Event>,
    stderr: Option<JoinHandle<String>>,
    /// The reason of QEMU's last word about its end, and whether it was the guest's doing.
    shutdown: Option<(String, bool)>,
    keeps: bool,
    /// What is worth saying about how it was started.
    pub remarks: Vec<String>,
    /// What runs the processor.
    pub accelerator: Accelerator,
}

impl Machine {
    /// Starts a machine with these disks. The calling thread has to outlive it: QEMU is ended with it.
    pub fn start(plan: &Plan, settings: &Settings, disks: &[BootDisk], exports: &Exports) -> Result<Machine> {
        let most = qemu::most_disks(plan.bus);
        if disks.len() > most {
            let message = format!("{} disks are too many for this bus, which takes {most}; choose virtio", disks.len());
            return Err(Error::new(Kind::Usage, message));
        }
        let launch = |accelerator| Self::launch_confined(plan, settings, accelerator, (disks, exports));
        let problem = match settings.accelerator {
            Accelerator::Auto => match kvm::problem() {
                None => match launch(Accelerator::Kvm).and_then(Machine::after_trial) {
                    Ok(machine) => return Ok(machine),
                    Err(cause) if cause.kind() == Kind::Usage => return Err(cause),
                    Err(cause) => cause.to_string(),
                },
                Some(problem) => problem,
            },
            chosen => return launch(chosen),
        };
        let mut machine = launch(Accelerator::Tcg)?;
        let problem = problem.trim_start_matches("start the machine: ").split("; ").next().unwrap_or_default();
        machine.remarks.push(format!("KVM does not work here, the processor is emulated, which is slower ({problem})"));
        Ok(machine)
    }

    /// Starts QEMU as confined as it can be here.
    fn launch_confined(
        plan: &Plan,
        settings: &Settings,
        accelerator: Accelerator,
        disks: (&[BootDisk], &Exports),
    ) -> Result<Machine> {
        let mut confinement = Confinement::of(settings, accelerator);
        let mut remarks = Vec::new();
        loop {
            let cause = match Self::launch(plan, settings, (accelerator, confinement), disks) {
                Ok(mut machine) => {
                    machine.remarks.append(&mut remarks);
                    return Ok(machine);
                }
                Err(cause) => cause,
            };
            let Some((less, remark)) = confinement.without_what_fails(&cause.to_string()) else { return Err(cause) };
            remarks.push(remark.to_owned());
            confinement = less;
        }
    }

    fn launch(
        plan: &Plan,
        settings: &Settings,
        (accelerator, confinement): (Accelerator, Confinement),
        (disks, exports): (&[BootDisk], &Exports),
    ) -> Result<Machine> {
        let doing = |cause| Error::io("prepare the machine", cause);
        let (events_sender, events) = inbox();
        let (qmp, their_qmp) = UnixStream::pair().map_err(doing)?;
        let (log, their_log) = UnixStream::pair().map_err(doing)?;
        let serial = matches!(settings.serial, Serial::Watched).then(UnixStream::pair).transpose().map_err(doing)?;
        let (serial, their_serial) = serial.unzip();
        let mut remarks = Vec::new();
        let variables = plan.flash.as_ref().map(|flash| variables_for(flash, plan, &mut remarks)).transpose()?;
        let descriptors = Descriptors {
            qmp: inheritable(their_qmp.as_fd())?,
            firmware_log: inheritable(their_log.as_fd())?,
            serial: their_serial.as_ref().map(|serial| inheritable(serial.as_fd())).transpose()?,
            variables: variables.as_ref().map(|file| inheritable(file.as_fd())).transpose()?,
            overlays: disks.iter().map(|disk| inheritable(disk.overlay.file().as_fd())).collect::<Result<_>>()?,
        };
        let drives: Vec<_> = disks
            .iter()
            .map(|disk| Drive { geometry: disk.disk.geometry(), is_kept: disk.overlay.is_kept() })
            .collect();
        let arguments =
            qemu::arguments(plan, settings, (accelerator, confinement), &drives, (&descriptors, &exports.socket()));
        confinement.lend(exports.folder())?;
        confinement.lend(&exports.socket())?;
        let mut child = spawn(&arguments, settings, confinement)?;
        let stderr = child.stderr.take().map(gather).transpose()?;
        let qmp = Qmp::new(qmp, events_sender.clone())?;
        let keeps = drives.iter().any(|drive| drive.is_kept);
        let mut machine = Machine {
            child,
            qmp,
            events,
            has_run: false,
            early: Vec::new().into_iter(),
            stderr,
            shutdown: None,
            keeps,
            remarks,
            accelerator,
        };
        // QEMU has them now; an end that only it has open shows when it goes.
        drop((their_qmp, their_log, their_serial));
        forward(log, events_sender.clone(), Event::FirmwareLog)?;
        if let Some(serial) = serial {
            forward(serial, events_sender, Event::Serial)?;
        }
        let greeted = machine.qmp.execute("qmp_capabilities", json!({}), COMMAND_LIMIT);
        match greeted {
            Ok(_) => Ok(machine),
            Err(_) => Err(machine.failure()),
        }
    }

    /// Fails if the machine ends before anything in it ran.
    fn after_trial(mut self) -> Result<Machine> {
        let deadline = Instant::now() + TRIAL;
        let mut early = Vec::new();
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match self.events.recv_timeout(left) {
                Ok(Event::Gone) | Err(RecvTimeoutError::Disconnected) => return Err(self.failure()),
                Ok(event) => {
                    let runs = match &event {
                        Event::Qmp(name, _) => name == "SHUTDOWN" || name == "RESET",
                        _ => true,
                    };
                    early.push(event);
                    if runs {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        self.early = early.into_iter();
        Ok(self)
    }

    /// The next thing that is heard; none if nothing is for so long.
    pub fn next_event(&mut self, limit: Duration) -> Option<Event> {
        let heard = self.early.next().or_else(|| match self.events.recv_timeout(limit) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Event::Gone),
        });
        self.has_run |= match &heard {
            Some(Event::Qmp(name, data)) => ["SHUTDOWN", "RESET"].contains(&name.as_str()) && data["guest"] == true,
            Some(Event::Serial(_) | Event::FirmwareLog(_)) => true,
            Some(Event::Gone) | None => false,
        };
        if let Some(Event::Qmp(name, data)) = &heard
            && name == "SHUTDOWN"
        {
            let reason = data["reason"].as_str().unwrap_or_default().to_owned();
            self.shutdown = Some((reason, data["guest"].as_bool().unwrap_or(false)));
        }
        heard
    }

    /// Waits for QEMU, which has gone or is about to, and says how the machine ended.
    pub fn wait(mut self) -> End {
        let status = self.end();
        match &self.shutdown {
            Some((_, true)) => End::PoweredOff,
            Some((reason, false)) if reason.starts_with("host-") && reason != "host-error" => End::Closed,
            _ => End::Failed(self.what_went_wrong(status)),
        }
    }

    /// Ends the machine at once; what it has not written is lost, as by pulling the plug.
    pub fn stop(mut self) {
        self.end();
    }

    /// True if its processor has run an instruction: something was heard of it, or it is not where it began.
    pub fn has_run(&mut self) -> bool {
        if self.has_run {
            return true;
        }
        let command = json!({"command-line": "info registers"});
        let registers = self.qmp.execute("human-monitor-command", command, COMMAND_LIMIT);
        registers.is_ok_and(|text| text.as_str().and_then(instruction_pointer).is_some_and(|at| at != RESET_VECTOR))
    }

    /// Looks at its screen.
    pub fn screen(&mut self, folder: &Path) -> Result<Screen> {
        let path = folder.join("screen.ppm");
        self.qmp.execute("screendump", json!({"filename": path.to_string_lossy()}), COMMAND_LIMIT)?;
        let bytes = read_from_qemu(&path).map_err(|cause| Error::io("read the picture of the screen", cause))?;
        let picture = Picture::parse(&bytes).ok_or_else(|| Error::new(Kind::Io, "QEMU's picture is none"))?;
        if !picture.is_text_mode() {
            return Ok(Screen::Graphics(picture));
        }
        let path = folder.join("text");
        let arguments = json!({"val": 0xb8000, "size": 4000, "filename": path.to_string_lossy()});
        self.qmp.execute("pmemsave", arguments, COMMAND_LIMIT)?;
        let cells = read_from_qemu(&path).map_err(|cause| Error::io("read the text of the screen", cause))?;
        Ok(Screen::Text(super::screen::text_of(&cells)))
    }

    /// Makes a picture of its screen, as PNG.
    pub fn take_picture(&mut self, folder: &Path) -> Result<Vec<u8>> {
        let path = folder.join("screen.png");
        let arguments = json!({"filename": path.to_string_lossy(), "format": "png"});
        self.qmp.execute("screendump", arguments, COMMAND_LIMIT)?;
        read_from_qemu(&path).map_err(|cause| Error::io("read the picture of the screen", cause))
    }

    /// The port of its VNC server.
    pub fn vnc_address(&mut self) -> Option<String> {
        let found = self.qmp.execute("query-vnc", json!({}), COMMAND_LIMIT).ok()?;
        Some(format!("{}:{}", found["host"].as_str()?, found["service"].as_str()?))
    }

    /// Has QEMU end, and waits for that.
    fn end(&mut self) -> Option<ExitStatus> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(status);
        }
        // It may have gone, or be about to.
        let _ = self.qmp.send("quit", json!({}));
        let deadline = Instant::now() + if self.keeps { KEPT_END_LIMIT } else { END_LIMIT };
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        self.child.wait().ok()
    }

    fn failure(mut self) -> Error {
        let status = self.end();
        Error::new(Kind::Io, format!("start the machine: {}", self.what_went_wrong(status)))
    }

    fn what_went_wrong(&mut self, status: Option<ExitStatus>) -> String {
        let how = match status.map(|status| (status.code(), status.signal())) {
            Some((Some(code), _)) => format!("QEMU ended with code {code}"),
            Some((None, Some(signal))) => format!("QEMU ended by signal {signal}"),
            _ => "QEMU ended".to_owned(),
        };
        let said = self.stderr.take().and_then(|stderr| stderr.join().ok()).unwrap_or_default();
        let lines: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if lines.is_empty() { how } else { format!("{how}: {}", lines.join("; ")) }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where a processor of this kind begins.
const RESET_VECTOR: u64 = 0xfff0;

/// The instruction pointer in what QEMU's monitor says of the registers: `EIP=0000fff0`, or `RIP` and twice the digits.
fn instruction_pointer(registers: &str) -> Option<u64> {
    let (_, rest) = registers.split_once("IP=")?;
    u64::from_str_radix(rest.split(|letter: char| !letter.is_ascii_hexdigit()).next()?, 16).ok()
}

/// The largest file that QEMU writes for this program: a picture of its largest screen.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Reads a file that QEMU has written. What a guest has made of QEMU could have put something else in its place.
fn read_from_qemu(path: &Path) -> std::io::Result<Vec<u8>> {
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A copy of the firmware's variables that has no name; it knows of the disk's boot loader.
fn variables_for(flash: &Flash, plan: &Plan, remarks: &mut Vec<String>) -> Result<File> {
    let options = OpenOptions { format: Some(flash.variables_format.clone()), ..OpenOptions::default() };
    let disk = open_disk(&flash.variables, &options, None)?.disk;
    let size_bytes = disk.geometry().size_bytes;
    if size_bytes > MAX_VARIABLES_BYTES {
        let message = format!("the firmware's variables have {size_bytes} bytes, more than {MAX_VARIABLES_BYTES}");
        return Err(Error::new(Kind::Io, message).with_path(&flash.variables));
    }
    let mut bytes = vec![0; size_bytes as usize];
    disk.read_at(0, &mut bytes)?;
    if let Some(loader) = &plan.loader {
        remarks.push(match variables::add_boot_entry(&mut bytes, loader) {
            true => format!("the firmware is told of the disk's boot loader, {loader}"),
            false => format!("the firmware cannot be told of the disk's boot loader, {loader}; its own menu starts it"),
        });
    }
    let write = || {
        let mut file = tempfile::tempfile()?;
        file.write_all(&bytes)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    };
    write().map_err(|cause| Error::io("copy the firmware's variables", cause))
}

/// Has programs that are started inherit a descriptor; gives its number.
fn inheritable(descriptor: BorrowedFd<'_>) -> Result<RawFd> {
    fcntl_setfd(descriptor, FdFlags::empty()).map_err(|errno| Error::io("pass a file on", errno.into()))?;
    Ok(descriptor.as_raw_fd())
}

fn spawn(arguments: &[std::ffi::OsString], settings: &Settings, confinement: Confinement) -> Result<Child> {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stderr(Stdio::piped());
    clean_environment(&mut command, settings.display == Display::Gtk);
    confinement.apply(&mut command);
    if settings.serial != Serial::Stdio {
        // Ctrl-C at the terminal is for this program, which ends QEMU as it should be.
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    }
    system::end_with_parent(&mut command);
    command.spawn().map_err(|cause| match cause.kind() {
        std::io::ErrorKind::NotFound => {
            let message = format!(
                "{PROGRAM} is not installed; install the package qemu-system-x86 (Debian, Ubuntu, Fedora), qemu-x86 (SUSE) \
                 or qemu-system-x86 (Arch)"
            );
            Error::new(Kind::Io, message)
        }
        _ => Error::io(format!("start {PROGRAM}"), cause),
    })
}

/// Keeps the last that QEMU says about itself.
fn gather(mut stderr: ChildStderr) -> Result<JoinHandle<String>> {
    let gather = move || {
        let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
        while let Ok(length @ 1..) = stderr.read(&mut buffer) {
            kept.extend_from_slice(&buffer[..length]);
            kept.drain(..kept.len().saturating_sub(MAX_STDERR_BYTES));
        }
        String::from_utf8_lossy(&kept).into_owned()
    };
    let spawned = thread::Builder::new().name("qemu-stderr".to_owned()).spawn(gather);
    spawned.map_err(|cause| Error::io("start a thread", cause))
}

/// Passes on what comes from a port of the machine.
fn forward(mut stream: UnixStream, events: Sender, event: fn(Vec<u8>) -> Event) -> Result<()> {
    let pass_on = move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if !events.send(event(buffer[..length].to_vec())) {
                return;
            }
        }
    };
    let spawned = thread::Builder::new().name("machine-port".to_owned()).spawn(pass_on);
    spawned.map(drop).map_err(|cause| Error::io("start a thread", cause))
}
