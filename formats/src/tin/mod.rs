//! The native format: what a repository and a `.tin` file have in common.
//!
//! `src/repository/FORMAT.md` says every byte of it. A *holder* (a host or a person) has a [`keys::KeyRing`]: what its *role*
//! lets it open, and a *certificate* by the repository's *root* key. A [`slot`] is a key ring under a passphrase. A *segment*
//! is what one writer encrypts under one random key, and its [`seal::SegmentRecord`] is that key, sealed to who may read it. A
//! [`signed`] object names who made it.
//!
//! ```text
//!  passphrase ──► slot ──► KeyRing ─┬─► chunk_id, page_id          what a chunk is called
//!                                   ├─► SegmentRecord, SegmentKey  who can open it
//!                                   └─► SignedObject               who made it
//! ```
//!
//! A [`mod@file`] frames packs and a manifest as one image; [`open`] and the rest of the [`FORMAT`] are like those of any other
//! format, and `SPEC.md` says what is written between and behind the packs.
//!
//! Nothing here is read from the store before its lengths are held against the bytes that there are. Secrets are wiped when
//! they are dropped, and never printed.

mod certificate;
mod check;
pub mod chunk;
mod create;
pub mod disk_identity;
pub mod file;
pub mod id;
mod image;
pub mod keys;
pub mod manifest;
pub mod map;
pub mod open;
pub mod pack;
pub mod pack_stream;
mod parts;
pub mod read;
pub mod recovery;
pub mod rotation;
pub mod seal;
pub mod signed;
pub mod slot;
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
