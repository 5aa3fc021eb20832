//! Checking: every chunk, both copies of every table, and the digests of the whole disk.

use md5::{Digest, Md5};
use sha1::Sha1;

use super::hashes::{Hashes, stored_hashes};
use super::read::EwfLayer;
use crate::check::CheckReport;
use crate::error::{ErrorKind, Result};
use crate::hex::to_hex;

/// Looks for damage in the segments that are open; decodes all of them.
pub(super) fn check(layer: &EwfLayer, report: &mut CheckReport) -> Result<()> {
    check_tables(layer, report)?;
    let hashes = check_hashes(layer, report)?;
    let goes_on = layer.segments.last().is_some_and(|last| last.continues);
    let (stored, needed) = (layer.stored_chunks(), layer.volume.chunks());
    if stored < needed && !goes_on {
        report.corruption(None, format_args!("the tables have {stored} chunks, the disk has {needed}"));
    }
    let whole = read_chunks(layer, stored.min(needed), report)?;
    if let (Some((md5, sha1)), true, false) = (whole, stored >= needed, goes_on) {
        compare(report, "MD5", hashes.md5.as_ref().map(|digest| &digest[..]), &md5.finalize());
        compare(report, "SHA-1", hashes.sha1.as_ref().map(|digest| &digest[..]), &sha1.finalize());
    }
    report.allocated_bytes = stored.min(needed).saturating_mul(layer.volume.chunk_bytes).min(layer.volume.size_bytes);
    report.host_end_offset = layer.segments.first().map_or(0, |segment| segment.file_bytes);
    Ok(())
}

/// Both tables can be read, and say the same.
fn check_tables(layer: &EwfLayer, report: &mut CheckReport) -> Result<()> {
    for segment in &layer.segments {
        for place in &segment.tables {
            let mut loaded = Vec::new();
            for copy in &place.copies {
                match place.load_copy(&segment.file, copy) {
                    Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                    Err(error) => {
                        report.corruption(copy.content.start, format_args!("segment {}: {error}", segment.number))
                    }
                    Ok(table) => loaded.push((table, copy)),
                }
            }
            if let [(table, _), (copy, place)] = loaded.as_slice()
                && table != copy
            {
                let text = format!("segment {}: the copy of a table differs from it", segment.number);
                report.corruption(place.content.start, text);
            }
        }
    }
    Ok(())
}

fn check_hashes(layer: &EwfLayer, report: &mut CheckReport) -> Result<Hashes> {
    let mut all = Hashes::default();
    for segment in &layer.segments {
        let Some(found) = stored_hashes(segment)? else { continue };
        if found.damaged {
            report
                .corruption(None, format_args!("segment {}: the section with the digests is damaged", segment.number));
        }
        let differ = all.md5.is_some_and(|md5| found.md5.is_some_and(|found| found != md5));
        if differ {
            report.corruption(None, format_args!("segment {} has another MD5 than the ones before it", segment.number));
        }
        all = Hashes { md5: found.md5.or(all.md5), sha1: found.sha1.or(all.sha1), damaged: false };
    }
    Ok(all)
}

/// Decodes the first `chunks` chunks; returns the digests of them all, if all of them are good.
fn read_chunks(layer: &EwfLayer, chunks: u64, report: &mut CheckReport) -> Result<Option<(Md5, Sha1)>> {
    let mut digests = Some((Md5::new(), Sha1::new()));
    let mut buffer = Vec::new();
    for chunk in 0..chunks {
        buffer.resize(layer.volume.chunk_length_bytes(chunk) as usize, 0);
        match layer.decode(chunk, &mut buffer) {
            Ok(()) => {
                if let Some((md5, sha1)) = &mut digests {
                    md5.update(&buffer);
                    sha1.update(&buffer);
                }
            }
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => {
                digests = None;
                report.corruption(error.host_offset(), format_args!("chunk {chunk}: {error}"));
            }
        }
    }
    Ok(digests)
}

fn compare(report: &mut CheckReport, name: &str, expected: Option<&[u8]>, found: &[u8]) {
    if let Some(expected) = expected.filter(|expected| *expected != found) {
        let text = format!("the {name} of the disk is {}, the image says {}", to_hex(found), to_hex(expected));
        report.corruption(None, text);
    }
}
