//! Opens disks by path.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tintype_formats::layer::{Choice, ImageInfo};
use tintype_formats::local_file::LocalFile;
use tintype_formats::reference_gate::NoReferences;
use tintype_formats::secrets::Secrets;
use tintype_formats::{BlockSource, Disk, Format, Image, ImageError, OpenFile, raw, registry};

use super::folder_gate::{FolderGate, ReferencePolicy};
use super::nbd_client::{NbdFile, NbdOptions, is_nbd};
use super::physical_disk::{self, PhysicalDisk};
use super::{identity, qemu_lock};
use crate::error::{Error, Kind, OnPath as _, Result};

/// How a disk is to be opened.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// The format's name; probed for files, raw for devices, if `None`.
    pub format: Option<String>,
    /// The disk inside a container.
    pub disk: Option<String>,
    /// The snapshot inside the image.
    pub snapshot: Option<String>,
    /// What images may name.
    pub references: ReferencePolicy,
    /// Whom to ask for the password of an encrypted image.
    pub secrets: Secrets,
    /// How NBD servers are talked to.
    pub nbd: NbdOptions,
}

impl OpenOptions {
    fn choice(&self) -> Choice<'_> {
        Choice { disk: self.disk.as_deref(), snapshot: self.snapshot.as_deref() }
    }
}

/// An open disk, and what is known about it.
pub struct OpenedDisk {
    /// The disk.
    pub disk: Box<dyn BlockSource>,
    /// Its layers, from the top down: file name and what its header says. A device has none.
    pub layers: Vec<(String, ImageInfo)>,
    /// How many snapshots there are inside the image.
    pub snapshots: usize,
}

impl OpenedDisk {
    /// What is wrong with its files without keeping them from being read.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.layers.iter().flat_map(|(name, info)| info.warnings.iter().map(move |text| format!("{name}: {text}")))
    }
}

/// Opens the disk at `path` with everything that it inherits from; `parent`, if the chain goes through it, is declared.
pub fn open_disk(path: &Path, options: &OpenOptions, parent: Option<&Path>) -> Result<OpenedDisk> {
    let format = format_named(options.format.as_deref())?;
    if is_nbd(path) {
        return open_nbd(path, options, format.unwrap_or(&raw::FORMAT)).on_path(path);
    }
    let path = &entry_of_folder(path);
    let (mut file, is_device) = open_host_file(path, options.references.force_share)?;
    file.secrets = options.secrets.clone();
    if is_device && format.is_none_or(|format| std::ptr::eq(format, &raw::FORMAT)) {
        return open_device(file, options.choice()).on_path(path);
    }
    let gate = FolderGate::beside(path, Arc::new(options.references.clone()));
    let mut disk = Disk::open(file, format, options.choice(), gate).on_path(path)?;
    if let Some(parent) = parent {
        let metadata =
            std::fs::metadata(parent).map_err(|cause| Error::io("look at the backing file", cause)).on_path(parent)?;
        disk.declare_parent(identity::of_metadata(&metadata));
    }
    let layers = disk.layers().map(|(name, info)| (name.to_owned(), info.clone())).collect();
    Ok(OpenedDisk { snapshots: disk.snapshot_count(), disk: Box::new(disk), layers })
}

/// What a server gives is raw like a device, unless something else is said. What an image there names is not opened.
fn open_nbd(path: &Path, options: &OpenOptions, format: &'static Format) -> Result<OpenedDisk> {
    let mut file = nbd_file(path, &options.nbd)?;
    file.secrets = options.secrets.clone();
    let disk = Disk::open(file, Some(format), options.choice(), Arc::new(NoReferences))?;
    let layers = disk.layers().map(|(name, info)| (name.to_owned(), info.clone())).collect();
    Ok(OpenedDisk { snapshots: disk.snapshot_count(), disk: Box::new(disk), layers })
}

fn nbd_file(path: &Path, options: &NbdOptions) -> Result<OpenFile> {
    let (file, identity) = NbdFile::open_path(path, options)?;
    let name = path.display().to_string();
    Ok(OpenFile { file: Arc::new(file), name, identity: Some(identity), secrets: Secrets::default() })
}

/// Whether a path is a disk that is there already, and is raw unless something else is said.
pub fn is_device_or_export(path: &Path) -> bool {
    physical_disk::is_device(path) || is_nbd(path)
}

/// Some images are folders: a file of theirs stands for them.
pub fn entry_of_folder(path: &Path) -> PathBuf {
    let entries = registry::FORMATS.iter().filter_map(|format| format.folder_entry).map(|entry| path.join(entry));
    let entry = path.is_dir().then(|| entries.into_iter().find(|entry| entry.is_file())).flatten();
    entry.unwrap_or_else(|| path.to_owned())
}

fn open_device(file: OpenFile, choice: Choice<'_>) -> Result<OpenedDisk> {
    if choice.disk.is_some() {
        return Err(ImageError::no_such_disk("a device is one disk itself", &[]).into());
    }
    if let Some(snapshot) = choice.snapshot {
        return Err(ImageError::no_such_snapshot(snapshot, &[]).into());
    }
    let device = file.file.as_file().ok_or_else(|| Error::new(Kind::Io, "the device is not open"))?;
    let sectors = physical_disk::sector_bytes(device).map_err(|cause| Error::io("find out the sector size", cause))?;
    Ok(OpenedDisk { disk: Box::new(PhysicalDisk::new(file, sectors)?), layers: Vec::new(), snapshots: 0 })
}

/// Takes a file as a raw disk.
pub fn open_raw(file: OpenFile) -> Result<OpenedDisk> {
    let disk = Disk::open(file, Some(&raw::FORMAT), Choice::default(), Arc::new(NoReferences))?;
    let layers = disk.layers().map(|(name, info)| (name.to_owned(), info.clone())).collect();
    Ok(OpenedDisk { snapshots: disk.snapshot_count(), disk: Box::new(disk), layers })
}

/// Opens one image file, or the disk that is chosen inside of it, without following what it names.
pub fn open_image(path: &Path, options: &OpenOptions) -> Result<(OpenFile, Box<dyn Image>)> {
    let format = format_named(options.format.as_deref())?;
    let path = &entry_of_folder(path);
    let (mut file, is_raw) = match is_nbd(path) {
        true => (nbd_file(path, &options.nbd).on_path(path)?, true),
        false => open_host_file(path, options.references.force_share)?,
    };
    file.secrets = options.secrets.clone();
    let format = if is_raw { Some(format.unwrap_or(&raw::FORMAT)) } else { format };
    let image = match options.disk.as_deref() {
        None => registry::open_image(&file, format),
        disk => registry::open_chosen(&file, format, Choice { disk, snapshot: None }, &NoReferences),
    };
    Ok((file, image.on_path(path)?))
}

/// The format of that name.
pub fn format_named(name: Option<&str>) -> Result<Option<&'static Format>> {
    let find = |name: &str| {
        registry::by_name(name).ok_or_else(|| {
            let known: Vec<_> = registry::FORMATS.iter().map(|format| format.name).collect();
            Error::new(
                Kind::Usage,
                format!("there is no format \"{}\"; there are {}", name.escape_debug(), known.join(", ")),
            )
        })
    };
    name.map(find).transpose()
}

/// Opens a regular file or block device for reading; says whether it is a device.
pub fn open_host_file(path: &Path, force_share: bool) -> Result<(OpenFile, bool)> {
    let file = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .map_err(|cause| Error::io("open for reading", cause))
        .on_path(path)?;
    let kind = file.metadata().map_err(|cause| Error::io("look at the file", cause)).on_path(path)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        let found = if kind.is_dir() { "a folder" } else { "neither a file nor a disk" };
        return Err(
            Error::new(Kind::Io, format!("it is {found}; expected an image file or a block device")).with_path(path)
        );
    }
    check_not_in_use(&file, force_share).map_err(|reason| Error::new(Kind::ImageInUse, reason)).on_path(path)?;
    Ok((into_open_file(file, path).on_path(path)?, kind.is_block_device()))
}

/// Fails if a running machine writes to the image, unless that is wanted.
pub fn check_not_in_use(file: &File, force_share: bool) -> Result<(), String> {
    if !force_share && qemu_lock::is_held_for_writing(file) {
        return Err("a running machine has the image open for writing, a copy would be torn".to_owned());
    }
    Ok(())
}

/// Wraps an open file for the formats.
pub fn into_open_file(file: File, path: &Path) -> Result<OpenFile> {
    let metadata = file.metadata().map_err(|cause| Error::io("look at the file", cause))?;
    let file = LocalFile::new(file).map_err(|cause| Error::io("find out the length", cause))?;
    let name = PathBuf::from(path).display().to_string();
    Ok(OpenFile {
        file: Arc::new(file),
        name,
        identity: Some(identity::of_metadata(&metadata)),
        secrets: Secrets::default(),
    })
}
