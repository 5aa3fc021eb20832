//! What is to be mounted: one disk, several, or a repository.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value, json};
use tintype_formats::BlockSource;
use tintype_formats::local::entry_of_folder;

use super::Args;
use super::stored::{self, Catalog, Shared};
use crate::access::{Access, Address};
use crate::cli::failure::Failure;
use crate::cli::repository_args::SaidKeys;
use crate::cli::{Global, output};
use crate::repository::names;
use crate::serve::fuse::{DiskEntry, Folder, LazyDisk, OpenDisk, OpenDisks, folder_of};
use crate::sources::{self, CachedDisk, DiskCache, OpenedDisk, Overlay, WritableDisk};

/// How many disks stay open. One takes up to 30 MiB for its tables and maps.
const MAX_OPEN_DISKS: usize = 4;

/// Memory for decoded units of all disks, in bytes.
const CACHE_BYTES: u64 = 64 << 20;

/// What to mount.
pub struct Content {
    /// The topmost folder.
    pub root: Arc<dyn Folder>,
    /// How many disks there are; of a repository, nobody has counted.
    pub disks: Option<usize>,
    /// Their sizes in all, in bytes.
    pub total_bytes: u64,
    /// The disk that takes writes, if one does.
    pub writable: Option<Arc<dyn WritableDisk>>,
    /// Keeps disks open.
    pub pool: Arc<OpenDisks>,
}

/// Opens what is to be mounted.
pub fn open(args: &Args, global: Global) -> Result<Content, Failure> {
    let source = &args.source;
    let shared = Shared { pool: OpenDisks::up_to(MAX_OPEN_DISKS), cache: DiskCache::of_bytes(CACHE_BYTES) };
    if let Some(wanted) = source.stored.as_ref().filter(|_| !source.is_repository()) {
        return snapshot(args, wanted, &shared, global);
    }
    if source.is_standard_input() {
        return Err(Failure::usage("mount needs a file, a device or a repository, not standard input"));
    }
    if source.is_repository() || is_repository(&source.path) {
        return repository(args, shared, global);
    }
    let entries = match disk_names(args, global)? {
        names if names.is_empty() => vec![image(args, source, None, &shared, global)?],
        names => {
            let open = |name: &String| {
                let address = Address { disk: Some(name.clone()), ..source.clone() };
                image(args, &address, Some(name), &shared, global)
            };
            names.iter().map(open).collect::<Result<_, _>>()?
        }
    };
    of_disks(args, entries, &shared)
}

fn of_disks(args: &Args, mut entries: Vec<DiskEntry>, shared: &Shared) -> Result<Content, Failure> {
    let mut writable = None;
    if args.is_writable() {
        let [entry] = entries.as_mut_slice() else {
            let message = format!("{}: one disk takes writes, and there are {}", args.source, entries.len());
            return Err(Failure::usage(message).hinted("choose one with ?disk=NAME"));
        };
        writable = Some(make_writable(args, entry)?);
    }
    let disks: Vec<_> = entries.into_iter().map(|entry| LazyDisk::new(entry, &shared.pool)).collect();
    let total_bytes = disks.iter().map(|disk| disk.size_bytes()).fold(0, u64::saturating_add);
    Ok(Content {
        disks: Some(disks.len()),
        total_bytes,
        writable,
        pool: Arc::clone(&shared.pool),
        root: folder_of(disks),
    })
}

/// Puts an overlay over a disk, which stays open from now on.
fn make_writable(args: &Args, entry: &mut DiskEntry) -> Result<Arc<dyn WritableDisk>, Failure> {
    let OpenDisk { source: below, hold, .. } = (entry.opener)()?;
    let overlay = match &args.overlay {
        Some(path) => Overlay::open_or_create(path, below)?,
        None => Overlay::temporary(&std::env::temp_dir(), below)?,
    };
    let overlay: Arc<dyn WritableDisk> = Arc::new(overlay);
    let open =
        OpenDisk { source: Arc::clone(&overlay) as Arc<dyn BlockSource>, writable: Some(Arc::clone(&overlay)), hold };
    entry.opener = Box::new(move || Ok(open.clone()));
    entry.is_writable = true;
    Ok(overlay)
}

/// Some images are folders, too.
fn is_repository(path: &Path) -> bool {
    path.is_dir() && entry_of_folder(path) == path && path.join(names::REPOSITORY).is_file()
}

fn repository(args: &Args, shared: Shared, global: Global) -> Result<Content, Failure> {
    let source = &args.source;
    if source.disk.is_some() || source.snapshot.is_some() || source.partition.is_some() {
        let message = format!("{source}: choose a snapshot, too (REPO::NAME?disk=...), or leave the choice out");
        return Err(Failure::usage(message));
    }
    if args.is_writable() {
        return Err(Failure::usage("of a repository, only one snapshot can be written over: say REPO::NAME"));
    }
    let keys = args.opening.secrets.keys();
    let repository = access(args, &keys, &global).repository(&absolute(&source.path)?)?;
    repository.require_data("mount")?;
    let pool = Arc::clone(&shared.pool);
    let root = Catalog::open(repository, shared, args.opening.choice.wishes())?;
    Ok(Content { root, disks: None, total_bytes: 0, writable: None, pool })
}

fn snapshot(args: &Args, wanted: &str, shared: &Shared, global: Global) -> Result<Content, Failure> {
    let source = &args.source;
    if source.partition.is_some() {
        return Err(Failure::usage(format!("{source}: partitions have files of their own; leave ?partition= out")));
    }
    let address = Address { path: absolute(&source.path)?, ..source.clone() };
    let keys = args.opening.secrets.keys();
    let (repository, mut snapshot) = access(args, &keys, &global).snapshot(&address, wanted)?;
    repository.require_data("mount")?;
    if let Some(name) = &source.disk {
        snapshot.manifest.disks = vec![snapshot.disk(Some(name))?.clone()];
    }
    if snapshot.manifest.disks.iter().any(|disk| !disk.unreadable.is_empty()) {
        output::warn("some of it could not be read when it was backed up, and is zeros; info.json says what", global);
    }
    let entries = stored::disks_of(&repository, &repository.chunk_reader(), &snapshot, &shared.cache);
    of_disks(args, entries, shared)
}

/// Repositories are waited for when they are away.
fn access<'a>(args: &Args, keys: &'a SaidKeys<'_>, global: &'a Global) -> Access<'a> {
    let mut access = args.opening.access(keys, global);
    access.opening.patience = Some(args.retry_time);
    access
}

/// The program may go elsewhere.
fn absolute(path: &Path) -> Result<std::path::PathBuf, Failure> {
    Ok(std::path::absolute(path).map_err(|cause| crate::error::Error::io("find out the current folder", cause))?)
}

/// The disks of a container, unless one of them is chosen.
fn disk_names(args: &Args, global: Global) -> Result<Vec<String>, Failure> {
    let (source, opening) = (&args.source, &args.opening);
    if source.disk.is_some() || source.snapshot.is_some() || !source.path.is_file() && !source.path.is_dir() {
        return Ok(Vec::new());
    }
    let keys = opening.secrets.keys();
    let opened = sources::open_image(&source.path, &access(args, &keys, &global).options(source));
    let image = opened.map_err(|error| opening.references.explain(error))?.image;
    Ok(image.disks().iter().map(|disk| disk.name.clone()).collect())
}

/// A disk that is open as long as it is mounted.
fn image(
    args: &Args,
    address: &Address,
    name: Option<&str>,
    shared: &Shared,
    global: Global,
) -> Result<DiskEntry, Failure> {
    let keys = args.opening.secrets.keys();
    let opened = access(args, &keys, &global).open_for_others(address);
    let opened = opened.map_err(|error| args.opening.references.explain(error))?;
    let changed = std::fs::metadata(&address.path).and_then(|found| found.modified());
    let file_name = address.path.file_name().unwrap_or(address.path.as_os_str()).to_string_lossy();
    let description = description(address, &opened);
    let disk = CachedDisk::new(opened.disk, &shared.cache);
    let open = OpenDisk { source: Arc::new(disk), writable: None, hold: None };
    Ok(DiskEntry {
        name: name.map_or_else(|| file_name.into_owned(), str::to_owned),
        size_bytes: open.source.geometry().size_bytes,
        data_bytes: allocated_bytes(&address.path),
        changed: changed.unwrap_or_else(|_| SystemTime::now()),
        is_writable: false,
        description,
        opener: Box::new(move || Ok(open.clone())),
    })
}

/// What the image file takes, which its disk takes at least about.
fn allocated_bytes(path: &Path) -> Option<u64> {
    let found = std::fs::metadata(path).ok()?;
    found.is_file().then(|| found.blocks() * 512)
}

fn description(address: &Address, opened: &OpenedDisk) -> Map<String, Value> {
    let layers = opened.layers.iter().map(|(name, info)| json!({ "file": name, "format": info.format }));
    let mut description = Map::new();
    description.insert("source".to_owned(), address.to_string().into());
    description.insert("layers".to_owned(), layers.collect());
    description
}
