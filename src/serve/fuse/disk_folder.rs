//! The folders that show disks.

use std::sync::Arc;
use std::time::SystemTime;

use tintype_volumes::partitions::Partition;

use super::disk::{LazyDisk, partition_file};
use super::names::file_name;
use super::tree::{Entry, FixedFolder, Folder};
use crate::error::Result;

/// The folder of one disk.
struct DiskFolder(Arc<LazyDisk>);

impl DiskFolder {
    fn file(&self, begin: u64, size_bytes: u64) -> Entry {
        Entry::Disk(self.0.file(begin, size_bytes))
    }

    fn whole(&self) -> Entry {
        self.file(0, self.0.size_bytes())
    }
}

impl Folder for DiskFolder {
    fn entries(&self) -> Result<Vec<(String, Entry)>> {
        let parts = self.0.parts();
        let of_partition =
            |partition: &Partition| (partition_file(partition), self.file(partition.begin, partition.size_bytes));
        let mut entries = vec![("disk.raw".to_owned(), self.whole())];
        entries.extend(parts.partitions.iter().map(of_partition));
        entries.push(("info.json".to_owned(), Entry::Text(Arc::clone(&parts.info))));
        Ok(entries)
    }

    fn entry(&self, name: &str) -> Result<Option<Entry>> {
        match name {
            // Without a look at the disk.
            "disk.raw" => Ok(Some(self.whole())),
            _ if !name.ends_with(".raw") && name != "info.json" => Ok(None),
            _ => Ok(self.entries()?.into_iter().find(|(own, _)| own == name).map(|(_, entry)| entry)),
        }
    }

    fn changed(&self) -> SystemTime {
        self.0.changed()
    }

    fn changes(&self) -> bool {
        // As long as the partitions are not known.
        !self.0.is_known()
    }
}

/// The folder of these disks: of one, what it has; of several, a folder for each by its name.
pub fn folder_of(mut disks: Vec<Arc<LazyDisk>>) -> Arc<dyn Folder> {
    if disks.len() == 1
        && let Some(disk) = disks.pop()
    {
        return Arc::new(DiskFolder(disk));
    }
    let changed = disks.iter().map(|disk| disk.changed()).max().unwrap_or(SystemTime::UNIX_EPOCH);
    let mut entries: Vec<(String, Entry)> = Vec::new();
    for (index, disk) in disks.into_iter().enumerate() {
        let name = file_name(disk.name());
        let is_taken = entries.iter().any(|(other, _)| *other == name);
        let name = if is_taken { format!("{name}%{}", index + 1) } else { name };
        entries.push((name, Entry::Folder(Arc::new(DiskFolder(disk)))));
    }
    Arc::new(FixedFolder { entries, changed })
}
