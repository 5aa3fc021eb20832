//! A server of the NBD protocol ("fixed newstyle"): any disk becomes a block device of another program or machine.
//!
//! ```text
//!   Listener ── a thread each ──► connection ── handshake ──► transmission
//!                                                               worker 1 ┐  lock `intake`:  take one request
//!                                                               worker 2 ┤  no lock:        carry it out
//!                                                               worker n ┘  lock `replies`: send a whole message
//! ```
//!
//! Invariants: nothing that a client sends ends more than its own connection; what all connections hold in memory is
//! bounded whatever their clients ask for or leave unread, and none of them waits for what another one holds; a disk that
//! was given as read-only is never written to. Nothing here prints: what there is to tell goes to an [`Observer`].
//!
//! An *export* is a disk by a name. A *cookie* is the client's number of a request, given back with each reply. A *chunk* is
//! a part of a structured reply.

mod block_status;
mod budget;
mod errno;
mod export;
mod handshake;
mod intake;
mod listener;
mod option;
mod places;
mod read;
mod reply;
mod request;
mod server;
mod settings;
mod shared;
mod splice;
mod tls;
mod transmission;
mod worker;
mod write;

pub use export::{Access, Export, Exports};
pub use listener::{Address, Listener};
pub use server::{Remote, Server};
pub use settings::{Counters, Event, Limits, Observer, Settings};
pub use tls::{TlsFiles, TlsSettings};
