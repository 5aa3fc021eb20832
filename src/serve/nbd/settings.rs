//! Settings of a server, and the events that it reports.

use std::time::Duration;

use super::tls::TlsSettings;

/// Limits of a server.
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

/// Settings of a server.
#[derive(Default)]
pub struct Settings {
    /// Its limits.
    pub limits: Limits,
    /// Certificate and key of the server; clients have to use TLS then.
    pub tls: Option<TlsSettings>,
    /// True if it ends by itself when the last client has gone.
    pub ends_with_last_client: bool,
    /// Whom to tell what happens.
    pub observer: Option<Observer>,
}

/// Counters of a server.
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
