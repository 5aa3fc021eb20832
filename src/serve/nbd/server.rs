//! The server: its listeners, its connections, and their end.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::budget::Budget;
use super::export::Exports;
use super::handshake::{Failure, negotiate};
use super::listener::{Address, Listener};
use super::lock;
use super::places::Places;
use super::tls::TlsSettings;
use super::transmission::Transmission;
use crate::channel::{Socket, is_timeout};
use crate::error::{Error, Result};

/// Memory for the requests of all connections, in bytes, beside the little that each has of its own.
const REQUESTS_BYTES: usize = 96 << 20;

/// How long requests in flight may take when the server ends.
const GRACE: Duration = Duration::from_millis(500);

/// How long connections may take to end after they were cut.
const CUT: Duration = Duration::from_millis(200);

/// How long to wait before the next try, where no client can be accepted.
const ACCEPT_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What one server does at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Clients at the same time that have chosen an export.
    pub connections: usize,
    /// Clients at the same time that have not: the oldest makes room for another one.
    pub handshakes: usize,
    /// Requests of one connection at the same time.
    pub requests: usize,
    /// Time in which a client has to choose an export.
    pub handshake: Duration,
    /// Time after which a client that asks for nothing is sent away.
    pub idle: Option<Duration>,
    /// Time after which a client that asks for nothing is sent away if another one needs its place.
    pub yields_after: Duration,
    /// Time in which a request has to come, once it has begun, and its answer has to be taken; a long one has more.
    pub request: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 64,
            handshakes: 256,
            requests: 16,
            handshake: Duration::from_secs(10),
            idle: None,
            yields_after: Duration::from_secs(10),
            request: Some(Duration::from_secs(120)),
        }
    }
}

/// Something that whoever runs a server may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client was sent away: there are too many.
    TurnedAway,
    /// A client was sent away: it did nothing, and another one needed its place.
    MadeRoom,
    /// A connection ended before its client wanted.
    ConnectionFailed(String),
    /// A disk could not be read or written; the client was told.
    DiskFailed {
        /// The name of the export.
        export: String,
        /// What happened.
        message: String,
    },
}

/// Whom to tell; called from any thread, and not to take long.
pub type Observer = Box<dyn Fn(Event) + Send + Sync>;

/// How a server is to serve.
#[derive(Default)]
pub struct Settings {
    /// What it does at most.
    pub limits: Limits,
    /// Who it is; clients have to use TLS then.
    pub tls: Option<TlsSettings>,
    /// Whether it ends by itself when the last client has gone.
    pub ends_with_last_client: bool,
    /// Whom to tell what happens.
    pub observer: Option<Observer>,
}

/// What a server has done until now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Clients that are connected.
    pub connections: usize,
    /// Clients that have chosen an export, ever.
    pub clients: u64,
    /// Bytes of disks that were sent; holes are not among them.
    pub read_bytes: u64,
    /// Bytes that clients wrote.
    pub written_bytes: u64,
}

/// A running server. When it is dropped it stops, as by [`stop`](Self::stop).
pub struct Server {
    shared: Arc<Shared>,
    listening: Vec<JoinHandle<()>>,
    addresses: Vec<Address>,
}

/// Looks at a server, and stops it, from another thread.
#[derive(Clone)]
pub struct Remote(Arc<Shared>);

impl Remote {
    /// Has [`Server::wait`] return.
    pub fn stop(&self) {
        self.0.begin_to_stop();
    }

    /// What the server has done until now.
    pub fn counters(&self) -> Counters {
        self.0.counters()
    }
}

impl Server {
    /// Serves exports to whoever connects to the listeners, on threads of its own.
    pub fn start(listeners: Vec<Listener>, exports: Exports, settings: Settings) -> Result<Server> {
        let addresses = listeners.iter().filter_map(Listener::address).collect();
        let (stop_reader, stop_writer) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Error::io("make a pipe", errno.into()))?;
        let shared = Arc::new(Shared {
            exports,
            settings,
            budget: Budget::new(REQUESTS_BYTES),
            stopping: AtomicBool::new(false),
            stop_signal: Mutex::new(Some(stop_writer)),
            state: Mutex::default(),
            changed: Condvar::new(),
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
        });
        let mut server = Server { shared, listening: Vec::new(), addresses };
        let stop_reader = Arc::new(stop_reader);
        for listener in listeners {
            listener.set_nonblocking().map_err(|cause| Error::io("listen", cause))?;
            let (shared, stop) = (Arc::clone(&server.shared), Arc::clone(&stop_reader));
            let listening = spawn("nbd-listener", move || listen(&shared, &listener, &stop))?;
            server.listening.push(listening);
        }
        Ok(server)
    }

    /// Where clients find it.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// What it has done until now.
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// Something that looks at it, and stops it, from another thread.
    pub fn remote(&self) -> Remote {
        Remote(Arc::clone(&self.shared))
    }

    /// Waits until somebody stops it, or the last client has gone if it is to end then.
    pub fn wait(&self) {
        let ends_with_last = self.shared.settings.ends_with_last_client;
        let goes_on = |state: &mut State| {
            let all_gone = state.clients > 0 && state.open.is_empty();
            !(self.shared.is_stopping() || (ends_with_last && all_gone))
        };
        drop(self.shared.changed.wait_while(lock(&self.shared.state), goes_on).unwrap_or_else(PoisonError::into_inner));
    }

    /// Accepts nobody any more, finishes the requests in flight, cuts what takes too long, and flushes the disks.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.shared.begin_to_stop();
        for listening in self.listening.drain(..) {
            // One that panicked has ended as well.
            let _ = listening.join();
        }
        self.shared.for_each_open(Socket::stop_reading);
        if !self.shared.wait_until_empty(GRACE) {
            self.shared.for_each_open(Socket::close);
            self.shared.wait_until_empty(CUT);
        }
        for disk in self.shared.exports.iter().filter_map(|export| export.writable()) {
            disk.flush()?;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.listening.is_empty() {
            // Whoever needs to know calls `stop`.
            let _ = self.end();
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(run);
    spawned.map_err(|cause| Error::io("start a thread", cause))
}

/// What the threads of a server share.
pub struct Shared {
    exports: Exports,
    settings: Settings,
    budget: Budget,
    stopping: AtomicBool,
    /// Closed to wake those who listen.
    stop_signal: Mutex<Option<OwnedFd>>,
    state: Mutex<State>,
    /// A connection has gone, or the server is to stop.
    changed: Condvar,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

#[derive(Default)]
struct State {
    open: Places,
    clients: u64,
}

impl Shared {
    pub(super) fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(super) fn tell(&self, event: Event) {
        if let Some(observer) = &self.settings.observer {
            observer(event);
        }
    }

    pub(super) fn count_read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_written(&self, bytes: u64) {
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn counters(&self) -> Counters {
        let state = lock(&self.state);
        Counters {
            connections: state.open.count(),
            clients: state.clients,
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
        }
    }

    fn begin_to_stop(&self) {
        // Under the lock, so that no one who has just looked goes to sleep.
        let state = lock(&self.state);
        self.stopping.store(true, Ordering::Relaxed);
        lock(&self.stop_signal).take();
        drop(state);
        self.changed.notify_all();
    }

    fn for_each_open(&self, act: fn(&Socket)) {
        lock(&self.state).open.sockets().for_each(act);
    }

    fn wait_until_empty(&self, limit: Duration) -> bool {
        let waiting = self.changed.wait_timeout_while(lock(&self.state), limit, |state| !state.open.is_empty());
        waiting.unwrap_or_else(PoisonError::into_inner).0.open.is_empty()
    }

    /// Notes a new connection, unless there are too many.
    fn admit(self: &Arc<Self>, socket: &Arc<Socket>, address: Option<IpAddr>) -> Option<Place> {
        let mut state = lock(&self.state);
        if self.is_stopping() {
            return None;
        }
        let id = state.open.admit(socket, address, self.limits())?;
        Some(Place { shared: Arc::clone(self), id })
    }

    fn serve(&self, socket: &Arc<Socket>, id: u64) -> Result<(), Failure> {
        let deadline = Instant::now() + self.limits().handshake;
        let set_known = || lock(&self.state).open.set_known(id);
        let tls = self.settings.tls.as_ref();
        let Some(negotiated) = negotiate(socket, &self.exports, tls, (deadline, &set_known))? else {
            return Ok(());
        };
        let mut state = lock(&self.state);
        let Some(activity) = state.open.begin_to_serve(id, self.limits()) else {
            let is_told = state.open.was_sent_away(id);
            drop(state);
            if !is_told {
                self.tell(Event::TurnedAway);
            }
            return Ok(());
        };
        state.clients += 1;
        drop(state);
        socket.limit_writes(self.limits().request)?;
        match Transmission::new(negotiated, socket, activity, self).run() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}

/// A connection's place among those that are open, until dropped.
struct Place {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.shared.state).open.remove(self.id);
        self.shared.changed.notify_all();
    }
}

/// Accepts clients until the other end of `stop` is closed.
fn listen(shared: &Arc<Shared>, listener: &Listener, stop: &OwnedFd) {
    let mut pause = None;
    loop {
        let mut waiting = [PollFd::new(stop, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        // While nobody can be accepted, only the end is waited for.
        let count = if pause.is_some() { 1 } else { 2 };
        // Interrupted, it is asked again.
        let _ = poll(waiting.get_mut(..count).unwrap_or_default(), pause.take().as_ref());
        if !waiting[0].revents().is_empty() || shared.is_stopping() {
            return;
        }
        match listener.accept() {
            Ok((socket, address)) => begin(shared, socket, address),
            Err(cause) if cause.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(cause) => {
                shared.tell(Event::ConnectionFailed(format!("accept a client: {cause}")));
                pause = Some(ACCEPT_AGAIN);
            }
        }
    }
}

fn begin(shared: &Arc<Shared>, socket: Socket, address: Option<IpAddr>) {
    let socket = Arc::new(socket);
    let Some(place) = shared.admit(&socket, address) else {
        shared.tell(Event::TurnedAway);
        return;
    };
    let run = move || {
        let served = place.shared.serve(&socket, place.id);
        if lock(&place.shared.state).open.was_sent_away(place.id) {
            place.shared.tell(Event::MadeRoom);
        } else if let Err(failure) = served
            && !place.shared.is_stopping()
            && !is_departure(&failure)
        {
            place.shared.tell(Event::ConnectionFailed(describe(failure)));
        }
    };
    if let Err(cause) = spawn("nbd-connection", run) {
        shared.tell(Event::ConnectionFailed(cause.to_string()));
    }
}

/// Whether the client only went without a word, as one that was stopped does.
fn is_departure(failure: &Failure) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(failure, Failure::Io(cause) if [BrokenPipe, ConnectionReset].contains(&cause.kind()))
}

fn describe(failure: Failure) -> String {
    match failure {
        Failure::Malformed(text) => text,
        Failure::Io(cause) => match cause.kind() {
            std::io::ErrorKind::UnexpectedEof => "the client hung up in the middle of a message".to_owned(),
            _ if is_timeout(&cause) => "the client took too long".to_owned(),
            _ => cause.to_string(),
        },
    }
}
