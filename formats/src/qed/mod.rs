//! QED, a format that QEMU had for a while.
//!
//! ```text
//!   header, 1 cluster and more │ L1 table ──► L2 tables ──► clusters, in any order
//! ```
//!
//! *Cluster*: the unit of allocation, 4 KiB to 64 MiB. Tables are 1 to 16 clusters of 64-bit entries; an entry is a host
//! offset, 0 (the parent's, or zeros), or 1 (zeros). `two_level` has the mapping and its invariants;
//! `SPEC.md` says what is read and refused.

mod header;
mod on_disk;
mod read;
#[cfg(test)]
mod tests;

use crate::format::Format;

/// The QED format.
pub static FORMAT: Format = Format {
    name: "qed",
    title: "QEMU QED",
    extensions: &["qed"],
    reads: "clusters of any size, backing files",
    folder_entry: None,
    is_guest_content: |_, _| false,
    probe: |input| input.head.starts_with(&on_disk::MAGIC),
    open: read::open,
    create: None,
};
