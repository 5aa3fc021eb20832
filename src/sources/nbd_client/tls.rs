//! TLS: whom to trust, and who we are.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, ClientConnection, RootCertStore};

use crate::channel::{certificates, private_key, unusable};
use crate::error::{Error, Kind, OnPath as _, Result};

/// Where systems keep the certificates that they trust.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Reads the settings from a folder as QEMU has it: `ca-cert.pem` (the system's authorities, if there is none),
/// `client-cert.pem` and `client-key.pem`.
pub fn configure(folder: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let in_folder = |name: &str| folder.map(|folder| folder.join(name)).filter(|path| path.exists());
    let [authority, certificate, key] = ["ca-cert.pem", "client-cert.pem", "client-key.pem"].map(in_folder);
    if let Some(folder) = folder.filter(|_| authority.is_none() && certificate.is_none() && key.is_none()) {
        let message = "it has no ca-cert.pem, and no client-cert.pem with client-key.pem";
        return Err(Error::new(Kind::Usage, message).with_path(folder));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|cause| unusable("set up TLS", cause))?;
    let builder = builder.with_root_certificates(trusted(authority)?);
    let config = match (certificate, key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(path), Some(key)) => {
            let config = builder.with_client_auth_cert(certificates(&path)?, private_key(&key)?);
            config.map_err(|cause| unusable("use the certificate and its key", cause)).on_path(&path)?
        }
        (Some(alone), None) | (None, Some(alone)) => {
            let message = "expected both client-cert.pem and client-key.pem, or none of them";
            return Err(Error::new(Kind::Usage, message).with_path(&alone));
        }
    };
    Ok(Arc::new(config))
}

fn trusted(authority: Option<PathBuf>) -> Result<RootCertStore> {
    let path = authority.or_else(|| SYSTEM_ROOTS.iter().map(PathBuf::from).find(|path| path.exists()));
    let mut store = RootCertStore::empty();
    if let Some(path) = path {
        // A system's list may hold some that cannot be used.
        store.add_parsable_certificates(certificates(&path)?);
    }
    match store.is_empty() {
        false => Ok(store),
        true => {
            let message =
                "no certificate of an authority to trust was found; --nbd-tls names a folder with ca-cert.pem";
            Err(Error::new(Kind::Usage, message))
        }
    }
}

/// What to do where TLS comes to nothing, or ends before a disk is agreed on.
pub fn explained(cause: io::Error) -> io::Error {
    use rustls::Error::{AlertReceived, InvalidCertificate};
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    let advice = match cause.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            "nobody who is trusted made the server's certificate; --nbd-tls names a folder with the ca-cert.pem of who did"
        }
        Some(InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "the server's certificate is for another name; ?tls-hostname=NAME in the address says which to expect",
        Some(AlertReceived(AlertDescription::CertificateRequired)) => {
            "the server wants a certificate; --nbd-tls names a folder with client-cert.pem and client-key.pem"
        }
        _ if matches!(cause.kind(), ConnectionReset | BrokenPipe | UnexpectedEof) => {
            "the server may want a certificate; --nbd-tls names a folder with client-cert.pem and client-key.pem"
        }
        _ => return cause,
    };
    io::Error::new(cause.kind(), format!("{cause}: {advice}"))
}

/// The begin of a connection to a server that is to prove that it is `name`.
pub fn session(config: &Arc<ClientConfig>, name: &str) -> io::Result<ClientConnection> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)
}
