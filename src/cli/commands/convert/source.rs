//! What `convert` reads from: a disk or a part of it, or a pipe.

use std::ops::Range;

use tintype_formats::BlockSource;

use super::Args;
use crate::access::{Admitted, Opened};
use crate::cli::failure::Failure;
use crate::cli::{Global, output, units};
use crate::engine::disk_source::{DiskSource, parts_within};
use crate::sources::{OpenedDisk, Slice};

/// What was opened, and who else uses it.
pub struct OpenedSource {
    pub source: DiskSource,
    /// Ranges of it that could not be read when it was stored, and are zeros.
    pub unreadable: Vec<Range<u64>>,
    pub in_use: Vec<Admitted>,
}

/// Opens what the arguments name, and cuts it as they say.
pub fn open_source(args: &Args, global: Global) -> Result<OpenedSource, Failure> {
    let declared = args.stands_for.as_deref().or(args.backing.as_deref());
    let opened = match args.input.open_or_stream(&args.source, declared, args.size, global)? {
        Opened::Pipe(..) if args.offset.is_some() => {
            return Err(Failure::usage("a pipe is read from its beginning; --offset needs a file or a device"));
        }
        Opened::Pipe(pipe, geometry) => {
            let source = DiskSource::Pipe(Box::new(pipe), geometry);
            return Ok(OpenedSource { source, unreadable: Vec::new(), in_use: Vec::new() });
        }
        Opened::Disk(opened) => opened,
    };
    note_what_is_left_out(args, &opened, global);
    let in_use = vec![args.live.admit(&args.source, opened.watch, global)?];
    let source = slice(opened.disk, args)?;
    let begin = args.offset.unwrap_or_default();
    let unreadable = parts_within(&opened.unreadable, begin..begin + source.geometry().size_bytes);
    Ok(OpenedSource { source, unreadable, in_use })
}

fn slice(disk: Box<dyn BlockSource>, args: &Args) -> Result<DiskSource, Failure> {
    if args.offset.is_none() && args.size.is_none() {
        return Ok(DiskSource::of(disk));
    }
    let begin = args.offset.unwrap_or_default();
    if !begin.is_multiple_of(512) || args.size.is_some_and(|size| size % 512 != 0) {
        return Err(Failure::usage("--offset and --size are whole sectors: multiples of 512"));
    }
    check_slice(begin, args.size, disk.geometry().size_bytes)?;
    Ok(DiskSource::of(Box::new(Slice::new(disk, begin, args.size)?)))
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
