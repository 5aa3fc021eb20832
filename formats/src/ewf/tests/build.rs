//! Builds small images by hand.

use zerocopy::{FromZeros, IntoBytes};

use crate::ewf::on_disk::*;

/// Where chunks and tables are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `sectors`, `table`, `table2`, as EnCase since version 2.
    EnCase,
    /// Chunks in the table's own section, after a checksum.
    OldEnCase,
    /// Chunks in the table's own section, without a checksum; a short volume section.
    Smart,
}

pub struct Builder {
    pub style: Style,
    pub disk: Vec<u8>,
    pub chunk_sectors: u32,
    pub sector_bytes: u32,
    /// How many chunks a table has, and how many tables a segment.
    pub table_chunks: usize,
    pub segment_tables: usize,
    pub set_id: [u8; 16],
}

impl Builder {
    pub fn new(style: Style, disk: &[u8]) -> Self {
        let (chunk_sectors, sector_bytes) = (8, 512);
        Builder {
            style,
            disk: disk.to_vec(),
            chunk_sectors,
            sector_bytes,
            table_chunks: 5,
            segment_tables: 2,
            set_id: [7; 16],
        }
    }

    /// The segments.
    pub fn finish(&self) -> Vec<Vec<u8>> {
        let chunk_bytes = (self.chunk_sectors * self.sector_bytes) as usize;
        let chunks: Vec<_> = self.disk.chunks(chunk_bytes).collect();
        let tables: Vec<_> = chunks.chunks(self.table_chunks).collect();
        let segments: Vec<_> = tables.chunks(self.segment_tables).collect();
        let mut files = Vec::new();
        for (index, tables) in segments.iter().enumerate() {
            let mut file = Segment::new(index as u16 + 1);
            if index == 0 {
                let text = "1\nmain\nc\tn\ta\te\tt\ncase 7\tpiece 1\t\tsomebody\tnote\x1b[1m\n\n";
                file.section("header", &pack(text.as_bytes()));
                file.section("volume", &self.volume());
            } else if self.style == Style::EnCase {
                file.section("data", &self.volume());
            }
            tables.iter().for_each(|table| self.table(&mut file, table));
            if index + 1 == segments.len() {
                file.section("digest", &self.digest());
                file.last("done");
            } else {
                file.last("next");
            }
            files.push(file.bytes);
        }
        files
    }

    fn volume(&self) -> Vec<u8> {
        let mut header = VolumeHeader::new_zeroed();
        header.media_type = 1;
        header.chunk_count.set(self.disk.len().div_ceil((self.chunk_sectors * self.sector_bytes) as usize) as u32);
        header.sectors_per_chunk.set(self.chunk_sectors);
        header.bytes_per_sector.set(self.sector_bytes);
        header.sector_count.set(self.disk.len() as u32 / self.sector_bytes);
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(if self.style == Style::Smart { SMART_VOLUME_BYTES } else { VOLUME_BYTES } as usize - 4, 0);
        if self.style != Style::Smart {
            bytes[SET_ID_OFFSET..][..16].copy_from_slice(&self.set_id);
        }
        sealed(bytes)
    }

    fn digest(&self) -> Vec<u8> {
        use md5::Digest;
        let mut bytes = md5::Md5::digest(&self.disk).to_vec();
        bytes.extend_from_slice(&sha1::Sha1::digest(&self.disk));
        bytes.resize(DIGEST_BYTES as usize - 4, 0);
        sealed(bytes)
    }

    /// Every third chunk is stored as it is; SMART compresses all.
    fn table(&self, file: &mut Segment, chunks: &[&[u8]]) {
        let (mut data, mut entries) = (Vec::new(), Vec::new());
        for (index, chunk) in chunks.iter().enumerate() {
            let plain = index % 3 == 1 && self.style != Style::Smart;
            entries.push((data.len(), !plain));
            data.extend(if plain { sealed(chunk.to_vec()) } else { pack(chunk) });
        }
        let header_bytes = size_of::<SectionHeader>();
        let begin = file.bytes.len() + header_bytes;
        let (base, first) = match self.style {
            Style::EnCase => (file.bytes.len() as u64, header_bytes),
            Style::OldEnCase => (0, begin + size_of::<TableHeader>() + entries.len() * 4 + 4),
            Style::Smart => (0, begin + size_of::<TableHeader>() + entries.len() * 4),
        };
        let mut header = TableHeader::new_zeroed();
        header.entry_count.set(entries.len() as u32);
        header.base_offset.set(base);
        let mut table = sealed(header.as_bytes()[..20].to_vec());
        let entry =
            |(offset, packed): (usize, bool)| (first + offset) as u32 | if packed { ENTRY_COMPRESSED } else { 0 };
        let entries: Vec<u8> = entries.into_iter().flat_map(|one| entry(one).to_le_bytes()).collect();
        table.extend(if self.style == Style::Smart { entries } else { sealed(entries) });
        if self.style == Style::EnCase {
            file.section("sectors", &data);
            file.section("table", &table);
            file.section("table2", &table);
        } else {
            table.extend(data);
            file.section("table", &table);
        }
    }
}

/// Bytes with their Adler-32 behind them.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend_from_slice(&libdeflater::adler32(&bytes).to_le_bytes());
    bytes
}

pub fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let mut packed = vec![0; compressor.zlib_compress_bound(bytes.len())];
    let length = compressor.zlib_compress(bytes, &mut packed).expect("room");
    packed.truncate(length);
    packed
}

/// A segment in the making.
pub struct Segment {
    pub bytes: Vec<u8>,
}

impl Segment {
    pub fn new(number: u16) -> Self {
        let mut header = SegmentHeader::new_zeroed();
        header.signature = SIGNATURE;
        header.fields_start = 1;
        header.segment_number.set(number);
        Segment { bytes: header.as_bytes().to_vec() }
    }

    pub fn section(&mut self, kind: &str, content: &[u8]) {
        let next = (self.bytes.len() + size_of::<SectionHeader>() + content.len()) as u64;
        self.header(kind, next, next - self.bytes.len() as u64);
        self.bytes.extend_from_slice(content);
    }

    /// The last section points to itself.
    pub fn last(&mut self, kind: &str) {
        self.header(kind, self.bytes.len() as u64, 0);
    }

    pub fn header(&mut self, kind: &str, next_offset: u64, length_bytes: u64) {
        let mut header = SectionHeader::new_zeroed();
        header.kind[..kind.len()].copy_from_slice(kind.as_bytes());
        header.next_offset.set(next_offset);
        header.length_bytes.set(length_bytes);
        self.bytes.extend(sealed(header.as_bytes()[..72].to_vec()));
    }
}
