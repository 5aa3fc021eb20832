//! Which names objects have. Every store takes the same ones, so that a repository can move to another store.

use super::{StoreError, StoreErrorKind};

/// Longest name. A local file system takes 255 bytes for each part, so that no part can be too long.
const MAX_NAME_BYTES: usize = 255;

/// Whether an object can have this name.
pub(super) fn is_object_name(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES && name.split('/').all(is_part)
}

/// A part that begins with a dot is `.`, `..`, or a file that a store or a file system keeps for itself.
fn is_part(part: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !part.is_empty() && !part.starts_with('.') && part.bytes().all(fits)
}

/// Refuses what is no object's name.
pub(super) fn check_name(doing: &'static str, name: &str) -> Result<(), StoreError> {
    match is_object_name(name) {
        true => Ok(()),
        false => Err(invalid(doing, name, "no object can have this name")),
    }
}

/// Refuses what is no prefix of a listing: nothing, or a folder with the `/` behind it.
pub(super) fn check_prefix(doing: &'static str, prefix: &str) -> Result<(), StoreError> {
    match prefix.is_empty() || prefix.strip_suffix('/').is_some_and(is_object_name) {
        true => Ok(()),
        false => Err(invalid(doing, prefix, "expected the name of a folder and a slash")),
    }
}

fn invalid(doing: &'static str, name: &str, detail: &str) -> StoreError {
    StoreError::new(StoreErrorKind::InvalidName, doing, name, detail)
}

/// The folder, empty for the topmost, and the last part.
pub(super) fn split_name(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}
