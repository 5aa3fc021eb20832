//! A bounded cache of decoded units (compressed chunks) of one image or of several, so that readers of parts decode each
//! only once.
//!
//! Chunks do not begin where readers' buffers do: two neighbouring reads, often by two threads at once, need the same one.
//! Whoever comes second waits for the first instead of decoding it again.

use std::hash::Hash;
use std::sync::{Arc, Mutex};

use crate::error::Result;
use crate::locks::Unpoisoned as _;
use crate::lru::Lru;

/// Memory that the decoded units of one image may take, in bytes, unless one unit alone is larger: enough for a unit of
/// 1 MiB for each of sixteen threads.
const CACHE_BYTES: u64 = 16 << 20;

/// Units that are larger than this, in bytes, are decoded one at a time: many threads would otherwise take much memory.
const LARGE_UNIT_BYTES: u64 = 4 << 20;

/// Decoded units by their number; of several disks, by the disk's number and theirs.
pub struct UnitCache<K = u64> {
    slots: Mutex<Lru<K, Slot>>,
    large: Mutex<()>,
}

/// The place of a unit, empty until it is decoded.
type Slot = Arc<Mutex<Option<Arc<Vec<u8>>>>>;

impl<K: Copy + Eq + Hash> Default for UnitCache<K> {
    fn default() -> Self {
        Self::of_bytes(CACHE_BYTES)
    }
}

impl<K: Copy + Eq + Hash> UnitCache<K> {
    /// A cache that takes so much memory, unless one unit alone is larger.
    pub fn of_bytes(max_bytes: u64) -> Self {
        UnitCache { slots: Mutex::new(Lru::new(max_bytes)), large: Mutex::default() }
    }

    /// Copies what lies `skip_bytes` into unit `number` to `target`.
    ///
    /// `decode` fills a buffer of the unit's length; it is called at most once while the unit is kept, directly with
    /// `target` if that takes all of the unit.
    pub fn read(
        &self,
        number: K,
        length_bytes: u64,
        skip_bytes: u64,
        target: &mut [u8],
        decode: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        if skip_bytes == 0 && target.len() as u64 == length_bytes {
            return decode(target);
        }
        let unit = self.slot(number, length_bytes);
        let mut unit = unit.lock().unpoisoned();
        let bytes = match unit.as_ref() {
            Some(bytes) => Arc::clone(bytes),
            None => {
                let _one_at_a_time = (length_bytes > LARGE_UNIT_BYTES).then(|| self.large.lock().unpoisoned());
                let mut bytes = vec![0; length_bytes as usize];
                decode(&mut bytes)?;
                Arc::clone(unit.insert(Arc::new(bytes)))
            }
        };
        drop(unit);
        let wanted = bytes.iter().skip(skip_bytes as usize);
        target.iter_mut().zip(wanted).for_each(|(to, from)| *to = *from);
        Ok(())
    }

    /// Returns the place for a unit, which is made if there is none.
    fn slot(&self, number: K, length_bytes: u64) -> Slot {
        let mut slots = self.slots.lock().unpoisoned();
        slots.get(number).unwrap_or_else(|| {
            let slot = Slot::default();
            slots.insert(number, Arc::clone(&slot), length_bytes);
            slot
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;
    use crate::error::ImageError;

    #[test]
    fn a_unit_is_decoded_once_for_all_who_read_parts_of_it() {
        let (cache, decoded) = (UnitCache::<u64>::default(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (cache, decoded) = (&cache, &decoded);
                scope.spawn(move || {
                    for part in 0..100 {
                        let mut target = [0; 10];
                        let decode = |unit: &mut [u8]| {
                            decoded.fetch_add(1, Relaxed);
                            unit.iter_mut().enumerate().for_each(|(index, byte)| *byte = index as u8);
                            Ok(())
                        };
                        cache.read(part / 10, 200, part + thread, &mut target, decode).unwrap();
                        assert_eq!(target[9], (part + thread) as u8 + 9);
                    }
                });
            }
        });
        assert_eq!(decoded.load(Relaxed), 10);
    }

    #[test]
    fn the_oldest_goes_a_large_one_fits_and_a_failure_is_not_kept() {
        let (cache, decoded) = (UnitCache::<u64>::default(), AtomicU64::new(0));
        let read = |number, length_bytes| {
            let decode = |_: &mut [u8]| {
                decoded.fetch_add(1, Relaxed);
                Ok(())
            };
            cache.read(number, length_bytes, 1, &mut [0; 4], decode).unwrap();
        };
        (0..17).for_each(|number| read(number, 1 << 20));
        (1..17).for_each(|number| read(number, 1 << 20));
        assert_eq!(decoded.load(Relaxed), 17);
        read(0, 1 << 20);
        read(99, CACHE_BYTES + 1);
        assert_eq!(decoded.load(Relaxed), 19);
        read(1, 1 << 20);
        assert_eq!(decoded.load(Relaxed), 20, "the large one is kept alone");
        let fail = |_: &mut [u8]| Err(ImageError::corrupt("decode", "no"));
        assert!(cache.read(5, 100, 1, &mut [0; 4], fail).is_err());
        read(5, 100);
        assert_eq!(decoded.load(Relaxed), 21);
    }
}
