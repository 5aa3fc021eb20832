//! The files that overlays lie in: made under a temporary name, locked while they are used.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation, flock};
use rustix::io::Errno;
use tempfile::NamedTempFile;
use tintype_formats::host_file::{HostExtent, HostFile, HostFileMut};
use tintype_formats::local::{file_extent_at, identity_of};
use tintype_formats::{OpenFile, secrets::Secrets};

use crate::error::{Error, Kind, Result};
use crate::system::durable;

/// A sparse file of this machine that is written in place.
pub struct SparseFile(File);

impl HostFile for SparseFile {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, host_offset)
    }

    fn extent_at(&self, host_offset: u64, max_bytes: u64) -> io::Result<HostExtent> {
        file_extent_at(&self.0, host_offset, max_bytes)
    }

    fn as_file(&self) -> Option<&File> {
        Some(&self.0)
    }
}

impl HostFileMut for SparseFile {
    fn write_all_at(&self, host_offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, host_offset)
    }

    fn write_zeros_at(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        const STEP_BYTES: usize = 64 << 10;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.0, punch, host_offset, length_bytes) {
            Err(Errno::OPNOTSUPP) => {}
            done => return Ok(done?),
        }
        (0..length_bytes).step_by(STEP_BYTES).try_for_each(|done| {
            let length = (length_bytes - done).min(STEP_BYTES as u64) as usize;
            self.0.write_all_at(&[0; STEP_BYTES][..length], host_offset + done)
        })
    }

    fn allocate(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.0, FallocateFlags::empty(), host_offset, length_bytes)?)
    }

    fn set_len_bytes(&self, length_bytes: u64) -> io::Result<()> {
        self.0.set_len(length_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        durable::sync_data(&self.0)
    }
}

/// A file of the operating system, for the overlay to write to and for others to know it by.
pub struct LocalOverlay {
    /// To write to.
    pub file: Arc<SparseFile>,
    /// The same file, for whoever asks what the disk is made of.
    pub known_as: OpenFile,
}

impl LocalOverlay {
    fn of(file: File, path: &Path) -> Result<Self> {
        let metadata = file.metadata().map_err(|cause| Error::io("look at the overlay", cause))?;
        let file = Arc::new(SparseFile(file));
        let known_as = OpenFile {
            file: file.clone(),
            name: path.display().to_string(),
            identity: Some(identity_of(&metadata)),
            secrets: Secrets::default(),
        };
        Ok(LocalOverlay { file, known_as })
    }

    /// Opens an overlay that nobody else uses, or only others that read it if this one is only read.
    pub fn open(path: &Path, is_written: bool) -> Result<Self> {
        let file = File::options().read(true).write(is_written).open(path);
        let file = file.map_err(|cause| Error::io("open the overlay", cause))?;
        if !file.metadata().is_ok_and(|found| found.is_file()) {
            return Err(Error::new(Kind::Usage, "it is not a regular file; expected an overlay"));
        }
        let mode =
            if is_written { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
        lock(&file, mode)?;
        Self::of(file, path)
    }

    /// A file without a name in this folder.
    pub fn unnamed(folder: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).map_err(|cause| Error::io("create a temporary overlay", cause))?;
        Self::of(file, &folder.join("temporary overlay"))
    }
}

fn lock(file: &File, mode: FlockOperation) -> Result<()> {
    match flock(file, mode) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(Error::new(Kind::TargetBusy, "another process uses the overlay")),
        Err(errno) => Err(Error::io("lock the overlay", errno.into())),
    }
}

/// Makes a file at `path`, which holds what `fill` puts into it, is durable, and is locked from the moment that it has its
/// name. An existing file is left alone.
pub fn create(path: &Path, fill: impl FnOnce(&SparseFile) -> Result<()>) -> Result<LocalOverlay> {
    let folder = folder_of(path);
    let exists = || Error::new(Kind::Usage, "the overlay's file exists already");
    if path.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let temporary = tempfile::Builder::new().prefix(".overlay.").suffix(".partial").tempfile_in(&folder);
    let temporary = temporary.map_err(|cause| match cause.kind() {
        io::ErrorKind::NotFound => Error::new(Kind::Io, "create the overlay: there is no folder for it"),
        kind => Error::io("create the overlay", kind.into()),
    })?;
    let (file, temporary) = NamedTempFile::into_parts(temporary);
    lock(&file, FlockOperation::NonBlockingLockExclusive)?;
    let filled = SparseFile(file.try_clone().map_err(|cause| Error::io("create the overlay", cause))?);
    fill(&filled)?;
    durable::sync_file(&filled.0).map_err(|cause| Error::io("make the overlay durable", cause))?;
    temporary.persist_noclobber(path).map_err(|failed| match failed.error.kind() {
        io::ErrorKind::AlreadyExists => exists(),
        _ => Error::io("give the overlay its name", failed.error),
    })?;
    File::open(&folder)
        .and_then(durable::sync_folder)
        .map_err(|cause| Error::io("make the overlay's name durable", cause))?;
    LocalOverlay::of(file, path)
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
