//! The arguments of every command that creates images.

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use tintype_formats::format::{Create, Format};
use tintype_formats::registry;
use tintype_formats::sink::{Compression, CreateOptions, parse_size};
use tintype_formats::{Geometry, raw};

use super::failure::Failure;
use super::profile::Profile;
use super::source_args::format_parser;
use super::{output, usage};
use crate::sources::{format_named, is_device_or_export};

/// Measured on a Debian system: 0.8 of the time of level 3, for 0.8 % more space.
const DEFAULT_ZSTD_LEVEL: u32 = 2;

/// What zlib calls its default.
const DEFAULT_ZLIB_LEVEL: u32 = 6;

/// What to create.
#[derive(Debug, Clone, Args)]
pub struct CreateArgs {
    /// Format of the target; by its file name extension if not given, raw for devices and standard output
    #[arg(long, short = 'O', value_name = "FORMAT", env = "TINTYPE_OUTPUT_FORMAT", value_parser = format_parser())]
    output_format: Option<String>,
    /// Make what this platform accepts: format, variant and size of the disk
    #[arg(long, value_name = "PLATFORM", value_enum, conflicts_with_all = ["output_format", "subformat"])]
    profile: Option<Profile>,
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
    /// The target's format, which has the options that were given.
    pub fn format(&self, target: Option<&Path>) -> Result<&'static Format, Failure> {
        let format = self.format_for(target)?;
        self.check(format)?;
        Ok(format)
    }

    /// The same arguments without a format.
    pub fn without_format(&self) -> CreateArgs {
        CreateArgs { output_format: None, ..self.clone() }
    }

    fn format_for(&self, target: Option<&Path>) -> Result<&'static Format, Failure> {
        let named = self.profile.map(|profile| profile.rules().format).or(self.output_format.as_deref());
        if let Some(format) = format_named(named)? {
            return Ok(format);
        }
        let Some(target) = target else {
            return Err(Failure::usage("the target's format is not given").hinted("say -O FORMAT"));
        };
        if target == Path::new("-") || is_device_or_export(target) {
            return Ok(&raw::FORMAT);
        }
        let name = target.file_name().and_then(|name| name.to_str());
        let extension = target.extension().and_then(|extension| extension.to_str());
        name.and_then(registry::by_file_name).ok_or_else(|| unknown_name(target, extension))
    }

    /// Fails if the platform takes another format than the target's name says; warns if the format was typed against the name. Only
    /// `.img` says nothing: images of all formats have it.
    pub fn check_name(&self, format: &Format, target: &Path) -> Result<(), Failure> {
        let is_silent = target.extension().is_none_or(|extension| extension == "img") || is_device_or_export(target);
        let name = target.file_name().and_then(|name| name.to_str()).filter(|_| !is_silent);
        let Some(named) = name.and_then(registry::by_file_name).filter(|named| !std::ptr::eq(*named, format)) else {
            return Ok(());
        };
        let text = format!("{}: the name says {}", target.display(), named.name);
        match self.profile {
            Some(profile) => Err(Failure::usage(format!("{text}, and {} takes {}", profile.name(), format.name))
                .hinted(format!("name it .{}", format.extensions.first().unwrap_or(&format.name)))),
            None if self.output_format.is_some() && !usage::is_from_variable("output_format") => {
                output::warn_always(&format!("{text}, and it is written as {}, as -O says", format.name));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The variant that was asked for.
    pub fn subformat(&self) -> Option<&str> {
        self.profile.map_or(self.subformat.as_deref(), |profile| profile.rules().subformat)
    }

    /// What a platform was found to take, in words; nothing without one.
    pub fn platform_choice(&self) -> Option<String> {
        let profile = self.profile?;
        let rules = profile.rules();
        let subformat = rules.subformat.map(|name| format!(", {name}")).unwrap_or_default();
        Some(format!("{} takes {}{subformat}", profile.name(), rules.format))
    }

    /// The size that the platform wants the disk to have; its own without one. Fails where the platform refuses the disk.
    pub fn size_for_platform(&self, disk: Geometry) -> Result<u64, Failure> {
        self.profile.map_or(Ok(disk.size_bytes), |profile| profile.fit(disk))
    }

    /// Fails if the format has not the options and the compression that were given.
    pub fn check(&self, format: &'static Format) -> Result<(), Failure> {
        let Some(create) = &format.create else { return Ok(()) };
        for (name, _) in &self.options {
            if !create.options.iter().any(|known| known.name == name) {
                let known: Vec<_> = create.options.iter().map(|option| option.name).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let (format, name) = (format.name, name.escape_debug());
                return Err(Failure::usage(format!("{format} has no option {name}; it has {known}")));
            }
        }
        let Some(name) = compression_name(self.compress) else { return Ok(()) };
        // A variable stands for all conversions, also those to formats that do not compress.
        if create.compressions.contains(&name) || usage::is_from_variable("compress") {
            return Ok(());
        }
        let found = match create.compressions {
            [] => format!("{} does not compress", format.name),
            known => format!("{} does not compress with {name}, but with {}", format.name, known.join(", ")),
        };
        let others = formats_that(|create| create.compressions.contains(&name));
        Err(Failure::usage(format!("{found}; formats that compress with {name}: {others}")))
    }

    /// What to create for a disk of this geometry, in this format.
    pub fn options(&self, format: &Format, geometry: Geometry) -> Result<CreateOptions, Failure> {
        check_geometry(format, geometry)?;
        let mut options = BTreeMap::new();
        for (name, value) in &self.options {
            if options.insert(name.clone(), value.clone()).is_some() {
                return Err(Failure::usage(format!("option {name} is given twice")));
            }
        }
        let can = |name| format.create.as_ref().is_some_and(|create| create.compressions.contains(&name));
        let compression = match compression_name(self.compress) {
            Some(name) if !can(name) => Compression::None,
            _ => self.compress,
        };
        let subformat = self.subformat().map(str::to_owned);
        Ok(CreateOptions { subformat, compression, options, ..CreateOptions::new(geometry) })
    }
}

fn compression_name(compression: Compression) -> Option<&'static str> {
    match compression {
        Compression::None => None,
        Compression::Zlib(_) => Some("zlib"),
        Compression::Zstd(_) => Some("zstd"),
    }
}

/// The names of the formats that can do something.
pub fn formats_that(can: impl Fn(&Create) -> bool) -> String {
    let able = registry::FORMATS.iter().filter(|format| format.create.as_ref().is_some_and(&can));
    able.map(|format| format.name).collect::<Vec<_>>().join(", ")
}

fn unknown_name(target: &Path, extension: Option<&str>) -> Failure {
    if target.is_dir() {
        let name = target.display().to_string();
        return Failure::usage(format!("{}: it is a folder; expected the name of a file", name.escape_debug()));
    }
    let failure = match extension {
        Some(extension) => {
            let known: Vec<_> = registry::FORMATS
                .iter()
                .filter(|format| format.create.is_some())
                .flat_map(|format| format.extensions)
                .map(|extension| format!(".{extension}"))
                .collect();
            let extension = extension.escape_debug();
            Failure::usage(format!("there is no format for .{extension}; there are {}", known.join(", ")))
        }
        None => {
            let name = target.display().to_string();
            Failure::usage(format!("the name \"{}\" does not tell the target's format", name.escape_debug()))
        }
    };
    failure.hinted("say -O FORMAT; \"tintype formats\" lists them")
}

/// Fails if the format cannot hold such a disk whatever its options are, and says which ones can.
fn check_geometry(format: &Format, geometry: Geometry) -> Result<(), Failure> {
    let options = CreateOptions::new(geometry);
    let Err(cause) = format.measure(&options, &|_| Ok(0)) else { return Ok(()) };
    let able = registry::FORMATS.iter().filter(|format| format.measure(&options, &|_| Ok(0)).is_ok());
    let able: Vec<_> = able.map(|format| format.name).collect();
    let failure = Failure::from(cause);
    Err(if able.is_empty() { failure } else { failure.hinted(format!("formats that can: {}", able.join(", "))) })
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
    parse_size(text).ok_or_else(|| {
        "sizes are whole numbers, of bytes or of powers of 1024, such as 512, 1k, 4M, 2GiB, 1T".to_owned()
    })
}

/// Reads a rate for clap: a size of at least one byte.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        0 => Err("nothing would ever be read; leave it out to have no limit".to_owned()),
        rate => Ok(rate),
    }
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
