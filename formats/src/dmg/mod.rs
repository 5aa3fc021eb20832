//! Apple disk images (DMG) in the Universal Disk Image Format (UDIF).
//!
//! ```text
//!   ┌───────────────────────────────┬───────────────┬─────────┐
//!   │ data fork: stored chunks      │ property list │ trailer │
//!   └──────▲────────────────────────┴──────┬──▲─────┴────┬────┘
//!          └──────── chunk tables ─────────┘  └──────────┘
//! ```
//!
//! - *trailer*: the last 512 bytes, `koly`; says where everything else is and how large the disk is;
//! - *property list*: XML that holds a chunk table for each *partition* (`blkx`); older images have a *resource fork*;
//! - *chunk*: a run of sectors, stored as it is, compressed, or as nothing at all (zeros; ignored: never written).
//!
//! What holds in every file that is read: chunks do not overlap, on the disk or in the file; each lies before the trailer;
//! a compressed one has at most `tables::MAX_CHUNK_BYTES`. Sectors that no chunk holds give an error, not zeros.
//! `SPEC.md` says what is read and refused, and why.

mod adc;
mod check;
mod codecs;
mod image;
mod on_disk;
mod property_list;
mod read;
mod resource_fork;
mod tables;
#[cfg(test)]
mod tests;
mod trailer;

use crate::format::Format;

/// The DMG format.
pub static FORMAT: Format = Format {
    name: "dmg",
    title: "Apple disk image (UDIF)",
    extensions: &["dmg"],
    reads: "raw, ADC, zlib, bzip2, LZFSE and LZMA chunks; property lists and resource forks",
    folder_entry: None,
    is_guest_content: |_, _| false,
    probe: trailer::looks_like_dmg,
    open: image::open,
    create: None,
};
