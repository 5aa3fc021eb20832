//! Builds small images by hand: no program on this side of macOS writes DMGs.

use std::io::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use zerocopy::{FromZeros, IntoBytes};

use crate::dmg::on_disk::*;

/// An image in the making; every field may be spoiled before [`Builder::finish`].
pub struct Builder {
    pub disk: Vec<u8>,
    pub tables: Vec<Table>,
    pub data: Vec<u8>,
    pub resource_fork: bool,
}

pub struct Table {
    pub name: String,
    pub header: TableHeader,
    pub chunks: Vec<ChunkEntry>,
    /// What the checksum covers.
    hashed: Vec<u8>,
}

/// Where the data fork begins: not at 0, so that nobody forgets to add it.
pub const DATA_OFFSET: u64 = 32;
/// What the tables' own offset is, for the same reason.
const TABLE_OFFSET: u64 = 16;

impl Builder {
    pub fn new() -> Self {
        Builder { disk: Vec::new(), tables: Vec::new(), data: vec![0x77; TABLE_OFFSET as usize], resource_fork: false }
    }

    /// Begins a partition at the end of the disk.
    pub fn table(mut self, name: &str) -> Self {
        let mut header = TableHeader::new_zeroed();
        header.signature = TABLE_SIGNATURE;
        header.version.set(TABLE_VERSION);
        header.first_sector.set(self.disk.len() as u64 / SECTOR_BYTES);
        header.data_offset.set(TABLE_OFFSET);
        header.checksum.kind.set(CHECKSUM_CRC_32);
        header.checksum.length_bits.set(32);
        self.tables.push(Table { name: name.to_owned(), header, chunks: Vec::new(), hashed: Vec::new() });
        self
    }

    /// Adds a chunk with these bytes.
    pub fn chunk(mut self, kind: u32, bytes: &[u8]) -> Self {
        let stored = encode(kind, bytes);
        let table = self.tables.last_mut().expect("a table");
        let mut entry = ChunkEntry::new_zeroed();
        entry.kind.set(kind);
        entry.first_sector.set(table.header.sector_count.get());
        entry.sector_count.set(bytes.len() as u64 / SECTOR_BYTES);
        entry.stored_offset.set(self.data.len() as u64 - TABLE_OFFSET);
        entry.stored_bytes.set(stored.len() as u64);
        table.header.sector_count += entry.sector_count.get();
        table.chunks.push(entry);
        if kind != CHUNK_IGNORE {
            table.hashed.extend_from_slice(bytes);
        }
        self.disk.extend_from_slice(bytes);
        self.data.extend(stored);
        self
    }

    pub fn finish(self) -> Vec<u8> {
        self.finish_with(|_| {})
    }

    /// The file; `spoil` changes the trailer.
    pub fn finish_with(mut self, spoil: impl FnOnce(&mut Trailer)) -> Vec<u8> {
        let mut file = vec![0; DATA_OFFSET as usize];
        file.extend_from_slice(&self.data);
        let mut master = crc32fast::Hasher::new();
        let tables: Vec<_> = self.tables.iter_mut().map(|table| table.seal(&mut master)).collect();
        let described = if self.resource_fork { resource_fork(&tables) } else { property_list(&tables).into_bytes() };
        let mut trailer = Trailer::new_zeroed();
        trailer.signature = TRAILER_SIGNATURE;
        trailer.version.set(TRAILER_VERSION);
        trailer.trailer_bytes.set(TRAILER_BYTES as u32);
        trailer.flags.set(1);
        trailer.data_offset.set(DATA_OFFSET);
        trailer.data_bytes.set(self.data.len() as u64);
        trailer.segment_number.set(1);
        trailer.segment_count.set(1);
        set_crc(&mut trailer.data_checksum, crc32fast::hash(&self.data));
        set_crc(&mut trailer.master_checksum, master.finalize());
        trailer.image_variant.set(1);
        trailer.sector_count.set(self.disk.len() as u64 / SECTOR_BYTES);
        let (offset, length) = if self.resource_fork {
            (&mut trailer.resource_offset, &mut trailer.resource_bytes)
        } else {
            (&mut trailer.property_list_offset, &mut trailer.property_list_bytes)
        };
        offset.set(file.len() as u64);
        length.set(described.len() as u64);
        spoil(&mut trailer);
        file.extend(described);
        file.extend_from_slice(trailer.as_bytes());
        file
    }
}

impl Table {
    fn seal(&mut self, master: &mut crc32fast::Hasher) -> (String, Vec<u8>) {
        let crc = crc32fast::hash(&self.hashed);
        set_crc(&mut self.header.checksum, crc);
        master.update(&crc.to_be_bytes());
        let mut end = ChunkEntry::new_zeroed();
        end.kind.set(CHUNK_END);
        end.first_sector = self.header.sector_count;
        self.chunks.push(end);
        self.header.chunk_count.set(self.chunks.len() as u32);
        self.header.buffer_sectors.set(2056);
        let mut bytes = self.header.as_bytes().to_vec();
        bytes.extend_from_slice(self.chunks.as_bytes());
        (self.name.clone(), bytes)
    }
}

fn set_crc(checksum: &mut Checksum, crc: u32) {
    checksum.kind.set(CHECKSUM_CRC_32);
    checksum.length_bits.set(32);
    checksum.value[..4].copy_from_slice(&crc.to_be_bytes());
}

pub fn encode(kind: u32, bytes: &[u8]) -> Vec<u8> {
    match kind {
        CHUNK_ZERO | CHUNK_IGNORE => Vec::new(),
        CHUNK_RAW => bytes.to_vec(),
        CHUNK_ADC => adc(bytes),
        CHUNK_ZLIB => {
            let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
            let mut packed = vec![0; compressor.zlib_compress_bound(bytes.len())];
            let length = compressor.zlib_compress(bytes, &mut packed).expect("room");
            packed.truncate(length);
            packed
        }
        CHUNK_BZIP2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
            encoder.write_all(bytes).expect("memory");
            encoder.finish().expect("memory")
        }
        CHUNK_LZFSE => {
            let mut packed = Vec::new();
            lzfse_rust::encode_bytes(bytes, &mut packed).expect("memory");
            packed
        }
        CHUNK_LZMA => {
            let options = lzma_rust2::XzOptions::with_preset(6);
            let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).expect("an encoder");
            encoder.write_all(bytes).expect("memory");
            encoder.finish().expect("memory")
        }
        other => panic!("no encoder for {other:#x}"),
    }
}

/// Runs of one byte become copies from one back, everything else literals.
fn adc(bytes: &[u8]) -> Vec<u8> {
    let (mut packed, mut done) = (Vec::new(), 0);
    while done < bytes.len() {
        let repeated = |byte: u8| bytes[done..].iter().take(67).take_while(|next| **next == byte).count();
        let run = if done == 0 { 0 } else { repeated(bytes[done - 1]) };
        if run >= 4 {
            packed.extend_from_slice(&[0x40 | (run - 4) as u8, 0, 0]);
            done += run;
        } else {
            let literals = &bytes[done..bytes.len().min(done + run + 1)];
            packed.push(0x80 | (literals.len() - 1) as u8);
            packed.extend_from_slice(literals);
            done += literals.len();
        }
    }
    packed
}

pub fn property_list(tables: &[(String, Vec<u8>)]) -> String {
    let mut text = String::from(concat!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n",
        "<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n",
        "<plist version=\"1.0\">\n<dict>\n\t<key>resource-fork</key>\n\t<dict>\n\t\t<key>blkx</key>\n\t\t<array>\n"
    ));
    for (index, (name, bytes)) in tables.iter().enumerate() {
        let lines: Vec<_> = BASE64_STANDARD.encode(bytes).into_bytes();
        let lines: Vec<_> = lines.chunks(52).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        text += &format!(
            "\t\t\t<dict>\n\t\t\t\t<key>Attributes</key>\n\t\t\t\t<string>0x0050</string>\n\t\t\t\t<key>CFName</key>\n\
             \t\t\t\t<string>{name}</string>\n\t\t\t\t<key>Data</key>\n\t\t\t\t<data>\n\t\t\t\t{}\n\t\t\t\t</data>\n\
             \t\t\t\t<key>ID</key>\n\t\t\t\t<string>{index}</string>\n\t\t\t\t<key>Name</key>\n\
             \t\t\t\t<string>{name}</string>\n\t\t\t</dict>\n",
            lines.join("\n\t\t\t\t")
        );
    }
    text + "\t\t</array>\n\t\t<key>plst</key>\n\t\t<array/>\n\t</dict>\n</dict>\n</plist>\n"
}

/// A resource fork with another type before the chunk tables.
fn resource_fork(tables: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut data, mut references, mut names) = (vec![0, 0, 0, 1, 9], Vec::new(), Vec::new());
    for (index, (name, bytes)) in tables.iter().enumerate() {
        references.extend_from_slice(&(index as u16).to_be_bytes());
        references.extend_from_slice(&(names.len() as u16).to_be_bytes());
        references.extend_from_slice(&(0x5000_0000 | data.len() as u32).to_be_bytes());
        references.extend_from_slice(&[0; 4]);
        names.push(name.len() as u8);
        names.extend_from_slice(name.as_bytes());
        data.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        data.extend_from_slice(bytes);
    }
    let mut types = vec![0, 1];
    types.extend_from_slice(b"plst\0\0\0\x12");
    types.extend_from_slice(b"blkx");
    types.extend_from_slice(&(tables.len() as u16 - 1).to_be_bytes());
    types.extend_from_slice(&[0, 30]);
    types.extend_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    types.extend(references);
    let mut map = vec![0; 24];
    map.extend_from_slice(&28u16.to_be_bytes());
    map.extend_from_slice(&(28 + types.len() as u16).to_be_bytes());
    map.extend(types);
    map.extend(names);
    let mut fork = Vec::new();
    for number in [256, 256 + data.len(), data.len(), map.len()] {
        fork.extend_from_slice(&(number as u32).to_be_bytes());
    }
    fork.resize(256, 0);
    fork.extend(data);
    fork.extend(map);
    fork
}
