//! Creating images: three steps, so that output is parallel *and* the same for any number of threads.
//!
//! ```text
//!   encode   pure CPU, on all workers:        which parts to store, compressed or not
//!   place    in guest order, one at a time:   gives the encoded unit its host offset; a few instructions (where the format
//!                                             leaves it no choice, in any order)
//!   write    on all workers:                  positional writes
//!   finish   once:                            the tables, a sync, then the header that makes the file valid, a sync
//! ```
//!
//! A format author implements [`UnitWriter`], with an `Encoded` of its own. Whoever drives it sees [`ImageWriter`], which
//! cannot get the order of the steps wrong.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{ErrorKind, ImageError, Result};
use crate::host_file::{HostFile, HostFileMut};
use crate::source::Geometry;

/// What to create.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// The disk's size and sectors; its `unit_bytes` means nothing here.
    pub geometry: Geometry,
    /// Which variant of the format; the format's first one if `None`.
    pub subformat: Option<String>,
    /// How to compress.
    pub compression: Compression,
    /// The format's own options, by name.
    pub options: BTreeMap<String, String>,
    /// The disk that the new image is to inherit from.
    pub parent: Option<ParentLink>,
    /// Whether places that are never written may hold something else than zeros (a device, an existing file).
    pub target_holds_old_data: bool,
    /// Ranges that could not be read from the source, ascending: formats that can say so do.
    pub unreadable: Vec<Range<u64>>,
}

impl CreateOptions {
    /// A disk of this geometry, with nothing special about it.
    pub fn new(geometry: Geometry) -> Self {
        CreateOptions {
            geometry,
            subformat: None,
            compression: Compression::None,
            options: BTreeMap::new(),
            parent: None,
            target_holds_old_data: false,
            unreadable: Vec::new(),
        }
    }

    /// A number among the format's own options, with an optional unit (`k`, `M`, `G`, powers of 1024).
    pub fn size_option(&self, name: &str) -> Result<Option<u64>> {
        self.options
            .get(name)
            .map(|text| parse_size(text).ok_or_else(|| invalid_option(name, text, "a size such as 64k")))
            .transpose()
    }

    /// A switch among the format's own options.
    pub fn flag_option(&self, name: &str) -> Result<Option<bool>> {
        let parse = |text: &String| match text.as_str() {
            "on" | "true" | "yes" => Ok(true),
            "off" | "false" | "no" => Ok(false),
            _ => Err(invalid_option(name, text, "on or off")),
        };
        self.options.get(name).map(parse).transpose()
    }
}

/// The error for an option whose value does not do.
pub fn invalid_option(name: &str, found: &str, expected: &str) -> ImageError {
    let detail = format!("\"{}\" was given, expected {expected}", found.escape_debug());
    ImageError::new(ErrorKind::InvalidOption, format!("option {name}"), detail)
}

/// Reads `512`, `64k`, `1M`, `4GiB`, `2T`: bytes, in powers of 1024.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        "p" | "pib" => 50,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The files that a new image is made of.
///
/// They appear under their names together, when the image is complete.
pub trait TargetFiles {
    /// The image's own file, the one that the user named.
    fn main(&self) -> Arc<dyn HostFileMut>;

    /// The name of that file, without its folder.
    fn main_name(&self) -> &str;

    /// Another file beside it, for images that consist of several; `name` has no folder. It must not exist yet.
    fn create(&self, name: &str) -> Result<Arc<dyn HostFileMut>>;
}

/// A single file, for images that are one: a pipe, a device, a file in memory.
pub struct SingleFile(pub Arc<dyn HostFileMut>);

impl TargetFiles for SingleFile {
    fn main(&self) -> Arc<dyn HostFileMut> {
        Arc::clone(&self.0)
    }

    fn main_name(&self) -> &str {
        "disk"
    }

    fn create(&self, name: &str) -> Result<Arc<dyn HostFileMut>> {
        let detail =
            format!("the image also needs the file \"{}\", and the target can only be one", name.escape_debug());
        Err(ImageError::unsupported("create an image", detail))
    }
}

/// How the units of an image are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// Deflate at a level from 1 to 9.
    Zlib(u32),
    /// Zstandard at a level from 1 to 19.
    Zstd(i32),
}

/// The parent that a new image names.
#[derive(Debug, Clone)]
pub struct ParentLink {
    /// The name to put into the image.
    pub name: String,
    /// The parent's format.
    pub format: String,
    /// The parent's identity, for formats that record it.
    pub identity: Option<String>,
    /// The parent's size in bytes: past it the new image reads as zeros without saying so.
    pub size_bytes: u64,
}

/// What a writer needs its caller to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterLayout {
    /// Units begin at multiples of this many guest bytes, and end there or at the end of the disk.
    pub unit_bytes: u64,
    /// Whether [`UnitContent::Host`] is understood: stored bytes are the guest's own, at aligned places.
    pub clones: bool,
    /// Whether every byte has its place in the file from the beginning: units may then come in any order, begin and end
    /// anywhere, and be placed by many threads at once.
    pub in_place: bool,
}

/// A part of the guest's disk on its way into an image.
#[derive(Debug, Clone, Copy)]
pub struct GuestUnit<'a> {
    /// Where it begins; a multiple of [`WriterLayout::unit_bytes`], unless the layout is in place.
    pub guest_offset: u64,
    /// How long it is; a multiple of [`WriterLayout::unit_bytes`], or up to the end of the disk, unless the layout is in place.
    pub length_bytes: u64,
    /// Its bytes.
    pub content: UnitContent<'a>,
    /// What its parts are: ascending, adjoining, covering all of it. Boundaries are multiples of 512 bytes, or the disk's end.
    pub runs: &'a [UnitRun],
}

/// Where the bytes of a unit are.
#[derive(Clone, Copy)]
pub enum UnitContent<'a> {
    /// Here, all of them: what the guest sees, also where runs are zero or inherited.
    Bytes(&'a [u8]),
    /// In a host file from this offset on, to be cloned; the unit is one run of data.
    Host(&'a dyn HostFile, u64),
    /// Nowhere: the unit has no run of data, and not both zero and inherited ones (a block of the format that is partly
    /// either is filled from the unit's bytes).
    Nothing,
}

impl std::fmt::Debug for UnitContent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            UnitContent::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            UnitContent::Host(_, host_offset) => write!(f, "Host({host_offset:#x})"),
            UnitContent::Nothing => f.write_str("Nothing"),
        }
    }
}

impl<'a> GuestUnit<'a> {
    /// The guest ranges of its data, ascending, each inside one block of `block_bytes`.
    pub fn data_ranges(&self, block_bytes: u64) -> impl Iterator<Item = Range<u64>> + use<'a> {
        let GuestUnit { guest_offset, runs, .. } = *self;
        let data = runs.iter().filter(|run| run.kind == RunKind::Data);
        data.flat_map(move |run| {
            let begin = guest_offset + run.offset;
            cut(begin..begin + run.length_bytes, block_bytes)
        })
    }

    /// Puts a part of the unit's bytes into a file: clones them if they are in another file, and copies where it cannot.
    pub fn write_part(
        &self,
        offset: u64,
        length_bytes: u64,
        target: &dyn HostFileMut,
        host_offset: u64,
    ) -> io::Result<()> {
        match self.content {
            UnitContent::Bytes(bytes) => {
                target.write_all_at(host_offset, &bytes[offset as usize..][..length_bytes as usize])
            }
            UnitContent::Host(source, begin) => {
                let source_offset = begin + offset;
                if target.clone_range(source, source_offset, host_offset, length_bytes)? {
                    return Ok(());
                }
                copy_range(source, source_offset, target, host_offset, length_bytes)
            }
            UnitContent::Nothing => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "a unit without bytes has no data"))
            }
        }
    }
}

/// Cuts a range at the multiples of a length.
fn cut(range: Range<u64>, block_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let mut begin = range.start;
    std::iter::from_fn(move || {
        let from = begin;
        begin = (from / block_bytes + 1).saturating_mul(block_bytes).min(range.end);
        (from < range.end).then_some(from..begin)
    })
}

fn copy_range(
    source: &dyn HostFile,
    source_offset: u64,
    target: &dyn HostFileMut,
    host_offset: u64,
    length_bytes: u64,
) -> io::Result<()> {
    const STEP_BYTES: u64 = 1 << 20;
    let mut buffer = vec![0; length_bytes.min(STEP_BYTES) as usize];
    let mut done = 0;
    while done < length_bytes {
        let step = &mut buffer[..(length_bytes - done).min(STEP_BYTES) as usize];
        source.read_exact_at(source_offset + done, step)?;
        target.write_all_at(host_offset + done, step)?;
        done += step.len() as u64;
    }
    Ok(())
}

/// A part of a unit that is of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitRun {
    /// Where it begins, in bytes from the unit's begin.
    pub offset: u64,
    /// How long it is.
    pub length_bytes: u64,
    /// What it is.
    pub kind: RunKind,
}

/// What a part of a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunKind {
    /// Bytes to store.
    Data,
    /// Zeros. They must be made explicit where something else would show: a parent's data, or old data of the target.
    Zero,
    /// Equal to the parent's bytes: need not be stored.
    Inherited,
}

/// The order in which workers may pass.
pub trait Turn {
    /// Runs `place` when every unit before this one has been placed.
    fn place(&self, place: &mut dyn FnMut() -> Result<()>) -> Result<()>;

    /// Runs `write`; for targets that can only be appended to, when every unit before this one has been written.
    fn write(&self, write: &mut dyn FnMut() -> Result<()>) -> Result<()>;
}

/// Runs everything at once, for a single worker.
pub struct InTurn;

impl Turn for InTurn {
    fn place(&self, place: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        place()
    }

    fn write(&self, write: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        write()
    }
}

/// An image that is being created, as its format's author sees it.
///
/// What it may rely on: units do not overlap; `place` is called in ascending guest order, by one thread at a time, unless
/// the layout is [in place](WriterLayout::in_place); a unit's steps come in order; `finish` comes last, after every unit
/// succeeded. What was never passed in is a hole (or inherited, with a parent). It is dropped without `finish` when anything
/// failed, and the file is then worthless.
pub trait UnitWriter: Send + Sync {
    /// A unit between the steps.
    type Encoded<'a>: Send;

    /// What the caller needs to know.
    fn layout(&self) -> WriterLayout;

    /// Decides what of the unit is stored and compresses it; touches no shared state.
    fn encode<'a>(&self, unit: &GuestUnit<'a>) -> Result<Self::Encoded<'a>>;

    /// Gives the unit its place in the file.
    fn place(&self, encoded: &mut Self::Encoded<'_>) -> Result<()>;

    /// Writes the unit at its place.
    fn write(&self, encoded: &Self::Encoded<'_>) -> Result<()>;

    /// Completes the file and syncs it.
    fn finish(self, seed: &IdentitySeed) -> Result<()>;
}

/// Where the units of a disk go. What becomes of them at the end is said by whoever made it.
pub trait UnitTarget: Send + Sync {
    /// What the caller needs to know.
    fn layout(&self) -> WriterLayout;

    /// Takes one unit through its three steps.
    fn store(&self, unit: &GuestUnit<'_>, turn: &dyn Turn) -> Result<()>;
}

/// An image that is being created, as the engine sees it.
pub trait ImageWriter: UnitTarget {
    /// Completes the file and syncs it.
    fn finish(self: Box<Self>, seed: &IdentitySeed) -> Result<()>;
}

impl<W: UnitWriter> UnitTarget for W {
    fn layout(&self) -> WriterLayout {
        UnitWriter::layout(self)
    }

    fn store(&self, unit: &GuestUnit<'_>, turn: &dyn Turn) -> Result<()> {
        let mut encoded = self.encode(unit)?;
        turn.place(&mut || self.place(&mut encoded))?;
        turn.write(&mut || self.write(&encoded))
    }
}

impl<W: UnitWriter> ImageWriter for W {
    fn finish(self: Box<Self>, seed: &IdentitySeed) -> Result<()> {
        UnitWriter::finish(*self, seed)
    }
}

/// Where an image's identifiers come from: random, or the content, for output that can be reproduced.
#[derive(Debug, Clone, Copy)]
pub struct IdentitySeed(pub [u8; 32]);

impl IdentitySeed {
    /// An identifier for one use in the image, the same for the same seed and use.
    pub fn uuid(&self, purpose: &str) -> uuid::Uuid {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(purpose.as_bytes());
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("512"), Some(512));
        assert_eq!(parse_size("64k"), Some(65536));
        assert_eq!(parse_size("4GiB"), Some(4 << 30));
        assert_eq!(parse_size("100b"), Some(100));
        assert_eq!(parse_size("16T"), Some(16 << 40));
        for bad in ["", "k", "-1", "1.5M", "64q", "64kibib", "64ib", "64bib", "99999999999999999999", "17179869184G"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn data_is_cut_where_blocks_end() {
        let run = |offset, length_bytes, kind| UnitRun { offset, length_bytes, kind };
        let runs = [run(0, 3, RunKind::Data), run(3, 4, RunKind::Zero), run(7, 9, RunKind::Data)];
        let unit = GuestUnit { guest_offset: 6, length_bytes: 16, content: UnitContent::Nothing, runs: &runs };
        let ranges = |block_bytes| unit.data_ranges(block_bytes).collect::<Vec<_>>();
        assert_eq!(ranges(8), [6..8, 8..9, 13..16, 16..22]);
        assert_eq!(ranges(u64::MAX), [6..9, 13..22]);
    }

    #[test]
    fn identifiers_differ_by_purpose_and_repeat_by_seed() {
        let seed = IdentitySeed([7; 32]);
        assert_eq!(seed.uuid("a"), seed.uuid("a"));
        assert_ne!(seed.uuid("a"), seed.uuid("b"));
        assert_eq!(seed.uuid("a").get_version_num(), 4);
    }
}
