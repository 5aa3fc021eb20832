//! A connected socket, TCP or Unix: read by one thread while another one writes.

use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{SendFlags, Shutdown};

/// The socket of a connection.
pub struct Socket(OwnedFd);

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Socket(stream.into())
    }
}

impl From<TcpStream> for Socket {
    /// What is written goes at once, and a peer that vanished is found out some time.
    fn from(stream: TcpStream) -> Self {
        // Where these are refused, it is slower, or its peer's end is found out later.
        let _ = stream.set_nodelay(true);
        let _ = sockopt::set_socket_keepalive(&stream, true);
        Socket(stream.into())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Socket {
    /// Reads what there is, at least a byte; 0 at the end.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut *buffer))?)
    }

    /// Writes all parts, one after the other.
    pub fn write_all(&self, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        while parts.iter().any(|part| !part.is_empty()) {
            let written = rustix::io::retry_on_intr(|| rustix::io::writev(&self.0, parts))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut parts, written);
        }
        Ok(())
    }

    /// Writes all bytes, and says that more of the same message comes.
    pub fn write_all_before_more(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
            let written = rustix::io::retry_on_intr(|| rustix::net::send(&self.0, bytes, flags))?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Has reads fail that wait longer; `None` lets them wait.
    pub fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()> {
        Ok(sockopt::set_socket_timeout(&self.0, Timeout::Recv, limit.map(at_least_some))?)
    }

    /// Has writes fail that wait longer for the peer to read; `None` lets them wait.
    pub fn limit_writes(&self, limit: Option<Duration>) -> io::Result<()> {
        Ok(sockopt::set_socket_timeout(&self.0, Timeout::Send, limit.map(at_least_some))?)
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
        let _ = rustix::net::shutdown(&self.0, how);
    }
}

/// The kernel takes zero for "no limit".
fn at_least_some(limit: Duration) -> Duration {
    limit.max(Duration::from_millis(1))
}
