//! The local copy of the index: verified segments in files, merged when they become many.
//!
//! A file is `magic 8 ‖ BLAKE3 of all that follows 32 ‖ number of source segments 4 ‖ 0 (4) ‖ their ids × 16 ‖ segment body`.
//! It is written whole, renamed into place, and its hash is compared whenever it is opened: a torn file says nothing.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use tintype_formats::tin::id::Id;

use super::Index;
use super::merge::merge;
use super::segment::SegmentFile;
use crate::error::{Error, OnPath as _, Result};

const MAGIC: &[u8; 8] = b"TINIDX1\n";
const HASH_END: usize = 40;
const HEAD_BYTES: usize = 48;

/// More files than this are merged: every lookup asks each of them.
const MAX_FILES: usize = 8;

/// Whose segments. What a writer builds on is kept apart from what anybody may have said, in other files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's: for readers, who prove each chunk themselves.
    Everybody,
    /// Those of holders whom everybody trusts.
    Trusted,
    /// Those, and this holder's own.
    TrustedAnd(Id),
}

impl Scope {
    fn folder(&self) -> String {
        match self {
            Scope::Everybody => "all".to_owned(),
            Scope::Trusted => "trusted".to_owned(),
            Scope::TrustedAnd(holder) => format!("trusted-{holder}"),
        }
    }
}

/// Index segments of one repository on this computer.
pub struct Cache {
    folder: PathBuf,
    /// Keeps the folder while it is used, if it is a temporary one.
    _temporary: Option<tempfile::TempDir>,
}

pub(super) struct Cached {
    path: PathBuf,
    sources: Vec<Id>,
    segment: SegmentFile,
}

impl Cache {
    /// The cache of a repository below `folder`; a temporary one where that cannot be written.
    pub fn open(folder: Option<&Path>, repository: Id) -> Result<Cache> {
        if let Some(folder) = folder {
            let folder = folder.join(repository.to_string()).join("index");
            if create_private(&folder).is_ok() && NamedTempFile::new_in(&folder).is_ok() {
                return Ok(Cache { folder, _temporary: None });
            }
        }
        let private = fs::Permissions::from_mode(0o700);
        let temporary = tempfile::Builder::new()
            .permissions(private)
            .tempdir()
            .map_err(|cause| Error::io("make a folder for the index", cause))?;
        Ok(Cache { folder: temporary.path().to_owned(), _temporary: Some(temporary) })
    }

    /// The index of exactly these segments, and perhaps of deleted ones. `fetch` gets the body of one that is not there yet;
    /// it returns nothing for one that does not count. Of packs that are not in `live`, nothing needs to be kept.
    pub fn load(
        &self,
        scope: &Scope,
        segments: &[Id],
        live: Option<&HashSet<Id>>,
        mut fetch: impl FnMut(Id) -> Result<Option<Vec<u8>>>,
    ) -> Result<Index> {
        let folder = self.folder_of(scope)?;
        let mut files = files(&folder)?;
        let known: HashSet<Id> = files.iter().flat_map(|file| file.sources.iter().copied()).collect();
        for id in segments.iter().filter(|id| !known.contains(id)) {
            if let Some(body) = fetch(*id)? {
                files.push(write(&folder, &[*id], &body)?);
            }
        }
        if files.len() > MAX_FILES {
            files = vec![merge_files(&folder, files, segments, live)?];
        }
        let mut index = Index::default();
        files.into_iter().for_each(|file| index.add(file.segment));
        Ok(index)
    }

    /// Adds a segment to an index that is in use.
    pub fn add(&self, scope: &Scope, index: &mut Index, id: Id, body: &[u8]) -> Result<()> {
        index.add(write(&self.folder_of(scope)?, &[id], body)?.segment);
        Ok(())
    }

    fn folder_of(&self, scope: &Scope) -> Result<PathBuf> {
        let folder = self.folder.join(scope.folder());
        let made = create_private(&folder).map_err(|cause| Error::io("make a folder for the index", cause));
        made.on_path(&folder).map(|()| folder)
    }
}

/// Creates a folder, and those above it, that only this user can enter, whatever the umask is.
fn create_private(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The whole files in a folder.
fn files(folder: &Path) -> Result<Vec<Cached>> {
    let entries = fs::read_dir(folder).map_err(|cause| Error::io("list the index", cause));
    let mut files = Vec::new();
    for entry in entries.on_path(folder)?.flatten() {
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

fn write(folder: &Path, sources: &[Id], body: &[u8]) -> Result<Cached> {
    write_with(folder, sources, |file, offset| {
        file.write_all_at(body, offset).map_err(|cause| Error::io("write the index", cause))
    })
}

/// Writes a file whose body `write_body` puts at an offset of it.
pub(super) fn write_with(
    folder: &Path,
    sources: &[Id],
    write_body: impl FnOnce(&File, u64) -> Result<()>,
) -> Result<Cached> {
    let doing = |cause| Error::io("write the index", cause);
    let mut head = [MAGIC.as_slice(), &[0; 32], &(sources.len() as u32).to_le_bytes(), &[0; 4]].concat();
    sources.iter().for_each(|id| head.extend_from_slice(&id.0));
    let mut file = NamedTempFile::with_prefix_in(".new-", folder).map_err(doing).on_path(folder)?;
    file.write_all(&head).map_err(doing).on_path(folder)?;
    write_body(file.as_file(), head.len() as u64)?;
    let finish = || -> io::Result<PathBuf> {
        // The hash is of all that was written, and so it comes last.
        let mut hasher = blake3::Hasher::new();
        file.seek(io::SeekFrom::Start(HASH_END as u64))?;
        io::copy(&mut file, &mut hasher)?;
        file.as_file().write_all_at(hasher.finalize().as_bytes(), MAGIC.len() as u64)?;
        let path = folder.join(Id::random().map_err(io::Error::other)?.to_string());
        file.persist(&path)?;
        Ok(path)
    };
    let path = finish().map_err(doing).on_path(folder)?;
    open_file(&path)
}

/// Makes one file of all. What other processes have open of the old ones stays readable for them.
fn merge_files(folder: &Path, files: Vec<Cached>, segments: &[Id], live: Option<&HashSet<Id>>) -> Result<Cached> {
    // A segment that is gone from the store is never asked for again.
    let there: HashSet<&Id> = segments.iter().collect();
    let mut sources: Vec<Id> = files.iter().flat_map(|file| file.sources.iter().copied()).collect();
    sources.retain(|id| there.contains(id));
    let bodies: Vec<&SegmentFile> = files.iter().map(|file| &file.segment).collect();
    let merged = write_with(folder, &sources, |out, offset| merge(&bodies, live, out, offset))?;
    files.iter().for_each(|file| _ = fs::remove_file(&file.path));
    Ok(merged)
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
