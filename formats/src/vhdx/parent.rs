//! The parent locator: keys and values, in UTF-16, that say where the parent of a differencing disk is and who it is.

use std::collections::BTreeMap;

use uuid::Uuid;
use zerocopy::FromBytes;

use super::on_disk::*;
use crate::error::{ImageError, Result};
use crate::limits::MAX_REFERENCE_NAME_BYTES;
use crate::reference_gate::FileReference;

const READ: &str = "read VHDX parent locator";

/// The keys with the parent's names, in the order in which they are to be tried (§2.6.2.6.3).
const NAME_KEYS: [&str; 3] = ["relative_path", "volume_path", "absolute_win32_path"];

/// The keys with what the parent's DataWriteGuid may be. The second one is there while a merge changes it.
const LINKAGE_KEYS: [&str; 2] = ["parent_linkage", "parent_linkage2"];

/// Most keys that a locator may have; the specification knows five. Their texts may overlap, so that a small item could
/// stand for a large amount of text.
const MAX_PAIRS: u16 = 256;

/// How a VHDX file's DataWriteGuid is written, in its own identity and in what its children expect.
pub(super) fn linkage_text(data_write_guid: Uuid) -> String {
    data_write_guid.braced().to_string()
}

/// Reads the parent locator item.
pub(super) fn parse_locator(item: &[u8]) -> Result<FileReference> {
    let pairs = parse_pairs(item)?;
    let names: Vec<String> = NAME_KEYS.iter().filter_map(|key| pairs.get(*key)).cloned().collect();
    if names.is_empty() {
        return Err(ImageError::corrupt(READ, format!("it has none of {}", NAME_KEYS.join(", "))));
    }
    if let Some(name) = names.iter().find(|name| name.len() > MAX_REFERENCE_NAME_BYTES) {
        let detail = format!("a name has {} bytes, at most {MAX_REFERENCE_NAME_BYTES} are allowed", name.len());
        return Err(ImageError::limit_exceeded(READ, detail));
    }
    let identities = parse_linkages(&pairs)?;
    Ok(FileReference { names, format: Some(super::FORMAT.name.to_owned()), identities })
}

fn parse_linkages(pairs: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let mut identities = Vec::new();
    for key in LINKAGE_KEYS {
        let Some(text) = pairs.get(key) else { continue };
        let guid = Uuid::try_parse(text.trim()).map_err(|cause| {
            ImageError::corrupt(READ, format!("{key} is \"{}\", expected a GUID", text.escape_debug())).caused_by(cause)
        })?;
        // Hyper-V writes a second linkage of zeros when there is none.
        if !guid.is_nil() {
            identities.push(linkage_text(guid));
        }
    }
    if identities.is_empty() {
        return Err(ImageError::corrupt(READ, "it does not say who the parent is: parent_linkage is missing"));
    }
    Ok(identities)
}

/// Reads the keys that are known, and their values (§2.6.2.6.1, §2.6.2.6.2).
fn parse_pairs(item: &[u8]) -> Result<BTreeMap<String, String>> {
    let short = || ImageError::corrupt(READ, format!("it has {} bytes, too few for what it lists", item.len()));
    let (header, entries) = ParentLocatorHeader::ref_from_prefix(item).map_err(|_| short())?;
    let locator_type = Uuid::from(header.locator_type);
    if locator_type != VHDX_LOCATOR_TYPE {
        let detail = format!("its type is {locator_type}; only parents that are VHDX files are known");
        return Err(ImageError::unsupported(READ, detail));
    }
    let count = header.entry_count.get();
    if count > MAX_PAIRS {
        return Err(ImageError::limit_exceeded(READ, format!("it has {count} keys, at most {MAX_PAIRS} are read")));
    }
    let entries = <[ParentLocatorEntry]>::ref_from_prefix_with_elems(entries, count.into());
    let (entries, _) = entries.map_err(|_| short())?;
    let mut pairs = BTreeMap::new();
    for entry in entries {
        let key = text_at(item, entry.key_offset.get(), entry.key_length_bytes.get())?;
        if !NAME_KEYS.contains(&key.as_str()) && !LINKAGE_KEYS.contains(&key.as_str()) {
            continue;
        }
        if pairs.contains_key(&key) {
            return Err(ImageError::corrupt(READ, format!("the key {key} is there twice")));
        }
        pairs.insert(key, text_at(item, entry.value_offset.get(), entry.value_length_bytes.get())?);
    }
    Ok(pairs)
}

fn text_at(item: &[u8], offset: u32, length_bytes: u16) -> Result<String> {
    let begin = offset as usize;
    let bytes = begin.checked_add(length_bytes.into()).and_then(|end| item.get(begin..end));
    let units = bytes.filter(|bytes| !bytes.is_empty() && bytes.len().is_multiple_of(2)).ok_or_else(|| {
        let detail = format!("a text is at {offset:#x}, {length_bytes} bytes long, in an item of {}", item.len());
        ImageError::corrupt(READ, detail)
    })?;
    let units: Vec<u16> = units.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    String::from_utf16(&units).map_err(|cause| ImageError::corrupt(READ, "a text is not UTF-16").caused_by(cause))
}
