//! Writes a disk to a new image file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::format_of_name;
use super::unix::{NewFile, random, rename_to_new};
use crate::error::{ImageError, Result};
use crate::format::Format;
use crate::host_file::HostFileMut;
use crate::locks::Unpoisoned as _;
use crate::sink::{
    CreateOptions, GuestUnit, IdentitySeed, ImageWriter, InTurn, RunKind, TargetFiles, UnitContent, UnitRun,
};
use crate::source::BlockSource;
use crate::zeros::is_zero;

/// How much is read at a time at least, in bytes.
const MIN_UNIT_BYTES: u64 = 1 << 20;

/// What is found to be zeros or not, in bytes: what file systems and formats can leave out.
const BLOCK_BYTES: u64 = 4096;

/// Writes the disk to a new image file, in the format that its name states.
///
/// The file appears under its name when it is whole and safely stored; what fails leaves nothing behind. One thread reads,
/// compresses and writes.
///
/// # Errors
///
/// Those of reading the disk; [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) if no format has files of such a
/// name; [`ErrorKind::Io`](crate::ErrorKind::Io) if the file exists already, or cannot be written.
pub fn write(disk: &dyn BlockSource, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    write_as(disk, path, format_of_name(path)?, &CreateOptions::new(disk.geometry()))
}

/// The same, in a given format with its options.
///
/// # Errors
///
/// Those of [`write()`], and [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a format that is only read.
pub fn write_as(disk: &dyn BlockSource, path: &Path, format: &Format, options: &CreateOptions) -> Result<()> {
    let io = |cause| ImageError::io("write a new image", cause);
    let files = NewFiles::begin(path).map_err(io)?;
    let writer = format.begin(&files, options)?;
    copy(disk, writer.as_ref())?;
    writer.finish(&IdentitySeed(random().map_err(io)?))?;
    files.commit().map_err(io)
}

fn copy(disk: &dyn BlockSource, writer: &dyn ImageWriter) -> Result<()> {
    let size_bytes = disk.geometry().size_bytes;
    let unit_bytes = writer.layout().unit_bytes.max(1);
    let unit_bytes = MIN_UNIT_BYTES.next_multiple_of(unit_bytes);
    let (mut offset, mut bytes) = (0, vec![0; unit_bytes.min(size_bytes) as usize]);
    while offset < size_bytes {
        let extent = disk.extent_at(offset, size_bytes - offset)?;
        let end = offset + extent.length_bytes;
        let whole = if end == size_bytes { end } else { end - end % unit_bytes };
        if extent.kind.reads_as_zeros() && whole > offset {
            offset = whole;
            continue;
        }
        let length = unit_bytes.min(size_bytes - offset);
        let unit = &mut bytes[..length as usize];
        disk.read_at(offset, unit)?;
        let runs = runs_of(unit);
        if runs.iter().any(|run| run.kind == RunKind::Data) {
            let content = UnitContent::Bytes(unit);
            writer.store(&GuestUnit { guest_offset: offset, length_bytes: length, content, runs: &runs }, &InTurn)?;
        }
        offset += length;
    }
    Ok(())
}

fn runs_of(bytes: &[u8]) -> Vec<UnitRun> {
    let mut runs: Vec<UnitRun> = Vec::new();
    for (index, block) in bytes.chunks(BLOCK_BYTES as usize).enumerate() {
        let kind = if is_zero(block) { RunKind::Zero } else { RunKind::Data };
        let length_bytes = block.len() as u64;
        match runs.last_mut() {
            Some(last) if last.kind == kind => last.length_bytes += length_bytes,
            _ => runs.push(UnitRun { offset: index as u64 * BLOCK_BYTES, length_bytes, kind }),
        }
    }
    runs
}

/// New files, under names that nobody looks for until they are complete. What is not committed is removed.
struct NewFiles {
    folder: PathBuf,
    name: String,
    main: Arc<dyn HostFileMut>,
    /// The temporary name and the final one of each file; the first is the image's own.
    names: Mutex<Vec<(PathBuf, PathBuf)>>,
}

impl NewFiles {
    fn begin(path: &Path) -> io::Result<NewFiles> {
        let bad = || io::Error::new(io::ErrorKind::InvalidInput, "expected the name of a file");
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(bad)?.to_owned();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (main, temporary) = new_file(folder, &name)?;
        let names = Mutex::new(vec![(temporary, path.to_owned())]);
        Ok(NewFiles { folder: folder.to_owned(), name, main, names })
    }

    /// Gives the files their names, the image's own last.
    fn commit(self) -> io::Result<()> {
        let names = self.names.lock().unpoisoned();
        for (from, to) in names.iter().rev() {
            rename_to_new(from, to)?;
        }
        File::open(&self.folder)?.sync_all()
    }
}

impl Drop for NewFiles {
    fn drop(&mut self) {
        for (temporary, _) in self.names.lock().unpoisoned().iter() {
            // After a commit there is none of them.
            let _ = fs::remove_file(temporary);
        }
    }
}

impl TargetFiles for NewFiles {
    fn main(&self) -> Arc<dyn HostFileMut> {
        Arc::clone(&self.main)
    }

    fn main_name(&self) -> &str {
        &self.name
    }

    fn create(&self, name: &str) -> Result<Arc<dyn HostFileMut>> {
        let new = new_file(&self.folder, name).map_err(|cause| ImageError::io("make another file of the image", cause));
        let (file, temporary) = new?;
        let mut names = self.names.lock().unpoisoned();
        names.push((temporary, self.folder.join(name)));
        Ok(file)
    }
}

fn new_file(folder: &Path, name: &str) -> io::Result<(Arc<dyn HostFileMut>, PathBuf)> {
    if folder.join(name).symlink_metadata().is_ok() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("\"{}\" exists", name.escape_debug())));
    }
    let [a, b, c, d, ..] = random()?;
    let temporary = folder.join(format!(".{name}.{:08x}.partial", u32::from_le_bytes([a, b, c, d])));
    let file = File::options().read(true).write(true).create_new(true).open(&temporary)?;
    Ok((Arc::new(NewFile(file)), temporary))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::{Opening, info, open};
    use crate::testing::{ModelDisk, read_all};

    /// Everything that can be created, and is not meant for a pipe only, is written and read again from files.
    #[test]
    fn a_disk_goes_through_every_format() {
        let folder = tempfile::tempdir().unwrap();
        for format in crate::FORMATS.iter().filter(|format| format.create.is_some()) {
            let Some(extension) = format.extensions.first() else { continue };
            let path = folder.path().join(format!("a.{extension}"));
            let size_bytes = if format.name == "gce" { 1 << 30 } else { 5 << 20 };
            let disk = ModelDisk::random(7, size_bytes, 9, 64);
            write_as(&disk, &path, format, &CreateOptions::new(disk.geometry())).unwrap();
            let opening = Opening { format: Some(format), ..Opening::default() };
            assert_eq!(info(&path, &opening).unwrap().format, format.name);
            let found = open(&path, &opening).unwrap();
            assert_eq!(
                read_all(&found).unwrap()[..size_bytes as usize],
                read_all(&disk).unwrap()[..],
                "{}",
                format.name
            );
            let again = write(&disk, &path).unwrap_err();
            assert_eq!(again.io_cause().map(io::Error::kind), Some(io::ErrorKind::AlreadyExists), "{}", format.name);
            fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)).unwrap();
        }
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".partial")), "{left:?}");
        let disk = ModelDisk::new(1 << 20);
        assert!(write(&disk, folder.path().join("a.jpeg")).is_err());
    }
}
