//! What the bytes of a connection go through: the socket, or TLS over it. One thread reads while another one writes.

mod socket;
mod tls;

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

pub use self::socket::Socket;
pub use self::tls::{TlsChannel, certificates, private_key, unusable};

/// How long the other side may take to hear that the connection ends.
const GOODBYE: Duration = Duration::from_millis(200);

/// The bytes of a connection.
pub enum Channel {
    /// As they are.
    Plain(Arc<Socket>),
    /// Encrypted.
    Tls(Box<TlsChannel>),
}

impl Channel {
    /// Reads what there is, at least a byte; 0 at the end.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Channel::Plain(socket) => socket.read(buffer),
            Channel::Tls(tls) => tls.read(buffer),
        }
    }

    /// Fills the buffer, or fails.
    pub fn read_exact(&self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read(buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => buffer = buffer.get_mut(read..).unwrap_or_default(),
            }
        }
        Ok(())
    }

    /// Writes all parts, one after the other.
    pub fn write_all(&self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        match self {
            Channel::Plain(socket) => socket.write_all(parts),
            Channel::Tls(tls) => tls.write_all(parts),
        }
    }

    /// The socket, whatever is said through it.
    pub fn socket(&self) -> &Socket {
        match self {
            Channel::Plain(socket) => socket,
            Channel::Tls(tls) => tls.socket(),
        }
    }

    /// The socket, if bytes can be put into it without being seen.
    pub fn plain(&self) -> Option<&Socket> {
        match self {
            Channel::Plain(socket) => Some(socket),
            Channel::Tls(_) => None,
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let Channel::Tls(tls) = self {
            let _ = tls.socket().limit_writes(Some(GOODBYE));
            tls.say_goodbye();
        }
    }
}

/// Whether a socket had nothing to read, or no room, for as long as its limit allows.
pub fn is_timeout(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
