//! Where the server listens, and how clients are told.

use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::cli::failure::Failure;
use crate::cli::{Global, output, usage};
use crate::error::{Error, Kind};
use crate::serve::nbd::{Address, Listener};
use crate::sources::nbd_uri_part;
use crate::system;

/// The port that is registered for the protocol.
const PORT: u16 = 10809;

/// Where to listen.
#[derive(Debug, Clone, clap::Args)]
pub struct ListenArgs {
    /// Address and port to listen on, as 127.0.0.1:10809, :10809 for all addresses, or port 0 for a free one; by default
    /// only this machine can connect
    #[arg(long, value_name = "ADDR", env = "TINTYPE_LISTEN")]
    listen: Vec<String>,
    /// Unix socket to listen on, which only the same user can connect to; nothing listens on TCP then, unless asked for
    #[arg(long, value_name = "PATH", env = "TINTYPE_SOCKET")]
    socket: Vec<PathBuf>,
}

impl ListenArgs {
    /// Opens what is to be listened on. What systemd has opened comes in the place of the default.
    pub fn listeners(&self, encrypted: bool, global: Global) -> Result<Vec<Listener>, Failure> {
        let mut listeners = Vec::new();
        let inherited = system::inherited_sockets();
        for socket in inherited.map_err(|cause| Error::io("use the sockets that systemd opened", cause))? {
            listeners.push(Listener::inherited(socket)?);
        }
        for path in typed_before_variable(&self.socket, "socket", &self.listen, "listen") {
            listeners.push(Listener::unix(path).map_err(advised)?);
        }
        for text in typed_before_variable(&self.listen, "listen", &self.socket, "socket") {
            for address in resolve(text)? {
                if !encrypted && !address.ip().is_loopback() {
                    let text = format!(
                        "whoever reaches {address} can read the disk: nothing is encrypted, and nobody is asked who they \
                         are; --tls-certificates is for that"
                    );
                    output::warn(&text, global);
                }
                listeners.push(Listener::tcp(address)?);
            }
        }
        if listeners.is_empty() {
            listeners.push(Listener::tcp(SocketAddr::from(([127, 0, 0, 1], PORT)))?);
        }
        Ok(listeners)
    }
}

/// Returns an option's values; none if they come from its variable and the other option was typed.
fn typed_before_variable<'a, T, U>(own: &'a [T], id: &str, other: &[U], other_id: &str) -> &'a [T] {
    let is_other_typed = !other.is_empty() && !usage::is_from_variable(other_id);
    if is_other_typed && usage::is_from_variable(id) { &[] } else { own }
}

/// Says what to do about a socket that is taken.
fn advised(error: Error) -> Failure {
    match error.kind() {
        Kind::TargetBusy => Failure::from(error).hinted("choose another --socket, or stop who listens there"),
        _ => error.into(),
    }
}

/// The addresses that a text means.
fn resolve(text: &str) -> Result<Vec<SocketAddr>, Failure> {
    let wrong =
        || Failure::usage(format!("--listen {}: expected ADDRESS:PORT, [ADDRESS]:PORT or :PORT", text.escape_debug()));
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host,
        None if host.contains(':') => return Err(wrong()),
        // Of both families: IPv6's "any" takes clients of IPv4 too.
        None if host.is_empty() => "::",
        None => host,
    };
    let found =
        (host, port).to_socket_addrs().map_err(|cause| Error::io(format!("find the address of {host}"), cause))?;
    let mut found: Vec<_> = found.collect();
    found.dedup();
    Ok(found)
}

/// How clients name an export behind this address.
pub fn uri(address: &Address, name: &str, encrypted: bool) -> String {
    let scheme = if encrypted { "nbds" } else { "nbd" };
    let name = nbd_uri_part(name.as_bytes());
    match address {
        // Nobody connects to "any address": the machine's name is what they need.
        Address::Tcp(address) if address.ip().is_unspecified() => {
            format!("{scheme}://{}:{}/{name}", system::host_name(), address.port())
        }
        Address::Tcp(address) => format!("{scheme}://{address}/{name}"),
        Address::Unix(path) => {
            format!("{scheme}+unix:///{name}?socket={}", nbd_uri_part(path.as_os_str().as_bytes()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_understood() {
        let one = |text: &str| resolve(text).map(|found| found.first().map(ToString::to_string)).ok().flatten();
        assert_eq!(one("127.0.0.1:0").as_deref(), Some("127.0.0.1:0"));
        assert_eq!(one("[::1]:10809").as_deref(), Some("[::1]:10809"));
        assert_eq!(one(":7").as_deref(), Some("[::]:7"));
        for wrong in ["127.0.0.1", "::1", "::1:5", "a:b", "127.0.0.1:70000", ""] {
            assert!(resolve(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_escaped_in_uris() {
        let address = Address::Unix("/a b/c".into());
        assert_eq!(uri(&address, "x?y/part1", false), "nbd+unix:///x%3Fy/part1?socket=/a%20b/c");
        let address = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 5)));
        assert_eq!(uri(&address, "ü", true), "nbds://127.0.0.1:5/%C3%BC");
    }
}
