//! The archive's header: devices and configurations, whose names are in a heap of blobs.

use zerocopy::FromBytes;

use super::on_disk::*;
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::limits::MAX_DISK_BYTES;

const READ: &str = "read VMA header";

/// Largest header, in bytes: more blobs of 64 KiB than its tables can name.
const MAX_HEADER_BYTES: u64 = 64 << 20;

/// What the header says.
#[derive(Debug, Clone)]
pub(super) struct Archive {
    pub uuid: [u8; 16],
    pub created_unix_s: i64,
    /// Where the extents begin.
    pub header_bytes: u64,
    pub devices: Vec<Device>,
    pub config_names: Vec<String>,
    pub file_len_bytes: u64,
}

/// A disk of the archive, or its machine's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub number: u8,
    pub name: String,
    pub size_bytes: u64,
}

impl Device {
    /// Whether it is the machine's memory.
    pub fn is_machine_state(&self) -> bool {
        self.name == MACHINE_STATE
    }

    /// How many clusters it has.
    pub fn cluster_count(&self) -> u64 {
        self.size_bytes.div_ceil(CLUSTER_BYTES)
    }
}

/// Reads and checks the header.
pub(super) fn read(file: &dyn HostFile) -> Result<Archive> {
    let file_len_bytes = file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
    let bytes = read_bytes(file, file_len_bytes)?;
    let corrupt = |detail: String| ImageError::corrupt(READ, detail).at_host(0);
    let (header, _) = Header::ref_from_prefix(&bytes).map_err(|_| corrupt("it is too short".to_owned()))?;
    if md5_without(&bytes, HEADER_MD5) != header.md5 {
        return Err(corrupt("its checksum is wrong".to_owned()));
    }
    let version = header.version.get();
    if version != VERSION {
        return Err(ImageError::unsupported(READ, format!("its version is {version}, only {VERSION} is known")));
    }
    let blobs = Blobs::new(&bytes, header)?;
    Ok(Archive {
        uuid: header.uuid,
        created_unix_s: header.created_unix_s.get(),
        header_bytes: bytes.len() as u64,
        devices: devices(header, &blobs)?,
        config_names: header
            .config_names
            .iter()
            .filter(|name| name.get() != 0)
            .map(|name| blobs.text(name.get()))
            .collect::<Result<_>>()?,
        file_len_bytes,
    })
}

/// All of the header, as long as it says.
fn read_bytes(file: &dyn HostFile, file_len_bytes: u64) -> Result<Vec<u8>> {
    let read = |bytes: &mut [u8]| file.read_exact_at(0, bytes).map_err(|cause| ImageError::io(READ, cause).at_host(0));
    let mut begin = vec![0; size_of::<Header>()];
    read(&mut begin)?;
    let (header, _) =
        Header::ref_from_prefix(&begin).map_err(|_| ImageError::corrupt(READ, "it is too short").at_host(0))?;
    if header.magic != MAGIC {
        return Err(ImageError::not_this_format(READ, "it does not begin with VMA"));
    }
    let header_bytes = u64::from(header.header_bytes.get());
    if header_bytes < begin.len() as u64 || header_bytes > MAX_HEADER_BYTES {
        let least = begin.len();
        let detail = format!("it has {header_bytes} bytes, expected {least} to {MAX_HEADER_BYTES}");
        return Err(ImageError::corrupt(READ, detail).at_host(0));
    }
    if header_bytes > file_len_bytes {
        let detail = format!("it has {header_bytes} bytes, the file {file_len_bytes}");
        return Err(ImageError::truncated(READ, detail).at_host(0));
    }
    let mut bytes = vec![0; header_bytes as usize];
    read(&mut bytes)?;
    Ok(bytes)
}

/// Devices have a name and a size; other entries are not used.
fn devices(header: &Header, blobs: &Blobs<'_>) -> Result<Vec<Device>> {
    let mut devices: Vec<Device> = Vec::new();
    for (number, info) in header.devices.iter().enumerate().skip(1) {
        let size_bytes = info.size_bytes.get();
        if info.name.get() == 0 || size_bytes == 0 {
            continue;
        }
        let name = blobs.text(info.name.get())?;
        if size_bytes > MAX_DISK_BYTES || size_bytes.div_ceil(CLUSTER_BYTES) > 1 << 32 {
            let detail =
                format!("the device \"{}\" has {size_bytes} bytes, more than can be named", name.escape_debug());
            return Err(ImageError::limit_exceeded(READ, detail));
        }
        if devices.iter().any(|device| device.name == name) {
            let detail = format!("there are two devices \"{}\"", name.escape_debug());
            return Err(ImageError::corrupt(READ, detail));
        }
        devices.push(Device { number: number as u8, name, size_bytes });
    }
    Ok(devices)
}

/// The heap of blobs: a length of two bytes, the lower one first, and so many bytes.
struct Blobs<'a> {
    bytes: &'a [u8],
}

impl<'a> Blobs<'a> {
    fn new(header_bytes: &'a [u8], header: &Header) -> Result<Self> {
        let (offset, length) = (header.blobs_offset.get() as usize, header.blobs_bytes.get() as usize);
        let bytes = offset.checked_add(length).and_then(|end| header_bytes.get(offset..end));
        let bytes = bytes.filter(|_| offset >= size_of::<Header>());
        bytes.map(|bytes| Blobs { bytes }).ok_or_else(|| {
            let detail = format!("the names, {length:#x} bytes from {offset:#x} on, are not inside it");
            ImageError::corrupt(READ, detail).at_host(0)
        })
    }

    /// The text of a blob, which ends with a NUL.
    fn text(&self, place: u32) -> Result<String> {
        let blob = self.bytes.get(place as usize..).and_then(|rest| {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            rest.get(..usize::from(u16::from_le_bytes(*length)))
        });
        let text = blob.and_then(|blob| blob.strip_suffix(b"\0"));
        let text =
            text.ok_or_else(|| ImageError::corrupt(READ, format!("there is no name at {place:#x}")).at_host(0))?;
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}
