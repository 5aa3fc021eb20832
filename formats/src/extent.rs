//! What a range of a disk is made of, and where its bytes lie.

/// Which of the files of a layer, or of a whole chain, something lies in: an index into `host_files()` of whoever said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostFileId(pub usize);

/// Where the bytes of a guest range lie, unchanged, in a host file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostRange {
    /// The file that holds them.
    pub file: HostFileId,
    /// Where they begin in it, in bytes.
    pub host_offset: u64,
}

impl HostRange {
    /// The same range, begun `bytes` later.
    pub fn advanced(self, bytes: u64) -> Self {
        HostRange { host_offset: self.host_offset + bytes, ..self }
    }
}

/// What one layer of a chain says of a guest range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// Stored as it is, at this place.
    Data(HostRange),
    /// Stored compressed or otherwise transformed: only `read_at` gives the bytes.
    Encoded,
    /// Reads as zeros, whatever the parent holds.
    Zero,
    /// Not in this layer: the parent decides, and zeros if there is none.
    Absent,
}

/// A guest range of one kind, in one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LayerExtent {
    /// How many bytes it covers from the offset that was asked for; never 0.
    pub length_bytes: u64,
    /// What it is.
    pub kind: LayerKind,
}

/// What a whole disk says of a guest range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskKind {
    /// Stored bytes; where they lie, if they lie anywhere unchanged.
    Data(Option<HostRange>),
    /// Stored compressed or otherwise transformed.
    Encoded,
    /// Explicitly zero.
    Zero,
    /// Never written, or a hole of the host file: reads as zeros.
    Hole,
    /// Taken from the declared parent (see [`crate::chain::Disk::declare_parent`]); reads as the parent's bytes.
    Inherited,
}

impl DiskKind {
    /// Whether the range is known to read as zeros.
    pub fn reads_as_zeros(self) -> bool {
        matches!(self, DiskKind::Zero | DiskKind::Hole)
    }

    /// The same kind for a range that begins `bytes` later.
    pub fn advanced(self, bytes: u64) -> Self {
        match self {
            DiskKind::Data(Some(range)) => DiskKind::Data(Some(range.advanced(bytes))),
            other => other,
        }
    }
}

/// A guest range of one kind, of a whole disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DiskExtent {
    /// How many bytes it covers from the offset that was asked for; never 0.
    pub length_bytes: u64,
    /// What it is.
    pub kind: DiskKind,
}
