//! The transmission phase: workers take requests in turn, carry them out at the same time, and reply in turn.
//!
//! The worker that has taken a request lets the next one in before it carries its own out, so that no request is handed from
//! one thread to another. Workers are hired when all others are busy.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, Scope};
use std::time::Instant;

use tintype_formats::ImageError;
use tintype_formats::locks::Unpoisoned as _;

use super::budget::Share;
use super::errno::Refusal;
use super::export::Export;
use super::handshake::{Failure, Negotiated};
use super::intake::Intake;
use super::places::Activity;
use super::request::{Agreed, Command, Request};
use super::settings::Event;
use super::shared::Shared;
use super::worker::{Reserve, WORKER_BYTES, Worker};
use crate::channel::{Channel, Socket, deadline_for, is_timeout};

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
    /// What a read goes through where the server has no memory left.
    pub(super) reserve: Mutex<Reserve>,
    /// How many workers wait for a request, or for their turn to.
    waiting: AtomicUsize,
    hired: AtomicUsize,
    activity: Arc<Activity>,
    failure: Mutex<Option<Failure>>,
}

/// What is to be written, and where it is.
pub enum Payload<'a> {
    /// In the worker's buffer, if it is anything.
    Small,
    /// In memory of the server.
    Held(Share<'a>),
    /// On the disk already, or not: nothing was left to hold it.
    PassedOn(Result<(), ImageError>),
}

impl<'a> Transmission<'a> {
    /// A connection after its handshake.
    pub fn new(negotiated: Negotiated, socket: &'a Socket, activity: Arc<Activity>, shared: &'a Shared) -> Self {
        let Negotiated { channel, export, agreed } = negotiated;
        Transmission {
            shared,
            socket,
            channel,
            export,
            agreed,
            intake: Mutex::new(Intake::new()),
            replies: Mutex::default(),
            reserve: Mutex::default(),
            waiting: AtomicUsize::new(0),
            hired: AtomicUsize::new(1),
            activity,
            failure: Mutex::default(),
        }
    }

    /// Serves the client until it goes; says why, unless it said goodbye or hung up between requests.
    pub fn run(&self) -> Option<Failure> {
        thread::scope(|scope| self.work(scope));
        self.failure.lock().unpoisoned().take()
    }

    fn work<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        let _closing = CloseOnPanic(self.socket);
        let mut worker = Worker::default();
        while let Some((request, payload)) = self.take(&mut worker) {
            self.let_next_in(scope);
            let sent = self.carry_out(&request, payload, &mut worker);
            self.activity.end();
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

    /// The next request, with what is to be written; `None` if there is none any more.
    fn take(&self, worker: &mut Worker) -> Option<(Request, Payload<'_>)> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut intake = self.intake.lock().unpoisoned();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        if intake.has_ended() {
            return None;
        }
        match self.next(&mut intake, worker) {
            Ok(Some(taken)) => {
                self.activity.begin();
                return Some(taken);
            }
            Ok(None) => {}
            Err(_) if self.is_stopping() => {}
            Err(failure) => self.fail(failure),
        }
        intake.end();
        None
    }

    fn next(&self, intake: &mut Intake, worker: &mut Worker) -> Result<Option<(Request, Payload<'_>)>, Failure> {
        let request = loop {
            if self.is_stopping() {
                return Ok(None);
            }
            let limits = self.shared.limits();
            match intake.next(&self.channel, (limits.idle, limits.request)) {
                Err(Failure::Io(cause)) if is_timeout(&cause) && intake.is_between_requests() => {
                    if !self.activity.is_busy() {
                        return Ok(None);
                    }
                }
                other => break other?,
            }
        };
        let Some(request) = request.filter(|request| request.command != Command::Disconnect) else { return Ok(None) };
        let payload = self.take_payload(&request, intake, worker)?;
        Ok(Some((request, payload)))
    }

    fn take_payload(&self, request: &Request, intake: &mut Intake, worker: &mut Worker) -> io::Result<Payload<'_>> {
        let length = request.payload_bytes() as usize;
        let deadline = deadline_for(self.shared.limits().request, length as u64);
        if length <= WORKER_BYTES {
            intake.payload(&self.channel, worker.buffer(length), deadline)?;
            return Ok(Payload::Small);
        }
        match self.share_of(length) {
            Some(mut share) => {
                share.parts_mut().try_for_each(|part| intake.payload(&self.channel, part, deadline))?;
                Ok(Payload::Held(share))
            }
            None => Ok(Payload::PassedOn(self.pass_on(request, intake, deadline)?)),
        }
    }

    /// Writes what follows a request as it comes. If that fails, or is not allowed, the rest of it is read all the same.
    fn pass_on(
        &self,
        request: &Request,
        intake: &mut Intake,
        deadline: Option<Instant>,
    ) -> io::Result<Result<(), ImageError>> {
        let disk = self.export.writable().filter(|_| request.check(&self.export, self.agreed).is_ok());
        let (mut at, mut written) = (request.offset, Ok(()));
        let mut reserve = std::mem::take(&mut intake.reserve);
        let (bytes, mut left) = (reserve.bytes(), request.payload_bytes() as usize);
        while left > 0 {
            let length = left.min(bytes.len());
            let part = bytes.get_mut(..length).unwrap_or_default();
            intake.payload(&self.channel, part, deadline)?;
            if let Some(disk) = disk.filter(|_| written.is_ok()) {
                written = disk.write_at(at, part);
                at += length as u64;
            }
            left -= length;
        }
        intake.reserve = reserve;
        Ok(written)
    }

    fn carry_out(&self, request: &Request, payload: Payload<'_>, worker: &mut Worker) -> io::Result<()> {
        if let Err(refusal) = request.check(&self.export, self.agreed) {
            return self.reply_refusal(request, &refusal, None);
        }
        match request.command {
            Command::Read => self.read(request, worker),
            Command::Write => self.write(request, payload, worker),
            Command::WriteZeroes => self.write_zeroes(request),
            Command::Trim => self.trim(request),
            Command::Cache => self.cache(request, worker),
            Command::BlockStatus => self.block_status(request),
            Command::Flush => self.flush(request),
            // Neither gets here: the first was taken for the end, the second was refused.
            Command::Disconnect | Command::Unknown(_) => Ok(()),
        }
    }

    /// Memory for so many bytes, if the server has them left.
    pub(super) fn share_of(&self, length: usize) -> Option<Share<'_>> {
        self.shared.budget().take(length)
    }

    /// Has a function use memory for so many bytes, at most a piece, or for fewer if the server has none left.
    pub(super) fn with_room<T>(&self, worker: &mut Worker, wanted: usize, act: impl FnOnce(&mut [u8]) -> T) -> T {
        if wanted <= WORKER_BYTES {
            return act(worker.buffer(wanted));
        }
        match self.share_of(wanted) {
            Some(mut share) => act(share.parts_mut().next().unwrap_or_default()),
            None => {
                let mut reserve = self.reserve.lock().unpoisoned();
                let bytes = reserve.bytes();
                let length = wanted.min(bytes.len());
                act(bytes.get_mut(..length).unwrap_or_default())
            }
        }
    }

    /// Tells whoever runs the server that the disk failed.
    pub(super) fn tell_failure(&self, refusal: &Refusal) {
        let (export, message) = (self.export.name().to_owned(), refusal.message.clone());
        self.shared.tell(Event::DiskFailed { export, message });
    }

    /// Tells the client, and whoever runs the server, that the disk failed.
    pub(super) fn disk_failed(&self, request: &Request, error: &ImageError, at: Option<u64>) -> io::Result<()> {
        let refusal = Refusal::of(error);
        self.tell_failure(&refusal);
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
        self.failure.lock().unpoisoned().get_or_insert(failure);
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
