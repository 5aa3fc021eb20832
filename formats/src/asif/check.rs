//! Checking: every entry of every table that the disk needs, and whether a chunk of the file is used twice.

use super::tables::{ChunkState, Tables, twice};
use crate::check::CheckReport;
use crate::error::{ErrorKind, ImageError, Result};

/// Most chunks of the file that are compared with each other, of 8 bytes each: 8 TiB with the usual chunks.
const MAX_USED_CHUNKS: usize = 8 << 20;

/// Goes through all tables.
pub(super) fn check(tables: &Tables, report: &mut CheckReport) -> Result<()> {
    let layout = &tables.layout;
    report.host_end_offset = layout.directories.iter().map(|directory| directory.end).max().unwrap_or_default();
    let mut used = Vec::new();
    for (_, start) in tables.present_tables() {
        used.push(start / layout.chunk_bytes);
        used.extend(tables.chunks_of(start)?);
        if used.len() > MAX_USED_CHUNKS {
            let detail = format!("it has more than {MAX_USED_CHUNKS} chunks");
            return Err(ImageError::limit_exceeded("check ASIF image", detail));
        }
    }
    used.sort_unstable();
    if let Some(number) = twice(&used) {
        report.corruption(number.checked_mul(layout.chunk_bytes), format_args!("chunk {number:#x} is used twice"));
    }
    drop(used);
    check_entries(tables, report)
}

fn check_entries(tables: &Tables, report: &mut CheckReport) -> Result<()> {
    let layout = &tables.layout;
    let end = layout.disk_bytes.div_ceil(layout.chunk_bytes);
    for table in 0..layout.used_tables() {
        let first = table * layout.chunks_per_table();
        match tables.table_at(table) {
            Ok(None) => {}
            Ok(Some(_)) => check_table(tables, first, (first + layout.chunks_per_table()).min(end), report)?,
            Err(error) => note(error, report)?,
        }
    }
    Ok(())
}

fn check_table(tables: &Tables, first: u64, end: u64, report: &mut CheckReport) -> Result<()> {
    let mut chunk = first;
    while chunk < end {
        match tables.run_at(chunk, end - chunk) {
            Ok((state, count)) => {
                if let ChunkState::Whole(data) | ChunkState::Partial { data, .. } = state {
                    let bytes = count * tables.layout.chunk_bytes;
                    report.allocated_bytes = report.allocated_bytes.saturating_add(bytes);
                    report.host_end_offset = report.host_end_offset.max(data + bytes);
                }
                chunk += count;
            }
            Err(error) => {
                note(error, report)?;
                chunk += 1;
            }
        }
    }
    Ok(())
}

fn note(error: ImageError, report: &mut CheckReport) -> Result<()> {
    if error.kind() == ErrorKind::Io {
        return Err(error);
    }
    report.corruption(error.host_offset(), &error);
    Ok(())
}
