//! How a disk fits its target: facts that a front end should tell before anything is written.

use std::path::Path;

use tintype_formats::{BlockSource, Format, Geometry};
use tintype_volumes::content::{Content, content_of};

use crate::error::{Error, Kind, OnPath as _, Result};
use crate::targets::Target;

/// A fact about a disk and its target that does not keep the disk from being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caution {
    /// The disk is written with zeros after its end.
    Extended {
        /// The disk's own size.
        from_bytes: u64,
        /// The size it gets.
        to_bytes: u64,
    },
    /// The format has no field for the disk's sector size, which is not the usual one.
    SectorsNotRecorded {
        /// The disk's logical sector size.
        sector_bytes: u32,
        /// Name of the target's format.
        format: &'static str,
    },
    /// The target goes on after the disk's end, and keeps its old content there.
    TargetLarger {
        /// Size of the part that keeps its content.
        rest_bytes: u64,
    },
}

/// Returns the caution for a format that cannot record the disk's sectors.
pub fn unrecorded_sectors(format: &Format, disk: Geometry) -> Option<Caution> {
    let sector_bytes = disk.logical_sector_bytes;
    let records = format.create.as_ref().is_some_and(|create| create.records_sectors);
    (sector_bytes != 512 && !records).then_some(Caution::SectorsNotRecorded { sector_bytes, format: format.name })
}

/// Returns the caution for a target, written in place, that is larger than the disk.
pub fn larger_target(target: &Target, disk: Geometry) -> Option<Caution> {
    let target_bytes = target.file().len_bytes().unwrap_or_default();
    let rest_bytes = target_bytes.checked_sub(disk.size_bytes).filter(|rest| *rest > 0)?;
    target.is_in_place().then_some(Caution::TargetLarger { rest_bytes })
}

/// What of a disk depends on the size of its sectors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskSectors {
    /// The size of the sectors, in bytes: as the GPT counts, where there is one, else as the source says.
    sector_bytes: u32,
    content: Option<Content>,
}

impl DiskSectors {
    /// Looks at a disk.
    pub fn of(disk: &dyn BlockSource) -> DiskSectors {
        Self::of_head(disk, disk.geometry())
    }

    /// Looks at the beginning of a disk of this geometry.
    pub fn of_head(head: &dyn BlockSource, geometry: Geometry) -> DiskSectors {
        let content = content_of(head);
        let sector_bytes = match content {
            Some(Content::Gpt { sector_bytes }) => sector_bytes,
            _ => geometry.logical_sector_bytes,
        };
        DiskSectors { sector_bytes, content }
    }

    /// Fails if the disk would not be found, or not be mounted, where sectors have this size.
    fn check(self, target_bytes: u32) -> Result<()> {
        let own_bytes = self.sector_bytes;
        let reason = match self.content {
            Some(_) if own_bytes == target_bytes => return Ok(()),
            None => return Ok(()),
            Some(Content::Gpt { .. }) => "nothing would find the partitions of its GPT there".to_owned(),
            Some(Content::Mbr) => "its partitions would be looked for at other places there".to_owned(),
            Some(Content::Volume(volume)) => format!("its {} may not be usable there", volume.name()),
        };
        let message = format!(
            "the disk has sectors of {own_bytes} bytes, and the target would have sectors of {target_bytes}: {reason}"
        );
        Err(Error::new(Kind::SectorsDiffer, message))
    }
}

/// Fails if the sectors of the target are not those of the disk, and that matters, and the risk is not to be taken.
pub fn check_sectors(keep: bool, disk: DiskSectors, target_bytes: u32, path: &Path) -> Result<()> {
    if keep { Ok(()) } else { disk.check(target_bytes).on_path(path) }
}
