//! What `convert` reads from: a disk or a part of it, or a pipe.

use std::fs::File;
use std::path::Path;

use tintype_formats::host_file::FileIdentity;
use tintype_formats::{BlockSource, Geometry};

use super::Args;
use crate::cli::address::Address;
use crate::cli::failure::Failure;
use crate::cli::{Global, output, units};
use crate::engine::NamedDisk;
use crate::engine::convert::Input;
use crate::sources::{self, Extended, OpenedDisk, Slice, StandardInput};

/// What was opened to read from.
pub enum Source {
    Disk(Box<dyn BlockSource>, Vec<FileIdentity>),
    Pipe(File, u64),
}

/// Opens what the arguments name, and cuts and extends it as they say.
pub fn open_source(args: &Args, global: Global) -> Result<Source, Failure> {
    if !args.source.is_standard_input() {
        let declared = args.stands_for.as_deref().or(args.backing.as_deref());
        let opened = args.input.open(&args.source, declared, global)?;
        note_what_is_left_out(args, &opened, global);
        return extend(slice(opened.disk, args)?, args, global);
    }
    args.input.check_standard_input_format()?;
    match (sources::open_standard_input(args.size.is_none())?, args.size) {
        (StandardInput::Pipe(pipe), Some(size_bytes)) => {
            if args.offset.is_some() {
                return Err(Failure::usage("a pipe is read from its begin; --offset needs a file or a device"));
            }
            extend(Source::Pipe(pipe, size_bytes), args, global)
        }
        (StandardInput::File(file), _) => extend(slice(sources::open_raw(file)?.disk, args)?, args, global),
        (StandardInput::Pipe(_), None) => Err(Failure::usage("how long the stream is has to be said: --size")),
    }
}

fn slice(disk: Box<dyn BlockSource>, args: &Args) -> Result<Source, Failure> {
    let identities = host_identities(disk.as_ref());
    if args.offset.is_none() && args.size.is_none() {
        return Ok(Source::Disk(disk, identities));
    }
    let begin = args.offset.unwrap_or_default();
    if !begin.is_multiple_of(512) || args.size.is_some_and(|size| size % 512 != 0) {
        return Err(Failure::usage("--offset and --size are whole sectors: multiples of 512"));
    }
    check_slice(begin, args.size, disk.geometry().size_bytes)?;
    Ok(Source::Disk(Box::new(Slice::new(disk, begin, args.size)?), identities))
}

fn check_slice(begin: u64, size_bytes: Option<u64>, disk_bytes: u64) -> Result<(), Failure> {
    let message = match size_bytes {
        None if begin >= disk_bytes => {
            format!("--offset {begin} is past the end of the disk, which has {disk_bytes} bytes")
        }
        Some(size) if begin.checked_add(size).is_none_or(|end| end > disk_bytes) => {
            format!("--offset {begin} and --size {size} go past the end of the disk, which has {disk_bytes} bytes")
        }
        _ => return Ok(()),
    };
    Err(Failure::usage(message))
}

/// Makes the disk as large as the user or the platform wants it.
fn extend(source: Source, args: &Args, global: Global) -> Result<Source, Failure> {
    let mut geometry = source.geometry();
    let own_bytes = geometry.size_bytes;
    geometry.size_bytes = match args.extend_to {
        Some(wanted) if wanted < own_bytes || !wanted.is_multiple_of(512) => {
            let message =
                format!("--extend-to {wanted}: expected whole sectors, and at least the disk's {own_bytes} bytes");
            return Err(Failure::usage(message));
        }
        Some(wanted) => wanted,
        None => own_bytes,
    };
    geometry.size_bytes = args.create.size_for_platform(geometry)?;
    if geometry.size_bytes == own_bytes {
        return Ok(source);
    }
    let Source::Disk(disk, identities) = source else {
        return Err(Failure::usage("a pipe cannot be extended; put the disk into a file first"));
    };
    output::warn(
        &format!(
            "the disk becomes larger: {} of zeros after its {}; a GPT disk's backup table stays where it was",
            units::exact_size(geometry.size_bytes - own_bytes),
            units::exact_size(own_bytes)
        ),
        global,
    );
    Ok(Source::Disk(Box::new(Extended::new(disk, geometry.size_bytes)?), identities))
}

/// A conversion makes one disk of one state: what else there was is said.
fn note_what_is_left_out(args: &Args, opened: &OpenedDisk, global: Global) {
    let flattened = opened.layers.len() > 1 && args.backing.is_none();
    if flattened {
        let (count, target) = (opened.layers.len(), args.target.display());
        let how = "--layers keeps them where the target's format can";
        output::note(&format!("the {count} files of the chain become one in {target} ({how})"), global);
    }
    if opened.snapshots > 0 && args.source.snapshot.is_none() {
        let some = units::count(opened.snapshots as u64, "snapshot", "snapshots");
        output::note(&format!("the image has {some}, which the target will not have: convert ?snapshot=NAME"), global);
    }
}

/// Who the files of a disk are.
pub fn host_identities(disk: &dyn BlockSource) -> Vec<FileIdentity> {
    disk.host_files().iter().filter_map(|file| file.identity).collect()
}

impl Source {
    /// As the engine wants it.
    pub fn input<'a>(&'a mut self, address: &'a Address) -> Input<'a> {
        match self {
            Source::Disk(disk, _) => Input::Disk(NamedDisk { disk: &**disk, path: address.shown() }),
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

    /// The files that must not be written to.
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
