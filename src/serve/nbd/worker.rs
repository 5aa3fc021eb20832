//! Buffers that workers and connections keep from one request to the next.

use super::splice::{LazyPipe, Pipe};

/// Size of each worker's buffer, in bytes: enough for most requests.
pub const WORKER_BYTES: usize = 16 << 10;

/// Size of a connection's own buffers, in bytes: one for reading and one for writing.
const RESERVE_BYTES: usize = 64 << 10;

/// Buffer that a connection uses when the server has no memory left; allocated on first use.
#[derive(Default)]
pub struct Reserve(Vec<u8>);

impl Reserve {
    /// Bytes that hold anything.
    pub fn bytes(&mut self) -> &mut [u8] {
        self.0.resize(RESERVE_BYTES, 0);
        &mut self.0
    }
}

/// Buffers that a worker keeps from one request to the next.
#[derive(Default)]
pub struct Worker {
    buffer: Vec<u8>,
    pipe: LazyPipe,
}

impl Worker {
    /// Room for so many bytes, at most [`WORKER_BYTES`], which hold anything.
    pub fn buffer(&mut self, length: usize) -> &mut [u8] {
        self.buffer.resize(WORKER_BYTES, 0);
        self.buffer.get_mut(..length).unwrap_or_default()
    }

    /// A pipe, empty.
    pub fn pipe(&mut self) -> Option<&mut Pipe> {
        self.pipe.get()
    }
}
