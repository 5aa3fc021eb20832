//! TLS: who the server is, and which clients it takes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use crate::channel::{certificates, private_key, unusable};
use crate::error::{OnPath as _, Result};

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
pub struct TlsSettings {
    config: Arc<ServerConfig>,
    verifies_clients: bool,
}

impl TlsSettings {
    /// Reads certificates and keys.
    pub fn load(files: &TlsFiles) -> Result<TlsSettings> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (chain, key) = (certificates(&files.certificate)?, private_key(&files.key)?);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.map_err(|cause| unusable("set up TLS", cause))?;
        let builder = match &files.client_authority {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(authorities(path)?.into(), provider).build();
                let verifier = verifier.map_err(|cause| unusable("use the authority", cause)).on_path(path)?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = builder.with_single_cert(chain, key);
        let config = config.map_err(|cause| unusable("use the certificate and its key", cause));
        let config = Arc::new(config.on_path(&files.certificate)?);
        Ok(TlsSettings { config, verifies_clients: files.client_authority.is_some() })
    }

    /// True if clients need a certificate.
    pub fn verifies_clients(&self) -> bool {
        self.verifies_clients
    }

    /// The begin of a connection.
    pub fn session(&self) -> io::Result<ServerConnection> {
        ServerConnection::new(Arc::clone(&self.config)).map_err(io::Error::other)
    }
}

fn authorities(path: &Path) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|cause| unusable("use the authority", cause)).on_path(path)?;
    }
    Ok(store)
}
