//! QCOW2, versions 2 and 3: the format of QEMU.
//!
//! ```text
//!  ┌────────┐ ┌──────────┐ ┌──────────┐ ┌──────────┐
//!  │ header ├─► L1 table ├─► L2 table ├─► clusters │   guest offset to host offset
//!  │        ├─► refcount table ──► refcount blocks    how often each host cluster is used; readers do not need it
//!  │        ├─► snapshot table ──► L1 tables ──► ...  one mapping for each snapshot
//!  └────────┘
//! ```
//!
//! *Cluster*: the unit of allocation, 512 B to 2 MiB, of the guest's disk and of the file alike. *L1*, *L2*: the two
//! levels of the mapping, arrays of 64-bit entries; L2 tables are one cluster. *Subcluster*: a 32nd of a cluster, if L2
//! entries are extended. *Refcount*: how many entries point to a host cluster. *COPIED*: the flag in an entry that says
//! that this is exactly one. `SPEC.md` says what of all this is read, written and refused.

mod check;
mod create;
mod entry;
mod extensions;
mod finish;
mod header;
mod image;
mod info;
mod on_disk;
mod place;
mod plan;
mod read;
mod references;
mod snapshots;
mod table_reader;
mod tables;
#[cfg(test)]
mod tests;

use crate::format::{Create, Format};

/// The QCOW2 format.
pub static FORMAT: Format = Format {
    name: "qcow2",
    title: "QEMU QCOW2",
    extensions: &["qcow2"],
    reads: "versions 2 and 3, zlib and zstd, extended L2 entries, external data files, snapshots, backing files",
    folder_entry: None,
    is_guest_content: |_, _| false,
    probe: |input| header::looks_like_qcow2(input.head),
    open: image::open,
    create: Some(Create {
        begin: create::begin,
        measure: create::measure,
        subformats: &["sparse"],
        options: create::OPTIONS,
        compressions: &["zlib", "zstd"],
        parents: true,
        records_sectors: false,
        streamable: &[],
    }),
};
