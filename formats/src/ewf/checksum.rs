//! Structures that end with their own Adler-32.

use super::on_disk::CHECKSUM_BYTES;
use crate::error::{ImageError, Result};
use crate::host_file::OpenFile;

/// The Adler-32 of all but the last four bytes, which are to hold it.
pub(super) fn adler_before(bytes: &[u8]) -> u32 {
    libdeflater::adler32(bytes.get(..bytes.len().saturating_sub(CHECKSUM_BYTES as usize)).unwrap_or_default())
}

/// Reads a structure that ends with its own Adler-32; `None` if that is wrong.
pub(super) fn read_checked(
    file: &OpenFile,
    doing: &'static str,
    host_offset: u64,
    length_bytes: u64,
) -> Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; length_bytes as usize];
    file.file
        .read_exact_at(host_offset, &mut bytes)
        .map_err(|cause| ImageError::io(doing, cause).at_host(host_offset))?;
    let expected = bytes.last_chunk().copied().map(u32::from_le_bytes);
    Ok((expected == Some(adler_before(&bytes))).then_some(bytes))
}
