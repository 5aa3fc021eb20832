//! What is inside a disk: its partition table, its volumes and file systems, the system that it starts.
//!
//! ```text
//!  BlockSource ─┬─► partitions (GPT, MBR) ──► fat ──► look: firmware, boot loader, system
//!               └─► content: a partition table, or the volume that fills the disk
//! ```
//!
//! Each table, volume and file system is a file or folder of its own.
//!
//! Nothing that a disk says is believed before it was checked: every offset lies inside the disk before it is read, every chain
//! and list has a bound. This crate only reads disks that callers have opened; it knows no paths, starts no threads and prints
//! nothing.

#![forbid(unsafe_code)]

pub mod content;
pub mod fat;
pub mod look;
pub mod partitions;
