//! `--salvage-map`: goes on from an incomplete snapshot, and keeps the map of the new one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tintype_tin::id::Id;
use tintype_tin::manifest::DiskRecord;

use super::Args;
use crate::access::Opened;
use crate::cli::failure::Failure;
use crate::cli::salvage_map::{self, wrong};
use crate::engine::backup::{BackedUp, Earlier};
use crate::engine::salvage::map_file::{self, About, MapFile};
use crate::engine::salvage::{AreaMap, joined};
use crate::repository::Repository;
use crate::repository::disk::SnapshotDisk;
use crate::sources::OpenedDisk;

/// The map that a backup keeps.
pub struct Kept {
    path: PathBuf,
    about: About,
}

/// The stored disk that holds the bytes that were read.
struct Holder {
    snapshot: Id,
    repository: Id,
    disk: String,
}

impl Holder {
    fn text(&self) -> String {
        format!("snapshot {} of repository {}, disk {}", self.snapshot, self.repository, self.disk)
    }

    fn parse(text: &str) -> Option<Holder> {
        let (snapshot, rest) = text.strip_prefix("snapshot ")?.split_once(" of repository ")?;
        let (repository, disk) = rest.split_once(", disk ")?;
        Some(Holder { snapshot: snapshot.parse().ok()?, repository: repository.parse().ok()?, disk: disk.to_owned() })
    }
}

/// Reads the map, if there is one, and finds what it says was read.
pub fn prepare(
    path: &Path,
    args: &Args,
    sources: &[Opened],
    repository: &Arc<Repository>,
) -> Result<(Kept, Option<Earlier>), Failure> {
    let ([Opened::Disk(opened)], [named]) = (sources, &*args.sources) else {
        return Err(Failure::usage("--salvage-map is of one disk, which is no pipe"));
    };
    salvage_map::check_own_file(path, &[&named.address.path])?;
    map_file::check_writable(path)?;
    let size_bytes = opened.disk.geometry().size_bytes;
    let about = salvage_map::about(&named.address, size_bytes, String::new());
    let earlier = match map_file::read(path, size_bytes)? {
        None => None,
        Some(MapFile { map, about: Some(of) }) => {
            salvage_map::check_source(&of, &about, path)?;
            let record = held(&of, opened, &map, repository).map_err(|message| wrong(path, &message))?;
            let disk = SnapshotDisk::open(repository, &record)?;
            salvage_map::check_held(&map, opened.disk.as_ref(), &disk, path)?;
            if map.unfinished_bytes() == 0 {
                return Err(wrong(path, &format!("{} has the whole disk: there is nothing to go on with", of.target)));
            }
            Some(Earlier { record, map })
        }
        Some(MapFile { about: None, .. }) => {
            return Err(wrong(path, "a map of ddrescue does not say which snapshot holds what was read"));
        }
    };
    Ok((Kept { path: path.to_owned(), about }, earlier))
}

/// The disk as the snapshot of an earlier run has it.
fn held(of: &About, opened: &OpenedDisk, map: &AreaMap, repository: &Arc<Repository>) -> Result<DiskRecord, String> {
    let holder = Holder::parse(&of.target)
        .ok_or_else(|| format!("the map says that {} holds what was read, and that is no snapshot", of.target))?;
    if holder.repository != repository.config().id {
        return Err(format!("the map says that {} holds what was read: another repository", of.target));
    }
    let snapshot = match repository.committed(holder.snapshot) {
        Ok(Some(Ok(snapshot))) if repository.is_forgotten(holder.snapshot).is_ok_and(|forgotten| !forgotten) => {
            snapshot
        }
        Ok(Some(Ok(_)) | None) => {
            return Err(format!("the repository does not have the map's snapshot {}", holder.snapshot));
        }
        Ok(Some(Err(cause))) | Err(cause) => return Err(format!("the map's snapshot {}: {cause}", holder.snapshot)),
    };
    let record = snapshot.manifest.disks.into_iter().find(|record| record.name == holder.disk);
    let record = record.ok_or_else(|| format!("the map's snapshot has no disk {}", holder.disk))?;
    let missing = joined(of.size_bytes, map.unfinished().into_iter().chain(opened.unreadable.iter().cloned()));
    if record.size_bytes != of.size_bytes || record.unreadable_ranges() != missing {
        return Err(format!("what the map calls read is not what snapshot {} has", holder.snapshot));
    }
    Ok(record)
}

impl Kept {
    /// Writes the map of a snapshot that is committed, which has what was read.
    pub fn write(self, done: &BackedUp, repository: &Repository) -> Result<(), Failure> {
        let (Some(snapshot), [record], [map]) = (done.snapshot, &*done.disks, &*done.maps) else { return Ok(()) };
        let holder = Holder { snapshot, repository: repository.config().id, disk: record.name.clone() };
        Ok(map_file::write(&self.path, map, &About { target: holder.text(), ..self.about })?)
    }
}
