//! The arguments of every command that creates images.

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use tintype_formats::registry::{self, Format};
use tintype_formats::sink::{Compression, CreateOptions, parse_size};
use tintype_formats::{Geometry, raw};

use super::failure::Failure;
use crate::sources::format_named;

/// Measured on a Debian system: 0.8 of the time of level 3, for 0.8 % more space.
const DEFAULT_ZSTD_LEVEL: u32 = 2;

/// What zlib calls its default.
const DEFAULT_ZLIB_LEVEL: u32 = 6;

/// What to create.
#[derive(Debug, Clone, Args)]
pub struct CreateArgs {
    /// Format of the target; by its file name extension if not given, raw for devices and standard output
    #[arg(long, short = 'O', value_name = "FORMAT", env = "TINTYPE_OUTPUT_FORMAT")]
    output_format: Option<String>,
    /// Variant of the target's format, such as "full" for raw or "fixed" for vhdx
    #[arg(long, value_name = "NAME")]
    subformat: Option<String>,
    /// Options of the target's format ("tintype formats" lists them)
    #[arg(long = "options", short = 'o', value_name = "NAME=VALUE,...", value_delimiter = ',', value_parser = parse_option)]
    options: Vec<(String, String)>,
    /// Compress: none, zlib[:1-9] (6 by default) or zstd[:1-19] (2 by default)
    #[arg(long, value_name = "HOW", default_value = "none", env = "TINTYPE_COMPRESS", value_parser = parse_compression)]
    compress: Compression,
}

impl CreateArgs {
    /// The target's format.
    pub fn format(&self, target: Option<&Path>) -> Result<&'static Format, Failure> {
        if let Some(format) = format_named(self.output_format.as_deref())? {
            return Ok(format);
        }
        let Some(target) = target else {
            return Err(Failure::usage("the target's format is not given").hinted("say -O FORMAT"));
        };
        if target == Path::new("-") || target.starts_with("/dev") {
            return Ok(&raw::FORMAT);
        }
        let name = target.file_name().and_then(|name| name.to_str());
        name.and_then(registry::by_file_name).ok_or_else(|| {
            let name = target.display().to_string();
            Failure::usage(format!("the name \"{}\" does not tell the target's format", name.escape_debug()))
                .hinted("say -O FORMAT; \"tintype formats\" lists them")
        })
    }

    /// The variant that was asked for.
    pub fn subformat(&self) -> Option<&str> {
        self.subformat.as_deref()
    }

    /// What to create for a disk of this geometry.
    pub fn options(&self, geometry: Geometry) -> Result<CreateOptions, Failure> {
        let mut options = BTreeMap::new();
        for (name, value) in &self.options {
            if options.insert(name.clone(), value.clone()).is_some() {
                return Err(Failure::usage(format!("option {name} is given twice")));
            }
        }
        let (subformat, compression) = (self.subformat.clone(), self.compress);
        Ok(CreateOptions { subformat, compression, options, ..CreateOptions::new(geometry) })
    }
}

fn parse_option(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

fn parse_compression(text: &str) -> Result<Compression, String> {
    let (name, level) = text.split_once(':').map_or((text, None), |(name, level)| (name, Some(level)));
    let level_in = |range: std::ops::RangeInclusive<u32>, usual: u32| match level {
        None => Ok(usual),
        Some(level) => level
            .parse()
            .ok()
            .filter(|level| range.contains(level))
            .ok_or_else(|| format!("the level of {name} is from {} to {}", range.start(), range.end())),
    };
    match name {
        "none" if level.is_none() => Ok(Compression::None),
        "zlib" => Ok(Compression::Zlib(level_in(1..=9, DEFAULT_ZLIB_LEVEL)?)),
        "zstd" => Ok(Compression::Zstd(level_in(1..=19, DEFAULT_ZSTD_LEVEL)? as i32)),
        _ => Err("expected none, zlib, zstd, or one of the latter two with a level: zstd:9".to_owned()),
    }
}

/// Reads a size for clap: `512`, `64k`, `4GiB`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    parse_size(text).ok_or_else(|| "expected a number of bytes, with k, M, G or T for powers of 1024".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressions_have_levels() {
        assert_eq!(parse_compression("zstd"), Ok(Compression::Zstd(2)));
        assert_eq!(parse_compression("zlib:9"), Ok(Compression::Zlib(9)));
        for bad in ["", "gzip", "none:1", "zlib:0", "zlib:10", "zstd:20", "zstd:", "zstd:-1"] {
            assert!(parse_compression(bad).is_err(), "{bad}");
        }
    }
}
