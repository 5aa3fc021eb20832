//! Block status: which ranges are holes, which read as zeros.

use std::io;

use tintype_formats::extent::DiskKind;
use tintype_formats::{BlockSource, ImageError};
use zerocopy::byteorder::big_endian::U32;

use super::request::Request;
use super::transmission::Transmission;
use crate::nbd_protocol::{allocation, command_flag};

/// Most extents of a reply: 32 KiB of them. Who wants to know more asks again.
const MAX_EXTENTS: usize = 4 << 10;

/// Most lookups for a reply: extents of the same kind are told as one.
const MAX_LOOKUPS: usize = 64 << 10;

fn flags_of(kind: DiskKind) -> u32 {
    match kind {
        DiskKind::Hole => allocation::HOLE | allocation::ZERO,
        DiskKind::Zero => allocation::ZERO,
        DiskKind::Data(_) | DiskKind::Encoded | DiskKind::Inherited => 0,
    }
}

/// The extents from an offset on, as lengths and flags; at most `max_extents`, at least one.
fn extents(disk: &dyn BlockSource, request: &Request, max_extents: usize) -> Result<Vec<[U32; 2]>, ImageError> {
    let mut found: Vec<[U32; 2]> = Vec::new();
    let (mut at, end) = (request.offset, request.end());
    for _ in 0..MAX_LOOKUPS {
        if at >= end {
            break;
        }
        let extent = match disk.extent_at(at, end - at) {
            Ok(extent) => extent,
            Err(error) if found.is_empty() => return Err(error),
            // What is known is told; the error is for whoever asks for what lies behind.
            Err(_) => break,
        };
        // Of a part of a request, whose length has as many bits.
        let (length, flags) = (extent.length_bytes.min(end - at) as u32, flags_of(extent.kind));
        let full = found.len() == max_extents;
        match found.last_mut().filter(|last| last[1].get() == flags) {
            Some(last) => last[0] += length,
            None if full => break,
            None => found.push([length.into(), flags.into()]),
        }
        at += u64::from(length);
    }
    Ok(found)
}

impl Transmission<'_> {
    /// Answers a question for block status.
    pub fn block_status(&self, request: &Request) -> io::Result<()> {
        let max_extents = if request.has(command_flag::REQ_ONE) { 1 } else { MAX_EXTENTS };
        match extents(self.export.disk(), request, max_extents) {
            Ok(found) => self.reply_status(request, &found),
            Err(error) => self.disk_failed(request, &error, None),
        }
    }
}
