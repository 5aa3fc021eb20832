//! The digests that an image has of its disk.

use super::checksum::read_checked;
use super::on_disk::*;
use super::segment::Segment;
use crate::error::Result;
use crate::hex::to_hex;
use crate::layer::Detail;

/// The digests that an image has of its disk.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hashes {
    pub md5: Option<[u8; 16]>,
    pub sha1: Option<[u8; 20]>,
    /// True if a section with digests is damaged.
    pub damaged: bool,
}

impl Hashes {
    pub fn details(&self) -> impl Iterator<Item = (&'static str, Detail)> {
        let md5 = self.md5.map(|digest| ("md5", to_hex(&digest).into()));
        md5.into_iter().chain(self.sha1.map(|digest| ("sha1", to_hex(&digest).into())))
    }
}

/// Digests in the `hash` and `digest` sections of a segment, if it has any.
pub(super) fn stored_hashes(segment: &Segment) -> Result<Option<Hashes>> {
    let mut hashes = None::<Hashes>;
    for section in &segment.notes {
        let wanted_bytes = match section.kind.as_str() {
            "hash" => HASH_BYTES,
            "digest" => DIGEST_BYTES,
            _ => continue,
        };
        let hashes = hashes.get_or_insert_default();
        let is_long_enough = section.content.end - section.content.start >= wanted_bytes;
        let content = match is_long_enough {
            true => read_checked(&segment.file, "read EWF digests", section.content.start, wanted_bytes)?,
            false => None,
        };
        let Some(content) = content else {
            hashes.damaged = true;
            continue;
        };
        // Who computed none left zeros.
        hashes.md5 = content.first_chunk().copied().filter(|digest| *digest != [0; 16]).or(hashes.md5);
        if wanted_bytes == DIGEST_BYTES {
            let sha1 = content.get(16..).and_then(|rest| rest.first_chunk()).copied();
            hashes.sha1 = sha1.filter(|digest| *digest != [0; 20]).or(hashes.sha1);
        }
    }
    Ok(hashes)
}
