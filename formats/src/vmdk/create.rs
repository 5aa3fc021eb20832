//! Creating: the variants and their options.

use super::plain::{self, Layout};
use super::settings::{GRAIN_BYTES, Settings};
use super::stream;
use crate::error::Result;
use crate::format::{Measure, OptionHelp, TouchedBytes};
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

/// Which variant is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    Plain(Layout),
    Stream { level: u32 },
}

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

pub(super) fn begin(files: &dyn TargetFiles, options: &CreateOptions) -> Result<Box<dyn ImageWriter>> {
    let variant = variant(options)?;
    let settings = Settings::from_options(options)?;
    match variant {
        Variant::Plain(layout) => plain::begin(files, settings, layout),
        Variant::Stream { level } => stream::begin(files, &settings, level),
    }
}

pub(super) fn measure(options: &CreateOptions, touched_bytes: &TouchedBytes<'_>) -> Result<Measure> {
    let settings = Settings::from_options(&CreateOptions { target_holds_old_data: false, ..options.clone() })?;
    let touched = touched_bytes(GRAIN_BYTES)?;
    match variant(options)? {
        Variant::Plain(layout) => Ok(plain::measure(&settings, layout, touched)),
        Variant::Stream { .. } => Ok(stream::measure(&settings, touched)),
    }
}
