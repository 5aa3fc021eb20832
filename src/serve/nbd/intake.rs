//! Takes the requests of a connection out of its stream of bytes, many of them with one system call.

use std::io;
use std::time::{Duration, Instant};

use super::handshake::Failure;
use super::request::Request;
use super::worker::Reserve;
use crate::channel::{Channel, deadline_for};
use crate::nbd_protocol::REQUEST_BYTES;

/// How much is read ahead: many small requests, or the beginning of a large one.
const BUFFER_BYTES: usize = 16 << 10;

/// What has come and was not yet taken.
pub struct Intake {
    buffer: Box<[u8]>,
    begin: usize,
    end: usize,
    /// Nothing more is to be read: the client has gone, or what it says cannot be understood.
    ended: bool,
    /// What a write goes through where the server has no memory left.
    pub reserve: Reserve,
}

impl Intake {
    /// Nothing has come.
    pub fn new() -> Self {
        Intake { buffer: vec![0; BUFFER_BYTES].into(), begin: 0, end: 0, ended: false, reserve: Reserve::default() }
    }

    /// Has every worker find the end.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether a part of a request is here already.
    pub fn is_between_requests(&self) -> bool {
        self.begin == self.end
    }

    /// The next request; `None` if the client hung up between two. It may be `idle` for so long, and a request that has begun
    /// has to be here within `limit`.
    pub fn next(
        &mut self,
        channel: &Channel,
        (idle, limit): (Option<Duration>, Option<Duration>),
    ) -> Result<Option<Request>, Failure> {
        let (mut idle_until, mut whole_until) = (None, None);
        loop {
            let here = self.buffer.get(self.begin..self.end).unwrap_or_default();
            if let Some(header) = here.first_chunk::<REQUEST_BYTES>() {
                let request = Request::parse(header)?;
                self.begin += REQUEST_BYTES;
                return Ok(Some(request));
            }
            let between = here.is_empty();
            self.buffer.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
            let deadline = match between {
                true => *idle_until.get_or_insert_with(|| deadline_for(idle, 0)),
                false => *whole_until.get_or_insert_with(|| deadline_for(limit, 0)),
            };
            match channel.read_until(self.buffer.get_mut(self.end..).unwrap_or_default(), deadline)? {
                0 if between => return Ok(None),
                0 => return Err(Failure::Io(io::ErrorKind::UnexpectedEof.into())),
                read => self.end += read,
            }
        }
    }

    /// The bytes that follow a request, until a deadline.
    pub fn payload(&mut self, channel: &Channel, payload: &mut [u8], deadline: Option<Instant>) -> io::Result<()> {
        let here = self.buffer.get(self.begin..self.end).unwrap_or_default();
        let (early, late) = payload.split_at_mut(here.len().min(payload.len()));
        early.copy_from_slice(here.get(..early.len()).unwrap_or_default());
        self.begin += early.len();
        channel.read_exact_until(late, deadline)
    }
}
