//! QCOW, version 1: the first copy-on-write format of QEMU.
//!
//! ```text
//!   header, backing file's name │ L1 table ──► L2 tables ──► clusters, whole or compressed, in any order
//! ```
//!
//! *Cluster*: the unit of allocation, 512 bytes to 64 KiB. An L2 entry is a host offset; 0 is the parent's, or zeros; in
//! one of a compressed cluster (raw deflate) the length stands above the offset. No cluster is used twice: there are no
//! snapshots. `two_level` has the mapping and its invariants; `SPEC.md` says what is read and refused.

mod header;
mod on_disk;
mod read;
#[cfg(test)]
mod tests;

use crate::format::Format;

/// The QCOW format, version 1.
pub static FORMAT: Format = Format {
    name: "qcow",
    title: "QEMU QCOW, version 1",
    extensions: &["qcow"],
    reads: "plain and compressed clusters, backing files",
    folder_entry: None,
    is_guest_content: |_, _| false,
    probe: |input| input.head.starts_with(&on_disk::MAGIC_AND_VERSION),
    open: read::open,
    create: None,
};
