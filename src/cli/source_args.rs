//! The arguments of every command that opens disks.

use std::path::{Path, PathBuf};

use clap::Args;
use tintype_formats::{Image, OpenFile};

use super::address::{self, Address};
use super::failure::Failure;
use super::{Global, output};
use crate::error::Error;
use crate::sources::{self, OpenOptions, OpenedDisk, ReferencePolicy, StandardInput};

/// How disks are opened.
#[derive(Debug, Clone, Args)]
pub struct SourceArgs {
    /// Format of the source; found by itself for files, raw for devices
    #[arg(long, short, value_name = "FORMAT", env = "TINTYPE_FORMAT")]
    pub format: Option<String>,
    #[command(flatten)]
    pub references: ReferenceArgs,
}

/// What images may name.
#[derive(Debug, Clone, Args)]
pub struct ReferenceArgs {
    /// Let images name files in this folder, besides their own (can be repeated)
    #[arg(long, value_name = "DIR", env = "TINTYPE_ALLOW_REFERENCES", value_delimiter = ':')]
    allow_references: Vec<PathBuf>,
    /// Open no file that an image names (its parent, its data file)
    #[arg(long, conflicts_with = "allow_references")]
    no_references: bool,
    /// Read an image although a running machine writes to it: the copy will be torn
    #[arg(long)]
    pub force_share: bool,
}

impl ReferenceArgs {
    /// As the sources understand it.
    pub fn policy(&self) -> ReferencePolicy {
        ReferencePolicy {
            deny_all: self.no_references,
            allowed_folders: self.allow_references.clone(),
            force_share: self.force_share,
        }
    }
}

impl SourceArgs {
    /// Opens a disk, and says what is wrong with it.
    pub fn open(&self, address: &Address, parent: Option<&Path>, global: Global) -> Result<OpenedDisk, Failure> {
        let opened =
            if address.is_standard_input() { self.open_standard_input()? } else { self.open_path(address, parent)? };
        if !global.quiet {
            opened.warnings().for_each(|text| output::warn(&text));
        }
        Ok(opened)
    }

    fn open_path(&self, address: &Address, parent: Option<&Path>) -> Result<OpenedDisk, Error> {
        let options = OpenOptions {
            format: self.format.clone(),
            snapshot: address.snapshot.clone(),
            references: self.references.policy(),
        };
        sources::open_disk(&address.path, &options, parent)
    }

    /// Standard input as a disk that can be read at any place: a redirected file, or what a pipe gave, stored.
    fn open_standard_input(&self) -> Result<OpenedDisk, Failure> {
        self.check_standard_input_format()?;
        match sources::open_standard_input(true)? {
            StandardInput::File(file) => Ok(sources::open_raw(file)?),
            StandardInput::Pipe(_) => Err(Failure::usage("standard input is not a file")),
        }
    }

    /// Standard input is raw only, and that is to be said: a stream cannot be probed.
    pub fn check_standard_input_format(&self) -> Result<(), Failure> {
        match self.format.as_deref() {
            Some("raw") => Ok(()),
            Some(other) => Err(Failure::usage(format!("standard input can only be raw, not {other}"))),
            None => Err(Failure::usage("the format of standard input cannot be found by itself").hinted("say -f raw")),
        }
    }
}

/// One image file by itself: no file that it names is opened.
#[derive(Debug, Clone, Args)]
pub struct ImageArgs {
    /// The image
    #[arg(value_name = "IMAGE", value_parser = address::parser())]
    pub address: Address,
    /// Format of the image; found by itself for files, raw for devices
    #[arg(long, short, value_name = "FORMAT", env = "TINTYPE_FORMAT")]
    format: Option<String>,
}

impl ImageArgs {
    /// Opens the image for a command of this name.
    pub fn open(&self, command: &str, force_share: bool) -> Result<(OpenFile, Box<dyn Image>), Failure> {
        if self.address.is_standard_input() {
            return Err(Failure::usage(format!("{command} needs a file or a device, not standard input")));
        }
        Ok(sources::open_image(&self.address.path, self.format.as_deref(), force_share)?)
    }
}

/// How many threads to use.
#[derive(Debug, Clone, Copy, Args)]
pub struct ThreadArgs {
    /// How many threads to use; all processors by default. The result does not depend on it
    #[arg(long, value_name = "N", env = "TINTYPE_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl ThreadArgs {
    /// How many units are to be in the works at once. More than processors: some wait for the disk or for their turn.
    pub fn workers(self) -> usize {
        match self.threads {
            Some(1) => 1,
            Some(threads) => usize::from(threads) * 2,
            None => std::thread::available_parallelism().map_or(2, usize::from) * 2,
        }
    }
}
