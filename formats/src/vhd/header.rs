//! The footer, its copy, and the dynamic header: what kind of disk it is, and how large.

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::on_disk::*;
use crate::error::{ErrorKind, ImageError, Result};
use crate::format::ProbeInput;
use crate::host_file::HostFile;

const READ_FOOTER: &str = "read VHD footer";
const READ_HEADER: &str = "read VHD dynamic header";

const AS_FIXED: &str = "it is read as a fixed VHD because of the footer at its end; with -f raw, all of the \
                        file is the disk";
const DAMAGED_FOOTER: &str =
    "the footer at the end is damaged or missing, the copy at the beginning is used; the file may have been cut";
const DAMAGED_COPY: &str = "the copy of the footer at the beginning is damaged; the footer at the end is used";
const COPIES_DIFFER: &str =
    "the footer and its copy at the beginning differ, though not in what is about the content; the footer is used";

/// The three kinds of disks that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Fixed,
    Dynamic,
    Differencing,
}

impl Kind {
    fn of(footer: &Footer) -> Result<Kind> {
        match footer.disk_type.get() {
            FIXED => Ok(Kind::Fixed),
            DYNAMIC => Ok(Kind::Dynamic),
            DIFFERENCING => Ok(Kind::Differencing),
            other => {
                let detail = format!("the disk is of type {other}; 2 (fixed), 3 (dynamic), 4 (differencing) are known");
                Err(ImageError::unsupported(READ_FOOTER, detail))
            }
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Fixed => "fixed",
            Kind::Dynamic => "dynamic",
            Kind::Differencing => "differencing",
        }
    }
}

/// The footer that counts.
pub(super) struct Found {
    pub footer: Footer,
    pub kind: Kind,
    /// Where the footer at the end of the file begins, or the file's length where there is none.
    pub data_end_offset: u64,
}

/// Says whether a file is a VHD: by the footer's copy at the beginning, or by a footer at the end that fits the file.
pub(super) fn looks_like_vhd(input: &ProbeInput<'_>) -> bool {
    if input.head.starts_with(&FOOTER_COOKIE) {
        return true;
    }
    let Some((footer, length_bytes)) = footer_at_end(input.tail) else { return false };
    match Kind::of(&footer) {
        // A raw disk may end in anything, so the size has to be right to the byte.
        Ok(Kind::Fixed) => footer.current_bytes.get().checked_add(length_bytes) == Some(input.len_bytes),
        Ok(Kind::Dynamic | Kind::Differencing) => {
            let header = usize::try_from(footer.header_offset.get()).ok().and_then(|offset| input.head.get(offset..));
            header.is_some_and(|header| header.starts_with(&HEADER_COOKIE))
        }
        Err(_) => false,
    }
}

/// The whole footer that the last bytes of a file end in, if they do, and how many bytes it has there.
fn footer_at_end(tail: &[u8]) -> Option<(Footer, u64)> {
    [FOOTER_BYTES, SHORT_FOOTER_BYTES].into_iter().find_map(|length_bytes| {
        let bytes = tail.get(tail.len().checked_sub(length_bytes as usize)?..)?;
        let mut footer = Footer::new_zeroed();
        footer.as_mut_bytes().get_mut(..bytes.len())?.copy_from_slice(bytes);
        footer.is_valid().then_some((footer, length_bytes))
    })
}

/// Reads the copy of the footer at the beginning of the file, whether it is whole or not.
pub(super) fn read_copy(file: &dyn HostFile, file_len_bytes: u64) -> Result<Option<Footer>> {
    // With less there is only one footer, at the end.
    if file_len_bytes < FOOTER_BYTES + SHORT_FOOTER_BYTES {
        return Ok(None);
    }
    let mut footer = Footer::new_zeroed();
    file.read_exact_at(0, footer.as_mut_bytes()).map_err(|cause| ImageError::io(READ_FOOTER, cause).at_host(0))?;
    Ok(Some(footer))
}

/// Finds the footer that counts: the one at the end, or its copy where that one is damaged.
pub(super) fn find_footer(file: &dyn HostFile, file_len_bytes: u64, warnings: &mut Vec<String>) -> Result<Found> {
    let mut tail = vec![0; file_len_bytes.min(FOOTER_BYTES) as usize];
    let tail_offset = file_len_bytes - tail.len() as u64;
    file.read_exact_at(tail_offset, &mut tail)
        .map_err(|cause| ImageError::io(READ_FOOTER, cause).at_host(tail_offset))?;
    let begin = read_copy(file, file_len_bytes)?;
    let copy = begin.clone().filter(Footer::is_valid);
    let found = match (footer_at_end(&tail), copy) {
        (Some((footer, length_bytes)), copy) => {
            let kind = Kind::of(&footer)?;
            compare_with_copy(&footer, kind, copy.as_ref(), warnings)?;
            Found { footer, kind, data_end_offset: file_len_bytes - length_bytes }
        }
        // A fixed disk has no copy: this is something that the guest wrote.
        (None, Some(footer)) if footer.disk_type.get() != FIXED => {
            warnings.push(DAMAGED_FOOTER.to_owned());
            Found { kind: Kind::of(&footer)?, footer, data_end_offset: file_len_bytes }
        }
        (None, _) => return Err(without_footer(&tail, tail_offset, begin.as_ref())),
    };
    let version = found.footer.version.get();
    if version >> 16 != VERSION >> 16 {
        let detail = format!("it has version {version:#x}, expected {VERSION:#x}");
        return Err(ImageError::unsupported(READ_FOOTER, detail));
    }
    Ok(found)
}

/// Fails if the copy at the beginning says that this is another disk.
fn compare_with_copy(footer: &Footer, kind: Kind, copy: Option<&Footer>, warnings: &mut Vec<String>) -> Result<()> {
    let about_content = |footer: &Footer| (footer.disk_type, footer.header_offset, disk_bytes(footer));
    match copy {
        // A fixed disk has no copy: what looks like one is the guest's.
        None if kind == Kind::Fixed => warnings.push(AS_FIXED.to_owned()),
        Some(copy) if kind == Kind::Fixed && copy.disk_type.get() == FIXED => warnings.push(AS_FIXED.to_owned()),
        None => warnings.push(DAMAGED_COPY.to_owned()),
        Some(copy) if copy == footer => {}
        // The guest of a fixed disk writes the first sector of the file; that of a dynamic one whose footer was cut off
        // may write the last. So neither is believed.
        Some(copy) if about_content(copy) != about_content(footer) => {
            let detail = format!(
                "it says type {}, {} bytes, dynamic header at {:#x}; the one at the end says type {}, {} bytes, {:#x}",
                copy.disk_type,
                disk_bytes(copy),
                copy.header_offset.get(),
                footer.disk_type,
                disk_bytes(footer),
                footer.header_offset.get()
            );
            return Err(ImageError::corrupt("read the copy of the VHD footer", detail).at_host(0));
        }
        Some(_) => warnings.push(COPIES_DIFFER.to_owned()),
    }
    Ok(())
}

fn without_footer(tail: &[u8], tail_offset: u64, begin: Option<&Footer>) -> ImageError {
    let named_at_end = tail.starts_with(&FOOTER_COOKIE) || tail.get(1..).is_some_and(|t| t.starts_with(&FOOTER_COOKIE));
    if named_at_end || begin.is_some_and(|footer| footer.cookie == FOOTER_COOKIE) {
        let detail = "neither it nor the copy at the beginning of the file is whole: checksums are wrong";
        return ImageError::corrupt(READ_FOOTER, detail).at_host(tail_offset);
    }
    let detail = "there is no \"conectix\" at the end of the file or at its beginning";
    ImageError::not_this_format(READ_FOOTER, detail).at_host(tail_offset)
}

/// The disk's size by its geometry, in bytes.
fn geometry_bytes(footer: &Footer) -> u64 {
    let tracks = u64::from(footer.cylinders.get()) * u64::from(footer.heads);
    tracks * u64::from(footer.sectors_per_track) * SECTOR_BYTES
}

/// The disk's size as the creator meant it, in bytes.
///
/// Virtual PC takes it from the geometry, and QEMU does for files of its own; all others take the size field.
pub(super) fn disk_bytes(footer: &Footer) -> u64 {
    let bytes = geometry_bytes(footer);
    let counts = matches!(&footer.creator, b"vpc " | b"qemu");
    if counts && bytes != 0 && bytes != MAX_GEOMETRY_SECTORS * SECTOR_BYTES {
        bytes
    } else {
        footer.current_bytes.get()
    }
}

/// The checked size of the disk.
pub(super) fn checked_disk_bytes(footer: &Footer, kind: Kind, warnings: &mut Vec<String>) -> Result<u64> {
    let (bytes, current_bytes) = (disk_bytes(footer), footer.current_bytes.get());
    if !bytes.is_multiple_of(SECTOR_BYTES) {
        let detail = format!("the disk has {bytes} bytes, which is no whole number of sectors");
        return Err(ImageError::corrupt(READ_FOOTER, detail));
    }
    let most_bytes = if kind == Kind::Fixed { crate::limits::MAX_DISK_BYTES } else { MAX_DISK_BYTES };
    if bytes > most_bytes {
        let detail = format!("the disk has {bytes} bytes, a {} VHD has at most {most_bytes}", kind.name());
        return Err(ImageError::new(ErrorKind::LimitExceeded, READ_FOOTER, detail));
    }
    if bytes != current_bytes {
        let creator = footer.creator.escape_ascii();
        warnings.push(format!(
            "the disk has {bytes} bytes by its geometry, which is what counts for the creator \"{creator}\"; its size field says {current_bytes}"
        ));
    }
    Ok(bytes)
}

/// Reads and checks the dynamic header.
pub(super) fn read_dynamic_header(file: &dyn HostFile, footer: &Footer, file_len_bytes: u64) -> Result<DynamicHeader> {
    let host_offset = footer.header_offset.get();
    let fault = |detail: String| ImageError::corrupt(READ_HEADER, detail).at_host(host_offset);
    let end = host_offset.checked_add(HEADER_BYTES);
    if host_offset < FOOTER_BYTES || end.is_none_or(|end| end > file_len_bytes) {
        return Err(fault(format!(
            "it would have to be between the footer's copy and the file's end, {file_len_bytes:#x}"
        )));
    }
    let mut bytes = [0; HEADER_BYTES as usize];
    file.read_exact_at(host_offset, &mut bytes)
        .map_err(|cause| ImageError::io(READ_HEADER, cause).at_host(host_offset))?;
    let header = DynamicHeader::read_from_bytes(&bytes).map_err(|_| fault("it is too short".to_owned()))?;
    if header.cookie != HEADER_COOKIE {
        return Err(fault(format!("found \"{}\", expected \"cxsparse\"", header.cookie.escape_ascii())));
    }
    let (found, right) = (header.checksum.get(), header.right_checksum());
    if found != right {
        return Err(fault(format!("its checksum is {found:#010x}, expected {right:#010x}")));
    }
    let version = header.version.get();
    if version >> 16 != VERSION >> 16 {
        let detail = format!("it has version {version:#x}, expected {VERSION:#x}");
        return Err(ImageError::unsupported(READ_HEADER, detail).at_host(host_offset));
    }
    let block_bytes = u64::from(header.block_bytes.get());
    if !block_bytes.is_power_of_two() || block_bytes < SECTOR_BYTES {
        return Err(fault(format!("blocks have {block_bytes} bytes, expected a power of two, 512 or more")));
    }
    Ok(header)
}
