//! What was heard of a machine and not yet looked at, in bounded memory: a guest can say more than anybody reads.
//!
//! Bytes of a port wait where they are while there is no room, and QEMU with them. QEMU's own events never wait, so that its
//! answers to commands, which come the same way, get through; if too many wait, further ones are dropped.

use std::collections::VecDeque;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tintype_formats::locks::Unpoisoned as _;

use super::event::Event;

/// How many bytes of ports may wait, apart from the last piece.
const MAX_BYTES: usize = 256 << 10;

/// How many events of QEMU may wait.
const MAX_EVENTS: usize = 1000;

#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    bytes: usize,
    senders: usize,
    is_closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something came, or nobody is left who sends.
    heard: Condvar,
    /// Something was taken, or nobody is left who takes.
    taken: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unpoisoned()
    }
}

/// The side that hears.
pub struct Sender(Arc<Shared>);

/// The side that looks.
pub struct Receiver(Arc<Shared>);

/// An empty inbox.
pub fn inbox() -> (Sender, Receiver) {
    let shared = Arc::new(Shared::default());
    shared.lock().senders = 1;
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl Sender {
    /// Adds an event; false if nobody looks any more. Bytes of a port wait for room.
    pub fn send(&self, event: Event) -> bool {
        let mut state = self.0.lock();
        if let Event::Serial(bytes) | Event::FirmwareLog(bytes) = &event {
            let is_full = |state: &mut State| state.bytes >= MAX_BYTES && !state.is_closed;
            state = self.0.taken.wait_while(state, is_full).unpoisoned();
            state.bytes += bytes.len();
        }
        if state.is_closed {
            return false;
        }
        let is_full = state.events.len() >= MAX_EVENTS;
        match (state.events.back_mut(), event) {
            (Some(Event::Serial(last)), Event::Serial(more)) => last.extend(more),
            (Some(Event::FirmwareLog(last)), Event::FirmwareLog(more)) => last.extend(more),
            (_, Event::Qmp(name, _)) if is_full && name != "SHUTDOWN" => {}
            (_, event) => state.events.push_back(event),
        }
        self.0.heard.notify_one();
        true
    }
}

impl Clone for Sender {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Sender(Arc::clone(&self.0))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.lock().senders -= 1;
        self.0.heard.notify_one();
    }
}

impl Receiver {
    /// Takes the next event; waits for it for at most `limit`.
    pub fn recv_timeout(&self, limit: Duration) -> Result<Event, RecvTimeoutError> {
        let deadline = Instant::now() + limit;
        let mut state = self.0.lock();
        loop {
            if let Some(event) = state.events.pop_front() {
                if let Event::Serial(bytes) | Event::FirmwareLog(bytes) = &event {
                    state.bytes -= bytes.len();
                    self.0.taken.notify_all();
                }
                return Ok(event);
            }
            if state.senders == 0 {
                return Err(RecvTimeoutError::Disconnected);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(RecvTimeoutError::Timeout);
            }
            state = self.0.heard.wait_timeout(state, left).unpoisoned().0;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.taken.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const SOON: Duration = Duration::from_millis(200);

    #[test]
    fn a_flood_waits_and_events_get_through() {
        let (sender, receiver) = inbox();
        let flood = sender.clone();
        let flooding = std::thread::spawn(move || while flood.send(Event::Serial(vec![b'x'; 4096])) {});
        std::thread::sleep(SOON);
        let waiting = receiver.0.lock().bytes;
        assert!((MAX_BYTES..MAX_BYTES + 2 * 4096).contains(&waiting), "{waiting}");
        (0..3 * MAX_EVENTS).for_each(|_| assert!(sender.send(Event::Qmp("RESET".to_owned(), Value::Null))));
        assert!(receiver.0.lock().events.len() <= MAX_EVENTS);
        assert!(matches!(receiver.recv_timeout(SOON), Ok(Event::Serial(_))));
        assert!(matches!(receiver.recv_timeout(SOON), Ok(Event::Qmp(..))));
        drop(receiver);
        flooding.join().unwrap();
        assert!(!sender.send(Event::Gone));
    }

    #[test]
    fn small_pieces_become_one_and_the_end_is_heard() {
        let (sender, receiver) = inbox();
        b"line".iter().for_each(|byte| assert!(sender.send(Event::Serial(vec![*byte]))));
        assert_eq!(receiver.recv_timeout(SOON), Ok(Event::Serial(b"line".to_vec())));
        assert_eq!(receiver.recv_timeout(SOON), Err(RecvTimeoutError::Timeout));
        drop(sender);
        assert_eq!(receiver.recv_timeout(SOON), Err(RecvTimeoutError::Disconnected));
    }
}
