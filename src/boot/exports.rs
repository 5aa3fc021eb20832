//! The disks of a machine, served to it and to nobody else.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tintype_formats::BlockSource;
use tintype_formats::locks::Unpoisoned as _;

use super::overlay::Overlay;
use super::private_folder::PrivateFolder;
use crate::error::{Error, Result};
use crate::serve::nbd::{Access, Event, Export, Exports as NbdExports, Limits, Listener, Server, Settings};

/// A disk of a machine.
pub struct BootDisk {
    /// What it is, which nothing writes to.
    pub disk: Arc<dyn BlockSource>,
    /// What takes the writes.
    pub overlay: Overlay,
}

/// Most complaints that are kept.
const MAX_COMPLAINTS: usize = 10;

/// A server for disks, on a socket in a folder that only the same user can enter.
pub struct Exports {
    // Dropped in this order.
    _server: Server,
    folder: PrivateFolder,
    complaints: Arc<Mutex<Vec<String>>>,
}

impl Exports {
    /// Serves these disks, each by its [`name`](Self::name).
    pub fn start(disks: &[Arc<dyn BlockSource>]) -> Result<Exports> {
        let folder = PrivateFolder::create(&short_temporary_folder())
            .map_err(|cause| Error::io("create a private folder", cause))?;
        let complaints = Arc::new(Mutex::new(Vec::new()));
        let mut exports = NbdExports::default();
        for (index, disk) in disks.iter().enumerate() {
            exports.add(Export::new(Self::name(index), "", Access::ReadOnly(Arc::clone(disk))))?;
        }
        let kept = Arc::clone(&complaints);
        let observe = move |event| {
            if let Event::DiskFailed { message, .. } = event {
                let mut kept = kept.lock().unpoisoned();
                if kept.len() < MAX_COMPLAINTS && !kept.contains(&message) {
                    kept.push(message);
                }
            }
        };
        // The only client is QEMU, which may be stopped for as long as its user likes.
        let limits = Limits { request: None, ..Limits::default() };
        let settings = Settings { observer: Some(Box::new(observe)), limits, ..Settings::default() };
        let listener = Listener::unix(&socket_in(folder.path()))?;
        let server = Server::start(vec![listener], exports, settings)?;
        Ok(Exports { _server: server, folder, complaints })
    }

    /// The name of the disk of this number.
    pub fn name(index: usize) -> String {
        format!("disk{index}")
    }

    /// Where the machine finds its disks.
    pub fn socket(&self) -> PathBuf {
        socket_in(self.folder.path())
    }

    /// A folder for what the machine needs while it runs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What could not be read.
    pub fn take_complaints(&self) -> Vec<String> {
        std::mem::take(&mut self.complaints.lock().unpoisoned())
    }
}

/// Where folders for sockets go: the name of a socket has at most 107 bytes, of which some are needed below.
fn short_temporary_folder() -> PathBuf {
    let chosen = std::env::temp_dir();
    if chosen.as_os_str().len() <= 80 { chosen } else { PathBuf::from("/tmp") }
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("nbd")
}
