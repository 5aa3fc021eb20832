//! Lets workers through one at a time, in the order of their units.

use std::sync::{Condvar, Mutex, MutexGuard};

use tintype_formats::locks::Unpoisoned as _;

/// A gate that opens for unit 0, then 1, then 2, whichever arrives first.
///
/// A worker that waits here holds one unit and takes no other, so what is in flight is bounded by the workers.
#[derive(Default)]
pub struct OrderedWindow {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    closed: bool,
}

/// The gate was closed because another unit failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

impl OrderedWindow {
    /// Waits until every unit before `index` has passed, runs `work`, and lets the next one in.
    pub fn pass<T>(&self, index: u64, work: impl FnOnce() -> T) -> Result<T, Closed> {
        let mut state = self.lock();
        while state.next != index && !state.closed {
            state = self.moved.wait(state).unpoisoned();
        }
        if state.closed {
            return Err(Closed);
        }
        drop(state);
        let result = work();
        self.lock().next = index + 1;
        self.moved.notify_all();
        Ok(result)
    }

    /// Lets nobody through any more, and wakes those who wait.
    pub fn close(&self) {
        self.lock().closed = true;
        self.moved.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unpoisoned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_pass_in_order_whoever_comes_first() {
        let window = OrderedWindow::default();
        let passed = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for index in (0..8).rev() {
                let (window, passed) = (&window, &passed);
                scope.spawn(move || window.pass(index, || passed.lock().unwrap().push(index)));
            }
        });
        assert_eq!(*passed.lock().unwrap(), (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn closing_wakes_those_who_wait() {
        let window = OrderedWindow::default();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| window.pass(5, || ()));
            window.close();
            assert_eq!(waiting.join().unwrap(), Err(Closed));
        });
    }
}
