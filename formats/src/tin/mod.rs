//! The native format over files and disks: images of it, and readers and writers of disks in a repository.
//!
//! The codecs are those of [`tintype_tin`]. Here they meet the interfaces of this crate:
//!
//! ```text
//!  reading    PackSource ──► ChunkReader ──► MappedDisk ──► ImageLayer
//!  creating   GuestUnit ──► DiskWriter ──► ChunkSink ──► PackStream ──► PackTarget
//! ```
//!
//! A [`mod@file`] frames packs and a manifest as one image; [`open`] and the rest of the [`FORMAT`] are like those of any other
//! format, and `SPEC.md` says what is written between and behind the packs.

mod check;
mod create;
mod error;
pub mod file;
mod image;
pub mod open;
pub mod pack_stream;
pub mod read;
#[cfg(test)]
mod tests;
pub mod walk;
pub mod write;

use crate::format::{Create, Format, OptionHelp};

/// The `.tin` format: a snapshot, or a single disk, in one file (`SPEC.md`).
pub static FORMAT: Format = Format {
    name: "tin",
    title: "TIN (Tintype image)",
    extensions: &["tin"],
    reads: "version 1; one disk, or exported snapshots with several; encrypted ones with a password",
    folder_entry: None,
    is_guest_content: |_, _| false,
    probe: |input| input.head.starts_with(file::MAGIC),
    open: image::open,
    create: Some(Create {
        begin: create::begin,
        measure: create::measure,
        subformats: &["plain"],
        options: &[OptionHelp {
            name: "chunk_size",
            values: "a power of two from 64k to 4M (default: 256k)",
            help: "How much of the disk is compressed and stored as one piece",
        }],
        compressions: &["zstd"],
        parents: false,
        records_sectors: true,
        streamable: &["plain"],
    }),
};
