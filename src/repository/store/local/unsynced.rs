//! Which folders a power cut could still change.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use tintype_formats::locks::Unpoisoned as _;

use crate::repository::store::name::split_name;

/// The folders in which names came or went since the last sync; the topmost is empty.
#[derive(Default)]
pub(super) struct Unsynced {
    folders: Mutex<Folders>,
}

#[derive(Default)]
struct Folders {
    touched: BTreeSet<String>,
    /// Their own names are durable, by a sync of this store object: that another process made the folder does not mean
    /// that it has made it durable.
    settled: BTreeSet<String>,
}

impl Unsynced {
    /// Notes that a name came to this folder, or went.
    pub(super) fn touch(&self, folder: &str) {
        let mut folders = self.lock();
        folders.touched.insert(folder.to_owned());
        let mut at = folder;
        while !at.is_empty() && !folders.settled.contains(at) {
            at = split_name(at).0;
            folders.touched.insert(at.to_owned());
        }
    }

    /// Takes the folders that are to be synced now.
    pub(super) fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.lock().touched)
    }

    /// Notes that these folders, all of what was taken, were synced.
    pub(super) fn settle(&self, synced: BTreeSet<String>) {
        self.lock().settled.extend(synced);
    }

    fn lock(&self) -> MutexGuard<'_, Folders> {
        self.folders.lock().unpoisoned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_synced_with_those_above_until_its_own_name_is_durable() {
        let unsynced = Unsynced::default();
        unsynced.touch("packs/3f");
        let first = unsynced.take();
        assert_eq!(first.iter().map(String::as_str).collect::<Vec<_>>(), ["", "packs", "packs/3f"]);
        unsynced.settle(first);
        unsynced.touch("packs/3f");
        unsynced.touch("packs/40");
        let second = unsynced.take();
        assert_eq!(second.iter().map(String::as_str).collect::<Vec<_>>(), ["packs", "packs/3f", "packs/40"]);
        assert!(unsynced.take().is_empty());
    }
}
