//! Writing a disk to a target: the arguments, checks, warnings and steps that `convert` and `restore` share.

mod source;
mod write;

use std::path::Path;

use clap::Args;
use tintype_formats::{Format, raw};

pub use self::source::{Source, Unreadable, host_identities, parts_within};
pub use self::write::{Parent, Writing, Written, check_sectors, open, shown_rate, write};
use super::create_args::{CreateArgs, parse_bytes, parse_rate};
use super::failure::Failure;
use super::salvage_args::SalvageArgs;
use super::source_args::ThreadArgs;
use super::{Global, output, units, usage};
use crate::engine::fit::Caution;
use crate::sources::{NbdOptions, is_device_or_export};
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
    keep_sectors: bool,
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
    pub fn fit(&self, source: Source, global: Global) -> Result<Source, Failure> {
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
        source.extended(to_bytes)
    }

    /// As the targets understand it.
    pub fn options(&self, access: Access, nbd: NbdOptions) -> TargetOptions {
        let (existing, target_is_zero) = (self.no_create, self.target_is_zero);
        TargetOptions { force: self.force, existing, target_is_zero, access, nbd }
    }
}

/// Prints a caution, if there is one.
fn warn(caution: Option<Caution>, global: Global) {
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
