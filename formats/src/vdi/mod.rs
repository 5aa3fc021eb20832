//! VDI, the disk format of VirtualBox.
//!
//! - *block*: the unit of allocation, 1 MiB as a rule; in the file some *extra* bytes may stand before each;
//! - *block map*: for each block of the disk its number in the file, "free" (the parent's, or zeros) or "zero";
//! - *dynamic*: has the blocks that were written; *fixed*: has all; *differencing*, *undo*: those that differ from a parent;
//! - *creation UUID*: which image it is; *modification UUID*: a new one whenever it is written to again.
//!
//! ```text
//!   0       72       512 or 1 MiB      a multiple of 512 bytes or 1 MiB
//!   banner  header   block map         | extra, block 0 | extra, block 1 | ...
//! ```
//!
//! What holds in every file that is read: header, map and blocks lie in this order; no block of the file is read for two
//! places of the disk, nor past the end of the file. A child knows its parent by its two UUIDs alone, and by no name.
//! `SPEC.md` says what is read, created and refused, and why.

mod check;
mod create;
mod header;
mod image;
mod map;
mod on_disk;
mod read;
#[cfg(test)]
mod tests;

use crate::format::{Create, Format};

/// The VDI format.
pub static FORMAT: Format = Format {
    name: "vdi",
    title: "VDI (VirtualBox)",
    extensions: &["vdi"],
    reads: "dynamic, fixed, differencing and undo images; blocks of any size; versions 1.1, 1.0 and 0.x",
    folder_entry: None,
    is_guest_content: |_, _| false,
    probe: |input| header::looks_like_vdi(input.head),
    open: image::open,
    create: Some(Create {
        begin: create::begin,
        measure: create::measure,
        subformats: &["dynamic", "fixed"],
        options: &[],
        compressions: &[],
        parents: false,
        records_sectors: false,
        streamable: &[],
    }),
};
