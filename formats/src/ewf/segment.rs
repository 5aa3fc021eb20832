//! One segment: its sections, one after the other.

use std::ops::Range;

use zerocopy::{FromZeros, IntoBytes};

use super::checksum::adler_before;
use super::on_disk::*;
use super::tables::{TableCopy, TablePlace};
use super::volume::{self, Volume};
use crate::error::{ImageError, Result};
use crate::host_file::OpenFile;

const READ_HEADER: &str = "read EWF segment header";
const READ_SECTION: &str = "read EWF section";

/// Most sections of a segment. The longest images have three of them for 16,375 chunks: this is a file of 170 TiB.
const MAX_SECTIONS: usize = 1 << 20;

/// A segment whose sections have been found.
pub(super) struct Segment {
    pub file: OpenFile,
    pub file_bytes: u64,
    pub number: u32,
    pub volume: Option<Volume>,
    pub tables: Vec<TablePlace>,
    /// The sections with things to know or to check: headers, hashes, errors. Few of them.
    pub notes: Vec<Section>,
    /// Whether another segment follows.
    pub continues: bool,
}

/// A section.
#[derive(Debug, Clone)]
pub(super) struct Section {
    pub kind: String,
    /// Without its header.
    pub content: Range<u64>,
}

impl Segment {
    pub fn open(file: OpenFile) -> Result<Segment> {
        let file_bytes = file.file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
        let number = read_number(&file)?;
        let (tables, notes) = (Vec::new(), Vec::new());
        let mut segment = Segment { file, file_bytes, number, volume: None, tables, notes, continues: false };
        segment.walk()?;
        Ok(segment)
    }

    fn walk(&mut self) -> Result<()> {
        let mut host_offset = size_of::<SegmentHeader>() as u64;
        let mut sectors = None;
        for _ in 0..MAX_SECTIONS {
            let header = self.read_section(host_offset)?;
            let kind = header.kind.split(|byte| *byte == 0).next().unwrap_or_default();
            if matches!(kind, b"next" | b"done") {
                self.continues = kind == b"next";
                return Ok(());
            }
            let content = self.content(&header, host_offset)?;
            match kind {
                b"sectors" => sectors = Some(content.clone()),
                b"table" => {
                    let copy = TableCopy::read(&self.file, content.clone())?;
                    self.tables.push(TablePlace { copies: vec![copy], sectors: sectors.take() });
                }
                b"table2" => {
                    let copy = TableCopy::read(&self.file, content.clone())?;
                    if let Some(TablePlace { copies, .. }) =
                        self.tables.last_mut().filter(|table| table.copies.len() == 1)
                    {
                        copies.push(copy);
                    }
                }
                b"volume" | b"disk" | b"data" if self.volume.is_none() => {
                    self.volume = Some(volume::read_volume(&self.file, content.clone())?);
                }
                b"header" | b"header2" | b"hash" | b"digest" | b"error2" if self.notes.len() < 16 => {
                    let kind = String::from_utf8_lossy(kind).into_owned();
                    self.notes.push(Section { kind, content: content.clone() });
                }
                _ => {}
            }
            host_offset = content.end;
        }
        let detail = format!("segment {} has more than {MAX_SECTIONS} sections", self.number);
        Err(ImageError::limit_exceeded(READ_SECTION, detail))
    }

    fn read_section(&self, host_offset: u64) -> Result<SectionHeader> {
        let mut header = SectionHeader::new_zeroed();
        if host_offset + size_of::<SectionHeader>() as u64 > self.file_bytes {
            let detail = format!("segment {} ends without a \"next\" or \"done\" section: it was cut", self.number);
            return Err(ImageError::truncated(READ_SECTION, detail).at_host(host_offset));
        }
        self.file
            .file
            .read_exact_at(host_offset, header.as_mut_bytes())
            .map_err(|cause| ImageError::io(READ_SECTION, cause).at_host(host_offset))?;
        let found = adler_before(header.as_bytes());
        let expected = header.checksum.get();
        if found != expected {
            let detail = format!("the Adler-32 of its header is {found:#010x}, expected {expected:#010x}");
            return Err(ImageError::corrupt(READ_SECTION, detail).at_host(host_offset));
        }
        Ok(header)
    }

    /// What is between the section's header and the next section.
    fn content(&self, header: &SectionHeader, host_offset: u64) -> Result<Range<u64>> {
        let (begin, next) = (host_offset + size_of::<SectionHeader>() as u64, header.next_offset.get());
        if next < begin {
            let detail = format!("the next section is to begin at {next:#x}, inside of or before this one");
            return Err(ImageError::corrupt(READ_SECTION, detail).at_host(host_offset));
        }
        if next > self.file_bytes {
            let detail =
                format!("the next section is to begin at {next:#x}, past the end of the file ({:#x})", self.file_bytes);
            return Err(ImageError::truncated(READ_SECTION, detail).at_host(host_offset));
        }
        Ok(begin..next)
    }
}

fn read_number(file: &OpenFile) -> Result<u32> {
    let mut header = SegmentHeader::new_zeroed();
    file.file.read_exact_at(0, header.as_mut_bytes()).map_err(|cause| ImageError::io(READ_HEADER, cause).at_host(0))?;
    match ALL_SIGNATURES.iter().find(|(signature, _)| *signature == header.signature) {
        Some((SIGNATURE, _)) => Ok(header.segment_number.get().into()),
        Some((_, name)) => {
            Err(ImageError::unsupported(READ_HEADER, format!("the file is {name}, only E01 and S01 are read")))
        }
        None => {
            let detail = format!(
                "the file begins with \"{}\", expected \"EVF\\t\\r\\n\\xff\\x00\"",
                header.signature.escape_ascii()
            );
            Err(ImageError::not_this_format(READ_HEADER, detail))
        }
    }
}
