//! Creating: the variants and their options.

use super::on_disk::*;
use super::plain::{self, Layout};
use super::stream;
use super::write_descriptor::Hardware;
use crate::error::{ErrorKind, ImageError, Result};
use crate::format::{Measure, OptionHelp, TouchedBytes};
use crate::limits::MAX_DISK_BYTES;
use crate::sink::{Compression, CreateOptions, ImageWriter, TargetFiles, invalid_option};

/// The variants, the default one first.
pub(super) static SUBFORMATS: &[&str] =
    &["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "streamOptimized"];

/// The options for new images.
pub(super) static OPTIONS: &[OptionHelp] = &[
    OptionHelp {
        name: "adapter_type",
        values: "lsilogic, ide, buslogic, legacyESX (default: lsilogic)",
        help: "The controller that the descriptor names, for products that ask it",
    },
    OptionHelp {
        name: "hwversion",
        values: "3 to 99 (default: 4)",
        help: "The virtual hardware version that the descriptor asks for",
    },
];

/// The size of a grain: everybody's.
pub(super) const GRAIN_BYTES: u64 = 64 << 10;

/// Which variant is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    Plain(Layout),
    Stream { level: u32 },
}

/// What every variant needs to know.
pub(super) struct Settings {
    pub size_bytes: u64,
    pub hardware: Hardware,
}

pub(super) const CREATE: &str = "create VMDK image";
const DEFAULT_LEVEL: u32 = 6;

/// Only streams are compressed, and always are: who asks for compression alone gets one.
fn variant(options: &CreateOptions) -> Result<Variant> {
    let level = match options.compression {
        Compression::Zlib(level) if !(1..=9).contains(&level) => {
            return Err(invalid_option("compress", &format!("zlib:{level}"), "a level from 1 to 9"));
        }
        Compression::Zlib(level) => Some(level),
        Compression::None | Compression::Zstd(_) => None,
    };
    let layout = match (options.subformat.as_deref(), level) {
        (Some("streamOptimized"), level) => return Ok(Variant::Stream { level: level.unwrap_or(DEFAULT_LEVEL) }),
        (None, Some(level)) => return Ok(Variant::Stream { level }),
        (Some(_), Some(_)) => {
            return Err(invalid_option("compress", "zlib", "none, or the subformat streamOptimized"));
        }
        (Some("monolithicFlat"), None) => Layout::MonolithicFlat,
        (Some("twoGbMaxExtentSparse"), None) => Layout::SplitSparse,
        (_, None) => Layout::MonolithicSparse,
    };
    Ok(Variant::Plain(layout))
}

fn settings(options: &CreateOptions) -> Result<Settings> {
    let size_bytes = options.geometry.size_bytes;
    if !size_bytes.is_multiple_of(SECTOR_BYTES) {
        let detail = format!("the disk has {size_bytes} bytes, which is no whole number of sectors of {SECTOR_BYTES}");
        return Err(ImageError::new(ErrorKind::InvalidOption, CREATE, detail));
    }
    if size_bytes > MAX_DISK_BYTES || size_bytes.div_ceil(GRAIN_BYTES * TABLE_ENTRIES) > MAX_TABLES {
        let most = MAX_TABLES * GRAIN_BYTES * TABLE_ENTRIES;
        let detail = format!("the disk has {size_bytes} bytes, at most {most} work");
        return Err(ImageError::limit_exceeded(CREATE, detail));
    }
    if options.target_holds_old_data {
        let detail = "a VMDK image can only be made in an empty file, not over old data";
        return Err(ImageError::unsupported(CREATE, detail));
    }
    Ok(Settings { size_bytes, hardware: Hardware::from_options(options)? })
}

/// The entries of a grain table that is written.
pub(super) const TABLE_ENTRIES: u64 = 512;

pub(super) fn begin(files: &dyn TargetFiles, options: &CreateOptions) -> Result<Box<dyn ImageWriter>> {
    let variant = variant(options)?;
    let settings = settings(options)?;
    match variant {
        Variant::Plain(layout) => plain::begin(files, settings, layout),
        Variant::Stream { level } => stream::begin(files, &settings, level),
    }
}

pub(super) fn measure(options: &CreateOptions, touched_bytes: &TouchedBytes<'_>) -> Result<Measure> {
    let settings = settings(&CreateOptions { target_holds_old_data: false, ..options.clone() })?;
    let touched = touched_bytes(GRAIN_BYTES)?;
    match variant(options)? {
        Variant::Plain(layout) => Ok(plain::measure(&settings, layout, touched)),
        Variant::Stream { .. } => Ok(stream::measure(&settings, touched)),
    }
}
