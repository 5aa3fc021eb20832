//! What a format author writes: an [`Image`] (a parsed file) and its [`ImageLayer`]s (one disk's worth of mapping).
//!
//! A layer knows only its own file. [`crate::chain`] alone turns layers into a disk, so that no other code can forget a
//! parent.

use std::ops::Range;

use crate::check::CheckReport;
use crate::contents::{DiskInfo, SnapshotInfo};
use crate::error::{ImageError, Result};
use crate::extent::LayerExtent;
use crate::host_file::OpenFile;
use crate::reference_gate::{FileReference, ReferenceGate};
use crate::source::Geometry;

/// A file of some format whose header has been read and checked.
///
/// Opening and [`info`](Self::info) never follow a reference to another file; [`layer`](Self::layer) may, through the gate.
pub trait Image: Send + Sync {
    /// What the header says.
    fn info(&self) -> &ImageInfo;

    /// The file that holds what this one does not, if there is one.
    fn parent(&self) -> Option<&FileReference>;

    /// The snapshots kept inside the file.
    fn snapshots(&self) -> &[SnapshotInfo];

    /// The current state of the disk, or the one of a snapshot given by name or id.
    fn layer(&self, snapshot: Option<&str>, gate: &dyn ReferenceGate) -> Result<Box<dyn ImageLayer>>;

    /// The disks inside a container (an appliance, an archive); empty for a file that is one disk itself.
    ///
    /// A container has no disk of its own: its [`layer`](Self::layer) fails, and its geometry means nothing.
    fn disks(&self) -> &[DiskInfo] {
        &[]
    }

    /// Opens one of [`disks`](Self::disks), by its index.
    fn open_disk(&self, _index: usize, _gate: &dyn ReferenceGate) -> Result<Box<dyn Image>> {
        Err(ImageError::no_such_disk("the file is one disk itself", &[]))
    }

    /// Ranges of the disk that could not be read when the image was made, and are zeros, ascending.
    fn unreadable(&self) -> Vec<Range<u64>> {
        Vec::new()
    }

    /// Looks for damage in the file's own structures; fails only if it cannot look.
    fn check(&self, report: &mut CheckReport) -> Result<()>;

    /// Like [`check`](Self::check), and also looks into the other files that the image itself consists of (segments,
    /// extents, not parents), which come through the gate.
    fn check_all_files(&self, _gate: &dyn ReferenceGate, report: &mut CheckReport) -> Result<()> {
        self.check(report)
    }
}

/// Fails if a snapshot is named, of an image that has none.
pub(crate) fn no_snapshot(name: Option<&str>) -> Result<()> {
    name.map_or(Ok(()), |name| Err(ImageError::no_such_snapshot(name, &[])))
}

/// One file's part of a disk.
///
/// The promises are those of [`BlockSource`](crate::source::BlockSource); `extent_at` says [`Absent`] where the parent
/// decides, and `read_at` gives zeros there.
///
/// [`Absent`]: crate::extent::LayerKind::Absent
pub trait ImageLayer: Send + Sync {
    /// The numbers that describe the disk at this layer.
    fn geometry(&self) -> Geometry;

    /// What this layer holds from `guest_offset` on, for at most `max_bytes`.
    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent>;

    /// Reads this layer's bytes at `guest_offset`.
    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// The files that the layer's host ranges point into.
    fn host_files(&self) -> &[OpenFile];
}

/// What an image's header says, for people and programs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ImageInfo {
    /// The format's name in the registry.
    pub format: &'static str,
    /// The disk's numbers.
    pub geometry: Geometry,
    /// What a child must name to prove that this is its parent (a linkage GUID, a content id), if the format has that.
    pub identity: Option<String>,
    /// What only this format has, in the order to show it.
    pub details: Vec<(&'static str, Detail)>,
    /// What is wrong with the image without keeping it from being read.
    pub warnings: Vec<String>,
}

/// A value of a format's own, for [`ImageInfo::details`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detail {
    /// Words. May come from the file: escape it before a terminal sees it.
    Text(String),
    /// A number; its unit is in its name.
    Number(u64),
    /// Yes or no.
    Flag(bool),
}

impl From<&str> for Detail {
    fn from(text: &str) -> Self {
        Detail::Text(text.to_owned())
    }
}

impl From<String> for Detail {
    fn from(text: String) -> Self {
        Detail::Text(text)
    }
}

impl From<u64> for Detail {
    fn from(number: u64) -> Self {
        Detail::Number(number)
    }
}

impl From<u32> for Detail {
    fn from(number: u32) -> Self {
        Detail::Number(number.into())
    }
}

impl From<bool> for Detail {
    fn from(flag: bool) -> Self {
        Detail::Flag(flag)
    }
}

/// Which disk of a file is meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Choice<'a> {
    /// In a container, the disk, by its name or its number (from 1).
    pub disk: Option<&'a str>,
    /// The snapshot, by id or name; the current state if `None`.
    pub snapshot: Option<&'a str>,
}
