//! ASIF, the sparse disk images of macOS 26.
//!
//! ```text
//!   header ─► directory ─► table ─► chunk group ─┬► chunk     the guest's bytes
//!          └► directory (the one before)         └► bitmap    which sectors of a chunk are there
//! ```
//!
//! *Chunk*: the unit of allocation, usually 1 MiB, of the guest's disk and of the file alike; *table*: a chunk of the file
//! that maps 126 GiB of the disk (with the usual sizes), in *groups* of as many chunks as one chunk has room for bits of;
//! *directory*: where the tables are, kept twice: the one with the greater number counts.
//!
//! Nobody published the format; what is not known for certain is refused rather than guessed. `SPEC.md` says from whom
//! each fact is.

mod check;
mod header;
mod on_disk;
mod read;
mod tables;
#[cfg(test)]
mod tests;

use crate::format::Format;

/// The ASIF format.
pub static FORMAT: Format = Format {
    name: "asif",
    title: "ASIF (macOS sparse image)",
    extensions: &["asif"],
    reads: "version 1",
    folder_entry: None,
    is_guest_content: |_, _| false,
    probe: |input| input.head.starts_with(&on_disk::MAGIC),
    open: read::open,
    create: None,
};
