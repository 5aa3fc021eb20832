//! Notes on the case: examiner, times and description of the evidence.

use std::ops::Range;

use super::segment::Section;
use crate::codec;
use crate::error::{ImageError, Result};
use crate::host_file::OpenFile;
use crate::layer::Detail;

/// Longest text of a header section that is shown, packed and unpacked, in bytes.
const MAX_HEADER_BYTES: u64 = 64 << 10;
const MAX_HEADER_TEXT_BYTES: usize = 256 << 10;

/// What the header sections say of the case, if they can be read; the Unicode one first.
pub(super) fn case_details(file: &OpenFile, notes: &[Section]) -> Result<Vec<(&'static str, Detail)>> {
    for kind in ["header2", "header"] {
        if let Some(section) = notes.iter().find(|section| section.kind == kind)
            && let Some(text) = read_text(file, section)?
        {
            return Ok(details(&text));
        }
    }
    Ok(Vec::new())
}

fn read_text(file: &OpenFile, section: &Section) -> Result<Option<String>> {
    let Range { start, end } = section.content;
    let mut packed = vec![0; (end - start).min(MAX_HEADER_BYTES) as usize];
    file.file
        .read_exact_at(start, &mut packed)
        .map_err(|cause| ImageError::io("read EWF header section", cause).at_host(start))?;
    let mut text = vec![0; MAX_HEADER_TEXT_BYTES];
    let Ok(length) = codec::inflate_zlib(&packed, &mut text) else { return Ok(None) };
    text.truncate(length);
    Ok(Some(match text.strip_prefix(b"\xff\xfe") {
        Some(utf_16) => {
            let units: Vec<_> = utf_16.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
            String::from_utf16_lossy(&units)
        }
        None => String::from_utf8_lossy(&text).into_owned(),
    }))
}

/// The third line has the fields' names, the fourth their values.
fn details(text: &str) -> Vec<(&'static str, Detail)> {
    const FIELDS: [(&str, &str); 7] = [
        ("c", "case_number"),
        ("n", "evidence_number"),
        ("a", "description"),
        ("e", "examiner"),
        ("t", "notes"),
        ("av", "software_version"),
        ("ov", "operating_system"),
    ];
    let mut lines = text.lines().skip(2);
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let found: Vec<_> = names.split('\t').zip(values.split('\t')).collect();
    let value =
        |field: &str| found.iter().find(|(name, value)| *name == field && !value.is_empty()).map(|(_, value)| *value);
    FIELDS.iter().filter_map(|(field, name)| Some((*name, value(field)?.into()))).collect()
}
