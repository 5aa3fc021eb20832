//! Numbers of what the kernel has seen: the same place has the same number as long as it is mounted.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::sync::{Arc, Mutex, MutexGuard};

use tintype_formats::locks::Unpoisoned as _;

use super::tree::{Entry, Folder};

/// The number of the mounted folder itself, by the protocol.
const ROOT: u64 = 1;

/// Entries by their numbers.
///
/// A number is never used for another place: what the kernel forgets, programs may still name. There is one for every name
/// that was ever listed, which are few: a snapshot has about six.
pub(super) struct Inodes(Mutex<Table>);

struct Table {
    entries: HashMap<u64, Entry>,
    by_place: HashMap<(u64, String), u64>,
    parents: HashMap<u64, u64>,
}

impl Inodes {
    pub(super) fn new(root: Arc<dyn Folder>) -> Self {
        let entries = HashMap::from([(ROOT, Entry::Folder(root))]);
        Inodes(Mutex::new(Table { entries, by_place: HashMap::new(), parents: HashMap::new() }))
    }

    /// What has this number.
    pub(super) fn get(&self, number: u64) -> Option<Entry> {
        self.lock().entries.get(&number).cloned()
    }

    /// The number of the folder that this one stands in.
    pub(super) fn parent(&self, number: u64) -> u64 {
        self.lock().parents.get(&number).copied().unwrap_or(ROOT)
    }

    /// The number of what stands in a folder under this name, which is `entry` now.
    pub(super) fn number(&self, parent: u64, name: &str, entry: &Entry) -> u64 {
        let table = &mut *self.lock();
        let next = table.entries.len() as u64 + ROOT;
        let number = match table.by_place.entry((parent, name.to_owned())) {
            Occupied(known) => *known.get(),
            Vacant(place) => *place.insert(next),
        };
        table.entries.insert(number, entry.clone());
        table.parents.insert(number, parent);
        number
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unpoisoned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::tree::FixedFolder;
    use super::*;

    #[test]
    fn a_place_keeps_its_number_and_gets_what_stands_there_now() {
        let inodes = Inodes::new(Arc::new(FixedFolder { entries: Vec::new(), changed: SystemTime::UNIX_EPOCH }));
        let link = |to: &str| Entry::Link(to.to_owned());
        let first = inodes.number(ROOT, "latest", &link("a"));
        let other = inodes.number(ROOT, "other", &link("a"));
        assert_eq!([first, other], [2, 3]);
        assert_eq!(inodes.number(ROOT, "latest", &link("b")), first);
        assert!(matches!(inodes.get(first), Some(Entry::Link(to)) if to == "b"));
        assert_eq!(inodes.number(first, "latest", &link("c")), 4);
        assert_eq!((inodes.parent(4), inodes.parent(first)), (first, ROOT));
        assert!(inodes.get(5).is_none());
    }
}
