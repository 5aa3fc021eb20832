//! The one way of a disk to a target, for all that writes one: what is checked, cautioned of and done, and in which order.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use tintype_formats::Geometry;
use tintype_formats::host_file::FileIdentity;

use super::convert::{ConvertOptions, Converted, convert};
use super::disk_source::DiskSource;
use super::fit::{self, Caution, DiskSectors, check_sectors};
use super::salvage::joined;
use crate::error::Result;
use crate::progress::Progress;
use crate::sources::is_device;
use crate::targets::{Target, TargetOptions};

/// A disk's target, and how to write it. The disk has its final size already.
pub struct Writing<'a> {
    /// The target.
    pub target: &'a Path,
    /// Options for opening the target.
    pub target_options: TargetOptions,
    /// The path that failures to read the source name.
    pub source_path: &'a Path,
    /// The files that must not be written to.
    pub sources: Vec<FileIdentity>,
    /// Ranges of the disk that are known to be missing, and are zeros, ascending.
    pub unreadable: Vec<Range<u64>>,
    /// Its name, where it is one of several.
    pub disk: Option<&'a str>,
    /// Write although the target has sectors of another size.
    pub keep_sectors: bool,
    /// Options for writing the disk.
    pub convert: ConvertOptions<'a>,
}

/// The result of writing a disk.
pub struct Written {
    /// Counts and digest of the copy.
    pub converted: Converted,
    /// Size of the target, if it is a regular file.
    pub file_bytes: Option<u64>,
    /// Duration of the run.
    pub elapsed: Duration,
}

/// A disk that fits what is known of its target before that is touched.
pub struct Ready<'a> {
    source: DiskSource,
    writing: Writing<'a>,
    sectors: DiskSectors,
    began: Instant,
}

impl<'a> Writing<'a> {
    /// Looks at the disk, and fails if it does not fit. Of a pipe the beginning is read: that may take long.
    pub fn ready(mut self, mut source: DiskSource) -> Result<Ready<'a>> {
        let began = Instant::now();
        let create = &mut self.convert.create;
        create.unreadable.clone_from(&self.unreadable);
        let explicit = create.size_option("logical_sector")?.and_then(|size| u32::try_from(size).ok());
        let sectors = match explicit.is_some() || is_device(self.target) {
            true => source.sectors()?,
            false => DiskSectors::default(),
        };
        explicit.map_or(Ok(()), |size| check_sectors(self.keep_sectors, sectors, size, self.target))?;
        Ok(Ready { source, writing: self, sectors, began })
    }
}

impl Ready<'_> {
    /// Returns a warning about the disk and its target's format.
    pub fn caution(&self) -> Option<Caution> {
        fit::unrecorded_sectors(self.writing.convert.format, self.source.geometry())
    }

    /// Opens the target; fails if the disk does not fit it.
    pub fn open_target(&self) -> Result<(Target, Option<Caution>)> {
        let Writing { target, target_options, sources, keep_sectors, .. } = &self.writing;
        open_target(target, self.source.geometry(), self.sectors, sources, target_options, *keep_sectors)
    }

    /// Writes the disk to its target, verifies it if asked to, and gives it its name.
    pub fn run(mut self, target: &Target, progress: &Progress) -> Result<Written> {
        let Writing { target: path, source_path, unreadable, disk, convert: options, .. } = self.writing;
        disk.into_iter().for_each(|name| progress.enter_disk(name));
        let size_bytes = self.source.geometry().size_bytes;
        let mut converted = convert(self.source.input(source_path), target, options, progress)?;
        converted.unreadable = joined(size_bytes, converted.unreadable.into_iter().chain(unreadable));
        let found = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
        Ok(Written { converted, file_bytes: found.map(|found| found.len()), elapsed: self.began.elapsed() })
    }
}

/// Opens a target for a disk. Fails if its sectors are not those of the disk, and that matters.
pub fn open_target(
    path: &Path,
    disk: Geometry,
    sectors: DiskSectors,
    sources: &[FileIdentity],
    options: &TargetOptions,
    keep_sectors: bool,
) -> Result<(Target, Option<Caution>)> {
    let target = Target::open(path, disk.size_bytes, sources, options)?;
    target.sector_bytes().map_or(Ok(()), |size| check_sectors(keep_sectors, sectors, size, path))?;
    let caution = fit::larger_target(&target, disk);
    Ok((target, caution))
}
