//! Which disks are exported, and by which names.

use std::sync::Arc;

use tintype_formats::{BlockSource, ImageError};
use tintype_volumes::partitions::partitions;

use super::Args;
use crate::access::{Address, OpenedDisks};
use crate::cli::failure::Failure;
use crate::cli::{Global, output, units};
use crate::repository::lease::Lease;
use crate::serve::nbd::{Access, Export, Exports};
use crate::sources::{CachedDisk, DiskCache, Overlay, Slice};

/// The name of a disk that has none.
const NAMELESS: &str = "disk";

/// Memory for what was decoded of all disks, in bytes: clients ask for small parts of compressed units.
const CACHE_BYTES: u64 = 64 << 20;

/// Opens the disks, and gives each of them and of their partitions a name. The lease is to be held while they are read.
pub fn exports(args: &Args, global: Global) -> Result<(Exports, Option<Lease>), Failure> {
    let OpenedDisks { disks: opened, lease, .. } = args.disk.open_all(&args.source, "serve", global)?;
    let only = opened.len() == 1;
    if !only && args.name.is_some() {
        let message = format!("{}: --name names one disk, there are {}", args.source, opened.len());
        return Err(Failure::usage(message).hinted("choose one with ?disk=NAME, or leave --name out"));
    }
    if !only && args.overlay.is_some() {
        let message = format!("{}: --overlay is written for one disk, there are {}", args.source, opened.len());
        return Err(Failure::usage(message).hinted("choose one with ?disk=NAME"));
    }
    let cache = DiskCache::of_bytes(CACHE_BYTES);
    let mut exports = Exports::default();
    for (stored_name, opened) in opened {
        let name = args.name.clone().or(stored_name).unwrap_or_else(|| name_of(&args.source));
        let description = describe(args, opened.disk.as_ref());
        let disk: Arc<dyn BlockSource> = Arc::new(CachedDisk::new(opened.disk, &cache));
        let access = match &args.overlay {
            None => Access::ReadOnly(disk),
            Some(path) => Access::Writable(Arc::new(Overlay::open_or_create(path, disk)?)),
        };
        add(&mut exports, &name, &description, &access, global)?;
    }
    if only {
        return Ok((exports.with_first_as_default(), lease));
    }
    output::note("there are several disks, so that clients have to name one: none is the default", global);
    Ok((exports, lease))
}

/// What a file is called, without its folder and extension.
fn name_of(address: &Address) -> String {
    let stem = Some(&address.path).filter(|_| !address.is_standard_input()).and_then(|path| path.file_stem());
    stem.map_or_else(|| NAMELESS.to_owned(), |stem| stem.to_string_lossy().into_owned())
}

fn describe(args: &Args, disk: &dyn BlockSource) -> String {
    format!("{} of {}", units::size(disk.geometry().size_bytes), args.source)
}

/// Adds a disk and its partitions.
fn add(exports: &mut Exports, name: &str, description: &str, access: &Access, global: Global) -> Result<(), Failure> {
    exports.add(Export::new(name, description, access.clone()))?;
    let found = match access {
        Access::ReadOnly(disk) => partitions(disk.as_ref()),
        Access::Writable(disk) => partitions(disk.as_ref()),
    };
    let found = found.unwrap_or_else(|error| {
        output::note(&format!("no partitions of {name} are exported: {error}"), global);
        Vec::new()
    });
    for partition in found {
        let name = format!("{name}/part{}", partition.number);
        let description = format!("partition {} of {description}", partition.number);
        let part = slice(access, partition.begin, partition.size_bytes)?;
        exports.add(Export::new(name, description, part))?;
    }
    Ok(())
}

fn slice(access: &Access, begin: u64, size_bytes: u64) -> Result<Access, ImageError> {
    Ok(match access {
        Access::ReadOnly(disk) => Access::ReadOnly(Arc::new(Slice::new(Arc::clone(disk), begin, Some(size_bytes))?)),
        Access::Writable(disk) => Access::Writable(Arc::new(Slice::new(Arc::clone(disk), begin, Some(size_bytes))?)),
    })
}
