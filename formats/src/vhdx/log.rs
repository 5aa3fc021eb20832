//! The log: changes that were written down, but perhaps not carried out. Here they are carried out in memory.
//!
//! - *entry*: a header, descriptors and data sectors, in sectors of 4 KiB, wrapping round the end of the log;
//! - *sequence*: entries one after the other, each with the number after the one before; its last one is the *head*, and
//!   the head names the *tail*, where the sequence begins;
//! - *active sequence*: the complete one with the newest head. It, and nothing else, is replayed, in order.
//!
//! ```text
//!   log   ... | stale | tail N | N+1 | N+2 | head N+3 | torn or stale ...       (wraps round)
//!                        ▲─────────────────────┘ tail
//!   entry | header, descriptors (64 + 32 each) | data sector | data sector | ...
//!           desc ──────────────────────────────► 8 bytes here, 4084 in the sector, 4 bytes here
//!           zero   a range of zeros, without a sector
//! ```
//!
//! An entry with the right checksum was written as it stands. If its parts contradict each other all the same, the file is
//! refused rather than read with an older sequence.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;
use zerocopy::{FromBytes, IntoBytes};

use super::header::CurrentHeader;
use super::on_disk::*;
use super::overlay::Overlay;
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::limits::MAX_DISK_BYTES;

const FIND: &str = "find the active sequence of the VHDX log";
const REPLAY: &str = "replay VHDX log entry";

/// How often the log may be gone through for checksums. Entries that were really written do not overlap, but for the
/// remains of overwritten ones.
const MAX_CHECKSUM_PASSES: u64 = 4;

/// How many bytes of an identifier must agree for it to be the same one, a little damaged. Of two random ones, none do.
const MIN_EQUAL_GUID_BYTES: usize = 8;

/// What the log wants done.
pub(super) enum LogState {
    /// Nothing: it is not in use.
    Clean,
    /// Nothing: it was taken into use, but no entry was ever written.
    Unused,
    /// This many entries were carried out; this is the file as it is then.
    Replayed(Overlay, usize),
}

/// Replays the log that `header` names, in memory (§2.3.3).
pub(super) fn replay(file: &Arc<dyn HostFile>, file_len_bytes: u64, header: &CurrentHeader) -> Result<LogState> {
    let Some(guid) = header.log_guid else { return Ok(LogState::Clean) };
    let log = read_log(file.as_ref(), file_len_bytes, &header.log)?;
    if !has_traces(&log, guid) {
        return Ok(LogState::Unused);
    }
    let sequence = find_active_sequence(&log, guid)?;
    if let Some(head) = sequence.last()
        && head.flushed_file_offset > file_len_bytes
    {
        let detail =
            format!("the log says that the file had {:#x} bytes, it has {file_len_bytes:#x}", head.flushed_file_offset);
        return Err(ImageError::truncated(FIND, detail));
    }
    let mut replay = Replay { overlay: Overlay::new(file.clone(), file_len_bytes, log), log_range: header.log.clone() };
    for entry in &sequence {
        replay.apply(entry).map_err(|error| error.at_host(header.log.start + entry.log_offset))?;
    }
    if let Some(head) = sequence.last() {
        check_end(head.last_file_offset)?;
        replay.overlay.extend_to(head.last_file_offset);
    }
    Ok(LogState::Replayed(replay.overlay, sequence.len()))
}

fn read_log(file: &dyn HostFile, file_len_bytes: u64, range: &Range<u64>) -> Result<Vec<u8>> {
    const DOING: &str = "read VHDX log";
    let length_bytes = range.end - range.start;
    if range.is_empty() {
        return Err(ImageError::corrupt(DOING, "there are entries to replay, but the log has no place"));
    }
    if range.end > file_len_bytes {
        let detail = format!("it ends at {:#x}, past the end of the file ({file_len_bytes:#x})", range.end);
        return Err(ImageError::truncated(DOING, detail).at_host(range.start));
    }
    if length_bytes > MAX_LOG_BYTES {
        let detail = format!("it has {length_bytes} bytes, at most {MAX_LOG_BYTES} are replayed");
        return Err(ImageError::limit_exceeded(DOING, detail).at_host(range.start));
    }
    let mut log = vec![0; length_bytes as usize];
    file.read_exact_at(range.start, &mut log).map_err(|cause| ImageError::io(DOING, cause).at_host(range.start))?;
    Ok(log)
}

/// Says whether any sector could be the beginning of an entry of this log, whole or damaged.
///
/// The header names a log before its first entry is written (§2.2.2), and nothing is changed before that entry has reached
/// the disk (§2.3). So a writer that is stopped in between leaves a file that is as it should be. §2.3.3 wants it refused;
/// but QEMU, when killed, often leaves such files, opens them, and its repair does not change them.
fn has_traces(log: &[u8], guid: Uuid) -> bool {
    let guid = Guid::from(guid);
    log.chunks_exact(LOG_SECTOR_BYTES as usize).any(|sector| {
        let Ok((header, _)) = LogEntryHeader::ref_from_prefix(sector) else { return false };
        let pairs = header.log_guid.as_bytes().iter().zip(guid.as_bytes());
        pairs.filter(|(found, expected)| found == expected).count() >= MIN_EQUAL_GUID_BYTES
    })
}

/// An entry whose checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// Where in the log it begins.
    log_offset: u64,
    length_bytes: u64,
    tail: u64,
    sequence_number: u64,
    descriptor_count: u32,
    flushed_file_offset: u64,
    last_file_offset: u64,
}

/// Finds the entries to replay, in order (§2.3.3).
///
/// The specification walks the log and tries every place as a tail. The same in linear time: an entry goes on in the one
/// right after it if that has the next number. So every entry leads to one last entry, the head of the longest sequence
/// through it, and a head's sequence is complete if the tail that it names leads to it.
fn find_active_sequence(log: &[u8], guid: Uuid) -> Result<Vec<Entry>> {
    let entries = find_entries(log, guid)?;
    let log_bytes = log.len() as u64;
    let next_of = |entry: &Entry| {
        let next = entries.get(&((entry.log_offset + entry.length_bytes) % log_bytes))?;
        (entry.sequence_number.checked_add(1) == Some(next.sequence_number)).then_some(next)
    };
    let mut newest_first: Vec<&Entry> = entries.values().collect();
    newest_first.sort_unstable_by_key(|entry| (std::cmp::Reverse(entry.sequence_number), entry.log_offset));
    let mut head_of: HashMap<u64, u64> = HashMap::new();
    for entry in &newest_first {
        let head = next_of(entry).and_then(|next| head_of.get(&next.log_offset)).copied();
        head_of.insert(entry.log_offset, head.unwrap_or(entry.log_offset));
    }
    let is_complete = |entry: &&&Entry| {
        head_of.get(&entry.log_offset) == Some(&entry.log_offset) && head_of.get(&entry.tail) == Some(&entry.log_offset)
    };
    let mut complete = newest_first.iter().filter(is_complete);
    let Some(head) = complete.next() else {
        let detail = format!("the header names the log {guid}, but no complete sequence of its entries is there");
        return Err(ImageError::corrupt(FIND, detail));
    };
    if complete.next().is_some_and(|other| other.sequence_number == head.sequence_number) {
        let detail = format!("two sequences end with number {}", head.sequence_number);
        return Err(ImageError::corrupt(FIND, detail));
    }
    let sequence: Vec<Entry> =
        std::iter::successors(entries.get(&head.tail), |entry| next_of(entry)).copied().collect();
    if sequence.iter().map(|entry| entry.length_bytes).sum::<u64>() > log_bytes {
        return Err(ImageError::corrupt(FIND, "the sequence is longer than the log"));
    }
    Ok(sequence)
}

/// Finds every entry of this log whose checksum is right, by its place.
fn find_entries(log: &[u8], guid: Uuid) -> Result<HashMap<u64, Entry>> {
    let log_bytes = log.len() as u64;
    let mut budget_bytes = log_bytes * MAX_CHECKSUM_PASSES;
    let mut entries = HashMap::new();
    for log_offset in (0..log_bytes).step_by(LOG_SECTOR_BYTES as usize) {
        let Some(header) = entry_header_at(log, log_offset, guid) else { continue };
        let length_bytes = u64::from(header.entry_length_bytes.get());
        budget_bytes = budget_bytes.checked_sub(length_bytes).ok_or_else(|| {
            ImageError::corrupt(FIND, "it is full of entries that overlap each other; whole ones do not")
        })?;
        let (first, rest) = ring_slices(log, log_offset, length_bytes);
        if header.checksum.get() == checksum(first, rest) {
            let entry = Entry {
                log_offset,
                length_bytes,
                tail: header.tail.get().into(),
                sequence_number: header.sequence_number.get(),
                descriptor_count: header.descriptor_count.get(),
                flushed_file_offset: header.flushed_file_offset.get(),
                last_file_offset: header.last_file_offset.get(),
            };
            entries.insert(log_offset, entry);
        }
    }
    Ok(entries)
}

/// The header at `log_offset`, if it belongs to this log and could be an entry (§2.3.1.1).
fn entry_header_at(log: &[u8], log_offset: u64, guid: Uuid) -> Option<LogEntryHeader> {
    let bytes = log.get(log_offset as usize..)?;
    let (header, _) = LogEntryHeader::read_from_prefix(bytes).ok()?;
    let length_bytes = u64::from(header.entry_length_bytes.get());
    let could_be = header.signature == LOG_ENTRY_SIGNATURE
        && Uuid::from(header.log_guid) == guid
        && header.sequence_number.get() > 0
        && length_bytes > 0
        && length_bytes.is_multiple_of(LOG_SECTOR_BYTES)
        && length_bytes <= log.len() as u64;
    could_be.then_some(header)
}

/// The bytes from `log_offset` on: up to the end of the log, and what comes after that from its beginning.
fn ring_slices(log: &[u8], log_offset: u64, length_bytes: u64) -> (&[u8], &[u8]) {
    let (begin, from_here) = log.split_at((log_offset as usize).min(log.len()));
    let here = from_here.len().min(length_bytes as usize);
    (&from_here[..here], &begin[..(length_bytes as usize - here).min(begin.len())])
}

struct Replay {
    overlay: Overlay,
    log_range: Range<u64>,
}

impl Replay {
    /// Carries out one entry: every descriptor in turn, each data descriptor with the next data sector (§2.3.1).
    fn apply(&mut self, entry: &Entry) -> Result<()> {
        let descriptor_bytes = u64::from(entry.descriptor_count) * size_of::<LogDescriptor>() as u64;
        let header_bytes = size_of::<LogEntryHeader>() as u64;
        let mut sector_at = (header_bytes + descriptor_bytes).next_multiple_of(LOG_SECTOR_BYTES);
        if sector_at > entry.length_bytes {
            let detail = format!("{} descriptors are more than it has room for", entry.descriptor_count);
            return Err(ImageError::corrupt(REPLAY, detail));
        }
        for index in 0..u64::from(entry.descriptor_count) {
            let at = header_bytes + index * size_of::<LogDescriptor>() as u64;
            let descriptor = self.descriptor_at(entry, at)?;
            if descriptor.sequence_number.get() != entry.sequence_number {
                return Err(contradiction(index, "has another sequence number than the entry"));
            }
            match descriptor.signature {
                ZERO_DESCRIPTOR_SIGNATURE => {
                    let length_bytes = u64::from_le_bytes(descriptor.leading_bytes);
                    let range = self.target(index, descriptor.host_offset.get(), length_bytes)?;
                    self.overlay.put_zeros(range);
                }
                DATA_DESCRIPTOR_SIGNATURE => {
                    let range = self.target(index, descriptor.host_offset.get(), LOG_SECTOR_BYTES)?;
                    if sector_at >= entry.length_bytes {
                        return Err(contradiction(index, "has no data sector"));
                    }
                    let log_offset = self.restore_sector(entry, index, sector_at, &descriptor)?;
                    self.overlay.put_sector(range.start, log_offset);
                    sector_at += LOG_SECTOR_BYTES;
                }
                _ => return Err(contradiction(index, "is neither data nor zeros")),
            }
        }
        Ok(())
    }

    /// Where byte `at` of an entry is in the log.
    fn log_offset_of(&self, entry: &Entry, at: u64) -> usize {
        ((entry.log_offset + at) % (self.log_range.end - self.log_range.start)) as usize
    }

    fn descriptor_at(&mut self, entry: &Entry, at: u64) -> Result<LogDescriptor> {
        let begin = self.log_offset_of(entry, at);
        let bytes = self.overlay.log_mut().get(begin..).unwrap_or_default();
        // The log is whole sectors long, so no descriptor goes round its end.
        LogDescriptor::read_from_prefix(bytes)
            .map(|(descriptor, _)| descriptor)
            .map_err(|_| ImageError::corrupt(REPLAY, "a descriptor goes round the end of the log"))
    }

    /// Checks where a descriptor writes to. The headers are not changed through the log (§2.3), let alone the log itself.
    fn target(&self, index: u64, host_offset: u64, length_bytes: u64) -> Result<Range<u64>> {
        let [first_changeable, _] = REGION_TABLE_OFFSETS;
        if !host_offset.is_multiple_of(LOG_SECTOR_BYTES) || !length_bytes.is_multiple_of(LOG_SECTOR_BYTES) {
            return Err(contradiction(index, "is not aligned to 4 KiB"));
        }
        let end = host_offset.checked_add(length_bytes).ok_or_else(|| contradiction(index, "ends past 2^64"))?;
        check_end(end)?;
        let touches_log = host_offset < self.log_range.end && end > self.log_range.start;
        if length_bytes > 0 && (host_offset < first_changeable || touches_log) {
            return Err(contradiction(index, "changes the file's headers or the log itself"));
        }
        Ok(host_offset..end)
    }

    /// Checks a data sector, gives it its own first and last bytes back (§2.3.1.4), and returns where in the log it is.
    fn restore_sector(&mut self, entry: &Entry, index: u64, at: u64, descriptor: &LogDescriptor) -> Result<usize> {
        let begin = self.log_offset_of(entry, at);
        let bytes = self.overlay.log_mut().get_mut(begin..).unwrap_or_default();
        let Ok((sector, _)) = <[u8; LOG_SECTOR_BYTES as usize]>::mut_from_prefix(bytes) else {
            return Err(contradiction(index, "has a data sector that goes round the end of the log"));
        };
        let Ok(found) = DataSector::ref_from_bytes(sector) else {
            return Err(contradiction(index, "has no data sector"));
        };
        let number = u64::from(found.sequence_high.get()) << 32 | u64::from(found.sequence_low.get());
        if found.signature != DATA_SECTOR_SIGNATURE || number != entry.sequence_number {
            return Err(contradiction(index, "has a data sector that is not of this entry"));
        }
        let (leading, rest) = sector.split_at_mut(descriptor.leading_bytes.len());
        leading.copy_from_slice(&descriptor.leading_bytes);
        let (_, trailing) = rest.split_at_mut(rest.len() - descriptor.trailing_bytes.len());
        trailing.copy_from_slice(&descriptor.trailing_bytes);
        Ok(begin)
    }
}

/// Nothing that the log does may make the file longer than files can be.
fn check_end(end: u64) -> Result<()> {
    if end > MAX_DISK_BYTES {
        return Err(ImageError::limit_exceeded(REPLAY, format!("the file would become {end:#x} bytes long")));
    }
    Ok(())
}

fn contradiction(index: u64, text: &str) -> ImageError {
    ImageError::corrupt(REPLAY, format!("descriptor {index} {text}"))
}
