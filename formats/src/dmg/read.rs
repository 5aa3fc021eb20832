//! Reading: extents out of the chunk tables, and bytes out of the file.

use std::sync::Arc;

use super::codecs::Codec;
use super::on_disk::SECTOR_BYTES;
use super::tables::{self, Chunk, ChunkKind, Tables};
use super::trailer::{self, Layout, TablesPlace};
use crate::error::{ImageError, Result};
use crate::extent::{HostFileId, HostRange, LayerExtent, LayerKind};
use crate::host_file::OpenFile;
use crate::layer::{Detail, ImageInfo, ImageLayer};
use crate::source::Geometry;
use crate::unit_cache::UnitCache;

/// What is best read at once lies between these, in bytes, whatever the chunks' size.
const MIN_UNIT_BYTES: u64 = 4096;
const MAX_UNIT_BYTES: u64 = 4 << 20;

/// How many chunks of one kind are joined to one extent.
const MAX_JOINED_CHUNKS: usize = 1024;

const READ_CHUNK: &str = "read DMG chunk";

/// A file whose trailer and chunk tables are good.
pub(super) struct DmgImage {
    pub file: OpenFile,
    pub layout: Layout,
    pub tables: Arc<Tables>,
    pub info: ImageInfo,
}

fn describe(layout: &Layout, tables: &Tables) -> ImageInfo {
    let sectors = layout.sectors.max(tables.end_sector());
    let encoded = tables.chunks.iter().filter(|chunk| matches!(chunk.kind, ChunkKind::Encoded(_)));
    let longest = encoded.map(Chunk::length_bytes).max().unwrap_or(0);
    let unit_bytes = longest.next_power_of_two().clamp(MIN_UNIT_BYTES, MAX_UNIT_BYTES);
    let names: Vec<_> = tables.partitions.iter().map(|partition| partition.name.as_str()).collect();
    let details: Vec<(&'static str, Detail)> = vec![
        ("compression", compressions(tables).into()),
        ("partitions", names.join(", ").into()),
        ("chunks", (tables.chunks.len() as u64).into()),
        ("longest_compressed_chunk_bytes", longest.into()),
        (
            "tables",
            if matches!(layout.tables, TablesPlace::PropertyList(_)) { "property list" } else { "resource fork" }
                .into(),
        ),
    ];
    let geometry = Geometry::of_512_byte_sectors(sectors * SECTOR_BYTES, unit_bytes);
    let warnings = warnings(layout, tables, sectors);
    ImageInfo { format: super::FORMAT.name, geometry, identity: None, details, warnings }
}

/// The compressions that occur.
fn compressions(tables: &Tables) -> String {
    let all = [Codec::Adc, Codec::Zlib, Codec::Bzip2, Codec::Lzfse, Codec::Lzma];
    let occurs = |codec: &Codec| tables.chunks.iter().any(|chunk| chunk.kind == ChunkKind::Encoded(*codec));
    let names: Vec<_> = all.into_iter().filter(occurs).map(Codec::name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn warnings(layout: &Layout, tables: &Tables, sectors: u64) -> Vec<String> {
    let mut warnings = Vec::new();
    if tables.end_sector() > layout.sectors {
        warnings.push(format!(
            "the trailer says that the disk has {} sectors, but its chunks reach to sector {sectors}: these count",
            layout.sectors
        ));
    }
    let missing: u64 = tables.gaps(sectors).map(|gap| gap.end - gap.start).sum();
    if missing > 0 {
        warnings.push(format!("no chunk holds {missing} sectors of the disk: reading them fails"));
    }
    warnings
}

impl DmgImage {
    /// Reads and checks the trailer and the chunk tables.
    pub fn open(file: OpenFile) -> Result<DmgImage> {
        let layout = trailer::read(file.file.as_ref())?;
        let tables = tables::read(file.file.as_ref(), &layout)?;
        let info = describe(&layout, &tables);
        Ok(DmgImage { file, layout, tables: Arc::new(tables), info })
    }

    /// The disk, with a cache of its own.
    pub fn disk(&self) -> DmgLayer {
        DmgLayer {
            files: [self.file.clone()],
            tables: Arc::clone(&self.tables),
            geometry: self.info.geometry,
            cache: UnitCache::default(),
        }
    }
}

/// The disk.
pub(super) struct DmgLayer {
    files: [OpenFile; 1],
    tables: Arc<Tables>,
    geometry: Geometry,
    cache: UnitCache,
}

/// Decodes a chunk into exactly `target`.
pub(super) fn decode(file: &OpenFile, chunk: &Chunk, codec: Codec, target: &mut [u8]) -> Result<()> {
    let mut stored = vec![0; chunk.stored_bytes as usize];
    file.file
        .read_exact_at(chunk.host_offset, &mut stored)
        .map_err(|cause| ImageError::io(READ_CHUNK, cause).at_host(chunk.host_offset))?;
    codec.decode(&stored, target).map_err(|cause| {
        let detail = format!("it does not decode to {} sectors", chunk.sectors);
        ImageError::corrupt(READ_CHUNK, detail).at_host(chunk.host_offset).caused_by(cause)
    })
}

impl DmgLayer {
    /// The chunk that holds a guest offset, its index, and how far into it that is.
    fn chunk_at(&self, guest_offset: u64) -> Result<(usize, Chunk, u64)> {
        let (index, chunk) = self.tables.find(guest_offset / SECTOR_BYTES).ok_or_else(|| {
            ImageError::corrupt("find DMG chunk", "no chunk table says what this sector holds").at_guest(guest_offset)
        })?;
        Ok((index, *chunk, guest_offset - chunk.guest_offset()))
    }

    fn read_part(&self, index: usize, chunk: &Chunk, within: u64, target: &mut [u8]) -> Result<()> {
        match chunk.kind {
            ChunkKind::Zero | ChunkKind::Ignored => {
                target.fill(0);
                Ok(())
            }
            ChunkKind::Raw => {
                let host_offset = chunk.host_offset + within;
                self.files[0]
                    .file
                    .read_exact_at(host_offset, target)
                    .map_err(|cause| ImageError::io(READ_CHUNK, cause).at_host(host_offset))
            }
            ChunkKind::Encoded(codec) => self.cache.read(index as u64, chunk.length_bytes(), within, target, |unit| {
                decode(&self.files[0], chunk, codec, unit)
            }),
        }
    }
}

fn kind_at(chunk: &Chunk, within: u64) -> LayerKind {
    match chunk.kind {
        ChunkKind::Zero => LayerKind::Zero,
        ChunkKind::Ignored => LayerKind::Absent,
        ChunkKind::Encoded(_) => LayerKind::Encoded,
        ChunkKind::Raw => LayerKind::Data(HostRange { file: HostFileId(0), host_offset: chunk.host_offset + within }),
    }
}

impl ImageLayer for DmgLayer {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let max_bytes = self.geometry.clamp(guest_offset, max_bytes)?;
        let (index, chunk, within) = self.chunk_at(guest_offset)?;
        let kind = kind_at(&chunk, within);
        let mut length_bytes = chunk.length_bytes() - within;
        for next in self.tables.chunks.iter().skip(index + 1).take(MAX_JOINED_CHUNKS) {
            let goes_on = match kind {
                LayerKind::Data(range) => kind_at(next, 0) == LayerKind::Data(range.advanced(length_bytes)),
                kind => kind_at(next, 0) == kind,
            };
            if length_bytes >= max_bytes || next.guest_offset() != guest_offset + length_bytes || !goes_on {
                break;
            }
            length_bytes += next.length_bytes();
        }
        Ok(LayerExtent { length_bytes: length_bytes.min(max_bytes), kind })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.geometry.check_range(guest_offset, buffer.len() as u64)?;
        let (mut guest_offset, mut left) = (guest_offset, buffer);
        while !left.is_empty() {
            let (index, chunk, within) = self.chunk_at(guest_offset)?;
            let here = (chunk.length_bytes() - within).min(left.len() as u64);
            let (part, rest) = left.split_at_mut(here as usize);
            self.read_part(index, &chunk, within, part).map_err(|error| error.at_guest(guest_offset))?;
            guest_offset += here;
            left = rest;
        }
        Ok(())
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}
