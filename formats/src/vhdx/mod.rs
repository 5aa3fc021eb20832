//! VHDX, the disk format of Hyper-V ([MS-VHDX]).
//!
//! - *block*: 1 to 256 MiB of the disk, present or not; *BAT*: the table that says where each block is;
//! - *region*: a part of the file with one use, named by a GUID; *log*: changes to be carried out before anything is read;
//! - *fixed*: all blocks are present; *dynamic*: those that were written; *differencing*: those that differ from a parent.
//!
//! ```text
//!   0          64 K      128 K     192 K           256 K           1 MiB, and from here on in any order
//!   identifier header    header    region table    region table    log  metadata  BAT  blocks ...
//! ```
//!
//! What holds in every file that is read: regions, log and blocks begin at whole MiB and do not overlap, as far as they
//! are looked at; the file is never written, its log is replayed in memory; a block is read only where it is inside the
//! file. `SPEC.md` says what is read, created and refused, and why.

mod check;
mod create;
mod header;
mod image;
mod log;
mod metadata;
mod on_disk;
mod overlay;
mod parent;
mod read;
mod tables;
#[cfg(test)]
mod tests;

use crate::format::{Create, Format, OptionHelp};

/// The VHDX format.
pub static FORMAT: Format = Format {
    name: "vhdx",
    title: "VHDX (Hyper-V)",
    extensions: &["vhdx", "avhdx"],
    reads: "fixed, dynamic and differencing disks; 512 and 4096 byte sectors; the log is replayed in memory",
    folder_entry: None,
    is_guest_content: |_, _| false,
    probe: |input| input.head.starts_with(&on_disk::FILE_SIGNATURE),
    open: image::open,
    create: Some(Create {
        begin: create::begin,
        measure: create::measure,
        subformats: &["dynamic", "fixed"],
        options: &[
            OptionHelp {
                name: "block_size",
                values: "1M to 256M, a power of two (default: 32M)",
                help: "How much of the disk is allocated at once",
            },
            OptionHelp {
                name: "logical_sector",
                values: "512 or 4096 (default: as the source)",
                help: "The sector size that the guest sees; QEMU does not open images with 4096",
            },
        ],
        compressions: &[],
        parents: false,
        records_sectors: true,
        streamable: &[],
    }),
};
