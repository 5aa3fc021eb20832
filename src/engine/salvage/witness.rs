//! Tells a source with bad sectors from one that is gone.

use std::io;
use std::sync::{Mutex, MutexGuard};

use tintype_formats::locks::Unpoisoned as _;
use tintype_formats::{BlockSource, ErrorKind, ImageError};

use super::area_map::{AreaMap, State};
use crate::error::{Error, Kind, Result, in_words};
use crate::sources::AlignedBuffer;

/// Blocks that were read, which tell a source with bad sectors from one that is gone: the first and the last one, for a single
/// block may have become bad since.
#[derive(Debug, Default)]
pub struct Witness(Mutex<Option<[u64; 2]>>);

impl Witness {
    /// Takes the first and the last place that a map calls read.
    pub fn of(map: &AreaMap) -> Witness {
        let witness = Witness::default();
        map.areas().filter(|(_, state)| *state == State::Finished).for_each(|(area, _)| witness.note(area.start));
        witness
    }

    /// Notes that the sector at this offset was read.
    pub fn note(&self, guest_offset: u64) {
        self.lock().get_or_insert([guest_offset; 2])[1] = guest_offset;
    }

    /// True if anything was read.
    pub fn has_seen(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<[u64; 2]>> {
        self.0.lock().unpoisoned()
    }

    /// Fails if the source of a read that failed is gone: lost, cut short, or unreadable where it was readable before.
    pub fn check(&self, source: &dyn BlockSource, cause: ImageError) -> Result<()> {
        if cause.kind() == ErrorKind::OutOfRange || is_lost(&cause) {
            return Err(cause.into());
        }
        check_length(source)?;
        let Some([first, last]) = *self.lock() else { return Ok(()) };
        let geometry = source.geometry();
        for guest_offset in [last, first] {
            let length_bytes = u64::from(geometry.logical_sector_bytes).min(geometry.size_bytes - guest_offset);
            match source.read_at(guest_offset, &mut AlignedBuffer::zeroed(length_bytes as usize)) {
                Ok(()) => return Ok(()),
                Err(again) if is_lost(&again) => return Err(again.into()),
                Err(_) => {}
            }
        }
        let message = format!(
            "the source is gone: {}, and what was read before at {last:#x} and {first:#x} cannot be read any more",
            in_words(&cause)
        );
        Err(Error::new(Kind::Io, message))
    }
}

/// True if the connection to the source is lost: every further request would wait as long.
pub fn is_lost(cause: &ImageError) -> bool {
    cause.io_cause().is_some_and(|cause| cause.kind() == io::ErrorKind::ConnectionAborted)
}

/// Fails if a file of the source is shorter than when it was opened.
pub fn check_length(source: &dyn BlockSource) -> Result<()> {
    for opened in source.host_files() {
        let lengths = opened.file.len_bytes().and_then(|expected| Ok((expected, opened.file.len_bytes_now()?)));
        let (expected, found) = lengths.map_err(|cause| Error::io("find out the size", cause))?;
        if found < expected {
            let message = format!("the source shrank while it was read: it has {found} bytes, and had {expected}");
            return Err(Error::new(Kind::Io, message));
        }
    }
    Ok(())
}
