//! TLS around a socket, so that one thread can read while another writes; and the files in PEM that it needs.
//!
//! The session is locked only to encrypt and decrypt what is in memory, never while the socket waits.

use std::fmt::Display;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustls::Connection;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tintype_formats::locks::Unpoisoned as _;

use super::{Socket, is_over, is_timeout};
use crate::error::{Error, Kind, OnPath as _, Result};

/// How many bytes are encrypted before they are sent, or received before they are decrypted.
const PIECE_BYTES: usize = 64 << 10;

/// A connection in TLS, read by one thread while another one writes.
pub struct TlsChannel {
    socket: Arc<Socket>,
    session: Mutex<Connection>,
    /// Held while encrypted bytes are read and understood.
    incoming: Mutex<Incoming>,
    /// Held from the encryption of a message until it is sent: the order of records must stay.
    outgoing: Mutex<Vec<u8>>,
}

/// Encrypted bytes that came and were not yet understood.
struct Incoming {
    bytes: Box<[u8]>,
    begin: usize,
    end: usize,
}

impl TlsChannel {
    /// Agrees with the other side on TLS. `before_waiting` is called before each wait, also after one that was too long for
    /// the socket: it says when to give up.
    pub fn start(
        socket: Arc<Socket>,
        session: impl Into<Connection>,
        before_waiting: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<TlsChannel> {
        let mut session = session.into();
        // It never holds more than a piece, and whatever the session itself has to say.
        session.set_buffer_limit(None);
        let incoming = Incoming { bytes: vec![0; PIECE_BYTES].into(), begin: 0, end: 0 };
        let channel =
            TlsChannel { socket, session: session.into(), incoming: incoming.into(), outgoing: Mutex::default() };
        loop {
            channel.send_pending()?;
            if !channel.session.lock().unpoisoned().is_handshaking() {
                return Ok(channel);
            }
            before_waiting()?;
            match channel.take_in(&mut channel.incoming.lock().unpoisoned()) {
                Err(cause) if !is_timeout(&cause) => {
                    // The alert that says why, if it is still listened to.
                    let _ = channel.send_pending();
                    return Err(cause);
                }
                _ => {}
            }
        }
    }

    /// What it is around.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Reads what there is, at least a byte; 0 at the end. Fails after the deadline, even if parts of a record keep coming.
    pub fn read(&self, buffer: &mut [u8], deadline: Option<Instant>) -> io::Result<usize> {
        let mut incoming = self.incoming.lock().unpoisoned();
        loop {
            let read = self.session.lock().unpoisoned().reader().read(buffer);
            match read {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock && !is_over(deadline) => {
                    self.take_in(&mut incoming)?;
                }
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                other => return other,
            }
        }
    }

    /// Reads encrypted bytes, if none are left, and has them decrypted.
    fn take_in(&self, incoming: &mut Incoming) -> io::Result<()> {
        if incoming.begin == incoming.end {
            (incoming.begin, incoming.end) = (0, 0);
            incoming.end = self.socket.read(&mut incoming.bytes)?;
        }
        let mut left = incoming.bytes.get(incoming.begin..incoming.end).unwrap_or_default();
        let mut session = self.session.lock().unpoisoned();
        incoming.begin += session.read_tls(&mut left)?;
        let state = session.process_new_packets().map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause))?;
        match incoming.end == 0 && state.plaintext_bytes_to_read() == 0 {
            true => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other side hung up in the middle of TLS")),
            false => Ok(()),
        }
    }

    /// Writes all parts, one after the other.
    pub fn write_all(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut outgoing = self.outgoing.lock().unpoisoned();
        for piece in parts.iter().flat_map(|part| part.chunks(PIECE_BYTES)) {
            if outgoing.len() + piece.len() > PIECE_BYTES {
                self.send(&mut outgoing)?;
            }
            let mut session = self.session.lock().unpoisoned();
            session.writer().write_all(piece)?;
            take_out(&mut session, &mut outgoing)?;
        }
        self.send(&mut outgoing)
    }

    fn send_pending(&self) -> io::Result<()> {
        let mut outgoing = self.outgoing.lock().unpoisoned();
        take_out(&mut self.session.lock().unpoisoned(), &mut outgoing)?;
        self.send(&mut outgoing)
    }

    fn send(&self, outgoing: &mut Vec<u8>) -> io::Result<()> {
        let sent = self.socket.write_all(&mut [IoSlice::new(outgoing)]);
        outgoing.clear();
        sent
    }

    /// Says that nothing more comes.
    pub fn say_goodbye(&self) {
        self.session.lock().unpoisoned().send_close_notify();
        // Who has gone already need not hear it.
        let _ = self.send_pending();
    }
}

fn take_out(session: &mut Connection, outgoing: &mut Vec<u8>) -> io::Result<()> {
    while session.wants_write() {
        session.write_tls(outgoing)?;
    }
    Ok(())
}

/// The certificates in a file, at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    let found = found.map_err(|cause| unusable("read the certificates", cause)).on_path(path)?;
    match found.is_empty() {
        false => Ok(found),
        true => Err(Error::new(Kind::Usage, "it holds no certificate in PEM").with_path(path)),
    }
}

/// The private key in a file.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).map_err(|cause| unusable("read the key", cause)).on_path(path)
}

/// A file or setting that TLS cannot work with.
pub fn unusable(doing: &str, cause: impl Display) -> Error {
    Error::new(Kind::Usage, format!("{doing}: {cause}"))
}
