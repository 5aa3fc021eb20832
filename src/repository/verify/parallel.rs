//! Many things at once, within bounds.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex};

use tintype_formats::locks::Unpoisoned as _;

use crate::error::Result;

/// Does the work for every item, by so many threads; the results are in the order of the items.
pub fn in_parallel<T: Sync, R: Send>(
    workers: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    let run = || {
        loop {
            let number = next.fetch_add(1, Relaxed);
            let Some(item) = items.get(number) else { return };
            let result = work(item);
            if result.is_err() {
                next.store(items.len(), Relaxed);
            }
            results.lock().unpoisoned().push((number, result));
        }
    };
    match workers.min(items.len()) {
        0 | 1 => run(),
        workers => std::thread::scope(|scope| (0..workers).for_each(|_| _ = scope.spawn(run))),
    }
    let mut results = results.into_inner().unpoisoned();
    results.sort_unstable_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Memory that threads share: who wants more than there is waits.
pub struct Room {
    total_bytes: u64,
    taken_bytes: Mutex<u64>,
    freed: Condvar,
}

/// Memory that is taken until this is dropped.
pub struct Taken<'a>(&'a Room, u64);

impl Room {
    /// Room for so many bytes.
    pub fn new(total_bytes: u64) -> Room {
        Room { total_bytes, taken_bytes: Mutex::new(0), freed: Condvar::new() }
    }

    /// Takes so many bytes; more than there is in all is given to one at a time.
    pub fn take(&self, bytes: u64) -> Taken<'_> {
        let mut taken = self.taken_bytes.lock().unpoisoned();
        while *taken > 0 && taken.saturating_add(bytes) > self.total_bytes {
            taken = self.freed.wait(taken).unpoisoned();
        }
        *taken += bytes;
        Taken(self, bytes)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.0.taken_bytes.lock().unpoisoned() -= self.1;
        self.0.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};

    #[test]
    fn results_are_in_order_and_the_first_failure_ends_it() {
        let items: Vec<u64> = (0..1000).collect();
        for workers in [0, 1, 7] {
            let doubled = in_parallel(workers, &items, |item| Ok(item * 2)).unwrap();
            assert!(doubled.iter().zip(&items).all(|(doubled, item)| *doubled == item * 2));
            let fails = |item: &u64| if *item == 500 { Err(Error::new(Kind::Io, "no")) } else { Ok(*item) };
            assert!(in_parallel(workers, &items, fails).is_err());
        }
        assert!(in_parallel(3, &[], |_: &u64| Ok(0)).unwrap().is_empty());
    }

    #[test]
    fn room_is_never_exceeded_and_too_much_is_given_alone() {
        let room = Room::new(100);
        let wishes: Vec<u64> = (0..200).map(|number| number % 60 + if number % 50 == 0 { 200 } else { 1 }).collect();
        in_parallel(8, &wishes, |bytes| {
            let taken = room.take(*bytes);
            let now = *room.taken_bytes.lock().unwrap();
            assert!(now <= 100 || now == *bytes, "{now}");
            drop(taken);
            Ok(())
        })
        .unwrap();
        assert_eq!(*room.taken_bytes.lock().unwrap(), 0);
    }
}
