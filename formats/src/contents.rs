//! Further contents of an image file: other disks, and snapshots.

/// A disk inside a container.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskInfo {
    /// Its name in the container; unique there.
    pub name: String,
    /// Its size in bytes, if the container says so.
    pub size_bytes: Option<u64>,
    /// Its format's name in the registry, if it is known without opening it.
    pub format: Option<&'static str>,
}

/// A snapshot kept inside an image.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// Its id, unique in the image.
    pub id: String,
    /// Its name, as the user gave it; need not be unique.
    pub name: String,
    /// The disk's size when it was taken, in bytes.
    pub size_bytes: u64,
    /// Time of the snapshot, in seconds since 1970, if known.
    pub taken_unix_s: Option<u64>,
    /// Size of the machine state (memory) saved with it, in bytes.
    pub machine_state_bytes: u64,
}
