//! The transmission phase: workers take requests in turn, carry them out at the same time, and reply in turn.
//!
//! The worker that has taken a request lets the next one in before it carries its own out, so that no request is handed from
//! one thread to another. Workers are hired when all others are busy.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, Scope};

use tintype_formats::ImageError;

use super::budget::{Budget, Share};
use super::errno::Refusal;
use super::export::{Export, MAX_PAYLOAD_BYTES};
use super::handshake::{Failure, Negotiated};
use super::intake::Intake;
use super::lock;
use super::read::{LazyPipe, PIECE_BYTES};
use super::request::{Agreed, Command, Request};
use super::server::{Event, Shared};
use super::splice::Pipe;
use crate::channel::{Channel, Socket, is_timeout};

/// A connection that has chosen its export.
pub struct Transmission<'a> {
    shared: &'a Shared,
    socket: &'a Socket,
    pub(super) channel: Channel,
    pub(super) export: Arc<Export>,
    pub(super) agreed: Agreed,
    intake: Mutex<Intake>,
    /// Held while a message is sent.
    pub(super) replies: Mutex<()>,
    budget: Budget,
    /// How many workers wait for a request, or for their turn to.
    waiting: AtomicUsize,
    hired: AtomicUsize,
    in_flight: AtomicUsize,
    failure: Mutex<Option<Failure>>,
}

/// What a worker keeps from one request to the next.
#[derive(Default)]
pub struct Worker {
    buffer: Vec<u8>,
    pipe: LazyPipe,
}

impl Worker {
    /// Room for so many bytes, which hold anything.
    pub fn buffer(&mut self, length: usize) -> &mut [u8] {
        if self.buffer.len() < length {
            self.buffer.resize(length, 0);
        }
        self.buffer.get_mut(..length).unwrap_or_default()
    }

    /// A pipe, empty.
    pub fn pipe(&mut self) -> Option<&mut Pipe> {
        self.pipe.get()
    }

    /// Gives back what only a large request needed.
    fn shrink(&mut self) {
        if self.buffer.len() > PIECE_BYTES {
            self.buffer = Vec::new();
        }
    }
}

impl<'a> Transmission<'a> {
    /// A connection after its handshake.
    pub fn new(negotiated: Negotiated, socket: &'a Socket, shared: &'a Shared) -> Self {
        let Negotiated { channel, export, agreed } = negotiated;
        Transmission {
            shared,
            socket,
            channel,
            export,
            agreed,
            intake: Mutex::new(Intake::new()),
            replies: Mutex::default(),
            budget: Budget::new(MAX_PAYLOAD_BYTES.into()),
            waiting: AtomicUsize::new(0),
            hired: AtomicUsize::new(1),
            in_flight: AtomicUsize::new(0),
            failure: Mutex::default(),
        }
    }

    /// Serves the client until it goes; says why, unless it said goodbye or hung up between requests.
    pub fn run(&self) -> Option<Failure> {
        thread::scope(|scope| self.work(scope));
        lock(&self.failure).take()
    }

    fn work<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        let _closing = CloseOnPanic(self.socket);
        let mut worker = Worker::default();
        while let Some((request, share)) = self.take(&mut worker) {
            self.let_next_in(scope);
            let sent = self.carry_out(&request, &mut worker);
            drop(share);
            worker.shrink();
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            if let Err(cause) = sent {
                // A reply was cut: whatever follows it would be taken for its rest.
                self.fail(Failure::Io(cause));
                self.socket.close();
                return;
            }
        }
    }

    /// Has another worker take the next request, if all are busy and there may be more.
    fn let_next_in<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        let limit = self.shared.limits().requests;
        if self.waiting.load(Ordering::Relaxed) > 0 || self.hired.load(Ordering::Relaxed) >= limit {
            return;
        }
        if self.hired.fetch_add(1, Ordering::Relaxed) >= limit {
            self.hired.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let builder = thread::Builder::new().name("nbd-worker".to_owned());
        if builder.spawn_scoped(scope, || self.work(scope)).is_err() {
            // Then those that are there do it all.
            self.hired.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The next request, with the bytes to be written in the worker's buffer; `None` if there is none any more.
    fn take(&self, worker: &mut Worker) -> Option<(Request, Option<Share<'_>>)> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut intake = lock(&self.intake);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        if intake.has_ended() {
            return None;
        }
        match self.next(&mut intake, worker) {
            Ok(Some(taken)) => {
                self.in_flight.fetch_add(1, Ordering::Relaxed);
                return Some(taken);
            }
            Ok(None) => {}
            Err(_) if self.is_stopping() => {}
            Err(failure) => self.fail(failure),
        }
        intake.end();
        None
    }

    fn next(&self, intake: &mut Intake, worker: &mut Worker) -> Result<Option<(Request, Option<Share<'_>>)>, Failure> {
        let request = loop {
            if self.is_stopping() {
                return Ok(None);
            }
            match intake.next(&self.channel) {
                Err(Failure::Io(cause)) if is_timeout(&cause) && self.in_flight.load(Ordering::Relaxed) > 0 => {}
                Err(Failure::Io(cause)) if is_timeout(&cause) && intake.is_between_requests() => return Ok(None),
                other => break other?,
            }
        };
        let Some(request) = request.filter(|request| request.command != Command::Disconnect) else { return Ok(None) };
        let share = self.share_of(request.payload_bytes());
        let payload = worker.buffer(request.payload_bytes() as usize);
        intake.payload(&self.channel, payload)?;
        Ok(Some((request, share)))
    }

    fn carry_out(&self, request: &Request, worker: &mut Worker) -> io::Result<()> {
        if let Err(refusal) = request.check(&self.export, self.agreed) {
            return self.reply_refusal(request, &refusal, None);
        }
        match request.command {
            Command::Read => self.read(request, worker),
            Command::Write => self.write(request, worker.buffer(request.payload_bytes() as usize)),
            Command::WriteZeroes => self.write_zeroes(request),
            Command::Trim => self.trim(request),
            Command::Cache => self.cache(request, worker),
            Command::BlockStatus => self.block_status(request),
            Command::Flush => self.flush(request),
            // Neither gets here: the first was taken for the end, the second was refused.
            Command::Disconnect | Command::Unknown(_) => Ok(()),
        }
    }

    /// A part of the connection's memory, for what does not fit into the buffer that each worker keeps.
    pub(super) fn share_of(&self, length_bytes: u32) -> Option<Share<'_>> {
        (length_bytes as usize > PIECE_BYTES).then(|| self.budget.take(length_bytes.into()))
    }

    /// Tells the client, and whoever runs the server, that the disk failed.
    pub(super) fn disk_failed(&self, request: &Request, error: &ImageError, at: Option<u64>) -> io::Result<()> {
        let refusal = Refusal::of(error);
        let (export, message) = (self.export.name().to_owned(), refusal.message.clone());
        self.shared.tell(Event::DiskFailed { export, message });
        self.reply_refusal(request, &refusal, at)
    }

    pub(super) fn count_read(&self, bytes: usize) {
        self.shared.count_read(bytes as u64);
    }

    pub(super) fn count_written(&self, bytes: usize) {
        self.shared.count_written(bytes as u64);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.shared.is_stopping()
    }

    fn fail(&self, failure: Failure) {
        lock(&self.failure).get_or_insert(failure);
    }
}

/// A request that panicked is never answered: its client is not to wait for that.
struct CloseOnPanic<'a>(&'a Socket);

impl Drop for CloseOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.close();
        }
    }
}
