//! Mounts a tree, and unmounts it again.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use fuser::{Config, MountOption, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::errors::Observer;
use super::file_system::{FileSystem, Listings};
use super::inodes::Inodes;
use super::mount_table::{mount_at, whole_path};
use super::tree::Folder;
use crate::error::{Error, OnPath as _, Result};

/// What mounts of this program have in the system's table, behind "fuse.".
pub const SUBTYPE: &str = "tintype";

/// The programs that mount and unmount for those who are not root.
pub const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

/// How far the kernel is to read ahead, in KiB: with the 128 of the protocol, a program that reads a file from a file
/// system on a disk that is shown here waits for most of what it reads.
const READ_AHEAD_KIB: u32 = 1024;

/// How often is looked whether a session has ended.
const STEP: Duration = Duration::from_millis(20);

/// How a tree is to be mounted.
pub struct Options {
    /// What the system's table is to say that is mounted.
    pub source: String,
    /// Whether anything in it takes writes.
    pub is_writable: bool,
    /// Whether other users may use it.
    pub allow_other: bool,
    /// What the statistics say that there is, in bytes.
    pub total_bytes: u64,
    /// How many requests are answered at once.
    pub threads: usize,
    /// Called when it was unmounted and nobody uses it any more.
    pub at_end: Box<dyn FnOnce() + Send + Sync>,
}

/// A mounted tree.
pub struct Mounted {
    place: PathBuf,
    /// The number of the device by which the system's table knows it.
    device: Option<String>,
    ended: Arc<AtomicBool>,
}

/// Mounts a tree in an empty folder. When this returns, it is there.
pub fn mount(place: &Path, root: Arc<dyn Folder>, observer: Arc<dyn Observer>, options: Options) -> Result<Mounted> {
    let place = whole_path(place).map_err(|cause| Error::io("look at the folder", cause)).on_path(place)?;
    let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let config = config(&options);
    let ended = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&ended);
    let file_system = FileSystem {
        inodes: Inodes::new(root),
        observer,
        total_bytes: options.total_bytes,
        owner,
        listings: Listings::default(),
        at_end: Some(Box::new(move || {
            told.store(true, Release);
            (options.at_end)();
        })),
    };
    let failed = |cause| Error::io("mount a file system", cause);
    let session = Session::new(file_system, &place, &config).map_err(failed).on_path(&place)?;
    let device = mount_at(&place).ok().flatten().map(|entry| entry.device);
    device.iter().for_each(|device| read_ahead(device));
    // Never dropped: fuser 0.18 would then unmount once more what was unmounted already, and with it whatever was mounted in
    // the same folder since (its `is_mounted` takes the poll's error for a yes).
    std::mem::forget(session.spawn().map_err(failed)?);
    Ok(Mounted { place, device, ended })
}

fn config(options: &Options) -> Config {
    // A comma would end the option.
    let source = options.source.replace([',', '\\'], "_");
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(source),
        // Not the option of that name: that is for fusermount only, and this way the kernel itself gets it.
        MountOption::CUSTOM(format!("subtype={SUBTYPE}")),
        MountOption::DefaultPermissions,
        MountOption::NoAtime,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
        if options.is_writable { MountOption::RW } else { MountOption::RO },
    ];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads);
    config
}

/// Has the kernel read ahead further than it would. Where this may not be, it is slower.
fn read_ahead(device: &str) {
    let _ = std::fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), READ_AHEAD_KIB.to_string());
}

impl Mounted {
    /// Where it is mounted, without links.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Whether it was unmounted and nobody uses it any more.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Acquire)
    }

    /// Takes it out of the folder, and waits so long for those who still use it. False if they still do: they get errors
    /// when this process ends.
    pub fn unmount(&self, patience: Duration) -> Result<bool> {
        // Somebody else may have been faster, and mounted something else there.
        if mount_at(&self.place).is_ok_and(|found| found.map(|entry| entry.device) == self.device) && !self.has_ended()
        {
            unmount(&self.place, true).map_err(|cause| Error::io("unmount", cause)).on_path(&self.place)?;
        }
        let deadline = Instant::now() + patience;
        while !self.has_ended() {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(STEP);
        }
        Ok(true)
    }
}

/// Unmounts what is mounted in this folder; `lazily`, also while it is in use.
pub fn unmount(place: &Path, lazily: bool) -> io::Result<()> {
    let flags = if lazily { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(place, flags | UnmountFlags::NOFOLLOW) {
        Err(Errno::PERM) => unmount_by_helper(place, lazily),
        done => Ok(done?),
    }
}

/// Only root may unmount; the helper does it for whoever has mounted it.
fn unmount_by_helper(place: &Path, lazily: bool) -> io::Result<()> {
    for helper in HELPERS {
        let output = Command::new(helper).arg("-u").args(lazily.then_some("-z")).arg("--").arg(place).output();
        let output = match output {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
            output => output?,
        };
        let said = String::from_utf8_lossy(&output.stderr);
        return match output.status.success() {
            true => Ok(()),
            false if said.contains("busy") => Err(Errno::BUSY.into()),
            false => Err(io::Error::other(said.trim().to_owned())),
        };
    }
    Err(Errno::PERM.into())
}
