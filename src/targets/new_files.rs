//! The files of a new image: the one that the user named, and those that a format puts beside it.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use tintype_formats::local::LocalFile;
use tintype_formats::locks::Unpoisoned as _;
use tintype_formats::reference_gate::{FileReference, NoReferences, ReferenceGate, Referenced};
use tintype_formats::secrets::Secrets;
use tintype_formats::{ErrorKind, HostFileMut, ImageError, OpenFile};

use super::access::Access;
use super::image_file::ImageFile;
use crate::error::{Error, Result};

/// New files that get their names together. Dropped without [`commit`](Self::commit), none of them existed.
pub struct NewFiles {
    main: ImageFile,
    beside: Mutex<Vec<(String, ImageFile)>>,
    access: Access,
}

impl NewFiles {
    /// Begins the image's own file; fails if it exists and is not to be replaced.
    pub fn create(target: &Path, replace: bool, access: Access) -> Result<Self> {
        Ok(NewFiles { main: ImageFile::create(target, replace, access)?, beside: Mutex::new(Vec::new()), access })
    }

    /// The image's own file.
    pub fn main(&self) -> &ImageFile {
        &self.main
    }

    /// Begins another file in the same folder. An existing one is never replaced: until the image's own file gets its name,
    /// the old image needs it.
    pub fn create_beside(&self, name: &str) -> Result<Arc<dyn HostFileMut>, ImageError> {
        let doing = || format!("create the image's file \"{}\"", name.escape_debug());
        if name.contains('/') || name.starts_with('.') {
            return Err(ImageError::new(
                ErrorKind::InvalidOption,
                doing(),
                "it is not the name of a file in the same folder",
            ));
        }
        let file = ImageFile::create(&self.main.target().with_file_name(name), false, self.access)
            .map_err(|cause| ImageError::new(ErrorKind::Io, doing(), "it cannot be made").caused_by(cause))?;
        let output: Arc<dyn HostFileMut> = file.output().clone();
        self.lock().push((name.to_owned(), file));
        Ok(output)
    }

    /// A gate that finds these files under the names that they are going to have.
    pub fn gate(&self, others: Arc<dyn ReferenceGate>) -> Result<Arc<dyn ReferenceGate>> {
        let beside = self.lock();
        let open = |(name, file): &(String, ImageFile)| {
            let file = LocalFile::new(open_uncached(file.temporary_path())?);
            let file = file.map_err(|cause| Error::io("open to read back", cause))?;
            Ok(OpenFile { file: Arc::new(file), name: name.clone(), identity: None, secrets: Secrets::default() })
        };
        Ok(Arc::new(WrittenGate { files: beside.iter().map(open).collect::<Result<_>>()?, others }))
    }

    /// Gives the files their names, durably; the image's own comes last, and makes the others count.
    pub fn commit(&self) -> Result<()> {
        // Held to the end: giving the files up comes before all of them have their names, or too late.
        let beside = self.lock();
        for (_, file) in beside.iter() {
            file.commit()?;
        }
        self.main.commit()
    }

    /// Removes the files, whatever thread is writing to them; false if they have their names already.
    pub fn abandon(&self) -> bool {
        self.lock().iter().for_each(|(_, file)| _ = file.abandon());
        self.main.abandon()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(String, ImageFile)>> {
        self.beside.lock().unpoisoned()
    }
}

/// Opens a file so that it is read from the disk, past the page cache.
pub fn open_uncached(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|cause| Error::io("open to read back", cause))?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
        .map_err(|errno| Error::io("drop the page cache before reading back", errno.into()))?;
    Ok(file)
}

/// Finds files that were written but not named yet.
struct WrittenGate {
    files: Vec<OpenFile>,
    others: Arc<dyn ReferenceGate>,
}

impl ReferenceGate for WrittenGate {
    fn open(&self, reference: &FileReference) -> Result<Referenced, ImageError> {
        match self.files.iter().find(|file| reference.names.contains(&file.name)) {
            Some(file) => Ok(Referenced { file: file.clone(), gate: Arc::new(NoReferences) }),
            None => self.others.open(reference),
        }
    }
}
