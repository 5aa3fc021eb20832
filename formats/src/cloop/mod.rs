//! cloop, the compressed disks of Knoppix and other live systems, in the version that calls itself `V2.0`.
//!
//! ```text
//!   a shell script (128 bytes) | block size | number of blocks | where each block begins, and where the last ends | blocks
//! ```
//!
//! *Block*: so many bytes of the disk, compressed as a zlib stream by itself. The last block is filled up with zeros, so that
//! the disk is a whole number of blocks. `SPEC.md` says what is read and refused.

mod read;
#[cfg(test)]
mod tests;

use crate::format::Format;

/// The cloop format.
pub static FORMAT: Format = Format {
    name: "cloop",
    title: "cloop (compressed loop)",
    extensions: &["cloop"],
    reads: "V2.0 with zlib",
    folder_entry: None,
    is_guest_content: |_, _| false,
    probe: |input| read::version_of(input.head).is_some(),
    open: read::open,
    create: None,
};
