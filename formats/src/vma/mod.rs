//! VMA, the backup archives of Proxmox VE: the disks of a machine and its configuration, in one stream.
//!
//! ```text
//!   header (configurations, devices, names) | extent | extent | ...
//!   extent:  header of 512 bytes: for up to 59 clusters, which device, which cluster, which of its blocks follow
//!            the blocks that are not zero, one behind the other
//! ```
//!
//! *Cluster*: 64 KiB of a device; *block*: 4 KiB, a 16th of a cluster; *device*: a disk of the machine, or its memory
//! (`vmstate`), which is no disk. Clusters come in any order, those of several devices mixed, and each of them once: also
//! a cluster of zeros is named, so that what is missing was lost.
//!
//! An archive is a container of disks. A disk's layer reads all extent headers once, and remembers for each run of
//! clusters only in which extent it is. Headers are protected by MD5 sums. `SPEC.md` says what is read and refused.

mod check;
mod extents;
mod header;
mod on_disk;
mod read;
#[cfg(test)]
mod tests;

use crate::format::Format;

/// The VMA format.
pub static FORMAT: Format = Format {
    name: "vma",
    title: "VMA (Proxmox backup)",
    extensions: &["vma"],
    reads: "each disk of an uncompressed archive",
    folder_entry: None,
    is_guest_content: |_, _| false,
    probe: |input| input.head.starts_with(&on_disk::MAGIC),
    open: read::open,
    create: None,
};
