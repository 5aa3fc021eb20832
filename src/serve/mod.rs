//! Disks in use without being copied first.

pub mod nbd;
