//! OVA and OVF, virtual machines as packages of files.
//!
//! ```text
//!   machine.ova (tar)   machine.ovf | machine.mf | machine-disk1.vmdk | ...      or the same files in a folder
//!   machine.ovf (XML)   References: File  id, href, size ◄──┐
//!                       DiskSection: Disk id, capacity, fileRef, format
//! ```
//!
//! *Package*: all files of a machine. *Descriptor*: the `.ovf`, which says what they are. *Manifest*: the `.mf`, with a
//! digest of each. *File as stored*: with its chunks put together, still compressed, as its size and digest mean it.
//!
//! Invariants: a disk in an archive is read where it is; a disk is never probed into being raw; what a package's disk names
//! in turn is looked for in the package only.

mod check;
mod create;
mod descriptor;
mod image;
mod manifest;
mod member_file;
mod package;
mod read;
#[cfg(test)]
mod tests;
mod write_descriptor;

pub(crate) use image::open;

use crate::error::Result;
use crate::format::{Create, Format};
use crate::host_file::OpenFile;
use crate::layer::Image;

/// The format's name in the registry.
const NAME: &str = "ova";

/// The OVA and OVF format, whose files `open` opens: it knows the formats of the disks, which this module does not.
pub(crate) const fn format(open: fn(OpenFile) -> Result<Box<dyn Image>>) -> Format {
    Format {
        name: NAME,
        title: "OVA and OVF (virtual machine package)",
        extensions: &["ova", "ovf"],
        reads: "disks in place, in an archive or beside the descriptor; compressed and chunked ones; manifests checked",
        folder_entry: None,
        is_guest_content: |_, _| false,
        probe: |input| read::looks_like(input.head),
        open,
        create: Some(Create {
            begin: create::begin,
            measure: create::measure,
            subformats: &["ova"],
            options: create::OPTIONS,
            compressions: &["zlib"],
            parents: false,
            records_sectors: false,
            streamable: &[],
        }),
    }
}
