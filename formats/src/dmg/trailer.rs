//! The trailer: where the parts of the file are.

use std::ops::Range;

use zerocopy::{FromZeros, IntoBytes};

use super::on_disk::*;
use crate::error::{ImageError, Result};
use crate::format::ProbeInput;
use crate::host_file::HostFile;
use crate::limits::MAX_DISK_BYTES;

const DOING: &str = "read DMG trailer";

/// What the trailer says, checked against the file.
pub(super) struct Layout {
    pub file_bytes: u64,
    pub trailer_offset: u64,
    pub data: Range<u64>,
    /// Where the chunk tables are.
    pub tables: TablesPlace,
    /// The size of the disk.
    pub sectors: u64,
    pub data_crc: Option<u32>,
    pub master_crc: Option<u32>,
}

/// What holds the chunk tables.
pub(super) enum TablesPlace {
    PropertyList(Range<u64>),
    ResourceFork(Range<u64>),
}

/// Looks at the trailer, and for the two kinds of encryption, so that these are refused by name.
pub(super) fn looks_like_dmg(input: &ProbeInput<'_>) -> bool {
    let version_and_length = [0, 0, 0, TRAILER_VERSION as u8, 0, 0, (TRAILER_BYTES >> 8) as u8, 0];
    let has_trailer = input.tail.len() as u64 == TRAILER_BYTES
        && input.tail.starts_with(&TRAILER_SIGNATURE)
        && input.tail.get(4..12) == Some(&version_and_length);
    has_trailer || input.head.starts_with(&ENCRYPTED_SIGNATURE) || input.tail.ends_with(&OLD_ENCRYPTED_SIGNATURE)
}

pub(super) fn read(file: &dyn HostFile) -> Result<Layout> {
    let file_bytes = file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
    check_not_encrypted(file, file_bytes)?;
    let Some(trailer_offset) = file_bytes.checked_sub(TRAILER_BYTES) else {
        return Err(ImageError::not_this_format(DOING, format!("the file has only {file_bytes} bytes")));
    };
    let mut trailer = Trailer::new_zeroed();
    file.read_exact_at(trailer_offset, trailer.as_mut_bytes())
        .map_err(|cause| ImageError::io(DOING, cause).at_host(trailer_offset))?;
    check_trailer(&trailer).map_err(|error| error.at_host(trailer_offset))?;
    let range = |name, offset: U64Be, length_bytes: U64Be| {
        range_before(trailer_offset, name, offset.get(), length_bytes.get())
            .map_err(|error| error.at_host(trailer_offset))
    };
    let property_list = range("property list", trailer.property_list_offset, trailer.property_list_bytes)?;
    let tables = if property_list.is_empty() {
        let fork = range("resource fork", trailer.resource_offset, trailer.resource_bytes)?;
        if fork.is_empty() {
            return Err(ImageError::corrupt(DOING, "it names neither a property list nor a resource fork")
                .at_host(trailer_offset));
        }
        TablesPlace::ResourceFork(fork)
    } else {
        TablesPlace::PropertyList(property_list)
    };
    Ok(Layout {
        file_bytes,
        trailer_offset,
        data: range("data fork", trailer.data_offset, trailer.data_bytes)?,
        tables,
        sectors: trailer.sector_count.get(),
        data_crc: trailer.data_checksum.crc_32(),
        master_crc: trailer.master_checksum.crc_32(),
    })
}

type U64Be = zerocopy::big_endian::U64;

fn check_not_encrypted(file: &dyn HostFile, file_bytes: u64) -> Result<()> {
    for (offset, signature, version) in
        [(0, ENCRYPTED_SIGNATURE, 2), (file_bytes.saturating_sub(8), OLD_ENCRYPTED_SIGNATURE, 1)]
    {
        let mut found = [0; 8];
        if file_bytes >= 8 {
            file.read_exact_at(offset, &mut found).map_err(|cause| ImageError::io(DOING, cause).at_host(offset))?;
        }
        if found == signature {
            let detail = format!("the image is encrypted (\"{}\", version {version})", signature.escape_ascii());
            return Err(ImageError::unsupported("open DMG image", detail).at_host(offset));
        }
    }
    Ok(())
}

fn check_trailer(trailer: &Trailer) -> Result<()> {
    if trailer.signature != TRAILER_SIGNATURE {
        let detail = format!(
            "the last {TRAILER_BYTES} bytes begin with \"{}\", expected \"koly\"",
            trailer.signature.escape_ascii()
        );
        return Err(ImageError::not_this_format(DOING, detail));
    }
    if trailer.version.get() != TRAILER_VERSION {
        let detail = format!("its version is {}, expected {TRAILER_VERSION}", trailer.version);
        return Err(ImageError::unsupported(DOING, detail));
    }
    if u64::from(trailer.trailer_bytes.get()) != TRAILER_BYTES {
        let detail = format!("it says that it has {} bytes, expected {TRAILER_BYTES}", trailer.trailer_bytes);
        return Err(ImageError::corrupt(DOING, detail));
    }
    if trailer.segment_count.get() > 1 {
        let detail = format!(
            "the file is segment {} of {}; segmented images are not read",
            trailer.segment_number, trailer.segment_count
        );
        return Err(ImageError::unsupported(DOING, detail));
    }
    if trailer.sector_count.get() > MAX_DISK_BYTES / SECTOR_BYTES {
        let detail =
            format!("the disk has {} sectors, at most {} work", trailer.sector_count, MAX_DISK_BYTES / SECTOR_BYTES);
        return Err(ImageError::limit_exceeded(DOING, detail));
    }
    Ok(())
}

fn range_before(trailer_offset: u64, name: &str, offset: u64, length_bytes: u64) -> Result<Range<u64>> {
    match offset.checked_add(length_bytes) {
        Some(end) if end <= trailer_offset => Ok(offset..end),
        // What is not there may be anywhere.
        _ if length_bytes == 0 => Ok(0..0),
        _ => {
            let detail = format!(
                "the {name} has {length_bytes:#x} bytes from {offset:#x} on, past the beginning of the trailer at {trailer_offset:#x}"
            );
            Err(ImageError::corrupt(DOING, detail))
        }
    }
}
