//! Parallels disks: expanding images (`.hds`), and the bundles (`.hdd`) that hold them.
//!
//! ```text
//!  disk.hdd/DiskDescriptor.xml      Storage 0 [Start, End)   Storage 1   ...      one behind the other: the disk
//!                 top shot ──────►  disk.0.{guid}.hds        disk.1.{guid}.hds
//!                 its ParentGUID ►  disk.0.{guid}.hds        disk.1.{guid}.hds    what the shot above does not have
//!
//!  an expanding .hds:   header (64 bytes) | BAT | clusters in any order
//! ```
//!
//! *Cluster*: the unit of allocation; *BAT*: the table that says where each cluster is, 0 for nowhere. *Storage*: a range of
//! the disk in files of its own (a split disk has several). *Shot*: a state of the disk, one image in each storage, which
//! holds what changed since the shot that is its parent; the *top shot* is what the machine writes to. In descriptors,
//! *Compressed* means expanding (nothing is compressed) and *Plain* means raw.
//!
//! An expanding file that is opened by itself is read by itself. A bundle opens its files through the reference gate, in
//! `layer()` only. `SPEC.md` says what is read and refused.

mod bundle;
mod check;
mod descriptor;
mod expanding;
mod image;
mod on_disk;
#[cfg(test)]
mod tests;

use crate::error::Result;
use crate::format::Format;
use crate::host_file::OpenFile;
use crate::layer::Image;

/// The Parallels format.
pub static FORMAT: Format = Format {
    name: "parallels",
    title: "Parallels",
    extensions: &["hdd", "hds"],
    reads: "expanding images of both versions, .hdd bundles with split disks and snapshots",
    folder_entry: Some("DiskDescriptor.xml"),
    is_guest_content: |name, input| name != "DiskDescriptor.xml" && descriptor::looks_like_one(input.head),
    probe: |input| on_disk::magic_of(input.head).is_some() || descriptor::looks_like_one(input.head),
    open,
    create: None,
};

fn open(file: OpenFile) -> Result<Box<dyn Image>> {
    if descriptor::is_descriptor(&file)? { bundle::open(file) } else { image::open(file) }
}
