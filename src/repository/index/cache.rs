//! The local copy of the index: verified segments in files, merged when they become many.
//!
//! A file is `magic 8 ‖ BLAKE3 of all that follows 32 ‖ number of source segments 4 ‖ 0 (4) ‖ their ids × 16 ‖ segment body`.
//! It is written whole, renamed into place, and its hash is compared whenever it is opened: a torn file says nothing.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::process::geteuid;
use tempfile::{NamedTempFile, TempDir};
use tintype_tin::id::Id;

use super::Index;
use super::merge::merge;
use super::segment::{SegmentFile, memory_file};
use crate::error::{Error, Kind, OnPath as _, Result, in_words};

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
///
/// The cache is disposable: where its folder is of no use, a temporary folder takes its place for this run, and where that is
/// of no use either, memory. Files of other users are passed over: what they say is not to be built on.
pub struct Cache {
    /// The folder that all runs share.
    folder: Option<PathBuf>,
    /// Set when the folder turned out to be of no use for writing.
    is_useless: AtomicBool,
    /// The folder of this run alone; made when it is needed, `None` if that failed.
    temporary: OnceLock<Option<TempDir>>,
    warning: Warning,
}

/// Says once why the cache is not used.
#[derive(Default)]
struct Warning {
    listener: OnceLock<Listener>,
    is_said: AtomicBool,
}

type Listener = Box<dyn Fn(&str) + Send + Sync>;

impl Warning {
    fn say(&self, text: impl FnOnce() -> String) {
        if let Some(listener) = self.listener.get()
            && !self.is_said.swap(true, Relaxed)
        {
            listener(&text());
        }
    }
}

pub(super) struct Cached {
    /// Where it is; nowhere, if it is in memory only.
    path: Option<PathBuf>,
    sources: Vec<Id>,
    segment: SegmentFile,
}

/// Writes the body of a file at an offset of it.
type WriteBody<'a> = &'a dyn Fn(&File, u64) -> Result<()>;

impl Cache {
    /// The cache of a repository below `folder`.
    pub fn open(folder: Option<&Path>, repository: Id) -> Cache {
        let folder = folder.map(|folder| folder.join(repository.to_string()).join("index"));
        Cache { folder, is_useless: AtomicBool::new(false), temporary: OnceLock::new(), warning: Warning::default() }
    }

    /// Has `listener` told, once at most, why the folder is not used.
    pub fn on_trouble(&self, listener: impl Fn(&str) + Send + Sync + 'static) {
        // Only the first one counts.
        _ = self.warning.listener.set(Box::new(listener));
    }

    /// The folder of all that is kept of the repository on this computer; nothing if this user may not use it.
    pub fn kept_folder(&self) -> Option<&Path> {
        self.shared().ok()?.parent().filter(|_| !self.is_useless.load(Relaxed))
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
        let mut files = self.files(scope);
        let known: HashSet<Id> = files.iter().flat_map(|file| file.sources.iter().copied()).collect();
        for id in segments.iter().filter(|id| !known.contains(id)) {
            if let Some(body) = fetch(*id)? {
                files.push(self.write(scope, &[*id], &body)?);
            }
        }
        if files.len() > MAX_FILES {
            files = vec![self.merge_files(scope, files, segments, live)?];
        }
        let mut index = Index::default();
        files.into_iter().for_each(|file| index.add(file.segment));
        Ok(index)
    }

    /// Adds a segment to an index that is in use.
    pub fn add(&self, scope: &Scope, index: &mut Index, id: Id, body: &[u8]) -> Result<()> {
        index.add(self.write(scope, &[id], body)?.segment);
        Ok(())
    }

    /// The whole files of the shared folder and of this run's own.
    fn files(&self, scope: &Scope) -> Vec<Cached> {
        let own = self.temporary.get().and_then(Option::as_ref).map(TempDir::path);
        let folders = self.folder.as_deref().into_iter().chain(own);
        let mut files: Vec<Cached> = folders.flat_map(|folder| files_in(&folder.join(scope.folder()))).collect();
        files.sort_by(|one, other| one.path.cmp(&other.path));
        files
    }

    fn write(&self, scope: &Scope, sources: &[Id], body: &[u8]) -> Result<Cached> {
        self.write_by(scope, sources, &|file, offset| {
            file.write_all_at(body, offset).map_err(|cause| Error::io("write the index", cause))
        })
    }

    /// Writes a file in the first place that takes it.
    fn write_by(&self, scope: &Scope, sources: &[Id], write_body: WriteBody<'_>) -> Result<Cached> {
        let written_in = |folder: &Path| -> Result<Cached> {
            let folder = folder.join(scope.folder());
            private_folder(&folder)
                .map_err(|cause| Error::io("make a folder for the index", cause))
                .on_path(&folder)?;
            write_with(&folder, sources, write_body)
        };
        if !self.is_useless.load(Relaxed) {
            match self.shared().and_then(written_in) {
                Ok(written) => return Ok(written),
                Err(cause) => self.give_up_folder(&cause),
            }
        }
        let temporary = self.temporary.get_or_init(private_temporary).as_ref();
        if let Some(Ok(written)) = temporary.map(|folder| written_in(folder.path())) {
            return Ok(written);
        }
        let file = memory_file()?;
        write_body(&file, 0)?;
        let length = file.metadata().map_err(|cause| Error::io("write the index", cause))?.len();
        Ok(Cached { path: None, sources: sources.to_vec(), segment: SegmentFile::open(file, 0, length)? })
    }

    /// The folder that all runs share, if this user may use it.
    fn shared(&self) -> Result<&Path> {
        let Some(folder) = &self.folder else {
            return Err(Error::new(Kind::Io, "there is no folder for the cache: pass --cache-dir, or set HOME"));
        };
        let owner = owner_of_nearest(folder);
        // The user could tell root that chunks are stored which are not; and root's files would be in the user's way.
        if geteuid().is_root() && owner.is_some_and(|owner| owner != 0) {
            let message = format!("it belongs to user {}, and this run is root's", owner.unwrap_or_default());
            return Err(Error::new(Kind::Io, message).with_path(folder));
        }
        Ok(folder)
    }

    fn give_up_folder(&self, cause: &Error) {
        self.is_useless.store(true, Relaxed);
        self.warning.say(|| format!("the cache is not used: {}", in_words(cause)));
    }

    /// Makes one file of all. What other processes have open of the old ones stays readable for them.
    fn merge_files(
        &self,
        scope: &Scope,
        files: Vec<Cached>,
        segments: &[Id],
        live: Option<&HashSet<Id>>,
    ) -> Result<Cached> {
        // A segment that is gone from the store is never asked for again.
        let there: HashSet<&Id> = segments.iter().collect();
        let mut sources: Vec<Id> = files.iter().flat_map(|file| file.sources.iter().copied()).collect();
        sources.retain(|id| there.contains(id));
        let bodies: Vec<&SegmentFile> = files.iter().map(|file| &file.segment).collect();
        let merged = self.write_by(scope, &sources, &|out, offset| merge(&bodies, live, out, offset))?;
        files.iter().filter_map(|file| file.path.as_ref()).for_each(|path| _ = fs::remove_file(path));
        Ok(merged)
    }
}

/// The whole files in a folder, of this user or root.
fn files_in(folder: &Path) -> Vec<Cached> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries.flatten() {
        if !entry.metadata().is_ok_and(|found| is_trusted(&found)) {
            continue;
        }
        match open_file(&entry.path()) {
            Ok(file) => files.push(file),
            // Torn, or of another version: it is fetched again. A temporary file of another process keeps its name.
            Err(_) if entry.file_name().as_encoded_bytes().starts_with(b".") => {}
            Err(_) => _ = fs::remove_file(entry.path()),
        }
    }
    files
}

/// True if a file of the cache is this user's or root's: what others say is not to be built on.
pub fn is_trusted(file: &fs::Metadata) -> bool {
    [geteuid().as_raw(), 0].contains(&file.uid())
}

/// Makes a folder and those above it; only the owner may enter them.
pub fn private_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Makes a temporary folder of this run's own, which only this user may enter.
fn private_temporary() -> Option<TempDir> {
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().ok()
}

/// The user whose the folder is, or the nearest above it that is there.
fn owner_of_nearest(folder: &Path) -> Option<u32> {
    folder.ancestors().find_map(|folder| fs::metadata(folder).ok()).map(|found| found.uid())
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
    Ok(Cached { path: Some(path.to_owned()), sources, segment })
}
