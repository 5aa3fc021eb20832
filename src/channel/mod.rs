//! What the bytes of a connection go through: the socket, or TLS over it. One thread reads while another one writes.

mod socket;
mod tls;

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::socket::{Socket, check_time};
pub use self::tls::{TlsChannel, certificates, private_key, unusable};

/// How long a read of a [ticking](Socket::tick) socket waits before it looks at the time.
const TICK: Duration = Duration::from_millis(500);

/// The least that the other side has to take or give, in bytes a second: a message may take longer by what it has at this rate.
const LEAST_RATE: u64 = 64 << 10;

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
            Channel::Tls(tls) => tls.read(buffer, Some(Instant::now() + TICK)),
        }
    }

    /// Reads what there is, at least a byte; 0 at the end. Fails after the deadline, whatever drips in until then. The socket
    /// has to tick.
    pub fn read_until(&self, buffer: &mut [u8], deadline: Option<Instant>) -> io::Result<usize> {
        loop {
            if is_over(deadline) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let read = match self {
                Channel::Plain(socket) => socket.read(buffer),
                Channel::Tls(tls) => tls.read(buffer, deadline),
            };
            match read {
                Err(cause) if is_timeout(&cause) => {}
                other => return other,
            }
        }
    }

    /// Fills the buffer, or fails; after the deadline in any case.
    pub fn read_exact_until(&self, mut buffer: &mut [u8], deadline: Option<Instant>) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_until(buffer, deadline)? {
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

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// When a message of so many bytes has to be through, if there is a limit for short ones.
pub fn deadline_for(limit: Option<Duration>, length_bytes: u64) -> Option<Instant> {
    limit.map(|limit| Instant::now() + limit + Duration::from_secs(length_bytes / LEAST_RATE))
}

/// Whether a socket had nothing to read, or no room, for as long as its limit allows.
pub fn is_timeout(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
