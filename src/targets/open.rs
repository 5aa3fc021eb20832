//! Opens targets by path.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;
use tintype_formats::host_file::FileIdentity;
use tintype_formats::local::LocalFile;
use tintype_formats::reference_gate::ReferenceGate;
use tintype_formats::sink::{SingleFile, TargetFiles};
use tintype_formats::{HostFile, HostFileMut, ImageError};

use super::access::Access;
use super::new_files::{NewFiles, open_uncached};
use super::output_file::OutputFile;
use super::physical_disk;
use super::standard_output::StandardOutput;
use crate::error::{Aftermath, Error, Kind, OnPath as _, Result};
use crate::sources::{
    NbdFile, NbdOptions, aliases, is_device, is_held_for_writing, is_nbd, looks_remote, sector_bytes, writers_at,
};

/// How a target is to be opened.
#[derive(Debug, Clone, Default)]
pub struct TargetOptions {
    /// Existing files and devices may be overwritten.
    pub force: bool,
    /// The target is an existing raw file or device, and its content is replaced in place.
    pub existing: bool,
    /// An existing target reads as zeros already.
    pub target_is_zero: bool,
    /// Who may open new files.
    pub access: Access,
    /// How NBD servers are talked to.
    pub nbd: NbdOptions,
}

/// An open target. Dropped before [`commit`](Self::commit), a new file leaves nothing behind.
pub struct Target {
    path: PathBuf,
    options: TargetOptions,
    kind: TargetKind,
}

enum TargetKind {
    NewFile(NewFiles),
    ExistingFile(Arc<OutputFile>),
    Device(Arc<OutputFile>),
    Export(Arc<NbdFile>),
    StandardOutput(Arc<StandardOutput>),
}

impl Target {
    /// Opens the target for a disk of `size_bytes`; `sources` are the files that must not be written to.
    pub fn open(path: &Path, size_bytes: u64, sources: &[FileIdentity], options: &TargetOptions) -> Result<Target> {
        if path == Path::new("-") {
            let kind = TargetKind::StandardOutput(Arc::new(StandardOutput::open()?));
            return Ok(Target { path: "standard output".into(), options: options.clone(), kind });
        }
        if is_nbd(path) {
            let kind = TargetKind::Export(open_export(path, size_bytes, sources, options).on_path(path)?);
            return Ok(Target { path: path.to_owned(), options: options.clone(), kind });
        }
        if looks_remote(path) {
            let message = "remote targets are not supported yet; a local name with a colon is written ./NAME";
            return Err(Error::new(Kind::Usage, message).with_path(path));
        }
        refuse_source(&aliases(path), sources).on_path(path)?;
        refuse_in_use(path)?;
        let is_device = is_device(path);
        let kind = match (is_device, options.existing) {
            (true, _) => TargetKind::Device(open_device(path, size_bytes, options.force)?),
            (false, true) => TargetKind::ExistingFile(open_existing(path, size_bytes)?),
            (false, false) => TargetKind::NewFile(NewFiles::create(path, options.force, options.access)?),
        };
        Ok(Target { path: path.to_owned(), options: options.clone(), kind })
    }

    /// The file to write to.
    pub fn file(&self) -> Arc<dyn HostFileMut> {
        match &self.kind {
            TargetKind::NewFile(files) => files.main().output().clone(),
            TargetKind::ExistingFile(file) | TargetKind::Device(file) => file.clone(),
            TargetKind::Export(export) => export.clone(),
            TargetKind::StandardOutput(output) => output.clone(),
        }
    }

    /// Whether places that are not written may hold something else than zeros.
    pub fn holds_old_data(&self) -> bool {
        self.is_in_place() && !self.options.target_is_zero
    }

    /// Whether it is written in place: its length is what it is.
    pub fn is_in_place(&self) -> bool {
        matches!(self.kind, TargetKind::ExistingFile(_) | TargetKind::Device(_) | TargetKind::Export(_))
    }

    /// The size of its logical sectors, if it is a device.
    pub fn sector_bytes(&self) -> Option<u32> {
        let TargetKind::Device(device) = &self.kind else { return None };
        sector_bytes(device.file()).ok().map(|(logical, _)| logical)
    }

    /// Whether it can only be appended to.
    pub fn is_stream(&self) -> bool {
        matches!(self.kind, TargetKind::StandardOutput(_))
    }

    /// Whether blocks of `source` can be cloned into it; tried with one block, before anything else is written.
    pub fn can_clone_from(&self, source: &dyn HostFile) -> bool {
        const TRIAL_BYTES: u64 = 4096;
        let TargetKind::NewFile(files) = &self.kind else { return false };
        let long_enough = source.len_bytes().is_ok_and(|length| length >= TRIAL_BYTES);
        let output = files.main().output();
        let cloned = long_enough && output.clone_range(source, 0, 0, TRIAL_BYTES).unwrap_or(false);
        output.set_len_bytes(0).is_ok() && cloned
    }

    /// Opens what was written for reading it back from the disk, past the page cache of this machine.
    pub fn read_back(&self) -> Result<Arc<dyn HostFile>> {
        let path = match &self.kind {
            TargetKind::NewFile(files) => files.main().temporary_path(),
            TargetKind::ExistingFile(_) => &self.path,
            TargetKind::Device(device) => return Ok(device.clone()),
            TargetKind::Export(export) => return Ok(export.clone()),
            TargetKind::StandardOutput(_) => {
                return Err(Error::new(Kind::Usage, "standard output cannot be read back to verify it"));
            }
        };
        let file = open_uncached(path).on_path(&self.path)?;
        let file = LocalFile::new(file).map_err(|cause| Error::io("open to read back", cause)).on_path(&self.path)?;
        Ok(Arc::new(file))
    }

    /// A gate that also finds the files of this image that do not have their names yet.
    pub fn gate(&self, others: Arc<dyn ReferenceGate>) -> Result<Arc<dyn ReferenceGate>> {
        match &self.kind {
            TargetKind::NewFile(files) => files.gate(others).on_path(&self.path),
            _ => Ok(others),
        }
    }

    /// Makes the target what the user sees. The file was synced before.
    pub fn commit(&self) -> Result<()> {
        match &self.kind {
            TargetKind::NewFile(files) => files.commit(),
            TargetKind::Device(device) => {
                physical_disk::announce(device);
                Ok(())
            }
            TargetKind::ExistingFile(_) | TargetKind::Export(_) | TargetKind::StandardOutput(_) => Ok(()),
        }
    }

    /// Gives the target up, whatever thread is writing to it, and says what became of it; `None` if a new file has its
    /// name already, and is whole.
    pub fn abandon(&self) -> Option<Aftermath> {
        match &self.kind {
            TargetKind::NewFile(files) => files.abandon().then_some(Aftermath::Unchanged),
            TargetKind::ExistingFile(file) | TargetKind::Device(file) if file.is_changed() => {
                Some(Aftermath::Overwritten)
            }
            TargetKind::Export(export) if export.is_changed() => Some(Aftermath::Overwritten),
            TargetKind::Export(_) => Some(Aftermath::Unchanged),
            TargetKind::StandardOutput(output) if output.is_begun() => Some(Aftermath::Streamed),
            _ => Some(Aftermath::Unchanged),
        }
    }

    /// Where the disk goes, for people.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl TargetFiles for Target {
    fn main(&self) -> Arc<dyn HostFileMut> {
        self.file()
    }

    fn main_name(&self) -> &str {
        match &self.kind {
            TargetKind::StandardOutput(_) => "disk",
            _ => self.path.file_name().and_then(|name| name.to_str()).unwrap_or("disk"),
        }
    }

    fn create(&self, name: &str) -> Result<Arc<dyn HostFileMut>, ImageError> {
        match &self.kind {
            TargetKind::NewFile(files) => files.create_beside(name),
            _ => SingleFile(self.file()).create(name),
        }
    }
}

fn refuse_source(target: &[FileIdentity], sources: &[FileIdentity]) -> Result<()> {
    if target.iter().any(|alias| sources.contains(alias)) {
        let message =
            "the target is the source, or one of the files that the source is made of, by this or another name";
        return Err(Error::new(Kind::TargetIsSource, message));
    }
    Ok(())
}

/// An export is written in place, like a device.
fn open_export(
    path: &Path,
    size_bytes: u64,
    sources: &[FileIdentity],
    options: &TargetOptions,
) -> Result<Arc<NbdFile>> {
    let (export, identity) = NbdFile::open_path(path, &options.nbd)?;
    refuse_source(&[identity], sources)?;
    if !options.force {
        let message = "it is a disk of an NBD server, and everything on it would be overwritten";
        return Err(Error::new(Kind::TargetExists, message));
    }
    if export.is_read_only() {
        return Err(Error::new(
            Kind::TargetUnfit,
            "the NBD server lets nobody write to it; \"tintype serve\" does with --overlay",
        ));
    }
    check_size(&export, path, size_bytes)?;
    Ok(Arc::new(export))
}

/// Refuses a target that another program writes to, through QEMU or a mounted loop device: it would go on writing to a file that is
/// gone, or under the new disk.
fn refuse_in_use(path: &Path) -> Result<()> {
    if let Some(user) = writers_at(path).first() {
        let message = format!("{user}; it will not be overwritten");
        return Err(Error::new(Kind::TargetBusy, message).with_path(path));
    }
    if !std::fs::metadata(path).is_ok_and(|found| found.is_file()) {
        return Ok(());
    }
    match File::open(path) {
        Ok(file) if is_held_for_writing(&file) => {
            let message = "a running machine has the target open for writing; it will not be overwritten";
            Err(Error::new(Kind::TargetBusy, message).with_path(path))
        }
        _ => Ok(()),
    }
}

fn open_device(path: &Path, size_bytes: u64, force: bool) -> Result<Arc<OutputFile>> {
    if !force {
        let message = "it is a device, and everything on it would be overwritten";
        return Err(Error::new(Kind::TargetExists, message).with_path(path));
    }
    let device = physical_disk::open(path)?;
    check_size(&device, path, size_bytes)?;
    Ok(Arc::new(device))
}

fn open_existing(path: &Path, size_bytes: u64) -> Result<Arc<OutputFile>> {
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let message = "it is neither a regular file nor a block device, and cannot be written in place";
        return Err(Error::new(Kind::TargetUnfit, message).with_path(path));
    }
    let no_link = OFlags::NOFOLLOW.bits() as i32;
    let file = File::options().read(true).write(true).custom_flags(no_link).open(path);
    let file = file.map_err(|cause| match cause.raw_os_error() {
        // Whoever may write to the link's folder chooses what is overwritten. Links to devices are names that udev makes.
        Some(errno) if errno == Errno::LOOP.raw_os_error() => Error::new(
            Kind::TargetUnfit,
            "it is a symbolic link to a file, and will not be followed; name the file itself",
        ),
        _ => Error::io("open the existing target", cause),
    });
    let file = file.on_path(path)?;
    let output = OutputFile::new(file);
    check_size(&output, path, size_bytes)?;
    Ok(Arc::new(output))
}

fn check_size(target: &dyn HostFile, path: &Path, size_bytes: u64) -> Result<()> {
    let target_bytes = target.len_bytes().map_err(|cause| Error::io("find out its size", cause)).on_path(path)?;
    if target_bytes < size_bytes {
        let message = format!("it has {target_bytes} bytes, the disk needs {size_bytes}");
        return Err(Error::new(Kind::TargetTooSmall, message).with_path(path));
    }
    Ok(())
}
