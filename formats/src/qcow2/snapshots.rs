//! The snapshot table: each snapshot has its own L1 table and its own disk size.

use zerocopy::FromBytes;

use super::header::{Header, TablePlace};
use super::on_disk::*;
use super::table_reader::TableReader;
use crate::contents::SnapshotInfo;
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::limits::MAX_DISK_BYTES;

const READ_SNAPSHOTS: &str = "read snapshot table";

/// One snapshot.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub info: SnapshotInfo,
    pub l1: TablePlace,
    /// Whether the entry has the fields that version 3 demands.
    pub complete: bool,
}

/// The snapshots of an image, and how many bytes their table has.
#[derive(Debug, Clone, Default)]
pub(super) struct SnapshotTable {
    pub snapshots: Vec<Snapshot>,
    pub length_bytes: u64,
}

/// Checks what the header says of the table: a header that contradicts itself is not to be trusted in the rest either.
pub(super) fn check_place(header: &Header) -> Result<()> {
    let start = header.snapshots_offset;
    if header.snapshot_count > 0 && (start == 0 || header.shape.within_cluster(start) != 0) {
        let detail = format!("it begins at {start:#x}, expected a cluster after the first");
        return Err(ImageError::corrupt(READ_SNAPSHOTS, detail));
    }
    Ok(())
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
    let mut reader = TableReader::new(file, file_bytes, READ_SNAPSHOTS, start, MAX_SNAPSHOT_TABLE_BYTES);
    let mut snapshots = Vec::new();
    for _ in 0..header.snapshot_count {
        snapshots.push(read_one(&mut reader, header)?);
    }
    Ok(SnapshotTable { snapshots, length_bytes: reader.position() - start })
}

fn read_one(reader: &mut TableReader<'_>, header: &Header) -> Result<Snapshot> {
    let place = reader.position();
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
    reader.skip_padding();
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
        complete: extra.len() >= size_of::<SnapshotExtra>(),
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
