//! Several connections to one export, made again when they are lost.
//!
//! Reads are asked again on a new connection, for a limited time. A write is too, as long as it is the same bytes at the same
//! place. But what the server had answered before the connection was lost, and had not flushed, may be lost with it (the
//! server may have been started anew): only a flush on the very connection that the writes went through proves that it was
//! not. So from then on every write and flush fails.

use std::io;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tintype_formats::locks::Unpoisoned as _;

use super::answer::StatusRun;
use super::connection::{Connection, Failed};
use super::handshake::Export;
use super::wire::Request;
use crate::nbd_protocol;

/// How many connections are made to a server that allows several.
const CONNECTIONS: usize = 4;

/// How long another connection than the first may take, and how long one attempt may at least.
const EXTRA_CONNECTION: Duration = Duration::from_secs(3);

/// Makes a connection; gives up at a time.
pub type Connector = Arc<dyn Fn(Instant) -> io::Result<Connection> + Send + Sync>;

/// The connections to an export.
pub struct Pool {
    connector: Connector,
    export: Export,
    /// How long to try for a new connection in the place of a lost one.
    patience: Duration,
    slots: Vec<Mutex<Option<Arc<Connection>>>>,
    /// How many slots are used.
    used: AtomicUsize,
    next: AtomicUsize,
    flushing: Mutex<()>,
    /// Whether writes were lost, or may be.
    is_uncertain: AtomicBool,
    /// When the server was given up last, and why: requests that wait since before then are given up with it.
    given_up: Mutex<Option<(Instant, String)>>,
}

/// How long is tried, and how often.
struct Patience {
    deadline: Instant,
    pause: Duration,
}

impl Patience {
    /// Patience of a request that began then. One that waited for an answer all the time has little left.
    fn since(began: Instant, limit: Duration) -> Self {
        let deadline = (began + limit).max(Instant::now() + EXTRA_CONNECTION.min(limit));
        Patience { deadline, pause: Duration::from_millis(50) }
    }

    /// Waits before the next try; false if there is to be none.
    fn wait(&mut self) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        std::thread::sleep(self.pause.min(left));
        self.pause = (self.pause * 2).min(Duration::from_secs(2));
        true
    }
}

impl Pool {
    /// Makes the first connection, at once or not at all; others come later, if the server wants them.
    pub fn open(connector: Connector, patience: Duration) -> io::Result<Arc<Self>> {
        let first = connector(Instant::now() + patience)?;
        let export = *first.export();
        let slots: Vec<_> = (0..CONNECTIONS).map(|_| Mutex::new(None)).collect();
        *slots[0].lock().unpoisoned() = Some(Arc::new(first));
        let pool = Arc::new(Pool {
            connector,
            export,
            patience,
            slots,
            used: AtomicUsize::new(1),
            next: AtomicUsize::new(0),
            flushing: Mutex::new(()),
            is_uncertain: AtomicBool::new(false),
            given_up: Mutex::default(),
        });
        if export.flags & nbd_protocol::export_flag::CAN_MULTI_CONN != 0 {
            let (connector, pool) = (Arc::clone(&pool.connector), Arc::downgrade(&pool));
            std::thread::spawn(move || add_connections(&connector, &pool));
        }
        Ok(pool)
    }

    /// What the server said of the disk.
    pub fn export(&self) -> &Export {
        &self.export
    }

    /// Fills the buffer, which is no longer than a request may be.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.retrying(&mut |connection| connection.read(offset, buffer))
    }

    /// Asks what a range is.
    pub fn block_status(&self, offset: u64, length_bytes: u32) -> io::Result<Vec<StatusRun>> {
        let mut runs = Vec::new();
        self.retrying(&mut |connection| {
            runs = connection.block_status(offset, length_bytes)?;
            Ok(())
        })?;
        Ok(runs)
    }

    /// Writes bytes or zeros.
    pub fn change(&self, request: &Request, payload: &[u8]) -> io::Result<()> {
        self.check_certain()?;
        self.retrying(&mut |connection| connection.change(request, payload))?;
        self.check_certain()
    }

    /// Has the server make everything durable that was written before.
    pub fn flush(&self) -> io::Result<()> {
        let _turn = self.flushing.lock().unpoisoned();
        for slot in &self.slots {
            let connection = slot.lock().unpoisoned().clone();
            match connection.map(|connection| connection.flush()) {
                None | Some(Ok(())) => {}
                Some(Err(Failed::Lost(_))) => self.is_uncertain.store(true, Release),
                Some(Err(Failed::Server(cause))) => {
                    self.is_uncertain.store(true, Release);
                    return Err(cause);
                }
            }
        }
        self.check_certain()
    }

    fn check_certain(&self) -> io::Result<()> {
        match self.is_uncertain.load(Acquire) {
            false => Ok(()),
            true => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the connection to the NBD server was lost, or a flush failed, before all that was written was flushed: \
                 some of it may be missing there",
            )),
        }
    }

    /// Asks until there is an answer, on a new connection where the last one was lost.
    fn retrying(&self, ask: &mut dyn FnMut(&Connection) -> Result<(), Failed>) -> io::Result<()> {
        let began = Instant::now();
        let slot = self.next.fetch_add(1, Relaxed) % self.used.load(Acquire);
        let mut patience = None;
        loop {
            let connection = self.connection(slot, began, &mut patience)?;
            let why = match ask(&connection) {
                Ok(()) => return Ok(()),
                Err(Failed::Server(cause)) => return Err(cause),
                Err(Failed::Lost(why)) => why,
            };
            // The connection that is lost now may be the one that proves what was written.
            if connection.unflushed() > 0 {
                self.is_uncertain.store(true, Release);
            }
            self.check_given_up(began)?;
            if !patience.get_or_insert_with(|| Patience::since(began, self.patience)).wait() {
                return Err(self.give_up(&why));
            }
        }
    }

    /// Gives the server up, for all requests that wait for it.
    fn give_up(&self, why: &str) -> io::Error {
        *self.given_up.lock().unpoisoned() = Some((Instant::now(), why.to_owned()));
        gone(why, self.patience)
    }

    /// Fails if the server was given up since a request began.
    fn check_given_up(&self, began: Instant) -> io::Result<()> {
        match &*self.given_up.lock().unpoisoned() {
            Some((when, why)) if *when >= began => Err(gone(why, self.patience)),
            _ => Ok(()),
        }
    }

    /// The connection of a slot, made anew if it is lost.
    fn connection(&self, slot: usize, began: Instant, patience: &mut Option<Patience>) -> io::Result<Arc<Connection>> {
        let mut held = self.slots[slot].lock().unpoisoned();
        match held.as_ref() {
            Some(connection) if !connection.is_lost() => return Ok(connection.clone()),
            Some(lost) if lost.unflushed() > 0 => self.is_uncertain.store(true, Release),
            _ => {}
        }
        let patience = patience.get_or_insert_with(|| Patience::since(began, self.patience));
        loop {
            self.check_given_up(began)?;
            match (self.connector)(patience.deadline.max(Instant::now() + EXTRA_CONNECTION)) {
                Ok(connection) if *connection.export() == self.export => {
                    return Ok(held.insert(Arc::new(connection)).clone());
                }
                Ok(_) => {
                    let message = "the NBD server was lost, and is back with another disk of that name";
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, message));
                }
                Err(cause) if !patience.wait() => return Err(self.give_up(&cause.to_string())),
                Err(_) => {}
            }
        }
    }
}

/// Fills the other slots. Some servers let a connection too many wait for ever: nobody waits for it here.
fn add_connections(connector: &Connector, pool: &Weak<Pool>) {
    for slot in 1..CONNECTIONS {
        let Ok(connection) = connector(Instant::now() + EXTRA_CONNECTION) else { return };
        let Some(pool) = pool.upgrade() else { return };
        if *connection.export() != pool.export {
            return;
        }
        *pool.slots[slot].lock().unpoisoned() = Some(Arc::new(connection));
        pool.used.store(slot + 1, Release);
    }
}

fn gone(why: &str, patience: Duration) -> io::Error {
    let message = format!("the NBD server was lost, and not back within {} s: {why}", patience.as_secs());
    io::Error::new(io::ErrorKind::ConnectionAborted, message)
}
