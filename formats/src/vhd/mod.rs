//! VHD, the disk format of Virtual PC and the first Hyper-V, also of XenServer and Azure.
//!
//! - *footer*: what says that a file is a VHD, at its very end; *dynamic header*: where the BAT is, and who the parent is;
//! - *block*: 2 MiB of the disk, as a rule, behind a *bitmap* with a bit for each of its sectors;
//! - *BAT*: the table that says where each block is;
//! - *fixed*: the disk and a footer; *dynamic*: blocks that were written; *differencing*: sectors that differ from a parent.
//!
//! ```text
//!   fixed                   | the disk                                                     | footer |
//!   dynamic, differencing   | copy of the footer | dynamic header | BAT | bitmap, block | bitmap, block | ... | footer |
//! ```
//!
//! What holds in every file that is read: one footer is whole; the disk's size is what the creator meant by it; no block is
//! read that shares bytes with another one, with the tables, or with the end of the file. `SPEC.md` says what is read,
//! created and refused, and why.

mod check;
mod create;
mod header;
mod image;
mod on_disk;
mod parent;
mod read;
mod tables;
#[cfg(test)]
mod tests;

use crate::format::{Create, Format, OptionHelp};

/// The VHD format.
pub static FORMAT: Format = Format {
    name: "vhd",
    title: "VHD (Virtual PC, Hyper-V, Azure)",
    extensions: &["vhd", "vpc", "avhd"],
    reads: "fixed, dynamic and differencing disks; a damaged footer or copy of it",
    folder_entry: None,
    is_guest_content: |_, _| false,
    probe: header::looks_like_vhd,
    open: image::open,
    create: Some(Create {
        begin: create::begin,
        measure: create::measure,
        subformats: &["dynamic", "fixed"],
        options: &[OptionHelp {
            name: "block_size",
            values: "512k to 16M, a power of two (default: 2M)",
            help: "how much of a dynamic disk is allocated at once; Hyper-V and XenServer expect 2M",
        }],
        compressions: &[],
        parents: false,
        records_sectors: false,
        streamable: &[],
    }),
};
