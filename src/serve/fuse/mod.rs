//! Disks as files in a mounted folder.
//!
//! ```text
//!   kernel ── /dev/fuse ──► loops of the session ──► FileSystem ── inode ──► Entry ─┬─ Folder: lists itself when asked
//!                                                                                   ├─ DiskFile: a range of a LazyDisk
//!                                                                                   └─ Text, Link
//!                                    LazyDisk ── opened at first use, a bounded number stays open ──► BlockSource
//! ```
//!
//! A *folder* is what the kernel calls a directory. What one disk has stands in one folder: `disk.raw`, `partition-N.raw` and
//! `info.json`; several disks have a folder each, by their names.
//!
//! Invariants: nothing but a disk that takes writes is ever written to; a file keeps its size; a failed read is an I/O
//! error of that read, and the next one is tried again. What is written to one file is seen in another that shows the same
//! disk (a partition) when that is opened after it.

mod disk;
mod disk_folder;
mod errors;
mod file_system;
mod inodes;
mod mount_table;
mod names;
mod session;
mod text;
mod tree;

pub use disk::{DiskEntry, DiskFile, LazyDisk, OpenDisk, OpenDisks};
pub use disk_folder::folder_of;
pub use errors::Observer;
pub use mount_table::{MountEntry, mount_at, whole_path};
pub use names::file_name;
pub use session::{HELPERS, Mounted, Options, SUBTYPE, mount, unmount};
pub use text::Text;
pub use tree::{Entry, FixedFolder, Folder};
