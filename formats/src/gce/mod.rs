//! Images for Google Compute Engine: `disk.raw` in a tar archive in a gzip file.
//!
//! ```text
//!   gzip header | deflate ( tar header | disk.raw | two blocks of zeros, padding ) | CRC-32, length
//! ```
//!
//! Invariants: what is created is one gzip member, made of parts of `create::BLOCK_BYTES` of the disk that are compressed
//! by themselves; so its bytes depend neither on the number of threads nor on how the disk is handed over.

mod create;
mod read;
#[cfg(test)]
mod tests;

use crate::format::{Create, Format};

/// The name that the disk has to have in the archive.
const DISK_NAME: &str = "disk.raw";

/// The format of Google Compute Engine's images.
pub static FORMAT: Format = Format {
    name: "gce",
    title: "Google Compute Engine image",
    extensions: &["tar.gz"],
    reads: "disk.raw in a tar archive in a gzip file; sparse in the old GNU format",
    folder_entry: None,
    is_guest_content: |_, _| false,
    probe: |input| read::looks_like(input.head),
    open: read::open,
    create: Some(Create {
        begin: create::begin,
        measure: create::measure,
        subformats: &["oldgnu"],
        options: &[],
        compressions: &["zlib"],
        parents: false,
        records_sectors: false,
        streamable: &["oldgnu"],
    }),
};
