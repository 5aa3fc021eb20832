//! The header of a member, and the records of an extended one.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::BLOCK_BYTES;

/// The largest size that eleven octal digits hold.
const MAX_OCTAL_BYTES: u64 = (1 << 33) - 1;

const USTAR_MAGIC: [u8; 8] = *b"ustar\x0000";
pub(super) const GNU_MAGIC: [u8; 8] = *b"ustar  \0";

/// A member's header. Numbers are octal digits.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    name: [u8; 100],
    mode: [u8; 8],
    user: [u8; 8],
    group: [u8; 8],
    size: [u8; 12],
    modified: [u8; 12],
    checksum: [u8; 8],
    pub kind: u8,
    link: [u8; 100],
    /// Magic and version.
    pub magic: [u8; 8],
    user_name: [u8; 32],
    group_name: [u8; 32],
    device: [[u8; 8]; 2],
    /// In ustar the name's begin; in the old GNU format times and the sparse map.
    prefix: [u8; 155],
    padding: [u8; 12],
}

const _: () = assert!(size_of::<Header>() as u64 == BLOCK_BYTES);

impl Header {
    pub fn has_magic(&self) -> bool {
        self.magic == USTAR_MAGIC || self.magic == GNU_MAGIC || self.magic.starts_with(b"ustar\0")
    }

    /// The sum of all bytes, those of the checksum counted as spaces. Some old writers took bytes as signed.
    pub fn sum_is_right(&self) -> bool {
        let found = number(&self.checksum);
        let sum = |value: fn(u8) -> i64| {
            let own: i64 = self.checksum.iter().map(|byte| value(*byte)).sum();
            let all: i64 = self.as_bytes().iter().map(|byte| value(*byte)).sum();
            u64::try_from(all - own + 8 * i64::from(b' ')).ok()
        };
        found.is_some() && (found == sum(i64::from) || found == sum(|byte| i64::from(byte as i8)))
    }

    pub fn set_sum(&mut self) {
        self.checksum = [b' '; 8];
        let sum: u64 = self.as_bytes().iter().map(|byte| u64::from(*byte)).sum();
        self.checksum[..7].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }

    pub fn size(&self) -> Option<u64> {
        number(&self.size)
    }

    pub fn name(&self) -> String {
        let name = text(&self.name);
        match self.magic != GNU_MAGIC && self.prefix[0] != 0 {
            true => format!("{}/{name}", text(&self.prefix)),
            false => name,
        }
    }
}

/// What an extended header says.
#[derive(Default)]
pub(super) struct Pax {
    pub path: Option<String>,
    pub size: Option<u64>,
    pub sparse: bool,
}

impl Pax {
    /// Records "LENGTH KEY=VALUE\n", where the length is that of the whole record.
    pub fn parse(mut bytes: &[u8]) -> Option<Pax> {
        let mut found = Pax::default();
        while bytes.first().is_some_and(|byte| *byte != 0) {
            let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
            let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => found.path = Some(String::from_utf8_lossy(value).into_owned()),
                b"size" => found.size = Some(std::str::from_utf8(value).ok()?.parse().ok()?),
                key => found.sparse |= key.starts_with(b"GNU.sparse."),
            }
            bytes = &bytes[length..];
        }
        Some(found)
    }
}

/// Octal digits between spaces and zero bytes, or, with the first bit set, a big-endian number.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, digits @ ..] = field {
        return digits.iter().try_fold(0u64, |sum, byte| Some(sum.checked_mul(256)? | u64::from(*byte)));
    }
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(digits.len());
    digits[..end].iter().try_fold(0u64, |sum, byte| match byte {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// A name up to its first zero byte.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Which of the two kinds of headers to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// POSIX.
    Ustar,
    /// GNU tar's before POSIX.
    OldGnu,
}

/// The header of a regular file, which belongs to nobody and was changed in 1970; `None` if the name has more than 100 bytes.
///
/// A size that octal digits cannot hold is written as a number of twelve bytes, as all of today's programs read it.
pub fn file_header(flavour: Flavour, name: &str, size_bytes: u64) -> Option<[u8; BLOCK_BYTES as usize]> {
    let mut header = Header::new_zeroed();
    header.name.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
    header.mode = *b"0000644\0";
    (header.user, header.group) = (*b"0000000\0", *b"0000000\0");
    if size_bytes <= MAX_OCTAL_BYTES {
        header.size.copy_from_slice(format!("{size_bytes:011o}\0").as_bytes());
    } else {
        header.size[0] = 0x80;
        header.size[4..].copy_from_slice(&size_bytes.to_be_bytes());
    }
    header.modified = *b"00000000000\0";
    header.kind = b'0';
    header.magic = if flavour == Flavour::Ustar { USTAR_MAGIC } else { GNU_MAGIC };
    header.set_sum();
    Some(zerocopy::transmute!(header))
}
