//! What an image says about itself, for people and programs.

use super::header::{CompressionType, Header};
use super::on_disk::*;
use crate::layer::Detail;
use crate::reference_gate::FileReference;

/// The parent that the header names.
pub(super) fn parent(header: &Header) -> Option<FileReference> {
    let name = String::from_utf8_lossy(header.backing_name.as_ref()?).into_owned();
    // "file:" is how QEMU says that what follows is a plain name.
    let plain = name.strip_prefix("file:").map(str::to_owned);
    let format = header.extensions.backing_format.as_deref().map(|name| format_of_qemu_driver(name).to_owned());
    Some(FileReference { names: std::iter::once(name).chain(plain).collect(), format, identities: Vec::new() })
}

/// Images name their parent's format as QEMU calls it.
fn format_of_qemu_driver(driver: &str) -> &str {
    match driver {
        "vpc" => "vhd",
        "file" | "host_device" | "host_cdrom" => "raw",
        other => other,
    }
}

/// The other way round.
pub(super) fn qemu_driver_of_format(format: &str) -> &str {
    match format {
        "vhd" => "vpc",
        other => other,
    }
}

/// What is wrong or doubtful, without keeping the image from being read.
pub(super) fn warnings(header: &Header, file_bytes: u64) -> Vec<String> {
    let incompatible = |bit| header.features.incompatible & bit != 0;
    let mut warnings = Vec::new();
    if header.features.dirty() {
        warnings.push("the image was not closed properly: its refcounts may be wrong, its data is not affected".into());
    }
    if incompatible(INCOMPATIBLE_CORRUPT) {
        warnings.push("the image is marked as corrupt: what is read of it may be wrong".into());
    }
    if header.backing_name.is_some() && header.extensions.backing_format.is_none() {
        warnings.push(
            "the image does not say which format its parent has: that is guessed from the parent's content".into(),
        );
    }
    let (size, added) = (header.size_bytes, header.disk_bytes() - header.size_bytes);
    if added > 0 {
        warnings.push(format!("the disk has {size} bytes, which is no whole number of sectors: {added} are added"));
    }
    if let Err(problem) = check_refcount_table(header, file_bytes) {
        warnings.push(format!("the refcount table is damaged: {problem}"));
    }
    warnings
}

/// Checks where the refcount table lies: nothing but a check of the image needs it.
pub(super) fn check_refcount_table(header: &Header, file_bytes: u64) -> Result<(), String> {
    let table = header.refcount_table;
    if table.entries == 0 {
        return Err("the image has none".to_owned());
    }
    if table.length_bytes() > MAX_REFCOUNT_TABLE_BYTES {
        return Err(format!("it has {} bytes, at most {MAX_REFCOUNT_TABLE_BYTES} are legal", table.length_bytes()));
    }
    table.check(header.shape, file_bytes)
}

/// What only this format has.
pub(super) fn details(header: &Header) -> Vec<(&'static str, Detail)> {
    let features = header.features;
    let mut details: Vec<(&'static str, Detail)> = vec![
        ("version", header.version.into()),
        ("cluster_bytes", header.shape.cluster_bytes().into()),
        ("refcount_bits", (1u64 << header.refcount_order).into()),
        ("compression", compression_name(header.compression).into()),
        ("extended_l2", header.shape.extended_l2.into()),
        ("lazy_refcounts", (features.compatible & COMPATIBLE_LAZY_REFCOUNTS != 0).into()),
        ("dirty", features.dirty().into()),
        ("corrupt", (features.incompatible & INCOMPATIBLE_CORRUPT != 0).into()),
    ];
    if let Some(method) = header.encryption.name() {
        details.push(("encryption", method.into()));
    }
    if features.data_file() {
        let name = header.extensions.data_file.clone().unwrap_or_default();
        let raw = features.autoclear & AUTOCLEAR_DATA_FILE_RAW != 0;
        details.extend([("data_file", name.into()), ("data_file_raw", raw.into())]);
    }
    if let Some(bitmaps) = &header.extensions.bitmaps {
        let consistent = features.autoclear & AUTOCLEAR_BITMAPS != 0;
        details.extend([("bitmaps", bitmaps.bitmap_count.into()), ("bitmaps_consistent", consistent.into())]);
    }
    details
}

fn compression_name(compression: CompressionType) -> &'static str {
    match compression {
        CompressionType::Deflate => "zlib",
        CompressionType::Zstd => "zstd",
    }
}
