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
        report.corruption(number.checked_mul(layout.chunk_bytes), format!("chunk {number:#x} is used twice"));
    }
    drop(used);
    check_entries(tables, report)
}

fn check_entries(tables: &Tables, report: &mut CheckReport) -> Result<()> {
    let layout = &tables.layout;
    let end = layout.disk_bytes.div_ceil(layout.chunk_bytes);
    let mut chunk = 0;
    while chunk < end {
        match tables.run_at(chunk, end - chunk) {
            Ok((state, count)) => {
                if let ChunkState::Whole(data) | ChunkState::Partial { data, .. } = state {
                    let bytes = count * layout.chunk_bytes;
                    report.allocated_bytes = report.allocated_bytes.saturating_add(bytes);
                    report.host_end_offset = report.host_end_offset.max(data + bytes);
                }
                chunk += count;
            }
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => {
                report.corruption(error.host_offset(), error.to_string());
                // An entry by itself, or all of a table whose place is wrong.
                chunk += if error.host_offset().is_some_and(|offset| is_of_directory(tables, offset)) {
                    layout.chunks_per_table() - chunk % layout.chunks_per_table()
                } else {
                    1
                };
            }
        }
    }
    Ok(())
}

fn is_of_directory(tables: &Tables, host_offset: u64) -> bool {
    tables.layout.directories.iter().any(|directory| directory.contains(&host_offset))
}
