//! Reading: the segments one after the other, and chunks out of them.

use std::sync::Arc;

use super::hashes::stored_hashes;
use super::header;
use super::names::{self, MAX_SEGMENTS};
use super::on_disk::CHECKSUM_BYTES;
use super::segment::Segment;
use super::tables::{KeptTables, StoredChunk, Table};
use super::volume::Volume;
use crate::codec;
use crate::error::{ImageError, Result};
use crate::extent::{LayerExtent, LayerKind};
use crate::host_file::OpenFile;
use crate::layer::{Detail, ImageInfo, ImageLayer};
use crate::reference_gate::{FileReference, ReferenceGate};
use crate::source::Geometry;
use crate::unit_cache::UnitCache;

const OPEN_SEGMENT: &str = "open EWF segment";
const READ_CHUNK: &str = "read EWF chunk";

/// The first segment of an image.
pub(super) struct EwfImage {
    pub first: Arc<Segment>,
    pub volume: Volume,
    pub info: ImageInfo,
}

fn describe(first: &Segment, volume: &Volume) -> Result<ImageInfo> {
    let mut details: Vec<(&'static str, Detail)> = vec![
        ("media", volume.media().into()),
        ("bytes_per_sector", volume.sector_bytes.into()),
        ("chunk_bytes", volume.chunk_bytes.into()),
        ("several_segments", first.continues.into()),
    ];
    details.extend(header::case_details(&first.file, &first.notes)?);
    if let Some(hashes) = stored_hashes(first)? {
        details.extend(hashes.details());
    }
    let mut warnings = Vec::new();
    if first.notes.iter().any(|section| section.kind == "error2") {
        warnings.push("the image has a list of sectors that could not be read when it was made".to_owned());
    }
    let sector_bytes = if volume.sector_bytes == 4096 { 4096 } else { 512 };
    let geometry = Geometry {
        size_bytes: volume.size_bytes,
        logical_sector_bytes: sector_bytes,
        physical_sector_bytes: sector_bytes,
        unit_bytes: volume.chunk_bytes,
    };
    Ok(ImageInfo { format: super::FORMAT.name, geometry, identity: None, details, warnings })
}

impl EwfImage {
    /// Reads the first segment.
    pub fn open(file: OpenFile) -> Result<EwfImage> {
        let first = Segment::open(file)?;
        if first.number != 1 {
            let detail = format!("the file is segment {} of an image, which is opened by its first one", first.number);
            return Err(ImageError::unsupported("open EWF image", detail));
        }
        let volume = first.volume.clone();
        let volume = volume.ok_or_else(|| ImageError::corrupt("open EWF image", "segment 1 has no volume section"))?;
        let info = describe(&first, &volume)?;
        Ok(EwfImage { first: Arc::new(first), volume, info })
    }

    /// The first segment alone, even if there are more.
    pub fn first_only(&self) -> Result<EwfLayer> {
        EwfLayer::new(vec![Arc::clone(&self.first)], &self.volume, self.info.geometry)
    }

    /// All segments.
    pub fn all(&self, gate: &dyn ReferenceGate) -> Result<EwfLayer> {
        let mut segments = vec![Arc::clone(&self.first)];
        while segments.last().is_some_and(|last| last.continues) {
            let number = segments.len() as u32 + 1;
            segments.push(Arc::new(self.open_segment(number, gate)?));
        }
        EwfLayer::new(segments, &self.volume, self.info.geometry)
    }

    fn open_segment(&self, number: u32, gate: &dyn ReferenceGate) -> Result<Segment> {
        if number > MAX_SEGMENTS {
            let detail = format!("the image goes on after segment {MAX_SEGMENTS}, the last that has a name");
            return Err(ImageError::limit_exceeded(OPEN_SEGMENT, detail));
        }
        let name = names::of_segment(&self.first.file.name, number).ok_or_else(|| {
            let detail = format!(
                "segment {number} cannot be looked for: the first one is called \"{}\", not like NAME.E01",
                self.first.file.name.escape_debug()
            );
            ImageError::unsupported(OPEN_SEGMENT, detail)
        })?;
        let reference = FileReference {
            names: vec![name.clone()],
            format: Some(super::FORMAT.name.to_owned()),
            identities: Vec::new(),
        };
        let segment = Segment::open(gate.open(&reference)?.file)?;
        let wrong =
            |detail: String| Err(ImageError::corrupt(OPEN_SEGMENT, format!("\"{}\" {detail}", name.escape_debug())));
        if segment.number != number {
            return wrong(format!("says that it is segment {}, expected {number}", segment.number));
        }
        if segment.volume.as_ref().is_some_and(|volume| !self.is_same_set(volume)) {
            return wrong("belongs to another image: its data section differs from the volume section".to_owned());
        }
        Ok(segment)
    }

    fn is_same_set(&self, other: &Volume) -> bool {
        let first = &self.volume;
        other.set_id == first.set_id && other.chunk_bytes == first.chunk_bytes && other.size_bytes == first.size_bytes
    }
}

/// The disk.
pub(super) struct EwfLayer {
    pub segments: Vec<Arc<Segment>>,
    pub volume: Volume,
    geometry: Geometry,
    files: Vec<OpenFile>,
    /// In the order of the disk.
    pub tables: Vec<TableNumber>,
    kept: KeptTables,
    cache: UnitCache,
}

/// Which table of which segment has the chunks from `first_chunk` on.
pub(super) struct TableNumber {
    pub segment: usize,
    pub table: usize,
    pub first_chunk: u64,
    pub chunks: u64,
}

impl EwfLayer {
    fn new(segments: Vec<Arc<Segment>>, volume: &Volume, geometry: Geometry) -> Result<EwfLayer> {
        let (mut tables, mut first_chunk) = (Vec::new(), 0);
        for (segment, opened) in segments.iter().enumerate() {
            for (table, place) in opened.tables.iter().enumerate() {
                let chunks = place.chunks()?;
                tables.push(TableNumber { segment, table, first_chunk, chunks });
                first_chunk += chunks;
            }
        }
        let files = segments.iter().map(|segment| segment.file.clone()).collect();
        let (kept, cache) = (KeptTables::default(), UnitCache::default());
        Ok(EwfLayer { segments, volume: volume.clone(), geometry, files, tables, kept, cache })
    }

    /// How many chunks the segments have.
    pub fn stored_chunks(&self) -> u64 {
        self.tables.last().map_or(0, |last| last.first_chunk + last.chunks)
    }

    /// Where a chunk is, and in which segment.
    pub fn find(&self, chunk: u64) -> Result<(&Segment, StoredChunk)> {
        let missing = || {
            let (stored, needed) = (self.stored_chunks(), self.volume.chunks());
            let detail = format!("the tables have {stored} chunks, the disk has {needed}");
            ImageError::truncated("find EWF chunk", detail)
        };
        let number = self.tables.partition_point(|table| table.first_chunk + table.chunks <= chunk);
        let place = self.tables.get(number).ok_or_else(missing)?;
        let segment = self.segments.get(place.segment).ok_or_else(missing)?;
        let table = self.kept.get(number, || load_table(segment, place))?;
        let stored = table.chunk((chunk - place.first_chunk) as usize).ok_or_else(missing)?;
        Ok((segment, stored))
    }

    /// Decodes a chunk into `target`, which is as long as what the disk has of it.
    pub fn decode(&self, chunk: u64, target: &mut [u8]) -> Result<()> {
        let (segment, place) = self.find(chunk)?;
        let at = |error: ImageError| error.at_host(place.host.start);
        let chunk_bytes = self.volume.chunk_bytes;
        // No chunk that is stored sensibly is longer; what follows it may be anything.
        let longest = chunk_bytes + chunk_bytes / 8 + 1024;
        let mut stored = vec![0; (place.host.end - place.host.start).min(longest) as usize];
        let read = segment.file.file.read_exact_at(place.host.start, &mut stored);
        read.map_err(|cause| at(ImageError::io(READ_CHUNK, cause)))?;
        if place.compressed {
            return inflate(&stored, chunk_bytes as usize, target).map_err(at);
        }
        // The end of the last chunk may be missing or not: it is as long as what is stored.
        let data_bytes = (stored.len() as u64).saturating_sub(CHECKSUM_BYTES).min(chunk_bytes) as usize;
        let (Some((data, rest)), true) = (stored.split_at_checked(data_bytes), data_bytes >= target.len()) else {
            let detail = format!("it has {} bytes, expected {} and a checksum", stored.len(), target.len());
            return Err(at(ImageError::corrupt(READ_CHUNK, detail)));
        };
        let expected = rest.first_chunk().copied().map_or(0, u32::from_le_bytes);
        let found = libdeflater::adler32(data);
        if found != expected {
            let detail = format!("the Adler-32 of its bytes is {found:#010x}, expected {expected:#010x}");
            return Err(at(ImageError::corrupt(READ_CHUNK, detail)));
        }
        target.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
        Ok(())
    }
}

fn load_table(segment: &Segment, place: &TableNumber) -> Result<Table> {
    let table = segment.tables.get(place.table);
    table.ok_or_else(|| ImageError::corrupt("find EWF table", "there is none"))?.load(&segment.file)
}

/// Inflates a whole chunk, of which the last one's end may be missing.
fn inflate(stored: &[u8], chunk_bytes: usize, target: &mut [u8]) -> Result<()> {
    let damaged = |cause| ImageError::corrupt(READ_CHUNK, "it cannot be inflated").caused_by(cause);
    let whole = target.len() == chunk_bytes;
    let mut buffer = if whole { Vec::new() } else { vec![0; chunk_bytes] };
    let length = codec::inflate_zlib(stored, if whole { target } else { &mut buffer }).map_err(damaged)?;
    if length < target.len() {
        let detail = format!("it inflates to {length} bytes, expected {}", target.len());
        return Err(ImageError::corrupt(READ_CHUNK, detail));
    }
    target.iter_mut().zip(&buffer).for_each(|(to, from)| *to = *from);
    Ok(())
}

impl ImageLayer for EwfLayer {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Chunks have checksums between them: nothing of the disk lies in the file as it is, and nothing is left out.
    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let length_bytes = self.geometry.clamp(guest_offset, max_bytes)?;
        Ok(LayerExtent { length_bytes, kind: LayerKind::Encoded })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.geometry.check_range(guest_offset, buffer.len() as u64)?;
        let (mut guest_offset, mut left) = (guest_offset, buffer);
        while !left.is_empty() {
            let (chunk, within) = (guest_offset / self.volume.chunk_bytes, guest_offset % self.volume.chunk_bytes);
            let chunk_bytes = self.volume.chunk_length_bytes(chunk);
            let here = chunk_bytes.saturating_sub(within).min(left.len() as u64);
            let (part, rest) = left.split_at_mut(here as usize);
            let decode = |unit: &mut [u8]| self.decode(chunk, unit);
            self.cache.read(chunk, chunk_bytes, within, part, decode).map_err(|error| error.at_guest(guest_offset))?;
            guest_offset += here;
            left = rest;
        }
        Ok(())
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}
