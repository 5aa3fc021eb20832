//! Images in files of this computer, for programs that want a disk and no more.
//!
//! ```no_run
//! use tintype_formats::local::{self, Opening};
//! use tintype_formats::{BlockSource, ImageError};
//!
//! fn main() -> Result<(), ImageError> {
//!     // An image of any format, with the backing files in its folder.
//!     let disk = local::open("web.vmdk", &Opening::default())?;
//!     let mut first = [0; 512];
//!     disk.read_at(0, &mut first)?;
//!     // The same disk in another format; the name says which.
//!     local::write(&disk, "web.qcow2")
//! }
//! ```
//!
//! An image can name other files, and whoever wrote it can have named any: a [`FolderGate`] decides which of them are opened. By
//! default only regular files in the image's own folder or below it are, and only if the image's name states its format, which a
//! guest cannot choose.
//!
//! This is the only module of the crate that opens files; all others take what they are given.

mod gate;
mod unix;
mod write;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chain::Disk;
use crate::error::{ErrorKind, ImageError, Result};
use crate::format::Format;
use crate::guess::{self, Gated};
use crate::host_file::OpenFile;
use crate::layer::{Choice, ImageInfo};
use crate::registry;
use crate::secrets::Secrets;

pub use gate::{FolderGate, ReferencePolicy};
pub use unix::{LocalFile, file_extent_at, identity_of, identity_of_device, is_device_identity};
pub use write::{write, write_as};

/// How an image is opened.
#[derive(Clone, Default)]
pub struct Opening {
    /// The format; found by content and name if `None`. State it where the image's format is known: a guest can write any
    /// header into its own raw disk.
    pub format: Option<&'static Format>,
    /// The disk, by name or number from 1, in an image that has several.
    pub disk: Option<String>,
    /// The snapshot inside the image, by id or name; the current state if `None`.
    pub snapshot: Option<String>,
    /// Which other files the image may name.
    pub references: ReferencePolicy,
    /// Whom to ask for the password of an encrypted image.
    pub secrets: Secrets,
}

impl Opening {
    fn file(&self, path: &Path) -> Result<(OpenFile, PathBuf)> {
        let path = entry_of_folder(path);
        let open = || {
            let file = unix::open(&path)?;
            match file.metadata()?.is_file() {
                true => into_open_file(file, &path),
                false => Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a regular file")),
            }
        };
        let doing = || format!("open {}", path.display().to_string().escape_debug());
        let file = open().map_err(|cause| ImageError::io(doing(), cause))?;
        Ok((OpenFile { secrets: self.secrets.clone(), ..file }, path))
    }

    fn choice(&self) -> Choice<'_> {
        Choice { disk: self.disk.as_deref(), snapshot: self.snapshot.as_deref() }
    }
}

/// Opens the disk in an image file, with every file that it inherits from.
///
/// # Errors
///
/// [`ErrorKind::ReferenceDenied`] if the image names a file that may not be opened or is not there;
/// [`ErrorKind::NotFound`] if the image has several disks, or no such disk or snapshot; [`ErrorKind::Corrupt`],
/// [`ErrorKind::Truncated`] and [`ErrorKind::Unsupported`] for what is found in the file.
pub fn open(path: impl AsRef<Path>, opening: &Opening) -> Result<Disk> {
    let (file, path) = opening.file(path.as_ref())?;
    let gate = FolderGate::beside(&path, Arc::new(opening.references.clone()));
    Disk::open(file, opening.format, opening.choice(), gate)
}

/// Says what an image file is: its format, its disk's size, its parent and so on. Opens no file that it names.
///
/// # Errors
///
/// Those of [`open`], but for those of other files.
pub fn info(path: impl AsRef<Path>, opening: &Opening) -> Result<ImageInfo> {
    let (file, path) = opening.file(path.as_ref())?;
    let policy = ReferencePolicy { deny_all: true, ..ReferencePolicy::default() };
    let gate = FolderGate::beside(&path, Arc::new(policy));
    let Gated { image, .. } = guess::open_gated(&file, opening.format, registry::FORMATS, gate)?;
    Ok(image.info().clone())
}

/// Some images are folders: a file of theirs stands for them.
pub fn entry_of_folder(path: &Path) -> PathBuf {
    let entries = registry::FORMATS.iter().filter_map(|format| format.folder_entry).map(|entry| path.join(entry));
    let entry = path.is_dir().then(|| entries.into_iter().find(|entry| entry.is_file())).flatten();
    entry.unwrap_or_else(|| path.to_owned())
}

/// Wraps an open file for the formats.
///
/// # Errors
///
/// Those of the operating system, asked for the file's length and identity.
pub fn into_open_file(file: File, path: &Path) -> io::Result<OpenFile> {
    let identity = Some(identity_of(&file.metadata()?));
    let file = Arc::new(LocalFile::new(file)?);
    Ok(OpenFile { file, name: path.display().to_string(), identity, secrets: Secrets::default() })
}

/// The format whose files have a name like this one.
fn format_of_name(path: &Path) -> Result<&'static Format> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    registry::by_file_name(name).ok_or_else(|| {
        let detail = format!("no format has files with names like \"{}\"", name.escape_debug());
        ImageError::new(ErrorKind::InvalidOption, "choose a format by the file's name", detail)
    })
}
