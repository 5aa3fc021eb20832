//! Connecting to a server, and reading from it with patience.

use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::address::Endpoint;
use crate::channel::{Channel, Socket, is_timeout};

/// How long a read waits before its caller gets to look around.
const TICK: Duration = Duration::from_millis(500);

/// How long a silent TCP connection may be before the kernel asks whether the other side is still there, and how long what
/// was sent may stay without acknowledgement.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Connects to a server; waits until the deadline at most.
pub fn connect(endpoint: &Endpoint, deadline: Instant) -> io::Result<Arc<Socket>> {
    match endpoint {
        Endpoint::Unix(path) => ticking(UnixStream::connect(path).map_err(|cause| explained(cause, endpoint))?),
        Endpoint::Tcp(host, port) => {
            let socket = connect_tcp(host, *port, deadline).map_err(|cause| explained(cause, endpoint))?;
            sockopt::set_tcp_keepidle(&socket, KEEP_ALIVE)?;
            sockopt::set_tcp_keepintvl(&socket, KEEP_ALIVE / 3)?;
            sockopt::set_tcp_user_timeout(&socket, KEEP_ALIVE.as_millis() as u32 * 2)?;
            ticking(socket)
        }
    }
}

/// What the system's word means here.
fn explained(cause: io::Error, endpoint: &Endpoint) -> io::Error {
    let words = match (cause.kind(), endpoint) {
        (io::ErrorKind::ConnectionRefused, _) => format!("no server listens at {endpoint}"),
        (io::ErrorKind::NotFound, Endpoint::Unix(_)) => format!("there is no socket {endpoint}"),
        _ => format!("{endpoint}: {cause}"),
    };
    io::Error::new(cause.kind(), words)
}

/// A socket whose reads wake up now and then.
pub fn ticking(stream: impl Into<Socket>) -> io::Result<Arc<Socket>> {
    let socket = stream.into();
    socket.limit_reads(Some(TICK))?;
    Ok(Arc::new(socket))
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

/// Fills the buffer; `on_step` decides, whenever something came or nothing did for a moment, whether to go on: it gets how
/// much there is.
pub fn read_exact(
    channel: &Channel,
    buffer: &mut [u8],
    on_step: &mut dyn FnMut(usize) -> io::Result<()>,
) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match channel.read(&mut buffer[filled..]) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            Ok(length) => filled += length,
            Err(cause) if is_timeout(&cause) => {}
            Err(cause) => return Err(cause),
        }
        on_step(filled)?;
    }
    Ok(())
}

/// The same, until a deadline.
pub fn read_exact_until(channel: &Channel, buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    read_exact(channel, buffer, &mut |_| check_time(deadline))
}

/// Fails after the deadline.
pub fn check_time(deadline: Instant) -> io::Result<()> {
    match Instant::now() < deadline {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer")),
    }
}
