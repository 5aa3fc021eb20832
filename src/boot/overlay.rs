//! The qcow2 file that takes what the machine writes, over a disk that is never written to.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tintype_formats::sink::{CreateOptions, IdentitySeed, ParentLink, SingleFile};
use tintype_formats::{Geometry, qcow2};

use crate::error::{Error, Kind, OnPath as _, Result};
use crate::sources::{self, OpenOptions, nbd_uri_part};
use crate::targets::OutputFile;

/// The disk below, as the overlay names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// A path, or the URI of an NBD export.
    pub name: String,
    /// Its format.
    pub format: String,
}

impl Parent {
    /// The export of this name at this socket.
    pub fn export(name: &str, socket: &Path) -> Parent {
        let socket = nbd_uri_part(socket.to_string_lossy().as_bytes());
        Parent {
            name: format!("nbd+unix:///{}?socket={socket}", nbd_uri_part(name.as_bytes())),
            format: "raw".to_owned(),
        }
    }
}

/// An overlay that a machine can be started on.
#[derive(Debug)]
pub struct Overlay {
    /// Open for reading and writing.
    file: File,
    /// Its name, if it is kept.
    path: Option<PathBuf>,
}

impl Overlay {
    /// An overlay without a name: it goes with the last process that has it open, however that ends.
    pub fn temporary(geometry: Geometry, parent: &Parent) -> Result<Overlay> {
        let folder = temporary_folder();
        let file = tempfile::tempfile_in(&folder)
            .map_err(|cause| Error::io("create a temporary file for what the machine writes", cause))
            .on_path(&folder)?;
        write_empty(&file, geometry, parent).on_path(&folder)?;
        Ok(Overlay { file, path: None })
    }

    /// A new overlay of this name.
    pub fn create(path: &Path, geometry: Geometry, parent: &Parent) -> Result<Overlay> {
        let created = File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = created.map_err(|cause| Error::io("create", cause)).on_path(path)?;
        if let Err(cause) = write_empty(&file, geometry, parent).on_path(path) {
            // What is half an overlay is none.
            let _ = std::fs::remove_file(path);
            return Err(cause);
        }
        Ok(Overlay { file, path: Some(path.to_owned()) })
    }

    /// An overlay that was kept, if it is one over this disk.
    pub fn open(path: &Path, geometry: Geometry, parent: &Parent) -> Result<Overlay> {
        let options = OpenOptions { format: Some("qcow2".to_owned()), ..OpenOptions::default() };
        let image = sources::open_image(path, &options)?.image;
        let found = image.parent().and_then(|parent| parent.names.first());
        if found != Some(&parent.name) {
            let found = found.map_or("no disk".to_owned(), |name| format!("\"{}\"", name.escape_debug()));
            let message = format!("it is an overlay over {found}, not over \"{}\"", parent.name.escape_debug());
            return Err(Error::new(Kind::Usage, message).with_path(path));
        }
        let (size, expected) = (image.info().geometry.size_bytes, rounded(geometry).size_bytes);
        if size != expected {
            let message = format!("it is an overlay over a disk of {expected} bytes, and says {size}");
            return Err(Error::new(Kind::Usage, message).with_path(path));
        }
        let opened = File::options().read(true).write(true).open(path);
        let file = opened.map_err(|cause| Error::io("open for writing", cause)).on_path(path)?;
        Ok(Overlay { file, path: Some(path.to_owned()) })
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether it outlives the machine.
    pub fn is_kept(&self) -> bool {
        self.path.is_some()
    }
}

/// A qcow2 file that has nothing but its parent.
fn write_empty(file: &File, geometry: Geometry, parent: &Parent) -> Result<()> {
    let file = file.try_clone().map_err(|cause| Error::io("open the overlay once more", cause))?;
    let geometry = rounded(geometry);
    let link = ParentLink {
        name: parent.name.clone(),
        format: parent.format.clone(),
        identity: None,
        size_bytes: geometry.size_bytes,
    };
    let options = CreateOptions { parent: Some(link), ..CreateOptions::new(geometry) };
    let target = SingleFile(Arc::new(OutputFile::new(file)));
    let create = qcow2::FORMAT.create.as_ref();
    let create = create.ok_or_else(|| Error::new(Kind::Io, "this program cannot create qcow2 files"))?;
    let writer = (create.begin)(&target, &options)?;
    Ok(writer.finish(&IdentitySeed([0; 32]))?)
}

/// Disks of machines are whole sectors.
fn rounded(geometry: Geometry) -> Geometry {
    Geometry { size_bytes: geometry.size_bytes.next_multiple_of(512), ..geometry }
}

/// Where there is room for large files: /tmp may be memory.
fn temporary_folder() -> PathBuf {
    let said = std::env::var_os("TMPDIR").filter(|value| !value.is_empty()).map(PathBuf::from);
    let large = PathBuf::from("/var/tmp");
    said.unwrap_or_else(|| if large.is_dir() { large } else { std::env::temp_dir() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_overlay_is_taken_again_over_the_same_disk_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept.qcow2");
        let geometry = Geometry::of_512_byte_sectors((1 << 20) + 100, 512);
        let parent = Parent::export("a disk", Path::new("/a/b?c"));
        assert_eq!(parent.name, "nbd+unix:///a%20disk?socket=/a/b%3Fc");
        Overlay::create(&path, geometry, &parent).unwrap();
        assert!(Overlay::create(&path, geometry, &parent).is_err());
        Overlay::open(&path, geometry, &parent).unwrap();
        let other = Parent { name: "other.raw".to_owned(), format: "raw".to_owned() };
        let message = Overlay::open(&path, geometry, &other).unwrap_err().to_string();
        assert!(message.contains("not over \"other.raw\""), "{message}");
        let larger = Geometry { size_bytes: 2 << 20, ..geometry };
        assert!(Overlay::open(&path, larger, &parent).is_err());
    }
}
