//! The snapshot table: each snapshot has its own L1 table and its own disk size.

use zerocopy::FromBytes;

use super::header::{Header, TablePlace};
use super::on_disk::*;
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::layer::SnapshotInfo;
use crate::limits::MAX_DISK_BYTES;

const READ_SNAPSHOTS: &str = "read snapshot table";

/// One snapshot.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub info: SnapshotInfo,
    pub l1: TablePlace,
}

/// The snapshots of an image, and how many bytes their table has.
#[derive(Debug, Clone, Default)]
pub(super) struct SnapshotTable {
    pub snapshots: Vec<Snapshot>,
    pub length_bytes: u64,
}

/// Reads the whole table.
pub(super) fn read(file: &dyn HostFile, file_bytes: u64, header: &Header) -> Result<SnapshotTable> {
    if header.snapshot_count == 0 {
        return Ok(SnapshotTable::default());
    }
    if header.snapshot_count > MAX_SNAPSHOTS {
        let detail = format!("there are {}, at most {MAX_SNAPSHOTS} are read", header.snapshot_count);
        return Err(ImageError::limit_exceeded(READ_SNAPSHOTS, detail));
    }
    let start = header.snapshots_offset;
    if start == 0 || header.shape.within_cluster(start) != 0 {
        let detail = format!("it begins at {start:#x}, expected a cluster after the first");
        return Err(ImageError::corrupt(READ_SNAPSHOTS, detail));
    }
    let mut reader = TableReader { file, file_bytes, start, position: start, buffer: Vec::new(), buffer_start: start };
    let mut snapshots = Vec::new();
    for _ in 0..header.snapshot_count {
        snapshots.push(read_one(&mut reader, header)?);
    }
    Ok(SnapshotTable { snapshots, length_bytes: reader.position - start })
}

fn read_one(reader: &mut TableReader<'_>, header: &Header) -> Result<Snapshot> {
    let place = reader.position;
    let fixed: [u8; size_of::<SnapshotEntry>()] = reader.take()?;
    let entry = zerocopy::transmute!(fixed);
    let SnapshotEntry { id_bytes, name_bytes, extra_bytes, .. } = &entry;
    if extra_bytes.get() > MAX_SNAPSHOT_EXTRA_BYTES {
        let detail = format!("an entry has {extra_bytes} bytes of extra data, the most is {MAX_SNAPSHOT_EXTRA_BYTES}");
        return Err(ImageError::limit_exceeded(READ_SNAPSHOTS, detail).at_host(place));
    }
    let extra = reader.take_vec(extra_bytes.get() as usize)?;
    let id = reader.take_vec(id_bytes.get().into())?;
    let name = reader.take_vec(name_bytes.get().into())?;
    reader.pad_to_8_bytes()?;
    let size_bytes = disk_bytes(&extra, header).ok_or_else(|| {
        ImageError::limit_exceeded(READ_SNAPSHOTS, "the size of a snapshot's disk is beyond all bounds").at_host(place)
    })?;
    Ok(Snapshot {
        info: SnapshotInfo {
            id: String::from_utf8_lossy(&id).into_owned(),
            name: String::from_utf8_lossy(&name).into_owned(),
            size_bytes,
            taken_unix_s: Some(entry.taken_s.get().into()).filter(|seconds| *seconds != 0),
            machine_state_bytes: machine_state_bytes(&extra, &entry),
        },
        l1: TablePlace { host_offset: entry.l1_table_offset.get(), entries: entry.l1_entries.get().into() },
    })
}

/// The snapshot's own disk size, in whole sectors; entries from before that field have the size of the active disk.
fn disk_bytes(extra: &[u8], header: &Header) -> Option<u64> {
    let size_bytes = match SnapshotExtra::read_from_prefix(extra) {
        Ok((extra, _)) => extra.size_bytes.get(),
        Err(_) => header.size_bytes,
    };
    (size_bytes <= MAX_DISK_BYTES).then(|| size_bytes.next_multiple_of(512))
}

/// "If this field is present, the 32-bit value in bytes 32-35 is ignored."
fn machine_state_bytes(extra: &[u8], entry: &SnapshotEntry) -> u64 {
    match extra.first_chunk() {
        Some(field) => u64::from_be_bytes(*field),
        None => entry.machine_state_bytes.get().into(),
    }
}

/// Reads a table of entries of many lengths front to back, a piece of the file at a time.
pub(super) struct TableReader<'a> {
    file: &'a dyn HostFile,
    file_bytes: u64,
    start: u64,
    position: u64,
    buffer: Vec<u8>,
    buffer_start: u64,
}

const PIECE_BYTES: u64 = 64 << 10;

impl TableReader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn take_vec(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn pad_to_8_bytes(&mut self) -> Result<()> {
        let padding = (self.position - self.start).wrapping_neg() % 8;
        // The padding of the last entry may be missing at the end of the file.
        self.position = (self.position + padding).min(self.file_bytes);
        Ok(())
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let within = (self.position - self.buffer_start) as usize;
            let available = self.buffer.get(within..).unwrap_or_default();
            if available.is_empty() {
                self.read_piece()?;
                continue;
            }
            let step = available.len().min(rest.len());
            rest.iter_mut().zip(available).for_each(|(to, from)| *to = *from);
            done += step;
            self.position += step as u64;
        }
        Ok(())
    }

    fn read_piece(&mut self) -> Result<()> {
        let so_far = self.position - self.start;
        if so_far >= MAX_SNAPSHOT_TABLE_BYTES {
            let detail = format!("it is longer than {MAX_SNAPSHOT_TABLE_BYTES} bytes");
            return Err(ImageError::limit_exceeded(READ_SNAPSHOTS, detail).at_host(self.start));
        }
        let length = self.file_bytes.saturating_sub(self.position).min(PIECE_BYTES);
        if length == 0 {
            let detail = format!("the file ends at {:#x}, before the table does", self.file_bytes);
            return Err(ImageError::truncated(READ_SNAPSHOTS, detail).at_host(self.start));
        }
        self.buffer.resize(length as usize, 0);
        self.buffer_start = self.position;
        let read = self.file.read_exact_at(self.position, &mut self.buffer);
        read.map_err(|cause| ImageError::io(READ_SNAPSHOTS, cause).at_host(self.position))
    }
}
