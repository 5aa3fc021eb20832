//! Requests that change the disk.

use std::io;

use tintype_formats::ImageError;

use super::request::Request;
use super::transmission::{Payload, Transmission};
use super::worker::Worker;
use crate::nbd_protocol::command_flag;
use crate::sources::WritableDisk;

/// Zeros that are written where a client wants no hole.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

impl Transmission<'_> {
    /// Carries out `change`, and has it survive a crash if the client wants that before the reply.
    fn change(
        &self,
        request: &Request,
        change: impl FnOnce(&dyn WritableDisk) -> Result<(), ImageError>,
    ) -> io::Result<()> {
        let done = match self.export.writable() {
            Some(disk) => change(disk).and_then(|()| match request.has(command_flag::FUA) {
                true => disk.flush(),
                false => Ok(()),
            }),
            // Only a flush gets here: there is nothing that could be lost.
            None => Ok(()),
        };
        match done {
            Ok(()) => self.reply_done(request),
            Err(error) => self.disk_failed(request, &error, None),
        }
    }

    /// Writes what the client sent.
    pub fn write(&self, request: &Request, payload: Payload<'_>, worker: &mut Worker) -> io::Result<()> {
        let length = request.payload_bytes() as usize;
        self.count_written(length);
        self.change(request, |disk| match payload {
            Payload::Small => disk.write_at(request.offset, worker.buffer(length)),
            Payload::PassedOn(written) => written,
            Payload::Held(mut share) => {
                let mut at = request.offset;
                share.parts_mut().try_for_each(|part| {
                    disk.write_at(at, part)?;
                    at += part.len() as u64;
                    Ok(())
                })
            }
        })
    }

    /// Makes a range read as zeros; without holes, storage is there for whatever is written later.
    pub fn write_zeroes(&self, request: &Request) -> io::Result<()> {
        let length_bytes = u64::from(request.length_bytes);
        self.change(request, |disk| {
            if !request.has(command_flag::NO_HOLE) {
                return disk.write_zeros_at(request.offset, length_bytes);
            }
            let (mut at, end) = (request.offset, request.end());
            while at < end {
                let piece = ZEROS.get(..(end - at).min(ZEROS.len() as u64) as usize).unwrap_or(&ZEROS);
                disk.write_at(at, piece)?;
                at += piece.len() as u64;
            }
            Ok(())
        })
    }

    /// The client no longer needs a range.
    pub fn trim(&self, request: &Request) -> io::Result<()> {
        self.change(request, |disk| disk.discard_at(request.offset, request.length_bytes.into()))
    }

    /// Has all that was written survive a crash.
    pub fn flush(&self, request: &Request) -> io::Result<()> {
        self.change(request, |disk| disk.flush())
    }
}
