//! The parent of a differencing disk: what it is called, and who it is.
//!
//! Up to eight *locators* name it for as many platforms; its plain file name and its identifier are in the dynamic header.

use uuid::Uuid;

use super::on_disk::*;
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::limits::MAX_REFERENCE_NAME_BYTES;
use crate::reference_gate::FileReference;

const READ: &str = "read VHD parent locator";

/// How the names of a platform are written ("Parent Locator Entries").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// UTF-16, little-endian.
    Utf16,
    /// Some 8-bit character set of Windows: UTF-8 is tried, else it is taken for Latin-1.
    EightBit,
    /// A `file:` URL in UTF-8.
    FileUrl,
}

/// The platforms, in the order in which their names are to be tried: first those that count from the child's folder.
const PLATFORMS: [([u8; 4], Encoding); 5] = [
    (*b"W2ru", Encoding::Utf16),
    (*b"W2ku", Encoding::Utf16),
    (*b"Wi2r", Encoding::EightBit),
    (*b"MacX", Encoding::FileUrl),
    (*b"Wi2k", Encoding::EightBit),
];

/// A name, or why it cannot be one.
type Name = std::result::Result<String, String>;

/// How an identifier is written, in a file's own identity and in what its children expect.
pub(super) fn identity_text(unique_id: [u8; 16]) -> String {
    Uuid::from_bytes(unique_id).hyphenated().to_string()
}

/// Reads who the parent is. What cannot be understood of its names is passed over with a warning, if one is left.
pub(super) fn read_parent(
    file: &dyn HostFile,
    file_len_bytes: u64,
    header: &DynamicHeader,
    warnings: &mut Vec<String>,
) -> Result<FileReference> {
    let mut names: Vec<String> = Vec::new();
    let mut faults = Vec::new();
    for (platform, encoding) in PLATFORMS {
        for locator in header.parent_locators.iter().filter(|locator| locator.platform == platform) {
            match read_name(file, file_len_bytes, locator, encoding)? {
                Ok(name) => names.push(name),
                Err(fault) => faults.push(format!("the parent's name {}: {fault}", platform.escape_ascii())),
            }
        }
    }
    let units: Vec<u16> = header.parent_name.iter().map(|unit| unit.get()).collect();
    match text_of_utf16(&units) {
        Ok(name) => names.push(name),
        Err(fault) => faults.push(format!("the parent's name in the dynamic header: {fault}")),
    }
    let mut known = std::collections::BTreeSet::new();
    names.retain(|name| !name.is_empty() && known.insert(name.clone()));
    if names.is_empty() {
        let detail = if faults.is_empty() { "it has no name".to_owned() } else { faults.join("; ") };
        return Err(ImageError::corrupt("find out the parent of the VHD file", detail));
    }
    warnings.extend(faults);
    let mut identities = Vec::new();
    if header.parent_unique_id == [0; 16] {
        warnings.push("nothing says who the parent is: any file of its name is taken for it".to_owned());
    } else {
        identities.push(identity_text(header.parent_unique_id));
    }
    Ok(FileReference { names, format: Some(super::FORMAT.name.to_owned()), identities })
}

/// Reads one name.
fn read_name(file: &dyn HostFile, file_len_bytes: u64, locator: &ParentLocator, encoding: Encoding) -> Result<Name> {
    let (host_offset, length_bytes) = (locator.host_offset.get(), u64::from(locator.length_bytes.get()));
    if length_bytes > 2 * MAX_REFERENCE_NAME_BYTES as u64 {
        return Ok(Err(format!("it has {length_bytes} bytes")));
    }
    if host_offset.checked_add(length_bytes).is_none_or(|end| end > file_len_bytes) {
        return Ok(Err(format!("it is at {host_offset:#x}, {length_bytes} bytes long, past the end of the file")));
    }
    let mut bytes = vec![0; length_bytes as usize];
    file.read_exact_at(host_offset, &mut bytes).map_err(|cause| ImageError::io(READ, cause).at_host(host_offset))?;
    Ok(match encoding {
        Encoding::Utf16 => {
            let units: Vec<u16> = bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
            text_of_utf16(&units)
        }
        Encoding::EightBit => Ok(text_of_8_bits(&bytes)),
        Encoding::FileUrl => {
            let url = text_of_8_bits(&bytes);
            let path = url.strip_prefix("file://").unwrap_or(&url);
            Ok(path.strip_prefix("localhost").unwrap_or(path).to_owned())
        }
    })
}

/// A text that a NUL or the end of its field ends.
fn text_of_utf16(units: &[u16]) -> Name {
    let end = units.iter().position(|unit| *unit == 0).unwrap_or(units.len());
    let text = String::from_utf16(units.get(..end).unwrap_or_default()).map_err(|_| "it is not UTF-16".to_owned())?;
    if text.len() > MAX_REFERENCE_NAME_BYTES {
        return Err(format!("it has {} bytes, at most {MAX_REFERENCE_NAME_BYTES} are allowed", text.len()));
    }
    Ok(text)
}

fn text_of_8_bits(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let bytes = bytes.get(..end.min(MAX_REFERENCE_NAME_BYTES)).unwrap_or_default();
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
}
