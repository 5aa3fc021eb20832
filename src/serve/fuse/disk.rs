//! Disks that are opened when somebody uses them, and the files that show them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use serde::Serialize;
use tintype_formats::extent::DiskKind;
use tintype_formats::locks::Unpoisoned as _;
use tintype_formats::{BlockSource, ImageError};
use tintype_volumes::partitions::{Partition, partitions};

use super::text::Text;
use crate::error::{Error, Kind, Result};
use crate::sources::WritableDisk;

/// An open disk.
#[derive(Clone)]
pub struct OpenDisk {
    /// Reads it.
    pub source: Arc<dyn BlockSource>,
    /// Writes to it, if that may be.
    pub writable: Option<Arc<dyn WritableDisk>>,
    /// Called before its content is read: who holds it has it kept.
    pub hold: Option<Arc<dyn Fn() + Send + Sync>>,
}

/// What is known of a disk before it is opened.
pub struct DiskEntry {
    /// Its name, as people gave it.
    pub name: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// How much of it is stored, if that is known.
    pub data_bytes: Option<u64>,
    /// Returns the time of the disk's state.
    pub changed: SystemTime,
    /// Whether it takes writes.
    pub is_writable: bool,
    /// What `info.json` says of it beside sizes and partitions.
    pub description: serde_json::Map<String, serde_json::Value>,
    /// Opens it.
    pub opener: Box<dyn Fn() -> Result<OpenDisk> + Send + Sync>,
}

/// Keeps a bounded number of disks open, those that were used last.
pub struct OpenDisks {
    limit: usize,
    next: AtomicU64,
    /// By number, the one used last at the end.
    open: Mutex<Vec<(u64, OpenDisk)>>,
}

impl OpenDisks {
    /// Keeps up to `limit` disks open.
    pub fn up_to(limit: usize) -> Arc<Self> {
        Arc::new(OpenDisks { limit, next: AtomicU64::new(0), open: Mutex::default() })
    }

    fn get(&self, number: u64, open: impl FnOnce() -> Result<OpenDisk>) -> Result<OpenDisk> {
        if let Some(disk) = self.find(number) {
            return Ok(disk);
        }
        // Not under the lock: opening may wait for the store, while others have all they need.
        let disk = open()?;
        let mut all = self.open.lock().unpoisoned();
        let surplus = all.iter().position(|(other, _)| *other == number).or((all.len() >= self.limit).then_some(0));
        let closed = surplus.map(|position| all.remove(position));
        all.push((number, disk.clone()));
        drop(all);
        // Not under the lock either: a lease may end with it.
        drop(closed);
        Ok(disk)
    }

    /// Closes those that nobody uses just now.
    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.open.lock().unpoisoned());
        drop(all);
    }

    fn find(&self, number: u64) -> Option<OpenDisk> {
        let mut all = self.open.lock().unpoisoned();
        let position = all.iter().rposition(|(other, _)| *other == number)?;
        let found = all.remove(position);
        let disk = found.1.clone();
        all.push(found);
        Some(disk)
    }
}

/// A disk that is opened when somebody uses it.
pub struct LazyDisk {
    entry: DiskEntry,
    number: u64,
    pool: Arc<OpenDisks>,
    parts: Mutex<Option<Arc<Parts>>>,
}

/// What a look at a disk found.
pub(super) struct Parts {
    pub(super) partitions: Vec<Partition>,
    pub(super) info: Arc<Text>,
}

#[derive(Serialize)]
struct Info<'a> {
    name: &'a str,
    size_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    logical_sector_bytes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    physical_sector_bytes: Option<u32>,
    writable: bool,
    #[serde(flatten)]
    description: &'a serde_json::Map<String, serde_json::Value>,
    partitions: Vec<PartitionInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_partitions_because: Option<String>,
}

#[derive(Serialize)]
struct PartitionInfo {
    file: String,
    number: u32,
    offset_bytes: u64,
    size_bytes: u64,
}

impl LazyDisk {
    /// A disk that `pool` keeps open while it is used.
    pub fn new(entry: DiskEntry, pool: &Arc<OpenDisks>) -> Arc<Self> {
        let number = pool.next.fetch_add(1, Relaxed);
        Arc::new(LazyDisk { entry, number, pool: Arc::clone(pool), parts: Mutex::default() })
    }

    /// The disk, opened.
    pub fn open(&self) -> Result<OpenDisk> {
        self.pool.get(self.number, || {
            let disk = (self.entry.opener)()?;
            let found = disk.source.geometry().size_bytes;
            if found != self.entry.size_bytes {
                let message = format!("the disk has {found} bytes now; expected {}", self.entry.size_bytes);
                return Err(Error::new(Kind::Io, message));
            }
            Ok(disk)
        })
    }

    /// Its size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.entry.size_bytes
    }

    /// Returns the time of the disk's state.
    pub(super) fn changed(&self) -> SystemTime {
        self.entry.changed
    }

    /// Its name, as people gave it.
    pub(super) fn name(&self) -> &str {
        &self.entry.name
    }

    /// A file that shows a part of it.
    pub(super) fn file(self: &Arc<Self>, begin: u64, size_bytes: u64) -> Arc<DiskFile> {
        Arc::new(DiskFile { disk: Arc::clone(self), begin, size_bytes })
    }

    /// Returns true if the partition table was read already.
    pub(super) fn is_known(&self) -> bool {
        self.parts.lock().unpoisoned().is_some()
    }

    /// Its partitions, and what there is to tell of it. A disk whose table cannot be read has none.
    pub(super) fn parts(&self) -> Arc<Parts> {
        if let Some(parts) = &*self.parts.lock().unpoisoned() {
            return Arc::clone(parts);
        }
        let found = self.open().map(|disk| {
            let source = disk.source.as_ref();
            (source.geometry(), partitions(source).map_err(Error::from))
        });
        let (geometry, partitions) = match found {
            Ok((geometry, partitions)) => (Some(geometry), partitions),
            Err(cause) => (None, Err(cause)),
        };
        // A table that is not there is not there next time either; what could not be read may be readable then.
        let is_final =
            partitions.as_ref().map_or_else(|cause| cause.kind() == Kind::Io && geometry.is_some(), |_| true);
        let problem = partitions.as_ref().err().map(ToString::to_string);
        let partitions = partitions.unwrap_or_default();
        let info = Info {
            name: &self.entry.name,
            size_bytes: self.entry.size_bytes,
            logical_sector_bytes: geometry.map(|geometry| geometry.logical_sector_bytes),
            physical_sector_bytes: geometry.map(|geometry| geometry.physical_sector_bytes),
            writable: self.entry.is_writable,
            description: &self.entry.description,
            partitions: partitions.iter().map(PartitionInfo::of).collect(),
            no_partitions_because: problem,
        };
        let mut bytes = serde_json::to_vec_pretty(&info).unwrap_or_default();
        bytes.push(b'\n');
        let info = Arc::new(Text { bytes, changed: self.entry.changed });
        let parts = Arc::new(Parts { partitions, info });
        if is_final {
            *self.parts.lock().unpoisoned() = Some(Arc::clone(&parts));
        }
        parts
    }
}

impl PartitionInfo {
    fn of(partition: &Partition) -> Self {
        PartitionInfo {
            file: partition_file(partition),
            number: partition.number,
            offset_bytes: partition.begin,
            size_bytes: partition.size_bytes,
        }
    }
}

/// The name of a partition's file.
pub(super) fn partition_file(partition: &Partition) -> String {
    format!("partition-{}.raw", partition.number)
}

/// A file that shows a disk, or a part of it.
pub struct DiskFile {
    disk: Arc<LazyDisk>,
    begin: u64,
    size_bytes: u64,
}

impl DiskFile {
    /// Its size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// How many bytes of it are stored: of a part nobody knows, and all may be.
    pub fn data_bytes(&self) -> u64 {
        let whole = self.size_bytes == self.disk.size_bytes();
        self.disk.entry.data_bytes.filter(|_| whole).unwrap_or(self.size_bytes).min(self.size_bytes)
    }

    /// Returns the time of the disk's state.
    pub fn changed(&self) -> SystemTime {
        self.disk.entry.changed
    }

    /// Whether it takes writes.
    pub fn is_writable(&self) -> bool {
        self.disk.entry.is_writable
    }

    /// Fills the buffer, which does not reach past the end.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check_range(offset, buffer.len() as u64)?;
        let disk = self.disk.open()?;
        disk.hold.iter().for_each(|hold| hold());
        Ok(disk.source.read_at(self.begin + offset, buffer)?)
    }

    /// Writes all bytes, which do not reach past the end.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.check_range(offset, bytes.len() as u64)?;
        Ok(self.writable()?.write_at(self.begin + offset, bytes)?)
    }

    /// Makes a range read as zeros.
    pub fn write_zeros_at(&self, offset: u64, length_bytes: u64) -> Result<()> {
        self.check_range(offset, length_bytes)?;
        Ok(self.writable()?.write_zeros_at(self.begin + offset, length_bytes)?)
    }

    /// Returns when all that was written would survive a crash.
    pub fn flush(&self) -> Result<()> {
        match self.is_writable() {
            true => Ok(self.writable()?.flush()?),
            false => Ok(()),
        }
    }

    /// The first place from `offset` on that is data, or that is none; the end of the file counts as a hole.
    pub fn seek(&self, offset: u64, wants_data: bool) -> Result<Option<u64>> {
        let source = self.disk.open()?.source;
        let mut at = offset;
        while at < self.size_bytes {
            let extent = source.extent_at(self.begin + at, self.size_bytes - at)?;
            let is_data = !matches!(extent.kind, DiskKind::Zero | DiskKind::Hole);
            if is_data == wants_data {
                return Ok(Some(at));
            }
            at = at.saturating_add(extent.length_bytes.max(1));
        }
        Ok((!wants_data && offset < self.size_bytes).then_some(self.size_bytes))
    }

    fn check_range(&self, offset: u64, length_bytes: u64) -> Result<()> {
        match offset.checked_add(length_bytes) {
            Some(end) if end <= self.size_bytes => Ok(()),
            _ => Err(ImageError::out_of_range(offset, length_bytes, self.size_bytes).into()),
        }
    }

    fn writable(&self) -> Result<Arc<dyn WritableDisk>> {
        self.disk.open()?.writable.ok_or_else(|| Error::new(Kind::Denied, "the disk takes no writes"))
    }
}
