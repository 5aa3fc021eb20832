//! Bounds on what a file may make this library do, and their reasons.
//!
//! Every number that a file states is held against one of these, or against the file's own length, before anything is
//! allocated or read because of it.

/// Largest disk, in bytes: offsets are handed to the operating system as signed 64-bit numbers.
pub const MAX_DISK_BYTES: u64 = i64::MAX as u64 & !511;

/// Longest chain of backing files or parents. Deep chains are legal (every snapshot of a hypervisor adds a layer) and
/// libvirt stops at 200; each layer costs open files and a table cache.
pub const MAX_CHAIN_DEPTH: usize = 200;

/// Memory that one layer's table cache may hold, in bytes, so that an eight-layer chain stays below 32 MiB.
pub const TABLE_CACHE_BYTES: usize = 4 << 20;

/// Longest name of another file inside an image, in bytes: Linux's `PATH_MAX`.
pub const MAX_REFERENCE_NAME_BYTES: usize = 4096;

/// How many findings of a check are kept; the counts go on. A damaged 16 TiB image would fill the memory otherwise.
pub const MAX_CHECK_FINDINGS: usize = 1000;
