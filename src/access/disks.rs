//! Opens the disks that addresses name.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tintype_formats::Geometry;
use tintype_tin::id::Id;
use tintype_tin::manifest::DiskRecord;

use super::address::Address;
use super::in_use::warn_if_in_use;
use super::repository::{Keys, open_repository};
use super::{LIST_SNAPSHOTS, Listener};
use crate::engine::disk_source::parts_within;
use crate::error::{Error, Kind, Result, in_words};
use crate::repository::Repository;
use crate::repository::disk::SnapshotDisk;
use crate::repository::lease::Lease;
use crate::repository::resolve::Wishes;
use crate::repository::snapshots::Snapshot;
use crate::sources::{
    self, OpenOptions, OpenedDisk, OverlayReader, Slice, StandardInput, Watch, WithSectors, partition_of,
};

/// How disks are opened.
#[derive(Default)]
pub struct Opening {
    /// How files, devices and exports are opened. Which disk and which snapshot is meant comes from the address.
    pub options: OpenOptions,
    /// A file that was written over the disk while it was served or mounted.
    pub overlay: Option<PathBuf>,
    /// The size of the disk's sectors in bytes, where its source does not say it or says it wrongly.
    pub sector_bytes: Option<u32>,
    /// Which stored snapshots a name means.
    pub wishes: Wishes,
    /// How long to wait for a repository whose folder is away, whenever it is.
    pub patience: Option<Duration>,
}

/// Opens what addresses name.
pub struct Access<'a> {
    /// How disks are opened.
    pub opening: Opening,
    /// What opens repositories.
    pub keys: &'a dyn Keys,
    /// Who is told what is found on the way.
    pub listener: &'a dyn Listener,
}

/// What a copy is made of.
pub enum Opened {
    /// A disk that can be read at any place.
    Disk(Box<OpenedDisk>),
    /// A stream, and the numbers that describe the disk in it.
    Pipe(File, Geometry),
}

/// All disks that an address stands for.
pub struct OpenedDisks {
    /// Each with its name, if it is one of a stored snapshot.
    pub disks: Vec<(Option<String>, OpenedDisk)>,
    /// The snapshot that they are of, if they are stored.
    pub snapshot: Option<Id>,
    /// Keeps what they need in their repository, until it is dropped.
    pub lease: Option<Lease>,
}

impl Access<'_> {
    /// Opens a disk, and tells what is wrong with it and who else uses it.
    pub fn open(&self, address: &Address, parent: Option<&Path>) -> Result<OpenedDisk> {
        let opened = self.open_to_copy(address, parent)?;
        warn_if_in_use(address, &opened.watch, self.listener);
        Ok(opened)
    }

    /// Opens a disk, and tells what is wrong with it. Whether it may be in use is for the caller to decide.
    pub fn open_to_copy(&self, address: &Address, parent: Option<&Path>) -> Result<OpenedDisk> {
        self.open_as(address, parent, &self.options(address))
    }

    /// Opens a disk for other programs, which read the same places again and again.
    pub fn open_for_others(&self, address: &Address) -> Result<OpenedDisk> {
        let options = OpenOptions { read_repeatedly: true, ..self.options(address) };
        let opened = self.open_as(address, None, &options)?;
        warn_if_in_use(address, &opened.watch, self.listener);
        Ok(opened)
    }

    fn open_as(&self, address: &Address, parent: Option<&Path>, options: &OpenOptions) -> Result<OpenedDisk> {
        let opened = match &address.stored {
            Some(wanted) => self.open_stored(address, wanted)?,
            None if address.is_standard_input() => open_standard_input()?,
            None => sources::open_disk(&address.path, options, parent)?,
        };
        opened.warnings().for_each(|text| self.listener.warn(&text));
        opened.note().iter().for_each(|text| self.listener.note(text));
        self.finished(opened, address)
    }

    /// Opens a disk to make a copy of it; standard input may be a pipe, of `size_bytes`.
    pub fn open_or_stream(&self, address: &Address, parent: Option<&Path>, size_bytes: Option<u64>) -> Result<Opened> {
        if !address.is_standard_input() {
            return Ok(Opened::Disk(Box::new(self.open_to_copy(address, parent)?)));
        }
        match (sources::open_standard_input(size_bytes.is_none())?, size_bytes) {
            (StandardInput::Disk(opened), _) => Ok(Opened::Disk(Box::new(self.finished(*opened, address)?))),
            (StandardInput::Pipe(_), _) if address.partition.is_some() => {
                Err(usage("?partition= needs a disk that can be read at any place, not a pipe"))
            }
            (StandardInput::Pipe(pipe), Some(size_bytes)) => Ok(Opened::Pipe(pipe, self.geometry_of_pipe(size_bytes)?)),
            (StandardInput::Pipe(_), None) => Err(usage("how long the stream is has to be said: --size")),
        }
    }

    /// The numbers that describe a disk of this size in a pipe.
    fn geometry_of_pipe(&self, size_bytes: u64) -> Result<Geometry> {
        let geometry = Geometry::of_512_byte_sectors(size_bytes, 1);
        let Some(sector_bytes) = self.opening.sector_bytes else { return Ok(geometry) };
        if !size_bytes.is_multiple_of(u64::from(sector_bytes)) {
            let message = format!("--size {size_bytes} is no whole number of sectors of {sector_bytes} bytes");
            return Err(usage(message));
        }
        Ok(Geometry { logical_sector_bytes: sector_bytes, physical_sector_bytes: sector_bytes, ..geometry })
    }

    /// Gives the disk what the user says of it: its sectors, which partition of it is meant, and an overlay.
    fn finished(&self, opened: OpenedDisk, address: &Address) -> Result<OpenedDisk> {
        // An overlay is over what was served, mounted or booted: the same address.
        self.under_overlay(chosen_part(self.in_sectors(opened)?, address)?)
    }

    fn in_sectors(&self, opened: OpenedDisk) -> Result<OpenedDisk> {
        let Some(sector_bytes) = self.opening.sector_bytes else { return Ok(opened) };
        let disk = Box::new(WithSectors::new(opened.disk, sector_bytes)?);
        Ok(OpenedDisk { disk, ..opened })
    }

    fn under_overlay(&self, opened: OpenedDisk) -> Result<OpenedDisk> {
        let Some(path) = &self.opening.overlay else { return Ok(opened) };
        let disk = Box::new(OverlayReader::open(path, opened.disk.into())?);
        Ok(OpenedDisk { disk, ..opened })
    }

    /// Opens all disks that an address stands for, for a command that reads them for long.
    pub fn open_all(&self, address: &Address, command: &'static str) -> Result<OpenedDisks> {
        let Some(wanted) = &address.stored else {
            let disks = vec![(None, self.open_for_others(address)?)];
            return Ok(OpenedDisks { disks, snapshot: None, lease: None });
        };
        let (repository, snapshot) = self.snapshot(address, wanted)?;
        repository.require_data(command)?;
        let records = match &address.disk {
            Some(chosen) => vec![snapshot.disk(Some(chosen))?],
            None => snapshot.manifest.disks.iter().collect(),
        };
        if self.opening.overlay.is_some() && records.len() != 1 {
            return Err(usage(format!("--with-overlay is of one disk; choose it: {address}?disk=NAME")));
        }
        let lease = self.take_lease(&repository, &snapshot, command)?;
        let open = |record: &DiskRecord| {
            let opened = self.finished(self.stored_disk(&repository, record)?, address)?;
            Ok((Some(record.name.clone()), opened))
        };
        let disks = records.into_iter().map(open).collect::<Result<_>>()?;
        Ok(OpenedDisks { disks, snapshot: Some(snapshot.id), lease })
    }

    /// Keeps a snapshot for a command that reads it for long. One that cannot be kept is read all the same.
    fn take_lease(
        &self,
        repository: &Arc<Repository>,
        snapshot: &Snapshot,
        command: &'static str,
    ) -> Result<Option<Lease>> {
        match repository.lease(command, snapshot) {
            Ok(lease) => Ok(Some(lease)),
            Err(error) if error.kind() == Kind::NoSnapshot => Err(error),
            Err(error) => {
                let text =
                    "a prune does not know that the snapshot is read, and takes it away if it is forgotten meanwhile";
                self.listener.warn(&format!("{text}: {}", in_words(&error)));
                Ok(None)
            }
        }
    }

    /// A disk of a stored snapshot.
    fn open_stored(&self, address: &Address, wanted: &str) -> Result<OpenedDisk> {
        let (repository, snapshot) = self.snapshot(address, wanted)?;
        self.stored_disk(&repository, snapshot.disk(address.disk.as_deref())?)
    }

    /// Opens a disk of a stored snapshot, and tells what is missing of it.
    fn stored_disk(&self, repository: &Arc<Repository>, record: &DiskRecord) -> Result<OpenedDisk> {
        if record.is_incomplete() {
            self.listener.misses(record);
        }
        let disk = Box::new(SnapshotDisk::open(repository, record)?);
        let (unreadable, watch) = (record.unreadable_ranges(), Watch::default());
        let (layers, remarks) = (Vec::new(), Vec::new());
        Ok(OpenedDisk { disk, layers, snapshots: 0, guess: None, unreadable, remarks, watch, part: None })
    }

    /// Opens the repository at a path.
    pub fn repository(&self, path: &Path) -> Result<Arc<Repository>> {
        open_repository(path, self.opening.patience, self.keys).map(|(repository, _)| repository)
    }

    /// Opens the repository of an address, and finds the snapshot that is wanted.
    pub fn snapshot(&self, address: &Address, wanted: &str) -> Result<(Arc<Repository>, Snapshot)> {
        if address.is_repository() {
            let message = format!("{address} is a whole repository; name one of its snapshots");
            return Err(usage(message).with_advice(LIST_SNAPSHOTS));
        }
        if address.snapshot.is_some() {
            return Err(usage(format!("{address}: a stored disk has no snapshots inside; say NAME@ID instead")));
        }
        let repository = self.repository(&address.path)?;
        let chosen = repository.resolve(wanted, &self.opening.wishes)?;
        self.listener.chose(&chosen);
        Ok((repository, chosen.snapshot))
    }

    /// How the file, device or export of an address is opened.
    pub fn options(&self, address: &Address) -> OpenOptions {
        OpenOptions { disk: address.disk.clone(), snapshot: address.snapshot.clone(), ..self.opening.options.clone() }
    }
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(Kind::Usage, message)
}

/// Standard input as a disk that can be read at any place: a redirected file, or what a pipe gave, stored.
fn open_standard_input() -> Result<OpenedDisk> {
    match sources::open_standard_input(true)? {
        StandardInput::Disk(opened) => Ok(*opened),
        StandardInput::Pipe(_) => Err(usage("standard input is not a file")),
    }
}

/// The partition of the disk that is chosen, if one is.
fn chosen_part(opened: OpenedDisk, address: &Address) -> Result<OpenedDisk> {
    let Some(number) = address.partition else { return Ok(opened) };
    let part = partition_of(opened.disk.as_ref(), number)?;
    let unreadable = parts_within(&opened.unreadable, part.begin..part.begin + part.size_bytes);
    let identity = sources::identify_part(opened.disk.as_ref(), &address.path, part.begin);
    let disk = Box::new(Slice::new(opened.disk, part.begin, Some(part.size_bytes))?);
    Ok(OpenedDisk { disk, unreadable, part: Some(Box::new(identity)), ..opened })
}
