//! What an NBD connection runs over: a TCP or Unix socket, plain or inside TLS.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::address::Endpoint;

/// How long a read waits before its caller gets to look around.
const TICK: Duration = Duration::from_millis(500);

/// How long a silent TCP connection may be before the kernel asks whether the other side is still there, and how long what
/// was sent may stay without acknowledgement.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A stream of bytes in both directions. One thread reads and one writes at a time, but each beside the other.
pub trait Transport: Send + Sync {
    /// Reads some bytes; 0 at the end. Fails with `WouldBlock` or `TimedOut` if there are none for a moment.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all bytes.
    fn write_all(&self, bytes: &[u8]) -> io::Result<()>;

    /// Ends it, also for threads that are reading or writing.
    fn shut_down(&self);
}

/// A connected socket.
pub enum Socket {
    /// Over a network.
    Tcp(TcpStream),
    /// Inside this machine.
    Unix(UnixStream),
}

impl Socket {
    /// Connects to a server; waits until the deadline at most.
    pub fn connect(endpoint: &Endpoint, deadline: Instant) -> io::Result<Self> {
        let socket = match endpoint {
            Endpoint::Unix(path) => Socket::Unix(UnixStream::connect(path)?),
            Endpoint::Tcp(host, port) => Socket::Tcp(connect_tcp(host, *port, deadline)?),
        };
        socket.prepare()?;
        Ok(socket)
    }

    /// Lets reads wake up now and then.
    pub fn prepare(&self) -> io::Result<()> {
        match self {
            Socket::Unix(socket) => socket.set_read_timeout(Some(TICK)),
            Socket::Tcp(socket) => {
                socket.set_read_timeout(Some(TICK))?;
                socket.set_nodelay(true)?;
                use rustix::net::sockopt;
                sockopt::set_socket_keepalive(socket, true)?;
                sockopt::set_tcp_keepidle(socket, KEEP_ALIVE)?;
                sockopt::set_tcp_keepintvl(socket, KEEP_ALIVE / 3)?;
                sockopt::set_tcp_user_timeout(socket, KEEP_ALIVE.as_millis() as u32 * 2)?;
                Ok(())
            }
        }
    }
}

fn connect_tcp(host: &str, port: u16, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in (host, port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(socket) => return Ok(socket),
            Err(cause) => last = cause,
        }
    }
    Err(last)
}

impl Transport for Socket {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => (&*socket).read(buffer),
            Socket::Unix(socket) => (&*socket).read(buffer),
        }
    }

    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Socket::Tcp(socket) => (&*socket).write_all(bytes),
            Socket::Unix(socket) => (&*socket).write_all(bytes),
        }
    }

    fn shut_down(&self) {
        // It may be gone already.
        let _ = match self {
            Socket::Tcp(socket) => socket.shutdown(Shutdown::Both),
            Socket::Unix(socket) => socket.shutdown(Shutdown::Both),
        };
    }
}

/// Whether a read found nothing for a moment.
pub fn is_tick(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Fills the buffer; `on_tick` decides, whenever nothing came for a moment, whether to go on: it gets how much there is.
pub fn read_exact(
    transport: &dyn Transport,
    buffer: &mut [u8],
    on_tick: &mut dyn FnMut(usize) -> io::Result<()>,
) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match transport.read(&mut buffer[filled..]) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            Ok(length) => filled += length,
            Err(cause) if is_tick(&cause) => on_tick(filled)?,
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

/// The same, until a deadline.
pub fn read_exact_until(transport: &dyn Transport, buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    read_exact(transport, buffer, &mut |_| match Instant::now() < deadline {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer")),
    })
}
