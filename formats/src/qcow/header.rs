//! The header: what it says, and what it must say.

use zerocopy::{FromZeros, IntoBytes};

use super::on_disk::*;
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::limits::MAX_DISK_BYTES;
use crate::two_level::{Cluster, EntryRules, Shape};

const READ: &str = "read QCOW header";

/// What the header says.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub shape: Shape,
    /// As stated; any number of bytes.
    pub disk_bytes: u64,
    pub encrypted: bool,
    pub backing_name: Option<String>,
}

/// What an L2 entry says.
fn cluster(raw: u64, cluster_bytes: u64) -> Cluster {
    if raw == 0 {
        return Cluster::Absent;
    }
    if raw & ENTRY_COMPRESSED == 0 {
        return Cluster::Data { host_offset: raw };
    }
    let length_shift = 63 - cluster_bytes.ilog2();
    Cluster::Compressed {
        host_offset: raw & ((1 << length_shift) - 1),
        stored_bytes: raw >> length_shift & (cluster_bytes - 1),
    }
}

/// Reads and checks the header of a file of `file_bytes`.
pub(super) fn read(file: &dyn HostFile, file_bytes: u64) -> Result<Header> {
    let mut head = QcowHeader::new_zeroed();
    let length = file_bytes.min(size_of::<QcowHeader>() as u64) as usize;
    let read = file.read_exact_at(0, &mut head.as_mut_bytes()[..length]);
    read.map_err(|cause| ImageError::io(READ, cause).at_host(0))?;
    if head.magic_and_version != MAGIC_AND_VERSION {
        return Err(ImageError::not_this_format(READ, "the file does not begin with QFI\\xfb and version 1"));
    }
    if length < size_of::<QcowHeader>() {
        return Err(ImageError::truncated(READ, format!("the file has only {file_bytes} bytes")));
    }
    check_bits(&head)?;
    let disk_bytes = head.disk_bytes.get();
    if disk_bytes > MAX_DISK_BYTES {
        let detail = format!("the disk has {disk_bytes} bytes, at most {MAX_DISK_BYTES} work");
        return Err(ImageError::limit_exceeded(READ, detail));
    }
    let backing_name = backing_name(file, &head, file_bytes)?;
    let mut shape = Shape {
        rules: EntryRules { big_endian: true, alignment_bytes: 512, cluster },
        file_bytes,
        disk_bytes: disk_bytes.next_multiple_of(512),
        cluster_bytes: 1 << head.cluster_bits,
        l2_entries: 1 << head.l2_bits,
        l1_offset: head.l1_offset.get(),
        l1_held_bytes: 0,
        header_bytes: size_of::<QcowHeader>() as u64,
    };
    shape.check_l1()?;
    // QEMU writes it in whole sectors, and clusters after that.
    shape.l1_held_bytes = (shape.l1_entries() * 8).next_multiple_of(512);
    Ok(Header { shape, disk_bytes, encrypted: is_encrypted(head.encryption.get())?, backing_name })
}

fn corrupt(detail: String) -> ImageError {
    ImageError::corrupt(READ, detail).at_host(0)
}

fn check_bits(head: &QcowHeader) -> Result<()> {
    let fields = [("cluster_bits", head.cluster_bits, CLUSTER_BITS), ("l2_bits", head.l2_bits, L2_BITS)];
    for (name, found, expected) in fields {
        if !expected.contains(&found) {
            let (least, most) = expected.into_inner();
            return Err(corrupt(format!("{name} is {found}, expected {least} to {most}")));
        }
    }
    Ok(())
}

fn is_encrypted(method: u32) -> Result<bool> {
    match method {
        NOT_ENCRYPTED => Ok(false),
        AES => Ok(true),
        other => Err(ImageError::unsupported(READ, format!("encrypted with the unknown method {other}"))),
    }
}

fn backing_name(file: &dyn HostFile, head: &QcowHeader, file_bytes: u64) -> Result<Option<String>> {
    let (offset, length) = (head.backing_name_offset.get(), head.backing_name_bytes.get());
    if offset == 0 {
        return Ok(None);
    }
    let inside = offset.checked_add(length.into()).is_some_and(|end| end <= file_bytes);
    if !inside || length == 0 || length > MAX_BACKING_NAME_BYTES {
        return Err(corrupt(format!(
            "the backing file's name is at {offset:#x}, {length} bytes long, expected 1 to {MAX_BACKING_NAME_BYTES} bytes in a file of {file_bytes:#x}"
        )));
    }
    let mut name = vec![0; length as usize];
    file.read_exact_at(offset, &mut name).map_err(|cause| ImageError::io(READ, cause).at_host(offset))?;
    Ok(Some(String::from_utf8_lossy(&name).into_owned()))
}
