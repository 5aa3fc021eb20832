//! Where clients connect: a TCP port, a Unix socket, or what systemd opened.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::channel::Socket;
use crate::error::{Error, Kind, OnPath as _, Result};
use tintype_formats::local::identity_of;

/// How many clients may wait to be accepted.
const BACKLOG: i32 = 64;

/// A socket that listens.
pub struct Listener {
    socket: ListeningSocket,
    /// The name that goes when this does.
    _own: Option<OwnName>,
}

enum ListeningSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Where clients find a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// This address and port.
    Tcp(SocketAddr),
    /// The socket of this name.
    Unix(PathBuf),
}

impl Listener {
    /// Listens on a TCP port; port 0 means any that is free.
    pub fn tcp(address: SocketAddr) -> Result<Listener> {
        let socket = TcpListener::bind(address).map_err(|cause| match cause.kind() {
            io::ErrorKind::AddrInUse => {
                let message =
                    format!("listen on {address}: another program listens there; port 0 takes one that is free");
                Error::new(Kind::Io, message)
            }
            io::ErrorKind::AddrNotAvailable => {
                Error::new(Kind::Io, format!("listen on {address}: this machine does not have that address"))
            }
            _ => Error::io(format!("listen on {address}"), cause),
        })?;
        Ok(Listener { socket: ListeningSocket::Tcp(socket), _own: None })
    }

    /// Listens on a Unix socket that only the same user can connect to. A socket of that name that nobody listens on any more
    /// is replaced; anything else is left, and an error.
    pub fn unix(path: &Path) -> Result<Listener> {
        let path = std::path::absolute(path).map_err(|cause| Error::io("find the folder", cause)).on_path(path)?;
        make_way(&path).on_path(&path)?;
        let socket = bind_private(&path).map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => Error::new(Kind::Io, "listen on the socket: there is no folder for it"),
            io::ErrorKind::InvalidFilename => {
                Error::new(Kind::Usage, "listen on the socket: the name is longer than a socket's may be (107 bytes)")
            }
            _ => Error::io("listen on the socket", cause),
        });
        let socket = socket.on_path(&path)?;
        let own = OwnName::of(path)?;
        Ok(Listener { socket: ListeningSocket::Unix(socket), _own: Some(own) })
    }

    /// Takes a socket that listens already.
    pub fn inherited(socket: OwnedFd) -> Result<Listener> {
        let doing = |cause: io::Error| Error::io("use the socket that systemd opened", cause);
        let domain = rustix::net::sockopt::socket_domain(&socket).map_err(|errno| doing(errno.into()))?;
        let socket = match domain {
            AddressFamily::UNIX => ListeningSocket::Unix(UnixListener::from(socket)),
            AddressFamily::INET | AddressFamily::INET6 => ListeningSocket::Tcp(TcpListener::from(socket)),
            _ => return Err(doing(io::Error::other("it is neither TCP nor Unix"))),
        };
        Ok(Listener { socket, _own: None })
    }

    /// Where clients find it; none if it has no name.
    pub fn address(&self) -> Option<Address> {
        match &self.socket {
            ListeningSocket::Tcp(listener) => listener.local_addr().ok().map(Address::Tcp),
            ListeningSocket::Unix(listener) => {
                Some(Address::Unix(listener.local_addr().ok()?.as_pathname()?.to_owned()))
            }
        }
    }

    /// Has [`accept`](Self::accept) fail instead of wait.
    pub(super) fn set_nonblocking(&self) -> io::Result<()> {
        match &self.socket {
            ListeningSocket::Tcp(listener) => listener.set_nonblocking(true),
            ListeningSocket::Unix(listener) => listener.set_nonblocking(true),
        }
    }

    /// The next client, and where it comes from, if that is another address than this computer's sockets.
    pub(super) fn accept(&self) -> io::Result<(Socket, Option<IpAddr>)> {
        match &self.socket {
            ListeningSocket::Tcp(listener) => listener.accept().map(|(stream, from)| (stream.into(), Some(from.ip()))),
            ListeningSocket::Unix(listener) => listener.accept().map(|(stream, _)| (stream.into(), None)),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            ListeningSocket::Tcp(listener) => listener.as_fd(),
            ListeningSocket::Unix(listener) => listener.as_fd(),
        }
    }
}

/// Removes a socket that a server left behind.
fn make_way(path: &Path) -> Result<()> {
    let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        let message = "it exists and is no socket; expected a new name, or a socket that nobody listens on";
        return Err(Error::new(Kind::Usage, message));
    }
    match UnixStream::connect(path) {
        Err(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|cause| Error::io("remove the socket that was left behind", cause))
        }
        Err(cause) => Err(Error::io("find out whether somebody listens on the socket", cause)),
        Ok(_) => Err(Error::new(Kind::TargetBusy, "somebody listens on the socket already")),
    }
}

/// A socket that nobody else could connect to at any moment: its mode is set before it has a name.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let name = SocketAddrUnix::new(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &name)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// The name of a socket, removed when this goes unless it stands for something else by then.
struct OwnName {
    path: PathBuf,
    identity: tintype_formats::host_file::FileIdentity,
}

impl OwnName {
    fn of(path: PathBuf) -> Result<OwnName> {
        let metadata =
            path.symlink_metadata().map_err(|cause| Error::io("look at the socket", cause)).on_path(&path)?;
        Ok(OwnName { identity: identity_of(&metadata), path })
    }
}

impl Drop for OwnName {
    fn drop(&mut self) {
        if self.path.symlink_metadata().is_ok_and(|found| identity_of(&found) == self.identity) {
            // Who removed it meanwhile has done the same.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
