//! One connection with many requests on their way.
//!
//! There is no thread of its own. Whoever waits for an answer while nobody reads becomes the reader: it reads the beginning of
//! the next answer, and gives the connection to the thread that the answer is for, which reads the rest into its own buffer.
//! A connection that breaks is lost for all; what it means for them is decided in `pool`.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tintype_formats::locks::Unpoisoned as _;

use super::answer::{Answer, Progress, StatusRun};
use super::handshake::Export;
use super::transport::read_exact;
use super::wire::{self, Command, Fields, Reply, Request, broken};
use crate::channel::Channel;
use crate::nbd_protocol;

/// The longest list of ranges that is read in one answer: 8 bytes each.
const MAX_STATUS_BYTES: u32 = 1 << 20;

/// The longest message of an error that is read.
const MAX_MESSAGE_BYTES: u32 = 4096 + 32;

/// How many bytes have to come in the time that a server may be silent, unless a request is answered in full.
const LEAST_BYTES: usize = 64 << 10;

/// How many times as long a request may wait in all, while the server answers others.
const MOST_PERIODS: u32 = 20;

/// Why a request has no result.
#[derive(Debug)]
pub enum Failed {
    /// The server refused.
    Server(io::Error),
    /// The connection is gone, and whether the server did what it was asked is unknown.
    Lost(String),
}

/// A connection to an export.
pub struct Connection {
    channel: Channel,
    export: Export,
    /// How long the server may be silent while a read waits.
    patience: Duration,
    sending: Mutex<()>,
    state: Mutex<State>,
}

struct State {
    next_cookie: u64,
    waiting: BTreeMap<u64, Waiting>,
    reader: Reader,
    /// What happened to the connection, if it is lost.
    lost: Option<String>,
    /// Writes that succeeded since the last flush began.
    unflushed: u64,
    /// When the server was last found to keep up the pace, and how many bytes came since.
    period_began: Instant,
    came_bytes: usize,
}

struct Waiting {
    wake: Arc<Condvar>,
    /// Whether its thread sleeps, and could read in the place of another. One that is still sending could not.
    is_idle: bool,
    since: Instant,
    is_read: bool,
}

impl State {
    fn set_idle(&mut self, cookie: u64, is_idle: bool) {
        if let Some(waiting) = self.waiting.get_mut(&cookie) {
            waiting.is_idle = is_idle;
        }
    }
}

#[derive(Clone, Copy)]
enum Reader {
    Nobody,
    Somebody,
    /// The begin of an answer was read, and the request with this cookie is to read the rest.
    For(u64, Reply),
}

impl Connection {
    /// Takes a connection on which an export was agreed.
    pub fn new(channel: Channel, export: Export, patience: Duration) -> Self {
        let state = State {
            next_cookie: 0,
            waiting: BTreeMap::new(),
            reader: Reader::Nobody,
            lost: None,
            unflushed: 0,
            period_began: Instant::now(),
            came_bytes: 0,
        };
        Connection { channel, export, patience, sending: Mutex::default(), state: Mutex::new(state) }
    }

    /// What the server said of the disk.
    pub fn export(&self) -> &Export {
        &self.export
    }

    /// Fills the buffer, which is no longer than a request may be.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Failed> {
        let request = Request { command: Command::Read, offset, length_bytes: buffer.len() as u32 };
        self.call(&request, &[], Answer::Bytes(buffer))
    }

    /// Asks what a range is.
    pub fn block_status(&self, offset: u64, length_bytes: u32) -> Result<Vec<StatusRun>, Failed> {
        let mut runs = Vec::new();
        let request = Request { command: Command::BlockStatus, offset, length_bytes };
        self.call(&request, &[], Answer::Status(&mut runs))?;
        Ok(runs)
    }

    /// Writes bytes or zeros; until the next flush this connection is the only witness that the server still has them.
    ///
    /// Also says whether the connection was lost meanwhile: then there is no such witness.
    pub fn change(&self, request: &Request, payload: &[u8]) -> Result<(), Failed> {
        self.call(request, payload, Answer::Nothing)?;
        let mut state = self.lock();
        state.unflushed += 1;
        match &state.lost {
            Some(why) => Err(Failed::Lost(why.clone())),
            None => Ok(()),
        }
    }

    /// Has the server make everything durable that was written here before.
    pub fn flush(&self) -> Result<(), Failed> {
        let before = self.unflushed();
        if before == 0 {
            return Ok(());
        }
        if self.export.flags & nbd_protocol::export_flag::SEND_FLUSH != 0 {
            self.call(&Request { command: Command::Flush, offset: 0, length_bytes: 0 }, &[], Answer::Nothing)?;
        } else {
            // Such a server has nothing to flush; that it is still the same one is all there is to know.
            self.read(0, &mut vec![0; self.export.min_bytes as usize])?;
        }
        self.lock().unflushed -= before;
        Ok(())
    }

    /// How many writes succeeded here that no flush has made durable.
    pub fn unflushed(&self) -> u64 {
        self.lock().unflushed
    }

    /// Whether the connection is gone.
    pub fn is_lost(&self) -> bool {
        self.lock().lost.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unpoisoned()
    }

    /// Sends a request and reads its answer.
    fn call(&self, request: &Request, payload: &[u8], mut answer: Answer<'_>) -> Result<(), Failed> {
        let (cookie, wake) = self.announce(request)?;
        if let Err(cause) = self.send(request, cookie, payload) {
            return Err(self.lose(&cause));
        }
        let mut progress = Progress::new(*request, self.export);
        loop {
            let reply = self.next_reply(cookie, &wake)?;
            match self.take(reply, &mut progress, &mut answer) {
                Ok(true) => break,
                Ok(false) => self.lock().reader = Reader::Nobody,
                Err(cause) => return Err(self.lose(&cause)),
            }
        }
        let ended = progress.end(&answer);
        self.leave(cookie);
        match ended {
            Ok(None) => Ok(()),
            Ok(Some((nbd_protocol::errno::SHUTDOWN, _))) => {
                Err(self.lose(&io::Error::other("the server is shutting down")))
            }
            Ok(Some((number, message))) => Err(Failed::Server(wire::server_error(number, &message))),
            Err(cause) => Err(self.lose(&cause)),
        }
    }

    fn announce(&self, request: &Request) -> Result<(u64, Arc<Condvar>), Failed> {
        let mut state = self.lock();
        if let Some(why) = &state.lost {
            return Err(Failed::Lost(why.clone()));
        }
        let (cookie, wake) = (state.next_cookie, Arc::new(Condvar::new()));
        state.next_cookie += 1;
        let is_read = matches!(request.command, Command::Read | Command::BlockStatus);
        if state.waiting.is_empty() {
            (state.came_bytes, state.period_began) = (0, Instant::now());
        }
        state.waiting.insert(cookie, Waiting { wake: wake.clone(), is_idle: false, since: Instant::now(), is_read });
        Ok((cookie, wake))
    }

    fn send(&self, request: &Request, cookie: u64, payload: &[u8]) -> io::Result<()> {
        let _turn = self.sending.lock().unpoisoned();
        self.channel.write_all(&mut [IoSlice::new(&request.encode(cookie)), IoSlice::new(payload)])
    }

    /// Waits for the beginning of an answer to this request, and reads those of others meanwhile if nobody else does. The
    /// caller is the reader then.
    fn next_reply(&self, cookie: u64, wake: &Condvar) -> Result<Reply, Failed> {
        let mut state = self.lock();
        loop {
            if let Some(why) = &state.lost {
                return Err(Failed::Lost(why.clone()));
            }
            match state.reader {
                Reader::For(wanted, reply) if wanted == cookie => {
                    state.reader = Reader::Somebody;
                    return Ok(reply);
                }
                Reader::Nobody => {
                    state.reader = Reader::Somebody;
                    drop(state);
                    let (wanted, reply) = self.read_reply().map_err(|cause| self.lose(&cause))?;
                    state = self.lock();
                    match state.waiting.get(&wanted) {
                        Some(waiting) => waiting.wake.notify_one(),
                        None => {
                            drop(state);
                            return Err(self.lose(&broken("it answers what was not asked")));
                        }
                    }
                    state.reader = Reader::For(wanted, reply);
                }
                _ => {
                    state.set_idle(cookie, true);
                    state = wake.wait(state).unpoisoned();
                    state.set_idle(cookie, false);
                }
            }
        }
    }

    /// A request is done: another one's thread reads on.
    fn leave(&self, cookie: u64) {
        let mut state = self.lock();
        state.waiting.remove(&cookie);
        (state.came_bytes, state.period_began) = (0, Instant::now());
        state.reader = Reader::Nobody;
        if let Some(next) = state.waiting.values().find(|waiting| waiting.is_idle) {
            next.wake.notify_one();
        }
    }

    /// Gives the connection up.
    fn lose(&self, cause: &io::Error) -> Failed {
        let mut state = self.lock();
        let why = state.lost.get_or_insert_with(|| cause.to_string()).clone();
        state.waiting.values().for_each(|waiting| waiting.wake.notify_one());
        drop(state);
        self.channel.socket().close();
        Failed::Lost(why)
    }

    fn read_reply(&self) -> io::Result<(u64, Reply)> {
        let mut begin = [0; 16];
        self.receive(&mut begin, false)?;
        let mut fields = Fields(&begin);
        match fields.u32()? {
            nbd_protocol::SIMPLE_REPLY_MAGIC => {
                let error = fields.u32()?;
                Ok((fields.u64()?, Reply::Simple { error }))
            }
            nbd_protocol::CHUNK_MAGIC if self.export.is_structured => {
                let (flags, kind) = (fields.u16()?, fields.u16()?);
                let length_bytes = Fields(&self.read_message(4)?).u32()?;
                Ok((
                    fields.u64()?,
                    Reply::Chunk { is_last: flags & nbd_protocol::chunk::DONE != 0, kind, length_bytes },
                ))
            }
            other => Err(broken(format!("an answer begins with {other:#x}"))),
        }
    }

    /// Reads a part of an answer, and sees to it that the server keeps up the pace.
    fn receive(&self, buffer: &mut [u8], is_within: bool) -> io::Result<()> {
        let mut before = 0;
        read_exact(&self.channel, buffer, &mut |filled| {
            let came = filled - std::mem::replace(&mut before, filled);
            self.check_pace(came, is_within || filled > 0)
        })
    }

    /// Fails if the server was silent for too long, or only drips: within the time that the user gave, a request has to be
    /// answered in full, or [`LEAST_BYTES`] have to come; and no request may wait for [`MOST_PERIODS`] of them. Writes and
    /// flushes may take what time they need before their answer begins: the kernel tells when the other side is gone.
    fn check_pace(&self, came: usize, is_within_answer: bool) -> io::Result<()> {
        let mut state = self.lock();
        let now = Instant::now();
        state.came_bytes += came;
        if state.came_bytes >= LEAST_BYTES {
            (state.came_bytes, state.period_began) = (0, now);
        }
        let too_slow = |text: &str| Err(io::Error::new(io::ErrorKind::TimedOut, format!("{text} {:?}", self.patience)));
        if state.lost.is_some() {
            return too_slow("the connection was lost within");
        }
        let Some(oldest) = state.waiting.values().filter(|waiting| waiting.is_read).map(|waiting| waiting.since).min()
        else {
            return match is_within_answer && now - state.period_began > self.patience {
                true => too_slow("the server gave no whole answer within"),
                false => Ok(()),
            };
        };
        if now - oldest > self.patience * MOST_PERIODS {
            return too_slow("the server left a request unanswered for a multiple of");
        }
        // What was sent before the request has no part in it.
        if now - state.period_began.max(oldest) <= self.patience {
            return Ok(());
        }
        too_slow(if state.came_bytes == 0 {
            "the server was silent for"
        } else {
            "the server gave no whole answer within"
        })
    }

    fn fill(&self, buffer: &mut [u8]) -> io::Result<()> {
        self.receive(buffer, true)
    }

    /// A message whose length was checked.
    fn read_message(&self, length_bytes: u32) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length_bytes as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads the rest of an answer; says whether it was the last part.
    fn take(&self, reply: Reply, progress: &mut Progress, answer: &mut Answer<'_>) -> io::Result<bool> {
        match reply {
            Reply::Simple { error: 0 } => {
                match answer {
                    Answer::Nothing => {}
                    Answer::Bytes(buffer) if !self.export.is_structured => {
                        self.fill(buffer)?;
                        progress.answered = buffer.len() as u64;
                    }
                    _ => return Err(broken("it answers in one piece where chunks were agreed")),
                }
                Ok(true)
            }
            Reply::Simple { error } => {
                progress.error = Some((error, String::new()));
                Ok(true)
            }
            Reply::Chunk { is_last, kind, length_bytes } => {
                self.take_chunk(kind, length_bytes, progress, answer)?;
                Ok(is_last)
            }
        }
    }

    fn take_chunk(
        &self,
        kind: u16,
        length_bytes: u32,
        progress: &mut Progress,
        answer: &mut Answer<'_>,
    ) -> io::Result<()> {
        progress.count_chunk()?;
        match (kind, answer) {
            (nbd_protocol::chunk::NONE, _) if length_bytes == 0 => Ok(()),
            (nbd_protocol::chunk::OFFSET_DATA, Answer::Bytes(buffer)) if length_bytes > 8 => {
                let offset = Fields(&self.read_message(8)?).u64()?;
                let range = progress.piece(offset, length_bytes - 8)?;
                self.fill(&mut buffer[range])
            }
            (nbd_protocol::chunk::OFFSET_HOLE, Answer::Bytes(buffer)) if length_bytes == 12 => {
                let message = self.read_message(12)?;
                let mut fields = Fields(&message);
                let range = progress.piece(fields.u64()?, fields.u32()?)?;
                buffer[range].fill(0);
                Ok(())
            }
            (nbd_protocol::chunk::BLOCK_STATUS, Answer::Status(runs)) if length_bytes <= MAX_STATUS_BYTES => {
                let message = self.read_message(length_bytes)?;
                let mut fields = Fields(&message);
                if Some(fields.u32()?) == self.export.allocation {
                    while !fields.0.is_empty() {
                        runs.push((fields.u32()?, fields.u32()?));
                    }
                }
                Ok(())
            }
            (kind, _) if kind & nbd_protocol::chunk::ERROR_BIT != 0 && length_bytes <= MAX_MESSAGE_BYTES => {
                let message = self.read_message(length_bytes)?;
                let mut fields = Fields(&message);
                let (number, words) = (fields.u32()?, usize::from(fields.u16()?));
                let words = fields.0.get(..words).ok_or_else(|| broken("the message of an error is cut"))?;
                progress.error.get_or_insert((number, String::from_utf8_lossy(words).into_owned()));
                Ok(())
            }
            _ => Err(broken(format!(
                "it answers {:?} with a chunk of kind {kind} and {length_bytes} bytes",
                progress.command()
            ))),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.is_lost() {
            let goodbye = Request { command: Command::Disconnect, offset: 0, length_bytes: 0 };
            // Nobody answers, and nobody minds.
            let _ = self.channel.write_all(&mut [IoSlice::new(&goodbye.encode(0))]);
        }
    }
}
