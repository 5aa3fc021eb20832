//! The header: what it says, and what it must say.

use zerocopy::{FromZeros, IntoBytes};

use super::on_disk::*;
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::limits::MAX_DISK_BYTES;
use crate::two_level::{Cluster, EntryRules, Shape};

const READ: &str = "read QED header";

/// What the header says.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub shape: Shape,
    pub features: u64,
    pub table_clusters: u32,
    pub backing_name: Option<String>,
}

impl Header {
    pub fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }
}

/// What an L2 entry says.
fn cluster(raw: u64, _cluster_bytes: u64) -> Cluster {
    match raw {
        0 => Cluster::Absent,
        ENTRY_ZERO => Cluster::Zero,
        host_offset => Cluster::Data { host_offset },
    }
}

/// Reads and checks the header of a file of `file_bytes`.
pub(super) fn read(file: &dyn HostFile, file_bytes: u64) -> Result<Header> {
    let mut head = QedHeader::new_zeroed();
    let length = file_bytes.min(size_of::<QedHeader>() as u64) as usize;
    let read = file.read_exact_at(0, &mut head.as_mut_bytes()[..length]);
    read.map_err(|cause| ImageError::io(READ, cause).at_host(0))?;
    if head.magic != MAGIC {
        return Err(ImageError::not_this_format(READ, "the file does not begin with QED"));
    }
    if length < size_of::<QedHeader>() {
        return Err(ImageError::truncated(READ, format!("the file has only {file_bytes} bytes")));
    }
    check_features(head.features.get())?;
    let cluster_bytes = cluster_bytes(head.cluster_bytes.get())?;
    let table_clusters = table_clusters(head.table_clusters.get())?;
    let header_bytes = header_bytes(&head, cluster_bytes, file_bytes)?;
    let l2_entries = cluster_bytes * u64::from(table_clusters) / 8;
    let shape = Shape {
        rules: EntryRules { big_endian: false, alignment_bytes: cluster_bytes, cluster },
        file_bytes,
        disk_bytes: disk_bytes(head.disk_bytes.get(), cluster_bytes, l2_entries)?,
        cluster_bytes,
        l2_entries,
        l1_offset: head.l1_offset.get(),
        l1_held_bytes: l2_entries * 8,
        header_bytes,
    };
    if !shape.l1_offset.is_multiple_of(cluster_bytes) {
        return Err(corrupt(format!(
            "the L1 table is at {:#x}, which is not the beginning of a cluster",
            shape.l1_offset
        )));
    }
    shape.check_l1()?;
    let backing_name = backing_name(file, &head, header_bytes)?;
    Ok(Header { shape, features: head.features.get(), table_clusters, backing_name })
}

fn corrupt(detail: String) -> ImageError {
    ImageError::corrupt(READ, detail).at_host(0)
}

fn check_features(features: u64) -> Result<()> {
    let unknown = features & !FEATURES_KNOWN;
    if unknown == 0 {
        return Ok(());
    }
    let names: Vec<_> = (0..64).filter(|bit| unknown >> bit & 1 != 0).map(|bit: u32| format!("bit {bit}")).collect();
    Err(ImageError::unsupported(READ, format!("the image needs unknown features: {}", names.join(", "))))
}

fn cluster_bytes(found: u32) -> Result<u64> {
    if !found.is_power_of_two() || !(MIN_CLUSTER_BYTES..=MAX_CLUSTER_BYTES).contains(&found) {
        return Err(corrupt(format!("the cluster size is {found}, expected a power of two from 4 KiB to 64 MiB")));
    }
    Ok(found.into())
}

fn table_clusters(found: u32) -> Result<u32> {
    if !found.is_power_of_two() || found > MAX_TABLE_CLUSTERS {
        return Err(corrupt(format!(
            "tables have {found} clusters, expected a power of two up to {MAX_TABLE_CLUSTERS}"
        )));
    }
    Ok(found)
}

fn header_bytes(head: &QedHeader, cluster_bytes: u64, file_bytes: u64) -> Result<u64> {
    let clusters = head.header_clusters.get();
    let length_bytes = u64::from(clusters) * cluster_bytes;
    if clusters == 0 {
        return Err(corrupt("the header has no clusters".to_owned()));
    }
    if length_bytes > file_bytes {
        let detail = format!("the header has {length_bytes} bytes, the file {file_bytes}");
        return Err(ImageError::truncated(READ, detail));
    }
    Ok(length_bytes)
}

fn disk_bytes(found: u64, cluster_bytes: u64, table_entries: u64) -> Result<u64> {
    if !found.is_multiple_of(512) {
        return Err(corrupt(format!("the disk has {found} bytes, which is no whole number of sectors")));
    }
    if found > MAX_DISK_BYTES {
        let detail = format!("the disk has {found} bytes, at most {MAX_DISK_BYTES} work");
        return Err(ImageError::limit_exceeded(READ, detail));
    }
    let most = u128::from(table_entries).pow(2) * u128::from(cluster_bytes);
    if u128::from(found) > most {
        return Err(corrupt(format!("the disk has {found} bytes, the tables reach {most}")));
    }
    Ok(found)
}

fn backing_name(file: &dyn HostFile, head: &QedHeader, header_bytes: u64) -> Result<Option<String>> {
    if head.features.get() & FEATURE_BACKING_FILE == 0 {
        return Ok(None);
    }
    let (offset, length) = (head.backing_name_offset.get(), head.backing_name_bytes.get());
    let inside = u64::from(offset) + u64::from(length) <= header_bytes;
    if !inside || length == 0 || length > MAX_BACKING_NAME_BYTES {
        return Err(corrupt(format!(
            "the backing file's name is at {offset:#x}, {length} bytes long, expected 1 to {MAX_BACKING_NAME_BYTES} bytes in a header of {header_bytes}"
        )));
    }
    let mut name = vec![0; length as usize];
    let read = file.read_exact_at(offset.into(), &mut name);
    read.map_err(|cause| ImageError::io(READ, cause).at_host(offset.into()))?;
    Ok(Some(String::from_utf8_lossy(&name).into_owned()))
}
