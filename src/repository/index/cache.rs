//! The local copy of the index: verified segments in files, merged when they become many.
//!
//! A file is `magic 8 ‖ BLAKE3 of all that follows 32 ‖ number of source segments 4 ‖ 0 (4) ‖ their ids × 16 ‖ segment body`.
//! It is written whole, renamed into place, and its hash is compared whenever it is opened: a torn file says nothing.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use tintype_formats::tin::id::Id;
use tintype_formats::tin::keys::KeyRing;

use super::segment::{SegmentBuilder, SegmentFile};
use super::{Index, PackRow};
use crate::error::{Error, OnPath as _, Result};

const MAGIC: &[u8; 8] = b"TINIDX1\n";
const HASH_END: usize = 40;
const HEAD_BYTES: usize = 48;

/// More files than this are merged: every lookup asks each of them.
const MAX_FILES: usize = 8;

/// Index segments of one repository on this computer.
pub struct Cache {
    folder: PathBuf,
    /// Keeps the folder while it is used, if it is a temporary one.
    _temporary: Option<tempfile::TempDir>,
}

struct Cached {
    path: PathBuf,
    sources: Vec<Id>,
    segment: SegmentFile,
}

impl Cache {
    /// The cache of a repository below `folder`, for the holder of these keys; a temporary one where that cannot be written.
    ///
    /// What one holder trusts another one need not, and a writer must not find what only a reader may take: each has a
    /// folder of its own.
    pub fn open(folder: Option<&Path>, ring: &KeyRing, purpose: &str) -> Result<Cache> {
        if let Some(folder) = folder {
            let holder = Id(std::array::from_fn(|index| ring.certificate().signing[index]));
            let folder = folder.join(ring.repository().to_string()).join(format!("{purpose}-{holder}"));
            if fs::create_dir_all(&folder).is_ok() && NamedTempFile::new_in(&folder).is_ok() {
                return Ok(Cache { folder, _temporary: None });
            }
        }
        let temporary = tempfile::tempdir().map_err(|cause| Error::io("make a folder for the index", cause))?;
        Ok(Cache { folder: temporary.path().to_owned(), _temporary: Some(temporary) })
    }

    /// The index of exactly these segments, and perhaps of deleted ones. `fetch` gets the body of one that is not there yet;
    /// it returns nothing for one that does not count.
    pub fn load(&self, segments: &[Id], mut fetch: impl FnMut(Id) -> Result<Option<Vec<u8>>>) -> Result<Index> {
        let mut files = self.files()?;
        let known: HashSet<Id> = files.iter().flat_map(|file| file.sources.iter().copied()).collect();
        for id in segments.iter().filter(|id| !known.contains(id)) {
            if let Some(body) = fetch(*id)? {
                files.push(self.write(&[*id], &body)?);
            }
        }
        if files.len() > MAX_FILES {
            files = self.merge(files)?;
        }
        let mut index = Index::default();
        files.into_iter().for_each(|file| index.add(file.segment));
        Ok(index)
    }

    /// Adds a segment to an index that is in use.
    pub fn add(&self, index: &mut Index, id: Id, body: &[u8]) -> Result<()> {
        index.add(self.write(&[id], body)?.segment);
        Ok(())
    }

    fn files(&self) -> Result<Vec<Cached>> {
        let entries = fs::read_dir(&self.folder).map_err(|cause| Error::io("list the index", cause));
        let mut files = Vec::new();
        for entry in entries.on_path(&self.folder)?.flatten() {
            match open_file(&entry.path()) {
                Ok(file) => files.push(file),
                // Torn, or of another version: it is fetched again. A temporary file of another process keeps its name.
                Err(_) if entry.file_name().as_encoded_bytes().starts_with(b".") => {}
                Err(_) => _ = fs::remove_file(entry.path()),
            }
        }
        files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(files)
    }

    fn write(&self, sources: &[Id], body: &[u8]) -> Result<Cached> {
        let doing = |cause| Error::io("write the index", cause);
        let mut rest = (sources.len() as u32).to_le_bytes().to_vec();
        rest.extend_from_slice(&[0; 4]);
        sources.iter().for_each(|id| rest.extend_from_slice(&id.0));
        let hash = blake3::Hasher::new().update(&rest).update(body).finalize();
        let write = || -> io::Result<PathBuf> {
            let mut file = NamedTempFile::with_prefix_in(".new-", &self.folder)?;
            for part in [MAGIC, hash.as_bytes().as_slice(), &rest, body] {
                file.write_all(part)?;
            }
            let path = self.folder.join(Id::random().map_err(io::Error::other)?.to_string());
            file.persist(&path)?;
            Ok(path)
        };
        let path = write().map_err(doing).on_path(&self.folder)?;
        open_file(&path)
    }

    /// Makes one file of all. What other processes have open of the old ones stays readable for them.
    fn merge(&self, files: Vec<Cached>) -> Result<Vec<Cached>> {
        let mut builder = SegmentBuilder::default();
        for file in &files {
            let rows: std::collections::HashMap<Id, &PackRow> =
                file.segment.packs().iter().map(|row| (row.id, row)).collect();
            file.segment.packs().iter().for_each(|row| builder.add_pack(row.clone(), &[]));
            file.segment.for_each(&mut |id, found| {
                if let Some(row) = rows.get(&found.pack) {
                    builder.add_entry(row, id, found.offset, found.length);
                }
            })?;
        }
        let sources: Vec<Id> = files.iter().flat_map(|file| file.sources.iter().copied()).collect();
        let merged = self.write(&sources, &builder.encode())?;
        files.iter().for_each(|file| _ = fs::remove_file(&file.path));
        Ok(vec![merged])
    }
}

fn open_file(path: &Path) -> Result<Cached> {
    let doing = |cause| Error::io("read the index", cause);
    let mut file = File::open(path).map_err(doing).on_path(path)?;
    let length = file.metadata().map_err(doing).on_path(path)?.len();
    let damaged = || Error::io("read the index", io::ErrorKind::InvalidData.into()).with_path(path);
    let mut head = [0; HEAD_BYTES];
    file.read_exact(&mut head).map_err(doing).on_path(path)?;
    let count = u32::from_le_bytes([head[40], head[41], head[42], head[43]]);
    let body_at = HEAD_BYTES as u64 + u64::from(count) * 16;
    if head[..8] != *MAGIC || body_at > length {
        return Err(damaged());
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&head[HASH_END..]);
    let mut ids = vec![0; count as usize * 16];
    file.read_exact(&mut ids).map_err(doing).on_path(path)?;
    hasher.update(&ids);
    io::copy(&mut file, &mut hasher).map_err(doing).on_path(path)?;
    if hasher.finalize().as_bytes() != &head[8..HASH_END] {
        return Err(damaged());
    }
    let sources = ids.as_chunks::<16>().0.iter().map(|id| Id(*id)).collect();
    let segment = SegmentFile::open(file, body_at, length - body_at)?;
    Ok(Cached { path: path.to_owned(), sources, segment })
}
