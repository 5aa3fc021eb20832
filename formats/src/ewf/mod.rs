//! The Expert Witness Compression Format (EWF) of EnCase, SMART and libewf: E01 and S01 evidence files.
//!
//! ```text
//!   disk.E01                                                     disk.E02
//!   ┌──────┬────────┬────────┬─────────┬───────┬────────┬──────┐ ┌──────┬──────┬─────────┬───────┬────────┬──────┬──────┐
//!   │ head │ header │ volume │ sectors │ table │ table2 │ next │ │ head │ data │ sectors │ table │ table2 │ hash │ done │
//!   └──────┴────────┴────────┴─────────┴───────┴────────┴──────┘ └──────┴──────┴─────────┴───────┴────────┴──────┴──────┘
//! ```
//!
//! - *segment*: a file; an image is one or several, found by their names' last three letters;
//! - *section*: a part of a segment, with a type and the place of the next one;
//! - *chunk*: some sectors of the disk (mostly 32 KiB), compressed by zlib or followed by an Adler-32; *table*: where the
//!   chunks of one `sectors` section are (in S01 and the first EnCase they are in the table's own section).
//!
//! What holds in every image that is read: chunks follow each other in the file as on the disk, each inside its section;
//! no byte is given out whose checksum is wrong. `SPEC.md` says what is read and refused, and why.

mod check;
mod checksum;
mod hashes;
mod header;
mod image;
mod names;
mod on_disk;
mod read;
mod segment;
mod tables;
#[cfg(test)]
mod tests;
mod volume;

use crate::format::Format;

/// The EWF format.
pub static FORMAT: Format = Format {
    name: "ewf",
    title: "Expert Witness (EnCase E01)",
    extensions: &["E01", "S01"],
    reads: "E01 and S01 in one or several segments; all checksums are verified",
    folder_entry: None,
    is_guest_content: |_, _| false,
    probe: |input| on_disk::ALL_SIGNATURES.iter().any(|(signature, _)| input.head.starts_with(signature)),
    open: image::open,
    create: None,
};
