//! The few system calls that no library wraps safely. All `unsafe` of this crate is here.

#![allow(unsafe_code)]

pub mod durable;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use rustix::ioctl::{self, Opcode, Updater};
use rustix::process::Signal;

/// `struct file_clone_range` of `linux/fs.h`.
#[repr(C)]
struct FileCloneRange {
    source_fd: i64,
    source_offset: u64,
    length: u64,
    target_offset: u64,
}

/// `FICLONERANGE` of `linux/fs.h`: `_IOW(0x94, 13, struct file_clone_range)`.
const FICLONERANGE: Opcode = ioctl::opcode::write::<FileCloneRange>(0x94, 13);

/// `BLKRRPART` of `linux/fs.h`: `_IO(0x12, 95)`.
const BLKRRPART: Opcode = ioctl::opcode::none(0x12, 95);

/// `BLKFLSBUF` of `linux/fs.h`: `_IO(0x12, 97)`.
const BLKFLSBUF: Opcode = ioctl::opcode::none(0x12, 97);

/// Lets `target` share blocks of `source`; both offsets and the length are multiples of the file system's block.
pub fn clone_range(
    source: &File,
    source_offset: u64,
    target: &File,
    target_offset: u64,
    length: u64,
) -> io::Result<()> {
    let source_fd = i64::from(source.as_raw_fd());
    let mut range = FileCloneRange { source_fd, source_offset, length, target_offset };
    // SAFETY: the kernel reads one `file_clone_range`, which `range` is by its layout, and keeps no pointer to it; the
    // descriptor in it is open as long as `source` is borrowed.
    unsafe { ioctl::ioctl(target, Updater::<FICLONERANGE, FileCloneRange>::new(&mut range)) }?;
    Ok(())
}

/// Whether any other open file description, of this process or another, has a lock on one byte of the file.
///
/// By hand because `rustix::process::fcntl_getlk` asserts that a lock belongs to a process, which OFD locks do not.
pub fn is_byte_locked(file: &File, offset: i64) -> bool {
    // SAFETY: all zeros is a valid `flock`.
    let mut question: libc::flock = unsafe { std::mem::zeroed() };
    question.l_type = libc::F_WRLCK as i16;
    question.l_whence = libc::SEEK_SET as i16;
    question.l_start = offset;
    question.l_len = 1;
    // SAFETY: the kernel reads and writes one `flock`, and keeps no pointer to it; the descriptor is open.
    let answered = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut question) };
    answered == 0 && question.l_type != libc::F_UNLCK as i16
}

/// Whether this process was started with the signal ignored, as `nohup` and the shells' `&` do.
pub fn is_signal_ignored(signal: i32) -> bool {
    // SAFETY: all zeros is a valid `sigaction`.
    let mut found: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action the kernel changes nothing; it writes one `sigaction`, and keeps no pointer to it.
    let answered = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut found) };
    answered == 0 && found.sa_sigaction == libc::SIG_IGN
}

/// Signals that are kept for whoever waits for them. What they did before is put back when this is dropped.
///
/// By hand because `signal-hook` cannot put back what a signal did before; one at a time.
pub struct CaughtSignals {
    reader: OwnedFd,
    /// Open as long as the handler may write to it.
    _writer: OwnedFd,
    before: Vec<(i32, libc::sigaction)>,
}

/// Where the handler writes the numbers of signals; -1 if nobody waits.
static CAUGHT: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note_signal(signal: libc::c_int) {
    let number = signal as u8;
    // SAFETY: `write` and the place of `errno` may be used in a handler; one byte is read from `number`, which lives on. A
    // descriptor of -1 gives an error, and the program that was interrupted finds its `errno` unchanged.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::write(CAUGHT.load(Ordering::Relaxed), (&raw const number).cast(), 1);
        *errno = before;
    }
}

impl CaughtSignals {
    /// Catches these signals, but for those that this process was started with ignored.
    pub fn catch(signals: &[i32]) -> io::Result<CaughtSignals> {
        use rustix::pipe::{PipeFlags, pipe_with};
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        CAUGHT.store(writer.as_raw_fd(), Ordering::Relaxed);
        let mut caught = CaughtSignals { reader, _writer: writer, before: Vec::new() };
        for signal in signals.iter().copied().filter(|signal| !is_signal_ignored(*signal)) {
            let before = set_action(signal, &noting())?;
            caught.before.push((signal, before));
        }
        Ok(caught)
    }

    /// The next signal that came.
    pub fn next(&self) -> io::Result<Option<i32>> {
        let mut number = [0];
        match rustix::io::read(&self.reader, &mut number) {
            Ok(1) => Ok(Some(i32::from(number[0]))),
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Stops this process as Ctrl-Z does, and returns when it goes on.
    pub fn stop(&mut self) -> io::Result<()> {
        let Some((signal, before)) = self.before.iter().find(|(signal, _)| *signal == libc::SIGTSTP) else {
            return Ok(());
        };
        let noting = set_action(*signal, before)?;
        // SAFETY: raising a signal has no conditions on memory.
        let raised = unsafe { libc::raise(*signal) };
        set_action(*signal, &noting)?;
        if raised == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for CaughtSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

impl Drop for CaughtSignals {
    fn drop(&mut self) {
        for (signal, before) in &self.before {
            // It was accepted when it was set the first time.
            let _ = set_action(*signal, before);
        }
        CAUGHT.store(-1, Ordering::Relaxed);
        // What nobody has looked at does what it would have done.
        while let Ok(Some(signal)) = self.next() {
            // SAFETY: raising a signal has no conditions on memory.
            unsafe { libc::raise(signal) };
        }
    }
}

fn noting() -> libc::sigaction {
    // SAFETY: all zeros is a valid `sigaction`: no signal is blocked, and calls that it interrupts
    // say so.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = note_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action
}

/// Sets what a signal does, and returns what it did before.
fn set_action(signal: i32, action: &libc::sigaction) -> io::Result<libc::sigaction> {
    // SAFETY: all zeros is a valid `sigaction`.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel reads one `sigaction` and writes one, and keeps no pointer to them. The handler in `action` is either
    // `note_signal`, which does only what a handler may, or what the kernel said was there before.
    match unsafe { libc::sigaction(signal, action, &raw mut before) } {
        0 => Ok(before),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the kernel read the partition table of a device again.
pub fn reread_partition_table(device: &File) -> io::Result<()> {
    // SAFETY: the request takes no argument.
    unsafe { ioctl::ioctl(device, ioctl::NoArg::<BLKRRPART>::new()) }?;
    Ok(())
}

/// Writes back and forgets what the kernel has cached of a device.
pub fn drop_device_cache(device: &File) -> io::Result<()> {
    // SAFETY: the request takes no argument.
    unsafe { ioctl::ioctl(device, ioctl::NoArg::<BLKFLSBUF>::new()) }?;
    Ok(())
}

/// Asks for large pages under memory that was not touched yet: the kernel pins each page for every direct read into it.
pub fn prefer_large_pages(memory: &mut [u8]) {
    // SAFETY: the advice changes how the range is backed, not what it holds, and the range is borrowed exclusively. An
    // address that is not aligned is refused, which does no harm.
    let _ = unsafe { libc::madvise(memory.as_mut_ptr().cast(), memory.len(), libc::MADV_HUGEPAGE) };
}

/// Has a program end when the thread that starts it does, however that ends.
pub fn end_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let before_exec = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have gone before that.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls only; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(before_exec) };
}

/// Keeps what this process and those that it starts hold in memory out of core dumps: passwords, keys, what is on disks.
///
/// A limit of nothing is enough where the kernel writes the dump to a file. A program that takes dumps from a pipe gets them
/// whatever the limit is; it gets one without any memory. (PR_SET_DUMPABLE would do both, but takes this process its own
/// /proc/self/fd, by which files without a name get one.)
pub fn forbid_core_dumps() {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    // A limit can always be lowered; a kernel without core dumps has no filter.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    let _ = std::fs::write("/proc/self/coredump_filter", "0");
}

/// What this computer calls itself.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The sockets that systemd has opened for this process, if it did; to be asked for once, before it listens by itself.
///
/// Environment and numbers by sd_listen_fds(3): descriptors from 3 on, meant for the process of this number only.
pub fn inherited_sockets() -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    const FIRST: i32 = 3;
    const MOST: i32 = 64;
    let number = |name: &str| std::env::var(name).ok()?.parse::<i32>().ok();
    let meant_for = number("LISTEN_PID").and_then(|id| u32::try_from(id).ok());
    if meant_for != Some(std::process::id()) || TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, MOST);
    (FIRST..FIRST + count).map(take_listening_socket).collect()
}

/// Takes a descriptor that somebody else left open, if it is a socket that listens.
fn take_listening_socket(descriptor: i32) -> io::Result<OwnedFd> {
    let (mut listens, mut length) = (0i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the kernel writes one `int` and its length, whatever the number is a descriptor of, if of anything.
    let answered = unsafe {
        let place = (&raw mut listens).cast();
        libc::getsockopt(descriptor, libc::SOL_SOCKET, libc::SO_ACCEPTCONN, place, &raw mut length)
    };
    if answered != 0 || listens == 0 {
        return Err(io::Error::other(format!("descriptor {descriptor} is no socket that listens")));
    }
    // SAFETY: changes only whether programs that are started inherit it.
    unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: it is open, nothing in this process has made a socket that listens, and each is taken only once.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Where standard output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandardOutput {
    /// Somebody may read it.
    Open,
    /// To the null device, because somebody wants that.
    Null,
    /// Nowhere: it was closed when the program began. The runtime puts the null device in its place, for reading and writing.
    Closed,
}

/// Looks where standard output goes.
pub fn standard_output() -> StandardOutput {
    let output = std::io::stdout();
    let null = rustix::fs::makedev(1, 3);
    let is_null = rustix::fs::fstat(&output).is_ok_and(|found| found.st_rdev == null);
    let access = rustix::fs::fcntl_getfl(&output).map(|flags| flags & rustix::fs::OFlags::ACCMODE);
    match is_null {
        false => StandardOutput::Open,
        true if access == Ok(rustix::fs::OFlags::RDWR) => StandardOutput::Closed,
        true => StandardOutput::Null,
    }
}
