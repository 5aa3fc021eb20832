//! VMDK, the disk format of VMware.
//!
//! ```text
//!   descriptor ─► extent ─► flat file, or sparse file:
//!     (text)      extent      header ─► grain directory ─► grain tables ─► grains
//!                 ...
//!   stream:  header, descriptor | grain | grain | ... | table | grain | ... | table | directory | footer | end
//! ```
//!
//! *Descriptor*: the text that says which extents a disk has, in a file of its own or embedded in the only extent.
//! *Extent*: a part of the disk, in a file of its own. *Grain*: the unit of allocation, usually 64 KiB. *Hosted sparse*: the
//! sparse extents of the desktop products; *COWD* and *seSparse*: those of ESX's snapshots. *Stream*: a hosted sparse extent
//! of compressed grains that is written front to back (streamOptimized), with markers before grains and tables. *CID*: the
//! number that changes with the content; children name their parent's. `SPEC.md` says what is read, created and refused.

mod check;
mod create;
mod descriptor;
mod extents;
mod grains;
mod header;
mod image;
mod info;
mod markers;
mod on_disk;
mod plain;
mod read;
mod settings;
mod stream;
mod tables;
#[cfg(test)]
mod tests;
mod write_descriptor;

use crate::format::{Create, Format};

/// The VMDK format.
pub static FORMAT: Format = Format {
    name: "vmdk",
    title: "VMDK (VMware)",
    extensions: &["vmdk"],
    reads: "flat, hosted sparse, stream-optimized, COWD and seSparse extents, in one file or many; delta chains",
    folder_entry: None,
    is_guest_content: |name, _| descriptor::is_flat_extent(name),
    probe: |input| header::sparse_kind(input.head).is_some() || descriptor::looks_like_descriptor(input.head),
    open: image::open,
    create: Some(Create {
        begin: create::begin,
        measure: create::measure,
        subformats: create::SUBFORMATS,
        options: create::OPTIONS,
        compressions: &["zlib"],
        parents: false,
        records_sectors: false,
        streamable: &["streamOptimized"],
    }),
};
