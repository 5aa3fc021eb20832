//! The one policy of this crate's caches: what was used least recently makes room.
//!
//! ```text
//!   newest ──► entry ◄──► entry ◄──► entry ◄── oldest        each entry names its neighbours by their places
//! ```

use std::collections::HashMap;
use std::hash::Hash;

/// The place of no entry.
const NONE: usize = usize::MAX;

/// Values that were used last, as many as have room together.
///
/// No operation goes through all of them: callers hold a lock meanwhile, for which other threads wait.
pub(crate) struct Lru<K, V> {
    places: HashMap<K, usize>,
    entries: Vec<Entry<K, V>>,
    newest: usize,
    oldest: usize,
    weight: u64,
    max_weight: u64,
}

struct Entry<K, V> {
    key: K,
    value: V,
    weight: u64,
    newer: usize,
    older: usize,
}

impl<K: Copy + Eq + Hash, V: Clone> Lru<K, V> {
    /// Has room for values of this weight together, in whatever the callers weigh them.
    pub fn new(max_weight: u64) -> Self {
        Lru { places: HashMap::new(), entries: Vec::new(), newest: NONE, oldest: NONE, weight: 0, max_weight }
    }

    /// Returns the value of a key, which counts as a use of it.
    pub fn get(&mut self, key: K) -> Option<V> {
        let place = *self.places.get(&key)?;
        // Lookups mostly go where the one before went.
        if place != self.newest {
            self.unlink(place);
            self.link_newest(place);
        }
        Some(self.entries[place].value.clone())
    }

    /// Keeps a value, in the place of the one that had this key. A value that is heavier than all may be is kept alone.
    pub fn insert(&mut self, key: K, value: V, weight: u64) {
        if let Some(place) = self.places.get(&key) {
            self.remove(*place);
        }
        while self.weight.saturating_add(weight) > self.max_weight && self.oldest != NONE {
            self.remove(self.oldest);
        }
        let place = self.entries.len();
        self.entries.push(Entry { key, value, weight, newer: NONE, older: NONE });
        self.places.insert(key, place);
        self.weight += weight;
        self.link_newest(place);
    }

    /// Removes an entry; the last one in memory takes its place.
    fn remove(&mut self, place: usize) {
        self.unlink(place);
        let entry = self.entries.swap_remove(place);
        self.places.remove(&entry.key);
        self.weight -= entry.weight;
        if let Some(moved) = self.entries.get(place) {
            let (key, newer, older) = (moved.key, moved.newer, moved.older);
            self.places.insert(key, place);
            *self.older_of(newer) = place;
            *self.newer_of(older) = place;
        }
    }

    fn unlink(&mut self, place: usize) {
        let Entry { newer, older, .. } = self.entries[place];
        *self.older_of(newer) = older;
        *self.newer_of(older) = newer;
    }

    fn link_newest(&mut self, place: usize) {
        let second = std::mem::replace(&mut self.newest, place);
        (self.entries[place].newer, self.entries[place].older) = (NONE, second);
        *self.newer_of(second) = place;
    }

    /// The link from an entry to the next older one; that from no entry leads to the newest.
    fn older_of(&mut self, place: usize) -> &mut usize {
        self.entries.get_mut(place).map_or(&mut self.newest, |entry| &mut entry.older)
    }

    /// The link from an entry to the next newer one; that from no entry leads to the oldest.
    fn newer_of(&mut self, place: usize) -> &mut usize {
        self.entries.get_mut(place).map_or(&mut self.oldest, |entry| &mut entry.newer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    #[test]
    fn what_was_used_least_recently_makes_room() {
        let mut kept = Lru::new(3);
        (1..=3).for_each(|key| kept.insert(key, key * 10, 1));
        assert_eq!(kept.get(1), Some(10));
        kept.insert(4, 40, 1);
        assert_eq!([1, 2, 3, 4].map(|key| kept.get(key)), [Some(10), None, Some(30), Some(40)]);
        kept.insert(3, 31, 2);
        assert_eq!([1, 3, 4].map(|key| kept.get(key)), [None, Some(31), Some(40)], "a key has one value");
        kept.insert(5, 50, 9);
        assert_eq!([3, 4, 5].map(|key| kept.get(key)), [None, None, Some(50)], "a heavy one is kept alone");
        assert_eq!((kept.entries.len(), kept.places.len(), kept.weight), (1, 1, 9));
    }

    #[test]
    fn any_order_of_uses_is_that_of_a_list() {
        let (mut kept, mut list) = (Lru::new(20), Vec::<(u64, u64)>::new());
        let mut random = Random(4);
        for _ in 0..5000 {
            let (key, weight) = (random.below(30), 1 + random.below(6));
            let found = list.iter().position(|(one, _)| *one == key).map(|place| list.remove(place));
            assert_eq!(kept.get(key), found.map(|(_, weight)| weight));
            if found.is_none() {
                while list.iter().map(|(_, weight)| weight).sum::<u64>() + weight > 20 {
                    list.remove(0);
                }
                kept.insert(key, weight, weight);
            }
            list.push(found.unwrap_or((key, weight)));
        }
    }
}
