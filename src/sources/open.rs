//! Opens disks by path.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use tintype_formats::guess::{self, Gated, Guess};
use tintype_formats::layer::{Choice, ImageInfo};
use tintype_formats::local::{entry_of_folder, identity_of};
use tintype_formats::reference_gate::{NoReferences, ReferenceGate};
use tintype_formats::secrets::Secrets;
use tintype_formats::{BlockSource, Disk, ErrorKind, Format, HostFile, Image, ImageError, OpenFile, raw, registry};
use tintype_tin::disk_identity::DiskIdentity;

use super::block_device::BlockDevice;
use super::device_cache::CachedDevice;
use super::device_file::DeviceFile;
use super::identity;
use super::in_use::Watch;
use super::local::{ReferencePolicy, check_not_in_use, into_open_file};
use super::nbd_client::{NbdFile, NbdOptions, is_nbd};
use super::physical_disk::{self, PhysicalDisk};
use super::sectors::with_recognised_sectors;
use super::write_back::write_back;
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
    /// The same places are going to be read again and again, by other programs.
    pub read_repeatedly: bool,
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
    /// Ranges that could not be read when it was stored, and are zeros, ascending.
    pub unreadable: Vec<Range<u64>>,
    /// Origin of the format, if it was not stated.
    pub guess: Option<Guess>,
    /// Remarks on how it is read.
    pub remarks: Vec<String>,
    /// What it is made of, and who else uses that.
    pub watch: Watch,
    /// Identity of the part, if it is a part of a disk: facts of the disk and its own.
    pub part: Option<Box<DiskIdentity>>,
}

impl OpenedDisk {
    /// True if a part of it could not be read when it was stored.
    pub fn is_incomplete(&self) -> bool {
        !self.unreadable.is_empty()
    }

    /// What is wrong with its files without keeping them from being read.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let of_layers =
            self.layers.iter().flat_map(|(name, info)| info.warnings.iter().map(move |text| format!("{name}: {text}")));
        of_layers.chain(self.remarks.iter().cloned())
    }

    /// Says that its format is known from the content alone, if it is.
    pub fn note(&self) -> Option<String> {
        guess_note(self.layers.first().map_or("", |(name, _)| name), self.guess.as_ref())
    }
}

/// Says that an image's format is known from its content alone, if it is.
pub fn guess_note(name: &str, guess: Option<&Guess>) -> Option<String> {
    let note = guess.and_then(Guess::note)?;
    Some(format!("{name}: {note}; pass -f raw if it is a guest's own raw disk"))
}

/// Opens the disk at `path` with everything that it inherits from; `parent`, if the chain goes through it, is declared.
pub fn open_disk(path: &Path, options: &OpenOptions, parent: Option<&Path>) -> Result<OpenedDisk> {
    let format = format_named(options.format.as_deref())?;
    if is_nbd(path) {
        return open_nbd(path, options, format.unwrap_or(&raw::FORMAT)).on_path(path);
    }
    let path = &entry_of_folder(path);
    let Host { mut file, device } = open_host(path, options)?;
    file.secrets = options.secrets.clone();
    if let Some(device) = &device
        && format.is_none_or(|format| std::ptr::eq(format, &raw::FORMAT))
    {
        return open_device(file, device, path, options.choice()).on_path(path);
    }
    let gate = options.references.gate_beside(path);
    let remarks = device.iter().flat_map(|device| device.remarks(path)).collect();
    let opened = Disk::open(file.clone(), format, options.choice(), gate);
    let mut disk = opened.map_err(|cause| failed_to_open(cause, &file, format)).on_path(path)?;
    if let Some(parent) = parent {
        let metadata =
            std::fs::metadata(parent).map_err(|cause| Error::io("look at the backing file", cause)).on_path(parent)?;
        disk.declare_parent(identity_of(&metadata));
    }
    let watch = Watch::begin(path, disk.host_files()).sharing(options.references.force_share);
    Ok(OpenedDisk { remarks, watch, ..opened_image(disk)? })
}

/// Raw files, and images of most formats, say nothing of their sectors: they are those that the GPT counts.
fn opened_image(disk: Disk) -> Result<OpenedDisk> {
    let layers: Vec<_> = disk.layers().map(|(name, info)| (name.to_owned(), info.clone())).collect();
    let top = layers.first().and_then(|(_, info)| registry::by_name(info.format));
    let is_silent = top.and_then(|format| format.create.as_ref()).is_some_and(|create| !create.records_sectors);
    for (name, info) in &layers {
        tracing::info!(name, format = info.format, size_bytes = info.geometry.size_bytes, "open image");
    }
    let (snapshots, guess, unreadable) = (disk.snapshot_count(), disk.guess().copied(), disk.unreadable());
    let disk: Box<dyn BlockSource> = Box::new(disk);
    let disk = if is_silent { with_recognised_sectors(disk)? } else { disk };
    let (remarks, watch) = (Vec::new(), Watch::default());
    Ok(OpenedDisk { disk, layers, snapshots, guess, unreadable, remarks, watch, part: None })
}

fn failed_to_open(cause: ImageError, file: &OpenFile, format: Option<&'static Format>) -> Error {
    let guess = match cause.kind() {
        ErrorKind::ReferenceDenied | ErrorKind::Io if format.is_none() => Guess::of(file, registry::FORMATS),
        _ => return cause.into(),
    };
    match guess {
        // Where its beginning cannot be read, nothing tells its format.
        Err(unread) if unread.kind() == ErrorKind::Io => Error::from(cause).of_kind(Kind::UndeclaredFormat),
        guess => failed_to_follow(cause, guess.ok().as_ref()),
    }
}

/// A reference that was denied because only the content states the image's format is a failure of its own sort.
pub fn failed_to_follow(cause: ImageError, guess: Option<&Guess>) -> Error {
    let is_undeclared = guess.is_some_and(|guess| !guess.is_declared);
    match cause.kind() == ErrorKind::ReferenceDenied && is_undeclared {
        true => Error::from(cause).of_kind(Kind::UndeclaredFormat),
        false => cause.into(),
    }
}

/// What a server gives is raw like a device, unless something else is said. What an image there names is not opened.
fn open_nbd(path: &Path, options: &OpenOptions, format: &'static Format) -> Result<OpenedDisk> {
    let mut file = nbd_file(path, &options.nbd)?;
    file.secrets = options.secrets.clone();
    opened_image(Disk::open(file, Some(format), options.choice(), Arc::new(NoReferences))?)
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

fn open_device(file: OpenFile, device: &Device, path: &Path, choice: Choice<'_>) -> Result<OpenedDisk> {
    if choice.disk.is_some() {
        return Err(ImageError::no_such_disk("a device is one disk itself", &[]).into());
    }
    if let Some(snapshot) = choice.snapshot {
        return Err(ImageError::no_such_snapshot(snapshot, &[]).into());
    }
    tracing::info!(path = %path.display(), sector_bytes = ?device.sector_bytes, direct = device.is_direct, "open device");
    let disk = PhysicalDisk::new(file, device.sector_bytes)?;
    let (remarks, watch) = (device.remarks(path), Watch::begin(path, disk.host_files()));
    let disk = Box::new(disk);
    let (layers, unreadable) = (Vec::new(), Vec::new());
    Ok(OpenedDisk { disk, layers, snapshots: 0, guess: None, unreadable, remarks, watch, part: None })
}

/// Takes a file as a raw disk.
pub fn open_raw(file: OpenFile) -> Result<OpenedDisk> {
    let watch = Watch::begin(Path::new(&file.name), std::slice::from_ref(&file));
    let opened = opened_image(Disk::open(file, Some(&raw::FORMAT), Choice::default(), Arc::new(NoReferences))?)?;
    Ok(OpenedDisk { watch, ..opened })
}

/// One image file, or a disk inside of it.
pub struct OpenedImage {
    /// The file.
    pub file: OpenFile,
    /// What it holds.
    pub image: Box<dyn Image>,
    /// Origin of the format, if it was not stated.
    pub guess: Option<Guess>,
    /// The gate for the files that the image names.
    pub gate: Arc<dyn ReferenceGate>,
}

/// Opens one image file, or the disk that is chosen inside of it, without following what it names.
pub fn open_image(path: &Path, options: &OpenOptions) -> Result<OpenedImage> {
    let format = format_named(options.format.as_deref())?;
    let path = &entry_of_folder(path);
    let (mut file, is_raw) = match is_nbd(path) {
        true => (nbd_file(path, &options.nbd).on_path(path)?, true),
        false => {
            let Host { file, device } = open_host(path, options)?;
            (file, device.is_some())
        }
    };
    file.secrets = options.secrets.clone();
    let format = if is_raw { Some(format.unwrap_or(&raw::FORMAT)) } else { format };
    let gate = match is_nbd(path) {
        true => Arc::new(NoReferences),
        false => options.references.gate_beside(path),
    };
    let Gated { mut image, gate, guess } = guess::open_gated(&file, format, registry::FORMATS, gate).on_path(path)?;
    if options.disk.is_some() {
        let choice = Choice { disk: options.disk.as_deref(), snapshot: None };
        image = registry::choose_disk(image, choice, &NoReferences).on_path(path)?;
    }
    Ok(OpenedImage { file, image, guess, gate })
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

/// An open file, and what there is to know if it is a device.
struct Host {
    file: OpenFile,
    device: Option<Device>,
}

struct Device {
    sector_bytes: (u32, u32),
    is_direct: bool,
    left_out_bytes: u64,
}

impl Device {
    fn remarks(&self, path: &Path) -> Vec<String> {
        let (path, left_out_bytes, sector_bytes) = (path.display(), self.left_out_bytes, self.sector_bytes.0);
        let through_cache = (!self.is_direct).then(|| {
            format!(
                "{path}: the device refuses direct reads; it is read through the page cache, which is dropped around every \
                 read"
            )
        });
        let left_out = (left_out_bytes > 0).then(|| {
            format!(
                "{path}: the last {left_out_bytes} bytes are not a whole sector of {sector_bytes} bytes, so the system \
                 cannot read them; they are left out"
            )
        });
        through_cache.into_iter().chain(left_out).collect()
    }
}

/// Opens a regular file or block device for reading.
pub fn open_host_file(path: &Path) -> Result<OpenFile> {
    Ok(open_host(path, &OpenOptions::default())?.file)
}

fn open_host(path: &Path, options: &OpenOptions) -> Result<Host> {
    if identity::looks_remote(path) {
        let message = "remote sources are not supported yet; a local name with a colon is written ./NAME";
        return Err(Error::new(Kind::Usage, message).with_path(path));
    }
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
    check_not_in_use(&file, options.references.force_share)
        .map_err(|reason| Error::new(Kind::ImageInUse, reason))
        .on_path(path)?;
    match kind.is_block_device() {
        true => {
            let (file, device) = device_file(file, path, options.read_repeatedly).on_path(path)?;
            Ok(Host { file, device: Some(device) })
        }
        false => Ok(Host { file: into_open_file(file, path).on_path(path)?, device: None }),
    }
}

/// Takes an open device; what is still on its way to it is written back first.
fn device_file(device: File, path: &Path, read_repeatedly: bool) -> Result<(OpenFile, Device)> {
    let metadata = device.metadata().map_err(|cause| Error::io("look at the device", cause))?;
    write_back(BlockDevice(metadata.rdev()));
    let sector_bytes =
        physical_disk::sector_bytes(&device).map_err(|cause| Error::io("find out the sector size", cause))?;
    let file = DeviceFile::new(device).map_err(|cause| Error::io("open the device for direct reads", cause))?;
    let device = Device { sector_bytes, is_direct: file.is_direct(), left_out_bytes: file.left_out_bytes() };
    let file: Arc<dyn HostFile> = match read_repeatedly {
        true => Arc::new(CachedDevice::new(file).map_err(|cause| Error::io("find out the device's size", cause))?),
        false => Arc::new(file),
    };
    let (name, identity) = (path.display().to_string(), Some(identity_of(&metadata)));
    Ok((OpenFile { file, name, identity, secrets: Secrets::default() }, device))
}

/// Takes a device that is redirected to standard input as a raw disk.
pub fn open_raw_device(device: File, path: &Path) -> Result<OpenedDisk> {
    let (file, device) = device_file(device, path, false)?;
    open_device(file, &device, path, Choice::default())
}
