//! Mounts a tree, and unmounts it again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};

use super::errors::Observer;
use super::file_system::{FileSystem, Listings};
use super::inodes::Inodes;
use super::mount_table::{mount_at, whole_path};
use super::tree::Folder;
use crate::error::{Error, OnPath as _, Result};

/// What mounts of this program have in the system's table, behind "fuse.".
pub const SUBTYPE: &str = "tintype";

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
    pub at_end: Box<dyn FnOnce() + Send>,
}

/// A mounted tree.
pub struct Mounted {
    place: PathBuf,
    unmounter: SessionUnmounter,
    session: JoinHandle<io::Result<()>>,
}

/// Mounts a tree in an empty folder. When this returns, it is there.
pub fn mount(place: &Path, root: Arc<dyn Folder>, observer: Arc<dyn Observer>, options: Options) -> Result<Mounted> {
    let place = whole_path(place).map_err(|cause| Error::io("look at the folder", cause)).on_path(place)?;
    let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let file_system = FileSystem {
        inodes: Inodes::new(root),
        observer,
        total_bytes: options.total_bytes,
        owner,
        listings: Listings::default(),
    };
    let failed = |cause| Error::io("mount a file system", cause);
    let mut session = Session::new(file_system, &place, &config(&options)).map_err(failed).on_path(&place)?;
    read_ahead(&place);
    let unmounter = session.unmount_callable();
    let run = move || {
        let ended = session.run();
        (options.at_end)();
        ended
    };
    let session = std::thread::Builder::new().name("session".to_owned()).spawn(run).map_err(failed)?;
    Ok(Mounted { place, unmounter, session })
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
fn read_ahead(place: &Path) {
    if let Ok(Some(entry)) = mount_at(place) {
        let _ = std::fs::write(format!("/sys/class/bdi/{}/read_ahead_kb", entry.device), READ_AHEAD_KIB.to_string());
    }
}

impl Mounted {
    /// Where it is mounted, without links.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Whether somebody has unmounted it.
    pub fn has_ended(&self) -> bool {
        self.session.is_finished()
    }

    /// Takes it out of the folder, and waits so long for those who still use it. False if they still do: they get errors
    /// when this process ends.
    pub fn unmount(mut self, patience: Duration) -> Result<bool> {
        let failed = |cause| Error::io("unmount", cause);
        self.unmounter.unmount().map_err(failed).on_path(&self.place)?;
        let deadline = Instant::now() + patience;
        while !self.has_ended() {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(STEP);
        }
        self.join().map(|()| true)
    }

    /// Waits until somebody has unmounted it and nobody uses it.
    pub fn join(self) -> Result<()> {
        let ended = self.session.join().unwrap_or_else(|_| Err(io::Error::other("a thread of it failed")));
        ended.map_err(|cause| Error::io("answer the kernel", cause)).on_path(&self.place)
    }
}
