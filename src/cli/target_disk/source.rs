//! The disk that is written to a target: one that can be read at any place, or a pipe.

use std::fs::File;
use std::path::Path;

use tintype_formats::host_file::FileIdentity;
use tintype_formats::{BlockSource, Geometry};

use crate::cli::failure::Failure;
use crate::engine::NamedDisk;
use crate::engine::convert::Input;
use crate::sources::{self, Extended};

/// An open source.
pub enum Source {
    /// A disk, and the files it is made of.
    Disk(Box<dyn BlockSource>, Vec<FileIdentity>),
    /// A pipe of this many bytes.
    Pipe(File, u64),
}

impl Source {
    /// Takes a disk with the files that it is made of.
    pub fn of(disk: Box<dyn BlockSource>) -> Source {
        let identities = host_identities(disk.as_ref());
        Source::Disk(disk, identities)
    }

    /// Gives the disk zeros after its end, up to this size.
    pub fn extended(self, size_bytes: u64) -> Result<Source, Failure> {
        match self {
            Source::Disk(disk, identities) => Ok(Source::Disk(Box::new(Extended::new(disk, size_bytes)?), identities)),
            Source::Pipe(..) => Err(Failure::usage("a pipe cannot be extended; put the disk into a file first")),
        }
    }

    /// As the engine wants it; failures to read a disk name `path`.
    pub fn input<'a>(&'a mut self, path: &'a Path) -> Input<'a> {
        match self {
            Source::Disk(disk, _) => Input::Disk(NamedDisk { disk: &**disk, path }),
            Source::Pipe(pipe, size_bytes) => Input::Pipe(pipe, *size_bytes),
        }
    }

    /// The numbers that describe the disk.
    pub fn geometry(&self) -> Geometry {
        match self {
            Source::Disk(disk, _) => disk.geometry(),
            Source::Pipe(_, size_bytes) => Geometry::of_512_byte_sectors(*size_bytes, 1),
        }
    }

    /// The files that must not be written to: the disk's own, and what else `path` names.
    pub fn identities(&self, path: &Path) -> Vec<FileIdentity> {
        match self {
            Source::Disk(_, identities) => {
                let mut all = identities.clone();
                all.extend(sources::aliases(path));
                all
            }
            Source::Pipe(..) => Vec::new(),
        }
    }
}

/// Who the files of a disk are.
pub fn host_identities(disk: &dyn BlockSource) -> Vec<FileIdentity> {
    disk.host_files().iter().filter_map(|file| file.identity).collect()
}
