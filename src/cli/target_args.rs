//! The arguments about a target that `convert` and `restore` share, and what people get to see of the writing.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tintype_formats::{Format, Geometry, raw};
use tintype_volumes::content::{Content, content_of};
use tintype_volumes::partitions::partitions;

use super::create_args::{CreateArgs, parse_bytes, parse_rate};
use super::failure::Failure;
use super::salvage_args::SalvageArgs;
use super::source_args::ThreadArgs;
use super::{Global, job, output, units, usage};
use crate::engine::convert::ConvertOptions;
use crate::engine::disk_source::DiskSource;
use crate::engine::fit::Caution;
use crate::engine::write_disk::{Writing, Written};
use crate::jobs::{catch_signals, with_aftermath};
use crate::sources::{NbdOptions, OpenOptions, is_device, is_device_or_export, open_disk};
use crate::targets::{Access, TargetOptions};

/// What to write, and how to treat what is there.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    #[command(flatten)]
    pub create: CreateArgs,
    /// Read the target back from the disk and compare it with the source before it gets its name
    #[arg(long)]
    pub verify: bool,
    /// Overwrite an existing file, or a device
    #[arg(long, env = "TINTYPE_FORCE", value_parser = clap::builder::BoolishValueParser::new())]
    pub force: bool,
    /// Write into an existing raw file or device, in place
    #[arg(long, short = 'n')]
    pub no_create: bool,
    /// Trust the existing target to read as zeros, and write no zeros to it
    #[arg(long)]
    target_is_zero: bool,
    /// Write a disk with a partition table or a file system although the target has sectors of another size
    #[arg(long)]
    pub keep_sectors: bool,
    /// Make the disk this large, with zeros after its end
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    extend_to: Option<u64>,
    #[command(flatten)]
    pub salvage: SalvageArgs,
    /// Read at most this many bytes a second (or with k, M, G)
    #[arg(long, value_name = "BYTES", value_parser = parse_rate, env = "TINTYPE_RATE_LIMIT")]
    pub rate_limit: Option<u64>,
    #[command(flatten)]
    pub threads: ThreadArgs,
}

impl TargetArgs {
    /// Returns the format to write to `target`; fails if the arguments do not fit it.
    pub fn format(&self, target: &Path) -> Result<&'static Format, Failure> {
        let device = is_device_or_export(target);
        // What is written in place is raw, whatever a variable says of new files.
        let is_overridden = (self.no_create || device) && usage::is_from_variable("output_format");
        let format = match is_overridden {
            true => self.create.without_format().format(Some(target))?,
            false => self.create.format(Some(target))?,
        };
        self.create.check_name(format, target)?;
        if (self.no_create || device) && !std::ptr::eq(format, &raw::FORMAT) {
            let message = format!("an existing file or device is written as raw, not as {}", format.name);
            return Err(Failure::usage(message).hinted("say -O raw"));
        }
        if self.target_is_zero && !self.no_create && !device {
            return Err(Failure::usage("--target-is-zero is for existing targets, with --no-create or a device"));
        }
        Ok(format)
    }

    /// Makes the disk as large as the user or the platform wants it, and says so.
    pub fn fit(&self, source: DiskSource, global: Global) -> Result<DiskSource, Failure> {
        if let Some(choice) = self.create.platform_choice() {
            output::note(&choice, global);
        }
        let mut geometry = source.geometry();
        let from_bytes = geometry.size_bytes;
        geometry.size_bytes = match self.extend_to {
            Some(wanted) if wanted < from_bytes || !wanted.is_multiple_of(512) => {
                return Err(Failure::usage(format!(
                    "--extend-to {wanted}: expected whole sectors, and at least the disk's {from_bytes} bytes"
                )));
            }
            wanted => wanted.unwrap_or(from_bytes),
        };
        let to_bytes = self.create.size_for_platform(geometry)?;
        if to_bytes == from_bytes {
            return Ok(source);
        }
        warn(Some(Caution::Extended { from_bytes, to_bytes }), global);
        Ok(source.extended(to_bytes)?)
    }

    /// As the targets understand it.
    pub fn options(&self, access: Access, nbd: NbdOptions) -> TargetOptions {
        let (existing, target_is_zero) = (self.no_create, self.target_is_zero);
        TargetOptions { force: self.force, existing, target_is_zero, access, nbd }
    }

    /// Returns the options for writing a disk of this geometry in this format.
    pub fn convert_options(
        &self,
        format: &'static Format,
        geometry: Geometry,
        workers: usize,
    ) -> Result<ConvertOptions<'static>, Failure> {
        Ok(ConvertOptions {
            format,
            create: self.create.options(format, geometry)?,
            parent: None,
            workers,
            digest: None,
            verify: self.verify,
            reflink: false,
            salvage: self.salvage.tolerance(),
            salvage_map: None,
            rate_limit: self.rate_limit,
            reproducible: false,
        })
    }
}

/// Writes the disk to its target while the progress is shown.
pub fn write(
    source: DiskSource,
    writing: Writing<'_>,
    title: &'static str,
    global: Global,
) -> Result<Written, Failure> {
    // Before signals are caught: a pipe may be slow to begin.
    note_what_is_lost(writing.target, global);
    let ready = writing.ready(source)?;
    warn(ready.caution(), global);
    let signals = catch_signals()?;
    let (target, caution) = ready.open_target()?;
    warn(caution, global);
    let abandon = |error| with_aftermath(error, target.abandon());
    job::run_and_abandon(global, title, signals, &abandon, |progress| ready.run(&target, progress))
}

/// Says what a device holds that is to be written over.
fn note_what_is_lost(target: &Path, global: Global) {
    let device = is_device(target).then(|| open_disk(target, &OpenOptions::default(), None).ok()).flatten();
    let Some(disk) = device.map(|opened| opened.disk) else { return };
    let what = match content_of(disk.as_ref()) {
        None => return,
        Some(Content::Volume(volume)) => format!("a {}", volume.name()),
        Some(table) => {
            let name = if matches!(table, Content::Mbr) { "an MBR" } else { "a GPT" };
            let found = partitions(disk.as_ref()).map_or(0, |found| found.len() as u64);
            format!("{name} with {}", units::count(found, "partition", "partitions"))
        }
    };
    output::note(&format!("{} holds {what}, to be written over", target.display()), global);
}

/// For people: how much was stored, and whether it was read back.
pub fn shown_writing(written: &Written) -> String {
    let stored = units::size(written.converted.stored_bytes);
    let file = written.file_bytes.map(|bytes| format!(", file of {}", units::size(bytes))).unwrap_or_default();
    let verified = if written.converted.verified { ", read back and verified" } else { "" };
    format!("{stored} stored{file}{verified}")
}

/// The end of a summary's line: how long it took, and how fast it was.
pub fn shown_rate(size_bytes: u64, elapsed: Duration) -> String {
    let elapsed_s = elapsed.as_secs_f64();
    let rate = (size_bytes as f64 / elapsed_s.max(0.001)) as u64;
    format!("in {elapsed_s:.1} s ({}/s)", units::size(rate))
}

/// Prints a caution, if there is one.
pub fn warn(caution: Option<Caution>, global: Global) {
    let text = match caution {
        None => return,
        Some(Caution::Extended { from_bytes, to_bytes }) => format!(
            "the disk becomes larger: {} of zeros after its {}; a GPT disk's backup table stays where it was",
            units::exact_size(to_bytes - from_bytes),
            units::exact_size(from_bytes)
        ),
        Some(Caution::SectorsNotRecorded { sector_bytes, format }) => format!(
            "the disk has sectors of {sector_bytes} bytes, which {format} does not record: its partition table is found \
             only where the machine is set up to present such sectors"
        ),
        Some(Caution::TargetLarger { rest_bytes }) => format!(
            "the target is larger than the disk: its last {} keep what they hold; a GPT disk misses its backup table there",
            units::exact_size(rest_bytes)
        ),
    };
    output::warn(&text, global);
}

/// A range of a disk that could not be read, as reports list it.
#[derive(Debug, Serialize)]
pub struct Unreadable {
    offset: u64,
    length_bytes: u64,
}

impl From<&Range<u64>> for Unreadable {
    fn from(range: &Range<u64>) -> Self {
        Unreadable { offset: range.start, length_bytes: range.end - range.start }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unreadable at {:#x}, {}", self.offset, units::exact_size(self.length_bytes))
    }
}
