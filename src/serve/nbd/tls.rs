//! TLS: who the server is, and which clients it takes.

use std::io::{self, IoSlice, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use super::{lock, socket::Socket};
use crate::error::{Error, Kind, OnPath as _, Result};

/// How many bytes are encrypted before they are sent.
const PIECE_BYTES: usize = 64 << 10;

/// How long a client may take to hear that the connection ends.
const GOODBYE: Duration = Duration::from_millis(200);

/// The files, in PEM, that make up a server's side of TLS.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The server's certificate, followed by those that lead to its authority.
    pub certificate: PathBuf,
    /// The key of the certificate.
    pub key: PathBuf,
    /// The authority of the clients' certificates; clients need one then.
    pub client_authority: Option<PathBuf>,
}

/// The server's side of TLS. Clients that do not use it are refused.
#[derive(Clone)]
pub struct TlsSettings(Arc<ServerConfig>);

impl TlsSettings {
    /// Reads certificates and keys.
    pub fn load(files: &TlsFiles) -> Result<TlsSettings> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|cause| bad("read the key", cause));
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.map_err(|cause| bad("set up TLS", cause))?;
        let builder = match &files.client_authority {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(authorities(path)?.into(), provider).build();
                builder
                    .with_client_cert_verifier(verifier.map_err(|cause| bad("use the authority", cause)).on_path(path)?)
            }
        };
        let config = builder.with_single_cert(chain, key.on_path(&files.key)?);
        let config =
            config.map_err(|cause| bad("use the certificate and its key", cause)).on_path(&files.certificate)?;
        Ok(TlsSettings(Arc::new(config)))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    let found = found.map_err(|cause| bad("read the certificates", cause)).on_path(path)?;
    match found.is_empty() {
        false => Ok(found),
        true => Err(Error::new(Kind::Usage, "it holds no certificate in PEM").with_path(path)),
    }
}

fn authorities(path: &Path) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|cause| bad("use the authority", cause)).on_path(path)?;
    }
    Ok(store)
}

fn bad(doing: &str, cause: impl std::fmt::Display) -> Error {
    Error::new(Kind::Usage, format!("{doing}: {cause}"))
}

/// A connection in TLS, read by one thread while another one writes.
pub struct TlsChannel {
    socket: Arc<Socket>,
    session: Mutex<ServerConnection>,
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
    /// Agrees with the client on TLS; `before_waiting` is called before each wait for the client.
    pub fn accept(
        socket: Arc<Socket>,
        settings: &TlsSettings,
        before_waiting: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<TlsChannel> {
        let session = ServerConnection::new(Arc::clone(&settings.0)).map_err(io::Error::other)?;
        let incoming = Incoming { bytes: vec![0; 32 << 10].into(), begin: 0, end: 0 };
        let channel =
            TlsChannel { socket, session: session.into(), incoming: incoming.into(), outgoing: Mutex::default() };
        loop {
            let (handshaking, wants_write) = {
                let session = lock(&channel.session);
                (session.is_handshaking(), session.wants_write())
            };
            if wants_write {
                channel.send_pending()?;
            } else if !handshaking {
                return Ok(channel);
            } else {
                before_waiting()?;
                if let Err(cause) = channel.take_in(&mut lock(&channel.incoming)) {
                    // The alert that says why.
                    let _ = channel.send_pending();
                    return Err(cause);
                }
            }
        }
    }

    /// Reads what there is, at least a byte; 0 at the end.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut incoming = lock(&self.incoming);
        loop {
            let read = io::Read::read(&mut lock(&self.session).reader(), buffer);
            match read {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => self.take_in(&mut incoming)?,
                other => return other,
            }
        }
    }

    /// Reads encrypted bytes, if none are left, and has them decrypted.
    fn take_in(&self, incoming: &mut Incoming) -> io::Result<()> {
        if incoming.begin == incoming.end {
            incoming.begin = 0;
            incoming.end = self.socket.read(&mut incoming.bytes)?;
        }
        let mut left = incoming.bytes.get(incoming.begin..incoming.end).unwrap_or_default();
        let mut session = lock(&self.session);
        incoming.begin += session.read_tls(&mut left)?;
        let state = session.process_new_packets().map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause))?;
        match incoming.end == 0 && state.plaintext_bytes_to_read() == 0 {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(()),
        }
    }

    /// Writes all parts, one after the other.
    pub fn write_all(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut outgoing = lock(&self.outgoing);
        for piece in parts.iter().flat_map(|part| part.chunks(PIECE_BYTES)) {
            if outgoing.len() + piece.len() > PIECE_BYTES {
                self.send(&mut outgoing)?;
            }
            let mut session = lock(&self.session);
            session.writer().write_all(piece)?;
            while session.wants_write() {
                session.write_tls(&mut *outgoing)?;
            }
        }
        self.send(&mut outgoing)
    }

    fn send_pending(&self) -> io::Result<()> {
        let mut outgoing = lock(&self.outgoing);
        let mut session = lock(&self.session);
        while session.wants_write() {
            session.write_tls(&mut *outgoing)?;
        }
        drop(session);
        self.send(&mut outgoing)
    }

    fn send(&self, outgoing: &mut Vec<u8>) -> io::Result<()> {
        let sent = self.socket.write_all(&mut [IoSlice::new(outgoing)]);
        outgoing.clear();
        sent
    }

    /// Says that nothing more comes.
    pub fn say_goodbye(&self) {
        lock(&self.session).send_close_notify();
        let _ = self.socket.limit_writes(Some(GOODBYE));
        // Who has gone already need not hear it.
        let _ = self.send_pending();
    }
}
