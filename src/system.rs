//! The few system calls that no library wraps safely. All `unsafe` of this crate is here.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

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
    use std::os::fd::AsRawFd as _;
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
    use std::os::fd::AsRawFd as _;
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

/// What this computer calls itself.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
