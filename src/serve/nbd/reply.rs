//! Replies: whole messages, one after the other, whichever worker they come from.

use std::io::{self, IoSlice};

use tintype_formats::locks::Unpoisoned as _;
use zerocopy::IntoBytes;

use super::errno::Refusal;
use super::request::Request;
use super::splice::Pipe;
use super::transmission::Transmission;
use crate::nbd_protocol::{
    CHUNK_MAGIC, ChunkHeader, DataChunk, HoleChunk, MAX_STRING_BYTES, SIMPLE_REPLY_MAGIC, SimpleReply, allocation,
    chunk,
};

/// A chunk of this kind with so many bytes behind its header.
fn chunk_header(request: &Request, kind: u16, last: bool, length_bytes: usize) -> ChunkHeader {
    ChunkHeader {
        magic: CHUNK_MAGIC.into(),
        flags: if last { chunk::DONE } else { 0 }.into(),
        kind: kind.into(),
        cookie: request.cookie.into(),
        // No chunk is longer than a request, whose length has as many bits.
        length_bytes: (length_bytes as u32).into(),
    }
}

fn data_chunk(request: &Request, offset: u64, last: bool, data_bytes: usize) -> DataChunk {
    let header = chunk_header(request, chunk::OFFSET_DATA, last, size_of::<u64>() + data_bytes);
    DataChunk { header, offset: offset.into() }
}

fn simple(request: &Request, error: u32) -> SimpleReply {
    SimpleReply { magic: SIMPLE_REPLY_MAGIC.into(), error: error.into(), cookie: request.cookie.into() }
}

impl Transmission<'_> {
    /// Sends a message that consists of these parts.
    fn send(&self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let _turn = self.replies.lock().unpoisoned();
        self.channel.write_all(parts)
    }

    /// It was done, and there is nothing more to say.
    pub fn reply_done(&self, request: &Request) -> io::Result<()> {
        self.send(&mut [IoSlice::new(simple(request, 0).as_bytes())])
    }

    /// The data of a read is complete, and there was none.
    pub fn reply_empty(&self, request: &Request) -> io::Result<()> {
        match self.agreed.structured {
            true => self.send(&mut [IoSlice::new(chunk_header(request, chunk::NONE, true, 0).as_bytes())]),
            false => self.reply_done(request),
        }
    }

    /// It was not done, or not to the end: at this place of the disk, if there is one.
    pub fn reply_refusal(&self, request: &Request, refusal: &Refusal, guest_offset: Option<u64>) -> io::Result<()> {
        let error = refusal.errno as u32;
        if !self.agreed.structured {
            return self.send(&mut [IoSlice::new(simple(request, error).as_bytes())]);
        }
        let message = refusal.message.get(..refusal.message.floor_char_boundary(MAX_STRING_BYTES)).unwrap_or_default();
        let offset = guest_offset.map(u64::to_be_bytes);
        let offset = offset.as_ref().map_or(&[][..], |offset| &offset[..]);
        let kind = if guest_offset.is_some() { chunk::ERROR_OFFSET } else { chunk::ERROR };
        let header = chunk_header(request, kind, true, 4 + 2 + message.len() + offset.len());
        let (error, length) = (error.to_be_bytes(), (message.len() as u16).to_be_bytes());
        let parts = [header.as_bytes(), &error, &length, message.as_bytes(), offset];
        self.send(&mut parts.map(IoSlice::new))
    }

    /// What stands before all bytes of a read at once.
    fn whole_header(&self, request: &Request) -> Vec<u8> {
        match self.agreed.structured {
            true => data_chunk(request, request.offset, true, request.length_bytes as usize).as_bytes().to_vec(),
            false => simple(request, 0).as_bytes().to_vec(),
        }
    }

    /// All bytes of a read at once.
    pub fn reply_whole(&self, request: &Request, data: &[IoSlice<'_>]) -> io::Result<()> {
        let header = self.whole_header(request);
        self.send(&mut [&[IoSlice::new(&header)], data].concat())
    }

    /// The same, where nothing can hold it: `fill` reads each part of the disk when its turn to be sent has come.
    pub fn reply_while_reading(
        &self,
        request: &Request,
        bytes: &mut [u8],
        fill: impl Fn(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let header = self.whole_header(request);
        let _turn = self.replies.lock().unpoisoned();
        self.channel.write_all(&mut [IoSlice::new(&header)])?;
        let (mut at, end) = (request.offset, request.end());
        while at < end {
            let length = (end - at).min(bytes.len() as u64);
            let part = bytes.get_mut(..length as usize).unwrap_or_default();
            fill(at, part)?;
            self.channel.write_all(&mut [IoSlice::new(part)])?;
            at += length;
        }
        Ok(())
    }

    /// A part of what a read wants.
    pub fn reply_data(&self, request: &Request, offset: u64, last: bool, data: &[u8]) -> io::Result<()> {
        let header = data_chunk(request, offset, last, data.len());
        self.send(&mut [IoSlice::new(header.as_bytes()), IoSlice::new(data)])
    }

    /// The same, with data that no one here has looked at.
    pub fn reply_piped(&self, request: &Request, offset: u64, last: bool, pipe: &mut Pipe) -> io::Result<()> {
        let header = data_chunk(request, offset, last, pipe.filled_bytes());
        let socket = self.channel.plain().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        let _turn = self.replies.lock().unpoisoned();
        socket.write_all_before_more(header.as_bytes())?;
        pipe.send(socket)
    }

    /// A part that reads as zeros.
    pub fn reply_hole(&self, request: &Request, offset: u64, last: bool, length_bytes: u32) -> io::Result<()> {
        let body_bytes = size_of::<HoleChunk>() - size_of::<ChunkHeader>();
        let header = chunk_header(request, chunk::OFFSET_HOLE, last, body_bytes);
        let hole = HoleChunk { header, offset: offset.into(), length_bytes: length_bytes.into() };
        self.send(&mut [IoSlice::new(hole.as_bytes())])
    }

    /// What the disk is made of: lengths, and flags of [`allocation`].
    pub fn reply_status(
        &self,
        request: &Request,
        extents: &[[zerocopy::byteorder::big_endian::U32; 2]],
    ) -> io::Result<()> {
        let extents = extents.as_bytes();
        let header = chunk_header(request, chunk::BLOCK_STATUS, true, 4 + extents.len());
        let context = allocation::ID.to_be_bytes();
        self.send(&mut [IoSlice::new(header.as_bytes()), IoSlice::new(&context), IoSlice::new(extents)])
    }
}
