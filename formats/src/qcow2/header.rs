//! The header: the fixed fields and what they must be. What follows them is in [`super::extensions`].
//!
//! Invariant: whoever holds a [`Header`] can compute with its numbers without overflow; the active L1 table lies in the
//! file and is large enough for the disk.

use zerocopy::FromBytes;

use super::extensions::{self, Extensions, READ_HEADER};
use super::on_disk::*;
use crate::error::{ImageError, Result};
use crate::host_file::HostFile;
use crate::limits::MAX_DISK_BYTES;

/// What the header and its extensions say.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub version: u32,
    pub shape: Shape,
    /// As stated; any number of bytes.
    pub size_bytes: u64,
    pub encryption: Encryption,
    pub compression: CompressionType,
    pub features: Features,
    pub l1: TablePlace,
    pub refcount_table: TablePlace,
    pub refcount_order: u32,
    pub snapshot_count: u32,
    pub snapshots_offset: u64,
    pub backing_name: Option<Vec<u8>>,
    pub extensions: Extensions,
}

/// Where a table of 8-byte entries lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TablePlace {
    pub host_offset: u64,
    pub entries: u64,
}

impl TablePlace {
    pub fn length_bytes(self) -> u64 {
        self.entries * 8
    }

    /// Whether it begins at a cluster, not the first one, and ends in the file.
    pub fn check(self, shape: Shape, file_bytes: u64) -> std::result::Result<(), String> {
        if self.entries == 0 {
            return Ok(());
        }
        if shape.within_cluster(self.host_offset) != 0 {
            return Err(format!("it begins at {:#x}, which is not a multiple of the cluster size", self.host_offset));
        }
        if self.host_offset == 0 {
            return Err("it begins at 0, where the header is".to_owned());
        }
        match self.host_offset.checked_add(self.length_bytes()) {
            Some(end) if end <= file_bytes => Ok(()),
            _ => Err(format!(
                "{} entries from {:#x} on end past the end of the file ({file_bytes:#x})",
                self.entries, self.host_offset
            )),
        }
    }
}

/// How the guest's data is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    None,
    Aes,
    Luks,
}

impl Encryption {
    pub fn name(self) -> Option<&'static str> {
        match self {
            Encryption::None => None,
            Encryption::Aes => Some("AES"),
            Encryption::Luks => Some("LUKS"),
        }
    }
}

/// How compressed clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CompressionType {
    Deflate,
    Zstd,
}

/// The feature bits; all 0 in version 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Features {
    pub incompatible: u64,
    pub compatible: u64,
    pub autoclear: u64,
}

impl Features {
    pub fn data_file(self) -> bool {
        self.incompatible & INCOMPATIBLE_DATA_FILE != 0
    }

    /// Whether the refcounts may be out of date: whoever wrote to the image has not closed it.
    pub fn dirty(self) -> bool {
        self.incompatible & INCOMPATIBLE_DIRTY != 0
    }
}

/// Whether these first bytes of a file are those of a version that is read here.
pub(super) fn looks_like_qcow2(head: &[u8]) -> bool {
    head.starts_with(&MAGIC) && matches!(head.get(4..8), Some([0, 0, 0, 2 | 3]))
}

/// Reads and checks the header of a file of `file_bytes`.
pub(super) fn read(file: &dyn HostFile, file_bytes: u64) -> Result<Header> {
    let fixed_bytes = file_bytes.min(u64::from(WRITTEN_HEADER_V3_BYTES)) as usize;
    let mut fixed = vec![0; fixed_bytes];
    read_part(file, 0, &mut fixed)?;
    if !looks_like_qcow2(&fixed) {
        return Err(not_this_version(&fixed));
    }
    let (v2, rest) = HeaderV2::read_from_prefix(&fixed).map_err(|_| cut_short(file_bytes, 72))?;
    let v3 = match v2.version.get() {
        2 => None,
        _ => Some(HeaderV3::read_from_prefix(rest).map_err(|_| cut_short(file_bytes, MIN_HEADER_V3_BYTES))?.0),
    };
    let compression_byte = fixed.get(COMPRESSION_TYPE_OFFSET).copied();
    let header = parse(file, file_bytes, &v2, v3.as_ref(), compression_byte)?;
    header.check_l1(file_bytes)?;
    Ok(header)
}

fn parse(
    file: &dyn HostFile,
    file_bytes: u64,
    v2: &HeaderV2,
    v3: Option<&HeaderV3>,
    compression_byte: Option<u8>,
) -> Result<Header> {
    let cluster_bits = check_cluster_bits(v2.cluster_bits.get())?;
    let header_bytes = check_header_bytes(v3, cluster_bits)?;
    let area = read_extension_area(file, file_bytes, v2, header_bytes, cluster_bits)?;
    let extensions = extensions::parse(&area.extensions, u64::from(header_bytes))?;
    let features = v3.map_or(Features::default(), features_of);
    check_features(features, &extensions)?;
    let shape = check_shape(cluster_bits, features)?;
    let compression_byte = compression_byte.filter(|_| header_bytes as usize > COMPRESSION_TYPE_OFFSET).unwrap_or(0);
    let refcount_entries = u64::from(v2.refcount_table_clusters.get()) * shape.cluster_bytes() / 8;
    Ok(Header {
        version: v2.version.get(),
        shape,
        size_bytes: check_size(v2.size_bytes.get())?,
        encryption: check_encryption(v2.crypt_method.get())?,
        compression: check_compression(compression_byte, features)?,
        features,
        l1: TablePlace { host_offset: v2.l1_table_offset.get(), entries: v2.l1_entries.get().into() },
        refcount_table: TablePlace { host_offset: v2.refcount_table_offset.get(), entries: refcount_entries },
        refcount_order: check_refcount_order(v3)?,
        snapshot_count: v2.snapshot_count.get(),
        snapshots_offset: v2.snapshots_offset.get(),
        backing_name: area.backing_name,
        extensions,
    })
}

impl Header {
    /// The disk's size, in whole sectors.
    pub fn disk_bytes(&self) -> u64 {
        self.size_bytes.next_multiple_of(512)
    }

    fn check_l1(&self, file_bytes: u64) -> Result<()> {
        check_l1_table(self.l1, self.shape, self.disk_bytes(), file_bytes)
    }
}

/// Checks an L1 table, active or a snapshot's, of a disk of `disk_bytes`.
pub(super) fn check_l1_table(l1: TablePlace, shape: Shape, disk_bytes: u64, file_bytes: u64) -> Result<()> {
    const DOING: &str = "find the L1 table";
    if l1.length_bytes() > MAX_L1_TABLE_BYTES {
        let detail = format!("it has {} entries, more than {MAX_L1_TABLE_BYTES} bytes hold", l1.entries);
        return Err(ImageError::limit_exceeded(DOING, detail));
    }
    let needed = shape.l1_entries_for(disk_bytes);
    if l1.entries < needed {
        let detail = format!(
            "the L1 table is too small: it has {} entries, a disk of {disk_bytes} bytes needs {needed}",
            l1.entries
        );
        return Err(ImageError::corrupt(DOING, detail));
    }
    let used = TablePlace { entries: needed, ..l1 };
    used.check(shape, file_bytes).map_err(|detail| ImageError::corrupt(DOING, detail))
}

fn read_part(file: &dyn HostFile, host_offset: u64, buffer: &mut [u8]) -> Result<()> {
    file.read_exact_at(host_offset, buffer).map_err(|cause| ImageError::io(READ_HEADER, cause).at_host(host_offset))
}

fn not_this_version(head: &[u8]) -> ImageError {
    let detail = match (head.get(..4), head.get(4..8)) {
        (Some(magic), Some(&[a, b, c, d])) if magic == MAGIC => {
            format!("version {} was found, expected 2 or 3", u32::from_be_bytes([a, b, c, d]))
        }
        _ => "the file does not begin with QFI\\xfb".to_owned(),
    };
    ImageError::not_this_format(READ_HEADER, detail)
}

fn cut_short(file_bytes: u64, needed_bytes: u32) -> ImageError {
    ImageError::truncated(READ_HEADER, format!("the file has {file_bytes} bytes, the header alone has {needed_bytes}"))
}

fn corrupt<T>(detail: String) -> Result<T> {
    Err(ImageError::corrupt(READ_HEADER, detail).at_host(0))
}

fn check_cluster_bits(cluster_bits: u32) -> Result<u32> {
    match cluster_bits {
        MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS => Ok(cluster_bits),
        0..MIN_CLUSTER_BITS => corrupt(format!("cluster_bits is {cluster_bits}, the least is {MIN_CLUSTER_BITS}")),
        _ => Err(ImageError::limit_exceeded(
            READ_HEADER,
            format!("cluster_bits is {cluster_bits}, at most {MAX_CLUSTER_BITS} (2 MiB) is read"),
        )),
    }
}

fn check_header_bytes(v3: Option<&HeaderV3>, cluster_bits: u32) -> Result<u32> {
    let Some(v3) = v3 else { return Ok(size_of::<HeaderV2>() as u32) };
    let header_bytes = v3.header_bytes.get();
    if header_bytes < MIN_HEADER_V3_BYTES || header_bytes % 8 != 0 || header_bytes > 1 << cluster_bits {
        return corrupt(format!(
            "header_length is {header_bytes}, expected a multiple of 8 from {MIN_HEADER_V3_BYTES} to the cluster size"
        ));
    }
    Ok(header_bytes)
}

/// How much of the extensions is read first: they may reach to the end of a cluster of 2 MiB, but never do.
const FIRST_EXTENSION_BYTES: u64 = 4096;

/// What lies between the header and the end of its cluster.
struct ExtensionArea {
    extensions: Vec<u8>,
    backing_name: Option<Vec<u8>>,
}

/// Reads the extensions, which end where the backing file's name begins, and that name.
fn read_extension_area(
    file: &dyn HostFile,
    file_bytes: u64,
    v2: &HeaderV2,
    header_bytes: u32,
    cluster_bits: u32,
) -> Result<ExtensionArea> {
    let cluster_end = file_bytes.min(1 << cluster_bits);
    let backing_name = read_backing_name(file, v2, header_bytes, cluster_end)?;
    let end = if backing_name.is_some() { v2.backing_file_offset.get() } else { cluster_end };
    let room = end.saturating_sub(header_bytes.into());
    let mut extensions = vec![0; room.min(FIRST_EXTENSION_BYTES) as usize];
    read_part(file, header_bytes.into(), &mut extensions)?;
    if room > FIRST_EXTENSION_BYTES && !extensions::have_ended(&extensions) {
        extensions.resize(room as usize, 0);
        read_part(file, header_bytes.into(), &mut extensions)?;
    }
    Ok(ExtensionArea { extensions, backing_name })
}

fn read_backing_name(
    file: &dyn HostFile,
    v2: &HeaderV2,
    header_bytes: u32,
    cluster_end: u64,
) -> Result<Option<Vec<u8>>> {
    let (offset, length) = (v2.backing_file_offset.get(), v2.backing_file_bytes.get());
    if offset == 0 {
        return Ok(None);
    }
    if length > MAX_BACKING_NAME_BYTES {
        return corrupt(format!(
            "the backing file's name has {length} bytes, at most {MAX_BACKING_NAME_BYTES} are legal"
        ));
    }
    let inside =
        offset >= header_bytes.into() && offset.checked_add(length.into()).is_some_and(|end| end <= cluster_end);
    if !inside {
        return corrupt(format!(
            "the backing file's name is at {offset:#x}, {length} bytes long, expected between the header's end and {cluster_end:#x}"
        ));
    }
    let mut name = vec![0; length as usize];
    read_part(file, offset, &mut name)?;
    // A name of no bytes is how some tools take a backing file away.
    Ok(Some(name).filter(|name| !name.is_empty()))
}

fn features_of(v3: &HeaderV3) -> Features {
    Features {
        incompatible: v3.incompatible_features.get(),
        compatible: v3.compatible_features.get(),
        autoclear: v3.autoclear_features.get(),
    }
}

/// "An implementation must fail to open an image if an unknown bit is set" (incompatible_features).
fn check_features(features: Features, extensions: &Extensions) -> Result<()> {
    let unknown = features.incompatible & !INCOMPATIBLE_KNOWN;
    if unknown == 0 {
        return Ok(());
    }
    let names: Vec<_> = (0..64u8)
        .filter(|bit| unknown & (1 << bit) != 0)
        .map(|bit| match extensions.incompatible_feature_name(bit) {
            Some(name) => format!("\"{}\" (bit {bit})", name.escape_debug()),
            None => format!("bit {bit}"),
        })
        .collect();
    Err(ImageError::unsupported(READ_HEADER, format!("the image needs unknown features: {}", names.join(", "))))
}

fn check_shape(cluster_bits: u32, features: Features) -> Result<Shape> {
    let extended_l2 = features.incompatible & INCOMPATIBLE_EXTENDED_L2 != 0;
    if extended_l2 && cluster_bits < MIN_EXTENDED_L2_CLUSTER_BITS {
        return corrupt(format!(
            "cluster_bits is {cluster_bits}, extended L2 entries need at least {MIN_EXTENDED_L2_CLUSTER_BITS}"
        ));
    }
    Ok(Shape { cluster_bits, extended_l2 })
}

fn check_size(size_bytes: u64) -> Result<u64> {
    if size_bytes > MAX_DISK_BYTES {
        let detail = format!("the disk's size is {size_bytes} bytes, at most {MAX_DISK_BYTES} work");
        return Err(ImageError::limit_exceeded(READ_HEADER, detail));
    }
    Ok(size_bytes)
}

fn check_encryption(crypt_method: u32) -> Result<Encryption> {
    match crypt_method {
        0 => Ok(Encryption::None),
        1 => Ok(Encryption::Aes),
        2 => Ok(Encryption::Luks),
        other => Err(ImageError::unsupported(READ_HEADER, format!("encrypted with the unknown method {other}"))),
    }
}

/// Bit 3 must be set if, and only if, the type is not deflate (header offset 104).
fn check_compression(compression_type: u8, features: Features) -> Result<CompressionType> {
    let announced = features.incompatible & INCOMPATIBLE_COMPRESSION_TYPE != 0;
    match compression_type {
        COMPRESSION_DEFLATE if !announced => Ok(CompressionType::Deflate),
        COMPRESSION_ZSTD if announced => Ok(CompressionType::Zstd),
        COMPRESSION_DEFLATE | COMPRESSION_ZSTD => corrupt(format!(
            "compression_type is {compression_type}, and incompatible feature bit 3 is {}",
            u8::from(announced)
        )),
        other => Err(ImageError::unsupported(READ_HEADER, format!("compressed with the unknown method {other}"))),
    }
}

fn check_refcount_order(v3: Option<&HeaderV3>) -> Result<u32> {
    match v3.map_or(DEFAULT_REFCOUNT_ORDER, |v3| v3.refcount_order.get()) {
        order @ 0..=MAX_REFCOUNT_ORDER => Ok(order),
        order => corrupt(format!("refcount_order is {order}, the most is {MAX_REFCOUNT_ORDER}")),
    }
}
