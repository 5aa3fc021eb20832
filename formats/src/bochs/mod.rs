//! Growing disks of Bochs.
//!
//! ```text
//!   header | catalog | extent | extent | ...        extent:  bitmap | data
//! ```
//!
//! *Extent*: a piece of the disk, stored in the order in which they were first written; *catalog*: which stored extent each
//! piece of the disk is; *bitmap*: which sectors of an extent were written.
//!
//! The same structure holds redologs (*undoable*, *volatile*): changes to a disk that they do not name. These are refused.
//! `SPEC.md` says what is read.

mod check;
mod header;
mod on_disk;
mod read;
#[cfg(test)]
mod tests;

use crate::format::Format;

/// The Bochs format.
pub static FORMAT: Format = Format {
    name: "bochs",
    title: "Bochs growing disk",
    extensions: &["bochs"],
    reads: "growing disks of versions 1 and 2",
    folder_entry: None,
    is_guest_content: |_, _| false,
    probe: |input| input.head.starts_with(on_disk::MAGIC),
    open: read::open,
    create: None,
};
