//! Virtual disk image formats behind one reading and one creating interface.
//!
//! *Guest* is the disk as the machine sees it, *host* is the file that holds it; every offset says which.
//!
//! ```text
//!  reading    HostFile ──► Format::open ──► Image ──► ImageLayer ─┐
//!                                             (parents, by chain) ├──► Disk: BlockSource
//!                          ReferenceGate ──► Image ──► ImageLayer ┘
//!  creating   GuestUnit ──► ImageWriter (encode, place, write, finish) ──► HostFileMut
//! ```
//!
//! Formats read, and create anew; they never edit a file in place. This crate starts no threads and prints nothing. Only
//! [`local`] opens files, and shows how little it takes to read or convert an image; all else takes what it is given, and knows no
//! policy about paths.
//!
//! The feature `tin` (on by default) adds the native format. Without it, this crate brings no cryptography.

#![forbid(unsafe_code)]

pub mod asif;
mod bits;
pub mod bochs;
pub mod chain;
pub mod check;
pub mod cloop;
#[doc(hidden)]
pub mod codec;
pub mod contents;
pub mod dmg;
pub mod error;
pub mod ewf;
pub mod extent;
mod file_parts;
pub mod format;
pub mod gce;
pub mod guess;
mod gzip_file;
#[doc(hidden)]
pub mod hex;
pub mod host_file;
pub mod layer;
pub mod limits;
#[cfg(unix)]
pub mod local;
#[doc(hidden)]
pub mod locks;
mod lru;
mod ova;
pub mod parallels;
mod pieces;
pub mod qcow;
pub mod qcow2;
pub mod qed;
pub mod raw;
pub mod reference_gate;
pub mod registry;
pub mod secrets;
pub mod sink;
pub mod source;
mod stored;
mod table_cache;
mod tar;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(feature = "tin")]
pub mod tin;
mod two_level;
#[doc(hidden)]
pub mod unit_cache;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vma;
pub mod vmdk;
mod zeros;

pub use chain::Disk;
pub use error::{ErrorKind, ImageError, Result};
pub use format::Format;
pub use host_file::{HostFile, HostFileMut, OpenFile};
pub use layer::{Image, ImageLayer};
pub use registry::FORMATS;
pub use sink::{CreateOptions, ImageWriter, UnitTarget};
pub use source::{BlockSource, Geometry, StorageOrder, StoredPiece};
pub use zeros::is_zero;
