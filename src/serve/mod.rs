//! Disks for other programs to use as they are: over NBD, or as files in a mounted folder.

pub mod fuse;
pub mod nbd;
