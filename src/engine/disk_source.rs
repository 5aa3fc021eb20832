//! The disk that is written to a target: one that can be read at any place, or a pipe.

use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use tintype_formats::host_file::FileIdentity;
use tintype_formats::{BlockSource, Geometry};
use tintype_volumes::content::HEAD_BYTES;

use super::NamedDisk;
use super::convert::Input;
use super::fit::DiskSectors;
use crate::error::{Error, Kind, Result};
use crate::sources::{self, Extended, Head};
use crate::targets::Access;

/// An open source.
pub enum DiskSource {
    /// A disk, and the files it is made of.
    Disk(Box<dyn BlockSource>, Vec<FileIdentity>),
    /// A pipe, and the disk that comes through it.
    Pipe(Box<dyn Read + Send>, Geometry),
}

impl DiskSource {
    /// Takes a disk with the files that it is made of.
    pub fn of(disk: Box<dyn BlockSource>) -> DiskSource {
        let identities = host_identities(disk.as_ref());
        DiskSource::Disk(disk, identities)
    }

    /// Gives the disk zeros after its end, up to this size.
    pub fn extended(self, size_bytes: u64) -> Result<DiskSource> {
        match self {
            DiskSource::Disk(disk, identities) => {
                Ok(DiskSource::Disk(Box::new(Extended::new(disk, size_bytes)?), identities))
            }
            DiskSource::Pipe(..) => {
                Err(Error::new(Kind::Usage, "a pipe cannot be extended; put the disk into a file first"))
            }
        }
    }

    /// As the engine wants it; failures to read a disk name `path`.
    pub fn input<'a>(&'a mut self, path: &'a Path) -> Input<'a> {
        match self {
            DiskSource::Disk(disk, _) => Input::Disk(NamedDisk { disk: &**disk, path }),
            DiskSource::Pipe(pipe, geometry) => Input::Pipe(pipe, geometry.size_bytes),
        }
    }

    /// The numbers that describe the disk.
    pub fn geometry(&self) -> Geometry {
        match self {
            DiskSource::Disk(disk, _) => disk.geometry(),
            DiskSource::Pipe(_, geometry) => *geometry,
        }
    }

    /// Looks at what the disk holds. Of a pipe the beginning is read, and put before the rest.
    pub fn sectors(&mut self) -> Result<DiskSectors> {
        let (pipe, geometry) = match self {
            DiskSource::Disk(disk, _) => return Ok(DiskSectors::of(disk.as_ref())),
            DiskSource::Pipe(pipe, geometry) => (pipe, *geometry),
        };
        let mut head = Vec::new();
        let read = pipe.by_ref().take(HEAD_BYTES.min(geometry.size_bytes)).read_to_end(&mut head);
        read.map_err(|cause| Error::io("read standard input", cause))?;
        let sectors = DiskSectors::of_head(&Head(head.clone()), geometry);
        let rest = std::mem::replace(pipe, Box::new(io::empty()));
        *pipe = Box::new(io::Cursor::new(head).chain(rest));
        Ok(sectors)
    }

    /// Who may open a new file that is made of this disk: nobody who may not open the files of its source.
    pub fn access(&self, path: &Path) -> Access {
        let DiskSource::Disk(disk, _) = self else { return Access::default() };
        if sources::is_nbd(path) {
            // Nobody knows here who else may read the export.
            return Access::PRIVATE;
        }
        let files = disk.host_files().iter().filter_map(|file| file.file.as_file()?.metadata().ok());
        let all = files.chain(std::fs::metadata(path).ok());
        all.fold(Access::default(), |access, found| access.no_wider_than(&found))
    }

    /// The files that must not be written to: the disk's own, and what else `path` names.
    pub fn identities(&self, path: &Path) -> Vec<FileIdentity> {
        match self {
            DiskSource::Disk(_, identities) => {
                let mut all = identities.clone();
                all.extend(sources::aliases(path));
                all
            }
            DiskSource::Pipe(..) => Vec::new(),
        }
    }
}

/// Who the files of a disk are.
pub fn host_identities(disk: &dyn BlockSource) -> Vec<FileIdentity> {
    disk.host_files().iter().filter_map(|file| file.identity).collect()
}

/// The parts of ranges that lie in a part of the disk, from where that begins on.
pub fn parts_within(ranges: &[Range<u64>], part: Range<u64>) -> Vec<Range<u64>> {
    let cut = |range: &Range<u64>| range.start.max(part.start)..range.end.min(part.end);
    let inside = ranges.iter().map(cut).filter(|range| !range.is_empty());
    inside.map(|range| range.start - part.start..range.end - part.start).collect()
}
