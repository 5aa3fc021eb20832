//! `--salvage-map`: which map is continued, and into which target.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use tintype_formats::{Format, raw};

use super::Args;
use crate::cli::failure::Failure;
use crate::cli::salvage_map::{self, full_path};
use crate::engine::disk_source::DiskSource;
use crate::engine::salvage::SalvageMap;
use crate::engine::salvage::map_file::{self, About, MapFile};
use crate::error::{Error, OnPath as _};
use crate::sources::{self, OpenOptions, is_device_or_export};
use crate::targets::TargetOptions;

/// Reads the map, checks that it is of this source and target, and has the target written in place: what it holds is never
/// thrown away, even if the run fails.
pub fn prepare(
    path: &Path,
    args: &Args,
    format: &Format,
    source: &DiskSource,
    options: &mut TargetOptions,
) -> Result<SalvageMap, Failure> {
    if !std::ptr::eq(format, &raw::FORMAT) || args.target == Path::new("-") {
        return Err(Failure::usage("--salvage-map needs a raw file or a device as target, which holds what was read"));
    }
    let DiskSource::Disk(disk, _) = source else {
        return Err(Failure::usage("--salvage-map is of a disk that can be read again, not of a pipe"));
    };
    salvage_map::check_own_file(path, &[&args.target, &args.source.path])?;
    map_file::check_writable(path)?;
    let size_bytes = disk.geometry().size_bytes;
    let found = map_file::read(path, size_bytes)?;
    if found.is_none() {
        create_target(args, size_bytes, options)?;
    }
    let about = salvage_map::about(&args.source, size_bytes, full_path(&args.target).display().to_string());
    let continued = match found {
        None => None,
        Some(MapFile { map, about: Some(of) }) => {
            salvage_map::check_source(&of, &about, path)?;
            check_target(&of, &about, path)?;
            Some(map)
        }
        Some(MapFile { map, about: None }) => {
            check_target_of_ddrescue(args, size_bytes)?;
            Some(map)
        }
    };
    if let Some(map) = &continued {
        let raw = OpenOptions {
            format: Some(raw::FORMAT.name.to_owned()),
            nbd: args.input.nbd.options(),
            ..OpenOptions::default()
        };
        let target = sources::open_disk(&args.target, &raw, None)?;
        salvage_map::check_held(map, disk.as_ref(), target.disk.as_ref(), path)?;
    }
    options.existing = true;
    Ok(SalvageMap { path: path.to_owned(), about, continued })
}

/// Makes the target under its own name, unless there is one to write into.
fn create_target(args: &Args, size_bytes: u64, options: &mut TargetOptions) -> Result<(), Failure> {
    if options.existing || is_device_or_export(&args.target) {
        return Ok(());
    }
    let created = File::options().write(true).create_new(true).mode(0o600).open(&args.target);
    if created.as_ref().is_err_and(|cause| cause.kind() == std::io::ErrorKind::AlreadyExists) {
        let message = format!("{}: it exists, and the map does not", args.target.display());
        return Err(Failure::usage(message).hinted("write into it with -n, or name another target"));
    }
    created
        .and_then(|file| file.set_len(size_bytes))
        .map_err(|cause| Error::io("create the target", cause))
        .on_path(&args.target)?;
    options.target_is_zero = true;
    Ok(())
}

fn check_target(of: &About, about: &About, path: &Path) -> Result<(), Failure> {
    if of.target == about.target {
        return Ok(());
    }
    let message = format!("the map says that {} holds what was read, and the target is {}", of.target, about.target);
    Err(salvage_map::wrong(path, &message))
}

/// A map of ddrescue does not say of what it is.
fn check_target_of_ddrescue(args: &Args, size_bytes: u64) -> Result<(), Failure> {
    let found = std::fs::metadata(&args.target).map(|found| found.len()).ok();
    if args.to.no_create && (is_device_or_export(&args.target) || found == Some(size_bytes)) {
        return Ok(());
    }
    let message =
        "a map of ddrescue does not say which file holds what was read; expected -n and a target of the source's size";
    Err(Failure::usage(message))
}
