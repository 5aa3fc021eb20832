//! Disks for other programs to use, as they are: as files in a mounted folder.

pub mod fuse;
