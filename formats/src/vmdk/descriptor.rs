//! The descriptor: a text that says what the disk consists of, in a file of its own or embedded in a sparse extent.
//!
//! ```text
//!   # Disk DescriptorFile
//!   CID=8f67ca74                  the content's identity, and the parent's: who the parent must be
//!   parentCID=0172e8a4
//!   parentFileNameHint="base.vmdk"
//!   RW 4096 SPARSE "disk-s001.vmdk"       access, sectors, type, file, and in flat ones its first sector
//!   ddb.adapterType = "lsilogic"  the disk data base: what the virtual machine makes of it
//! ```

use std::collections::BTreeMap;

use encoding_rs::Encoding;

use super::on_disk::{MAX_EXTENTS, SECTOR_BYTES};
use crate::error::{ImageError, Result};
use crate::limits::{MAX_DISK_BYTES, MAX_REFERENCE_NAME_BYTES};

const READ: &str = "read VMDK descriptor";

/// A part of a line, or what is wrong with it.
type Parsed<T> = std::result::Result<T, String>;

/// The parentCID of a disk without a parent.
const NO_PARENT: u32 = u32::MAX;

/// How the guest may use an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    ReadWrite,
    ReadOnly,
    None,
}

/// Where the bytes of an extent are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExtentKind {
    Flat,
    Vmfs,
    Sparse,
    VmfsSparse,
    SeSparse,
    Zero,
    /// A device, which no copy of the disk's files holds.
    Device(&'static str),
}

/// A line of the descriptor that names a part of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExtentLine {
    pub access: Access,
    pub length_bytes: u64,
    pub kind: ExtentKind,
    /// The file's name, and perhaps another reading of it.
    pub names: Vec<String>,
    /// Where in a flat file the extent begins.
    pub host_offset: u64,
}

/// What the descriptor says.
#[derive(Debug, Clone, Default)]
pub(super) struct Descriptor {
    pub cid: Option<u32>,
    pub parent_cid: Option<u32>,
    pub parent_names: Vec<String>,
    pub create_type: String,
    pub extents: Vec<ExtentLine>,
    /// The disk data base, and keys of no further meaning here; names are in small letters.
    pub values: BTreeMap<String, String>,
}

impl Descriptor {
    /// The length of all extents together.
    pub fn disk_bytes(&self) -> Result<u64> {
        let sum = self.extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.length_bytes));
        sum.filter(|sum| *sum <= MAX_DISK_BYTES).ok_or_else(|| {
            let detail = format!("its extents have more than {MAX_DISK_BYTES} bytes together");
            ImageError::limit_exceeded(READ, detail)
        })
    }

    /// The identity of the disk's content, as children name it.
    pub fn identity(&self) -> Option<String> {
        self.cid.map(identity_text)
    }

    /// Whether the disk needs a parent.
    pub fn has_parent(&self) -> bool {
        self.parent_cid.is_some_and(|cid| cid != NO_PARENT)
    }
}

/// How a content identity is written, in a disk's own info and in what its children expect.
pub(super) fn identity_text(cid: u32) -> String {
    format!("{cid:08x}")
}

/// True for the names that VMware gives to files with a disk's plain content: `x-flat.vmdk`, `x-f001.vmdk`, `x-rdm.vmdk`.
pub(super) fn is_flat_extent(file_name: &str) -> bool {
    let name = file_name.to_ascii_lowercase();
    let Some((_, part)) = name.strip_suffix(".vmdk").and_then(|stem| stem.rsplit_once('-')) else { return false };
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    matches!(part, "flat" | "rdm" | "rdmp") || part.strip_prefix('f').is_some_and(is_number)
}

/// Whether the beginning of a file looks like a descriptor.
pub(super) fn looks_like_descriptor(head: &[u8]) -> bool {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let title = b"# disk descriptorfile";
    if head.len() >= title.len() && head.iter().zip(title).all(|(byte, title)| byte.to_ascii_lowercase() == *title) {
        return true;
    }
    // Without the title: first of all a version or an encoding, and further on what it is a version of.
    let mut lines = lines(head).filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    let begins = lines.next().and_then(key_and_value).is_some_and(|(key, _)| key == "version" || key == "encoding");
    begins && lines.any(|line| key_and_value(line).is_some_and(|(key, _)| key == "cid" || key == "createtype"))
}

/// Reads a descriptor; what follows the first NUL is padding.
pub(super) fn parse(bytes: &[u8]) -> Result<Descriptor> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let encoding = find_encoding(text);
    let mut descriptor = Descriptor::default();
    for (number, line) in (1..).zip(lines(text)) {
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        parse_line(line, encoding, &mut descriptor)
            .map_err(|detail| ImageError::corrupt(READ, format!("line {number}, \"{}\": {detail}", shown(line))))?;
        if descriptor.extents.len() > MAX_EXTENTS {
            return Err(ImageError::limit_exceeded(READ, format!("it has more than {MAX_EXTENTS} extents")));
        }
    }
    if descriptor.extents.is_empty() {
        return Err(ImageError::corrupt(READ, "it names no extents"));
    }
    Ok(descriptor)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii)
}

fn shown(line: &[u8]) -> String {
    const MAX_CHARS: usize = 120;
    String::from_utf8_lossy(line).chars().take(MAX_CHARS).collect::<String>().escape_debug().to_string()
}

/// Splits `key = "value"`; the key in small letters, the value without its quotes.
fn key_and_value(line: &[u8]) -> Option<(String, &[u8])> {
    let equals = line.iter().position(|byte| *byte == b'=')?;
    let (key, value) = line.split_at_checked(equals)?;
    let key = std::str::from_utf8(key.trim_ascii()).ok()?.to_ascii_lowercase();
    let value = value.get(1..)?.trim_ascii();
    let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    Some((key, bare))
}

/// The encoding of the names, if the descriptor says one that is known.
fn find_encoding(text: &[u8]) -> Option<&'static Encoding> {
    let mut values = lines(text).filter_map(key_and_value);
    let (_, label) = values.find(|(key, _)| key == "encoding" || key == "ddb.encoding")?;
    Encoding::for_label_no_replacement(label)
}

/// The readings of a text: in the encoding that the descriptor names, and as UTF-8; copies of the files may have either.
fn decode(bytes: &[u8], encoding: Option<&'static Encoding>) -> Vec<String> {
    let stated = encoding.unwrap_or(encoding_rs::UTF_8);
    let stated = stated.decode_without_bom_handling_and_without_replacement(bytes).map(|text| text.into_owned());
    let plain = std::str::from_utf8(bytes).ok().map(str::to_owned);
    let mut readings: Vec<String> = stated.into_iter().chain(plain).collect();
    readings.dedup();
    if readings.is_empty() {
        // No encoding is named, or a wrong one: what Windows would have used.
        readings.push(encoding_rs::WINDOWS_1252.decode_without_bom_handling(bytes).0.into_owned());
    }
    readings
}

fn parse_line(line: &[u8], encoding: Option<&'static Encoding>, descriptor: &mut Descriptor) -> Parsed<()> {
    if let Some(extent) = parse_extent(line, encoding)? {
        descriptor.extents.push(extent);
        return Ok(());
    }
    let Some((key, value)) = key_and_value(line) else {
        return Err("expected an extent, key=value, or a comment".to_owned());
    };
    let text = decode(value, encoding).into_iter().next().unwrap_or_default();
    match key.as_str() {
        "cid" => descriptor.cid = Some(parse_cid(&text)?),
        "parentcid" => descriptor.parent_cid = Some(parse_cid(&text)?),
        "createtype" => descriptor.create_type = text,
        "parentfilenamehint" => descriptor.parent_names = checked_names(value, encoding)?,
        _ => _ = descriptor.values.insert(key, text),
    }
    Ok(())
}

fn parse_cid(text: &str) -> Parsed<u32> {
    u32::from_str_radix(text, 16).map_err(|_| "expected up to 8 hexadecimal digits".to_owned())
}

fn checked_names(bytes: &[u8], encoding: Option<&'static Encoding>) -> Parsed<Vec<String>> {
    if bytes.len() > MAX_REFERENCE_NAME_BYTES {
        return Err(format!("the name has {} bytes, at most {MAX_REFERENCE_NAME_BYTES} are read", bytes.len()));
    }
    Ok(decode(bytes, encoding))
}

/// Takes the next word off a line.
fn next_word<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let line = rest.trim_ascii_start();
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (word, after) = line.split_at(end);
    *rest = after;
    word
}

/// Reads an extent line; `None` if it is no such line.
fn parse_extent(line: &[u8], encoding: Option<&'static Encoding>) -> Parsed<Option<ExtentLine>> {
    let mut rest = line;
    let access = match next_word(&mut rest).to_ascii_uppercase().as_slice() {
        b"RW" => Access::ReadWrite,
        b"RDONLY" => Access::ReadOnly,
        b"NOACCESS" => Access::None,
        _ => return Ok(None),
    };
    if rest.trim_ascii_start().starts_with(b"=") {
        return Ok(None);
    }
    let length_bytes = parse_sectors(next_word(&mut rest)).ok_or("expected the number of sectors after the access")?;
    let kind = parse_kind(next_word(&mut rest))?;
    let names = parse_name(&mut rest, encoding)?;
    let offset = next_word(&mut rest);
    let host_offset = match offset {
        b"" => 0,
        offset => parse_sectors(offset).ok_or("expected the first sector's number after the name")?,
    };
    if names.is_empty() && !matches!(kind, ExtentKind::Zero) && access != Access::None {
        return Err("expected the name of a file".to_owned());
    }
    if host_offset != 0 && !matches!(kind, ExtentKind::Flat | ExtentKind::Vmfs | ExtentKind::Device(_)) {
        return Err("only flat extents begin at a sector of their file".to_owned());
    }
    Ok(Some(ExtentLine { access, length_bytes, kind, names, host_offset }))
}

/// A number of sectors, in bytes.
fn parse_sectors(word: &[u8]) -> Option<u64> {
    let sectors = std::str::from_utf8(word).ok()?.parse::<u64>().ok()?;
    sectors.checked_mul(SECTOR_BYTES).filter(|bytes| *bytes <= MAX_DISK_BYTES)
}

fn parse_kind(word: &[u8]) -> Parsed<ExtentKind> {
    Ok(match word.to_ascii_uppercase().as_slice() {
        b"FLAT" => ExtentKind::Flat,
        b"VMFS" => ExtentKind::Vmfs,
        b"SPARSE" => ExtentKind::Sparse,
        b"VMFSSPARSE" => ExtentKind::VmfsSparse,
        b"SESPARSE" => ExtentKind::SeSparse,
        b"ZERO" => ExtentKind::Zero,
        b"VMFSRDM" => ExtentKind::Device("VMFSRDM"),
        b"VMFSRAW" => ExtentKind::Device("VMFSRAW"),
        other => return Err(format!("the extent type {} is not known", shown(other))),
    })
}

fn parse_name(rest: &mut &[u8], encoding: Option<&'static Encoding>) -> Parsed<Vec<String>> {
    let line = rest.trim_ascii_start();
    let Some(quoted) = line.strip_prefix(b"\"") else {
        let name = next_word(rest);
        return if name.is_empty() { Ok(Vec::new()) } else { checked_names(name, encoding) };
    };
    let end = quoted.iter().position(|byte| *byte == b'"').ok_or("the name's closing quote is missing")?;
    let (name, after) = quoted.split_at(end);
    *rest = after.get(1..).unwrap_or_default();
    checked_names(name, encoding)
}
