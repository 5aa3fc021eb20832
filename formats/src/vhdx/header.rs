//! The first MiB of the file: who made it, which header counts, and where the regions are.
//!
//! Header and region table exist twice. Only one header is current; the region tables are equal. A damaged copy is passed
//! over, with a warning.

use std::ops::Range;

use uuid::Uuid;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::on_disk::*;
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;

const READ_HEADER: &str = "read VHDX header";
const READ_REGIONS: &str = "read VHDX region table";

/// What the current header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CurrentHeader {
    pub file_write_guid: Uuid,
    pub data_write_guid: Uuid,
    /// The log entries to replay, if there are any.
    pub log_guid: Option<Uuid>,
    /// Where the log is; may be empty.
    pub log: Range<u64>,
}

/// Reads the file type identifier and returns who made the file (§2.2.1).
pub(super) fn read_creator(file: &dyn HostFile, file_len_bytes: u64) -> Result<String> {
    const DOING: &str = "read VHDX file identifier";
    let mut identifier = FileIdentifier::new_zeroed();
    let length = file_len_bytes.min(identifier.as_bytes().len() as u64) as usize;
    file.read_exact_at(0, &mut identifier.as_mut_bytes()[..length]).map_err(|cause| ImageError::io(DOING, cause))?;
    if identifier.signature != FILE_SIGNATURE {
        let found = identifier.signature.escape_ascii();
        return Err(ImageError::not_this_format(DOING, format!("found \"{found}\", expected \"vhdxfile\"")));
    }
    if length < identifier.as_bytes().len() {
        return Err(ImageError::truncated(DOING, format!("the file has {file_len_bytes} bytes")));
    }
    let text: Vec<u16> = identifier.creator.iter().map(|unit| unit.get()).take_while(|unit| *unit != 0).collect();
    Ok(String::from_utf16_lossy(&text))
}

/// Reads one header; `None` if its signature or checksum is wrong (§2.2.2).
pub(super) fn read_header(file: &dyn HostFile, host_offset: u64) -> Result<Option<Header>> {
    let mut header = Header::new_zeroed();
    file.read_exact_at(host_offset, header.as_mut_bytes())
        .map_err(|cause| ImageError::io(READ_HEADER, cause).at_host(host_offset))?;
    let valid = header.signature == HEADER_SIGNATURE && header.checksum.get() == checksum(header.as_bytes(), &[]);
    Ok(valid.then_some(header))
}

/// Reads both headers and returns what the current one says (§2.2.2).
pub(super) fn read_current_header(file: &dyn HostFile, warnings: &mut Vec<String>) -> Result<CurrentHeader> {
    let [first, second] = HEADER_OFFSETS;
    let header = match (read_header(file, first)?, read_header(file, second)?) {
        (Some(one), Some(other)) => newer_of(one, other)?,
        (Some(one), None) => {
            warnings.push("the second header is damaged; the first one is used".to_owned());
            one
        }
        (None, Some(other)) => {
            warnings.push("the first header is damaged; the second one is used".to_owned());
            other
        }
        (None, None) => {
            let detail = "neither it nor the one at 0x20000 has the right signature and checksum";
            return Err(ImageError::corrupt(READ_HEADER, detail).at_host(first));
        }
    };
    interpret_header(&header)
}

/// A header counts if its number is greater than the other's (§2.2.2). Two of one number must be copies.
fn newer_of(one: Header, other: Header) -> Result<Header> {
    match one.sequence_number.get().cmp(&other.sequence_number.get()) {
        std::cmp::Ordering::Greater => Ok(one),
        std::cmp::Ordering::Less => Ok(other),
        std::cmp::Ordering::Equal if one.as_bytes() == other.as_bytes() => Ok(one),
        std::cmp::Ordering::Equal => {
            let detail = format!("both have the sequence number {}, but differ", one.sequence_number);
            Err(ImageError::corrupt("choose between the VHDX headers", detail))
        }
    }
}

fn interpret_header(header: &Header) -> Result<CurrentHeader> {
    let version = header.version.get();
    if version != VERSION {
        let detail = format!("it says version {version}, expected {VERSION}");
        return Err(ImageError::unsupported(READ_HEADER, detail));
    }
    let log_guid = Some(Uuid::from(header.log_guid)).filter(|guid| !guid.is_nil());
    let log_version = header.log_version.get();
    if log_guid.is_some() && log_version != LOG_VERSION {
        let detail = format!("there is a log of version {log_version} to replay, expected {LOG_VERSION}");
        return Err(ImageError::unsupported(READ_HEADER, detail));
    }
    let length_bytes = u64::from(header.log_length_bytes.get());
    let log = match length_bytes {
        0 => 0..0,
        _ => region_range("the log", header.log_offset.get(), length_bytes)
            .map_err(|detail| ImageError::corrupt(READ_HEADER, detail))?,
    };
    Ok(CurrentHeader {
        file_write_guid: header.file_write_guid.into(),
        data_write_guid: header.data_write_guid.into(),
        log_guid,
        log,
    })
}

/// Checks what holds for every region and the log: whole MiB, after the header section (§2.2.2, §2.2.3.2).
fn region_range(name: &str, host_offset: u64, length_bytes: u64) -> std::result::Result<Range<u64>, String> {
    let aligned = host_offset.is_multiple_of(MIB) && length_bytes.is_multiple_of(MIB);
    if !aligned || host_offset < HEADER_SECTION_BYTES || length_bytes == 0 {
        return Err(format!(
            "{name} is at {host_offset:#x}, {length_bytes:#x} bytes long; expected whole MiB after the first"
        ));
    }
    let end = host_offset.checked_add(length_bytes).ok_or_else(|| format!("{name} ends past 2^64"))?;
    Ok(host_offset..end)
}

/// A range of the file that no block may touch, and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reserved {
    pub range: Range<u64>,
    pub name: &'static str,
}

/// Where everything but the blocks is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Regions {
    pub bat: Range<u64>,
    pub metadata: Range<u64>,
    /// The header section, the log and all regions, in the order of the file; none overlaps another.
    pub reserved: Vec<Reserved>,
}

impl Regions {
    /// What of the reserved ranges a range of the file touches.
    pub(super) fn touched_by(&self, range: &Range<u64>) -> Option<&Reserved> {
        let first = self.reserved.partition_point(|reserved| reserved.range.end <= range.start);
        self.reserved.get(first).filter(|reserved| reserved.range.start < range.end)
    }
}

/// Reads both region tables, through the replayed log, and returns what they say (§2.2.3).
pub(super) fn read_regions(
    file: &dyn HostFile,
    file_len_bytes: u64,
    log: &Range<u64>,
    warnings: &mut Vec<String>,
) -> Result<Regions> {
    let [first, second] = REGION_TABLE_OFFSETS;
    let interpret = |entries: &[RegionEntry]| interpret_regions(entries, file_len_bytes, log);
    match (read_region_table(file, first)?, read_region_table(file, second)?) {
        (Some(one), Some(other)) => {
            let regions = interpret(&one)?;
            // A program that changed only one of them cannot be told from one that meant the other.
            if one.as_bytes() != other.as_bytes() && interpret(&other)? != regions {
                let detail = format!("it and the one at {second:#x} are both valid, but differ");
                return Err(ImageError::corrupt(READ_REGIONS, detail).at_host(first));
            }
            Ok(regions)
        }
        (Some(one), None) => {
            warnings.push("the second region table is damaged; the first one is used".to_owned());
            interpret(&one)
        }
        (None, Some(other)) => {
            warnings.push("the first region table is damaged; the second one is used".to_owned());
            interpret(&other)
        }
        (None, None) => {
            let detail = format!("neither it nor the one at {second:#x} has the right signature and checksum");
            Err(ImageError::corrupt(READ_REGIONS, detail).at_host(first))
        }
    }
}

/// Reads one region table; `None` if its signature, checksum or count is wrong (§2.2.3.1).
pub(super) fn read_region_table(file: &dyn HostFile, host_offset: u64) -> Result<Option<Vec<RegionEntry>>> {
    let mut bytes = vec![0; REGION_TABLE_BYTES];
    file.read_exact_at(host_offset, &mut bytes)
        .map_err(|cause| ImageError::io(READ_REGIONS, cause).at_host(host_offset))?;
    let Ok((header, entries)) = RegionTableHeader::ref_from_prefix(&bytes) else { return Ok(None) };
    let count = header.entry_count.get();
    if header.signature != REGION_SIGNATURE || header.checksum.get() != checksum(&bytes, &[]) || count > MAX_REGIONS {
        return Ok(None);
    }
    Ok(<[RegionEntry]>::ref_from_prefix_with_elems(entries, count as usize).ok().map(|(entries, _)| entries.to_vec()))
}

fn interpret_regions(entries: &[RegionEntry], file_len_bytes: u64, log: &Range<u64>) -> Result<Regions> {
    let (mut bat, mut metadata) = (None, None);
    let mut reserved = vec![Reserved { range: 0..HEADER_SECTION_BYTES, name: "the headers" }];
    if !log.is_empty() {
        reserved.push(Reserved { range: log.clone(), name: "the log" });
    }
    for entry in entries {
        let guid = Uuid::from(entry.guid);
        let (known, name) = match guid {
            BAT_REGION => (Some(&mut bat), "the BAT"),
            METADATA_REGION => (Some(&mut metadata), "the metadata region"),
            _ if entry.flags.get() & REGION_REQUIRED != 0 => {
                let detail = format!("the region {guid} is required and not known");
                return Err(ImageError::unsupported(READ_REGIONS, detail));
            }
            _ => (None, "a region that is not known"),
        };
        let range = region_range(name, entry.host_offset.get(), entry.length_bytes.get().into())
            .map_err(|detail| ImageError::corrupt(READ_REGIONS, detail))?;
        reserved.push(Reserved { range: range.clone(), name });
        if known.is_some_and(|known| known.replace(range).is_some()) {
            return Err(ImageError::corrupt(READ_REGIONS, format!("{name} is listed twice")));
        }
    }
    check_disjoint(&mut reserved, file_len_bytes)?;
    let missing = |name: &str| ImageError::corrupt(READ_REGIONS, format!("{name} is not listed"));
    Ok(Regions {
        bat: bat.ok_or_else(|| missing("the BAT"))?,
        metadata: metadata.ok_or_else(|| missing("the metadata region"))?,
        reserved,
    })
}

/// Sorts the ranges by their place and checks that none overlaps another and all are inside the file (§2.2.3.2).
fn check_disjoint(reserved: &mut [Reserved], file_len_bytes: u64) -> Result<()> {
    reserved.sort_by_key(|reserved| reserved.range.start);
    for (one, next) in reserved.iter().zip(reserved.iter().skip(1)) {
        if next.range.start < one.range.end {
            let detail = format!(
                "{} ({:#x} to {:#x}) and {} ({:#x} to {:#x}) overlap",
                one.name, one.range.start, one.range.end, next.name, next.range.start, next.range.end
            );
            return Err(ImageError::corrupt(READ_REGIONS, detail));
        }
    }
    match reserved.last() {
        Some(last) if last.range.end > file_len_bytes => {
            let detail =
                format!("{} ends at {:#x}, past the end of the file ({file_len_bytes:#x})", last.name, last.range.end);
            Err(ImageError::truncated(READ_REGIONS, detail))
        }
        _ => Ok(()),
    }
}
