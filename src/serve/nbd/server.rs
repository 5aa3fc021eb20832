//! The server: its listeners, its connections, and their end.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use tintype_formats::locks::Unpoisoned as _;

use super::budget::Budget;
use super::export::Exports;
use super::handshake::{Failure, negotiate};
use super::listener::{Address, Listener};
use super::settings::{Counters, Event, Settings};
use super::shared::{Shared, State};
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
        drop(self.shared.changed.wait_while(self.shared.state.lock().unpoisoned(), goes_on).unpoisoned());
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

/// Serves a connection until it ends.
fn serve(shared: &Shared, socket: &Arc<Socket>, id: u64) -> Result<(), Failure> {
    let deadline = Instant::now() + shared.limits().handshake;
    let set_known = || shared.state.lock().unpoisoned().open.set_known(id);
    let tls = shared.settings.tls.as_ref();
    let Some(negotiated) = negotiate(socket, &shared.exports, tls, (deadline, &set_known))? else {
        return Ok(());
    };
    let mut state = shared.state.lock().unpoisoned();
    let Some(activity) = state.open.begin_to_serve(id, shared.limits()) else {
        let is_told = state.open.was_sent_away(id);
        drop(state);
        if !is_told {
            shared.tell(Event::TurnedAway);
        }
        return Ok(());
    };
    state.clients += 1;
    drop(state);
    socket.limit_writes(shared.limits().request)?;
    match Transmission::new(negotiated, socket, activity, shared).run() {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// Notes a new connection, unless there are too many.
fn admit(shared: &Arc<Shared>, socket: &Arc<Socket>, address: Option<IpAddr>) -> Option<Place> {
    let mut state = shared.state.lock().unpoisoned();
    if shared.is_stopping() {
        return None;
    }
    let id = state.open.admit(socket, address, shared.limits())?;
    Some(Place { shared: Arc::clone(shared), id })
}

/// A connection's place among those that are open, until dropped.
struct Place {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.state.lock().unpoisoned().open.remove(self.id);
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
    let Some(place) = admit(shared, &socket, address) else {
        shared.tell(Event::TurnedAway);
        return;
    };
    let run = move || {
        let served = serve(&place.shared, &socket, place.id);
        if place.shared.state.lock().unpoisoned().open.was_sent_away(place.id) {
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
