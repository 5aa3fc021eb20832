//! What a mounted folder shows.

use std::sync::Arc;
use std::time::SystemTime;

use super::disk::DiskFile;
use super::text::Text;
use crate::error::Result;

/// Something that stands in a folder under a name.
#[derive(Clone)]
pub enum Entry {
    /// A folder.
    Folder(Arc<dyn Folder>),
    /// The bytes of a disk, or of a part of it.
    Disk(Arc<DiskFile>),
    /// A text that does not change.
    Text(Arc<Text>),
    /// A symbolic link to a name in the same folder.
    Link(String),
}

/// A folder; its names are as [`file_name`](super::file_name) makes them.
pub trait Folder: Send + Sync {
    /// What stands in it now.
    fn entries(&self) -> Result<Vec<(String, Entry)>>;

    /// What stands in it under this name. The default looks through all.
    fn entry(&self, name: &str) -> Result<Option<Entry>> {
        Ok(self.entries()?.into_iter().find(|(own, _)| own == name).map(|(_, entry)| entry))
    }

    /// When it changed last.
    fn changed(&self) -> SystemTime;

    /// Whether other names may stand in it later.
    fn changes(&self) -> bool {
        false
    }
}

/// A folder whose entries are known.
pub struct FixedFolder {
    /// Its entries.
    pub entries: Vec<(String, Entry)>,
    /// When it changed last.
    pub changed: SystemTime,
}

impl Folder for FixedFolder {
    fn entries(&self) -> Result<Vec<(String, Entry)>> {
        Ok(self.entries.clone())
    }

    fn changed(&self) -> SystemTime {
        self.changed
    }
}
