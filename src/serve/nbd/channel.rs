//! What a connection's bytes go through: the socket, or TLS over it.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::socket::Socket;
use super::tls::TlsChannel;

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
            tls.say_goodbye();
        }
    }
}
