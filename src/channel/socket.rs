//! A connected socket, TCP or Unix: read by one thread while another one writes.

use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{SendFlags, Shutdown};

use super::{TICK, deadline_for, is_over};

/// The socket of a connection.
pub struct Socket {
    descriptor: OwnedFd,
    /// How long a message may take to be written, in milliseconds, apart from its length; 0 for no limit.
    write_limit_ms: AtomicU64,
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Socket::of(stream.into())
    }
}

impl From<TcpStream> for Socket {
    /// What is written goes at once, and a peer that vanished is found out some time.
    fn from(stream: TcpStream) -> Self {
        // Where these are refused, it is slower, or its peer's end is found out later.
        let _ = stream.set_nodelay(true);
        let _ = sockopt::set_socket_keepalive(&stream, true);
        Socket::of(stream.into())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Socket {
    fn of(descriptor: OwnedFd) -> Socket {
        Socket { descriptor, write_limit_ms: AtomicU64::new(0) }
    }

    /// Reads what there is, at least a byte; 0 at the end.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::read(&self.descriptor, &mut *buffer))?)
    }

    /// Writes all parts, one after the other.
    pub fn write_all(&self, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let deadline = self.write_deadline(parts.iter().map(|part| part.len()).sum());
        while parts.iter().any(|part| !part.is_empty()) {
            let written = rustix::io::retry_on_intr(|| rustix::io::writev(&self.descriptor, parts))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut parts, written);
            check_time(parts.iter().all(|part| part.is_empty()), deadline)?;
        }
        Ok(())
    }

    /// Writes all bytes, and says that more of the same message comes.
    pub fn write_all_before_more(&self, mut bytes: &[u8]) -> io::Result<()> {
        let deadline = self.write_deadline(bytes.len());
        while !bytes.is_empty() {
            let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
            let written = rustix::io::retry_on_intr(|| rustix::net::send(&self.descriptor, bytes, flags))?;
            bytes = bytes.get(written..).unwrap_or_default();
            check_time(bytes.is_empty(), deadline)?;
        }
        Ok(())
    }

    /// Has reads fail that wait longer; `None` lets them wait.
    pub fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()> {
        Ok(sockopt::set_socket_timeout(&self.descriptor, Timeout::Recv, limit.map(at_least_some))?)
    }

    /// Has reads come back now and then, so that their callers can look at the time.
    pub fn tick(&self) -> io::Result<()> {
        self.limit_reads(Some(TICK))
    }

    /// When a message of so many bytes has to be written.
    pub fn write_deadline(&self, length_bytes: usize) -> Option<Instant> {
        let limit_ms = self.write_limit_ms.load(Ordering::Relaxed);
        deadline_for((limit_ms > 0).then(|| Duration::from_millis(limit_ms)), length_bytes as u64)
    }

    /// Has writes fail that wait longer for the peer to read, and messages that take longer in all, apart from what their
    /// length allows; `None` lets them wait.
    pub fn limit_writes(&self, limit: Option<Duration>) -> io::Result<()> {
        let limit_ms = limit.map_or(0, |limit| at_least_some(limit).as_millis() as u64);
        self.write_limit_ms.store(limit_ms, Ordering::Relaxed);
        Ok(sockopt::set_socket_timeout(&self.descriptor, Timeout::Send, limit.map(at_least_some))?)
    }

    /// Ends the reading: what has come can still be read.
    pub fn stop_reading(&self) {
        self.shut(Shutdown::Read);
    }

    /// Ends reading and writing, also of threads that wait in it.
    pub fn close(&self) {
        self.shut(Shutdown::Both);
    }

    fn shut(&self, how: Shutdown) {
        // It fails only where the peer was faster.
        let _ = rustix::net::shutdown(&self.descriptor, how);
    }
}

/// Fails if a message is not through after its deadline.
pub fn check_time(is_through: bool, deadline: Option<Instant>) -> io::Result<()> {
    if is_through || !is_over(deadline) { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
}

/// The kernel takes zero for "no limit".
fn at_least_some(limit: Duration) -> Duration {
    limit.max(Duration::from_millis(1))
}
