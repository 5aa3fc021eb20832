//! TLS around a socket, so that one thread can read while another writes.
//!
//! The state of the TLS connection is locked only to encrypt and decrypt what is in memory, never while the socket waits.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::transport::{Socket, Transport, is_tick};

/// Where systems keep the certificates that they trust.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

const RECORDS_BYTES: usize = 64 << 10;

/// Reads whom to trust and who we are from a folder as QEMU has it: `ca-cert.pem` (the system's authorities, if there is
/// none), `client-cert.pem` and `client-key.pem`.
pub fn configure(folder: Option<&Path>) -> io::Result<Arc<ClientConfig>> {
    let in_folder = |name: &str| folder.map(|folder| folder.join(name)).filter(|path| path.exists());
    let roots = match in_folder("ca-cert.pem") {
        Some(path) => vec![path],
        None => SYSTEM_ROOTS.iter().map(PathBuf::from).filter(|path| path.exists()).take(1).collect(),
    };
    let mut trusted = RootCertStore::empty();
    for path in &roots {
        trusted.add_parsable_certificates(certificates(path)?);
    }
    if trusted.is_empty() {
        let message = "no certificate of an authority to trust was found";
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(io::Error::other)?.with_root_certificates(trusted);
    let config = match (in_folder("client-cert.pem"), in_folder("client-key.pem")) {
        (Some(certificate), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(&key).map_err(|cause| unreadable(&key, &cause))?;
            builder.with_client_auth_cert(certificates(&certificate)?, key).map_err(io::Error::other)?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path).map_err(|cause| unreadable(path, &cause))?;
    found.collect::<Result<_, _>>().map_err(|cause| unreadable(path, &cause))
}

fn unreadable(path: &Path, cause: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {cause}", path.display()))
}

/// A socket inside TLS.
pub struct TlsTransport {
    socket: Socket,
    session: Mutex<ClientConnection>,
    /// What came from the socket; only the one reader uses it.
    records: Mutex<Records>,
}

/// Bytes from the socket that were not decrypted yet: what is decrypted is read before more is.
struct Records {
    bytes: Vec<u8>,
    begin: usize,
    end: usize,
}

impl TlsTransport {
    /// Shakes hands with a server that is to prove that it is `name`.
    pub fn start(socket: Socket, config: Arc<ClientConfig>, name: &str, deadline: Instant) -> io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        session.set_buffer_limit(None);
        let records = Records { bytes: vec![0; RECORDS_BYTES], begin: 0, end: 0 };
        let transport = TlsTransport { socket, session: Mutex::new(session), records: Mutex::new(records) };
        loop {
            transport.send_records(transport.session())?;
            if !transport.session().is_handshaking() {
                return Ok(transport);
            }
            match transport.receive_records() {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server ends the TLS handshake")),
                Err(cause) if is_tick(&cause) && Instant::now() < deadline => {}
                Err(cause) => {
                    // Tell the server why, if it still listens.
                    let _ = transport.send_records(transport.session());
                    return Err(cause);
                }
                Ok(_) => {}
            }
        }
    }

    fn session(&self) -> MutexGuard<'_, ClientConnection> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what the session wants to; the lock is given up before the socket waits.
    fn send_records(&self, mut session: MutexGuard<'_, ClientConnection>) -> io::Result<()> {
        let mut records = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut records)?;
        }
        drop(session);
        self.socket.write_all(&records)
    }

    /// Waits for the socket, unless something is left of what came before, and decrypts; 0 at its end.
    fn receive_records(&self) -> io::Result<usize> {
        let mut guard = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let records = &mut *guard;
        if records.begin == records.end {
            (records.begin, records.end) = (0, 0);
            records.end = self.socket.read(&mut records.bytes)?;
        }
        let length = records.end - records.begin;
        let mut session = self.session();
        loop {
            let mut rest = &records.bytes[records.begin..records.end];
            session.read_tls(&mut rest)?;
            records.begin = records.end - rest.len();
            let found = session.process_new_packets();
            let found = found.map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause))?;
            if records.begin == records.end || found.plaintext_bytes_to_read() > 0 {
                return Ok(length);
            }
        }
    }
}

impl Transport for TlsTransport {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session().reader().read(buffer) {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            self.receive_records()?;
        }
    }

    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(RECORDS_BYTES) {
            let mut session = self.session();
            session.writer().write_all(part)?;
            self.send_records(session)?;
        }
        Ok(())
    }

    fn shut_down(&self) {
        self.socket.shut_down();
    }
}
