//! The arguments of every command that opens disks.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::{OsStringValueParser, PathBufValueParser, StringValueParser, TypedValueParser};
use tintype_formats::ErrorKind;

use super::choice::ChoiceArgs;
use super::failure::Failure;
use super::repository_args::{SaidKeys, SecretArgs};
use super::{Global, choice, output, texts};
use crate::access::{
    Access, Address, Listener, NamedAddress, Opened, OpenedDisks, Opening, REPOSITORY_VARIABLE, warn_if_in_use,
};
use crate::error::{Error, Kind};
use crate::repository::resolve::Chosen;
use crate::sources::{self, NbdOptions, OpenOptions, OpenedDisk, OpenedImage, ReferencePolicy, Watch};
use tintype_tin::manifest::DiskRecord;

/// Reads an address for clap.
pub fn address_parser() -> impl TypedValueParser<Value = Address> {
    OsStringValueParser::new().try_map(|text| Address::parse(&text, default_repository().as_deref()))
}

/// Reads the source of a backup for clap.
pub fn named_address_parser() -> impl TypedValueParser<Value = NamedAddress> {
    OsStringValueParser::new().try_map(|text: OsString| NamedAddress::parse(&text, default_repository().as_deref()))
}

/// The repository of addresses that name none.
fn default_repository() -> Option<PathBuf> {
    std::env::var_os(REPOSITORY_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
}

impl Listener for Global {
    fn note(&self, text: &str) {
        output::note(text, *self);
    }

    fn warn(&self, text: &str) {
        output::warn(text, *self);
    }

    fn chose(&self, chosen: &Chosen) {
        choice::tell(chosen, *self);
    }

    fn misses(&self, record: &DiskRecord) {
        output::warn(&texts::unreadable_text(record), *self);
    }
}

/// How disks are opened.
#[derive(Debug, Clone, Args)]
pub struct SourceArgs {
    /// Format of the source; detected from the content for files, raw for devices
    #[arg(long, short, value_name = "FORMAT", env = "TINTYPE_FORMAT", value_parser = format_parser())]
    pub format: Option<String>,
    /// Read the disk with what was written over it while it was served or mounted: the file that --overlay named there
    #[arg(long, value_name = "FILE")]
    pub with_overlay: Option<PathBuf>,
    /// Sector size of the disk, where its source does not say it, or says it wrongly: 512 or 4096. Raw files with a GPT are recognised
    #[arg(long, value_name = "BYTES", value_parser = parse_sector_size)]
    pub sector_size: Option<u32>,
    #[command(flatten)]
    pub references: ReferenceArgs,
    #[command(flatten)]
    pub nbd: NbdArgs,
    #[command(flatten)]
    pub choice: ChoiceArgs,
    #[command(flatten)]
    pub secrets: SecretArgs,
}

/// Reads a sector size for clap.
fn parse_sector_size(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" | "4k" | "4K" => Ok(4096),
        _ => Err("expected 512 or 4096".to_owned()),
    }
}

/// How NBD servers are talked to.
#[derive(Debug, Clone, Args)]
pub struct NbdArgs {
    /// For nbds:// addresses: the folder of ca-cert.pem, and of client-cert.pem and client-key.pem if the server wants them
    #[arg(long, value_name = "DIR", env = "TINTYPE_NBD_TLS", value_parser = folder_parser())]
    nbd_tls: Option<PathBuf>,
    /// How many seconds to wait for an NBD server that does not answer, or that is gone
    #[arg(long, value_name = "SECONDS", env = "TINTYPE_NBD_TIMEOUT", default_value_t = 30)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=86400))]
    nbd_timeout: u32,
}

impl NbdArgs {
    /// As sources and targets understand it.
    pub fn options(&self) -> NbdOptions {
        NbdOptions { tls_folder: self.nbd_tls.clone(), patience: Duration::from_secs(self.nbd_timeout.into()) }
    }
}

/// What images may name.
#[derive(Debug, Clone, Args)]
pub struct ReferenceArgs {
    /// Let images name files in this folder, besides their own (can be repeated)
    #[arg(long, value_name = "DIR", env = "TINTYPE_ALLOW_REFERENCES", value_delimiter = ':', value_parser = folder_parser())]
    allow_references: Vec<PathBuf>,
    /// Open no file that an image names (its parent, its data file)
    #[arg(long, conflicts_with = "allow_references")]
    no_references: bool,
    /// Read an image although a running machine writes to it: the copy will be torn
    #[arg(long)]
    pub force_share: bool,
}

/// Reads the name of a format, which has to exist.
pub fn format_parser() -> impl TypedValueParser<Value = String> {
    StringValueParser::new().try_map(|name| sources::format_named(Some(&name)).map(|_| name))
}

/// Reads the name of a folder, which has to be there: allowing what does not exist is a slip of the pen.
fn folder_parser() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match path.is_dir() {
        true => Ok(path),
        false => Err("there is no such folder"),
    })
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

    /// What to do about a failure to open a disk.
    pub fn explain(&self, error: Error) -> Failure {
        let denied = error.kind() == Kind::Image(ErrorKind::ReferenceDenied);
        let failure = Failure::from(error);
        if denied && self.no_references {
            return failure.hinted(
                "leave --no-references out to have files in the image's own folder opened, or name other folders with \
                 --allow-references DIR",
            );
        }
        failure
    }
}

impl SourceArgs {
    /// Opens what addresses name, and says what is found on the way. A password that is typed is asked for by `keys`.
    pub fn access<'a>(&self, keys: &'a SaidKeys<'_>, global: &'a Global) -> Access<'a> {
        Access { opening: self.opening(), keys, listener: global }
    }

    /// How disks are opened.
    fn opening(&self) -> Opening {
        Opening {
            options: OpenOptions {
                format: self.format.clone(),
                references: self.references.policy(),
                secrets: self.secrets.for_images(),
                nbd: self.nbd.options(),
                ..OpenOptions::default()
            },
            overlay: self.with_overlay.clone(),
            sector_bytes: self.sector_size,
            wishes: self.choice.wishes(),
            patience: None,
        }
    }

    /// Opens a disk, and says what is wrong with it and who else uses it.
    pub fn open(&self, address: &Address, parent: Option<&Path>, global: Global) -> Result<OpenedDisk, Failure> {
        self.check(address)?;
        let opened = self.access(&self.secrets.keys(), &global).open(address, parent);
        opened.map_err(|error| self.references.explain(error))
    }

    /// Opens a disk to make a copy of it; standard input may be a pipe, of `size_bytes`. Whether it may be in use is for the caller to
    /// decide.
    pub fn open_or_stream(
        &self,
        address: &Address,
        parent: Option<&Path>,
        size_bytes: Option<u64>,
        global: Global,
    ) -> Result<Opened, Failure> {
        self.check(address)?;
        let opened = self.access(&self.secrets.keys(), &global).open_or_stream(address, parent, size_bytes);
        opened.map_err(|error| self.references.explain(error))
    }

    /// Opens all disks that an address stands for, for a command that reads them for long.
    pub fn open_all(&self, address: &Address, command: &'static str, global: Global) -> Result<OpenedDisks, Failure> {
        self.check(address)?;
        let opened = self.access(&self.secrets.keys(), &global).open_all(address, command);
        opened.map_err(|error| self.references.explain(error))
    }

    /// Standard input is raw only, and that is to be said: a stream cannot be probed.
    fn check(&self, address: &Address) -> Result<(), Failure> {
        if !address.is_standard_input() {
            return Ok(());
        }
        if self.with_overlay.is_some() {
            return Err(Failure::usage(
                "--with-overlay needs a disk that can be read at any place, not standard input",
            ));
        }
        match self.format.as_deref() {
            Some("raw") => Ok(()),
            Some(other) => Err(Failure::usage(format!("standard input can only be raw, not {other}"))),
            None => Err(Failure::usage("the format of standard input cannot be detected").hinted("say -f raw")),
        }
    }
}

/// One image file by itself: no file that it names is opened.
#[derive(Debug, Clone, Args)]
pub struct ImageArgs {
    /// The image
    #[arg(value_name = "IMAGE", value_parser = address_parser())]
    pub address: Address,
    /// Format of the image; detected from the content for files, raw for devices
    #[arg(long, short, value_name = "FORMAT", env = "TINTYPE_FORMAT", value_parser = format_parser())]
    format: Option<String>,
    /// What opens it, if it is encrypted.
    #[command(flatten)]
    pub secrets: SecretArgs,
    #[command(flatten)]
    nbd: NbdArgs,
}

impl ImageArgs {
    /// Opens the image for a command of this name.
    pub fn open(&self, command: &str, references: ReferencePolicy, global: Global) -> Result<OpenedImage, Failure> {
        if self.address.is_standard_input() {
            return Err(Failure::usage(format!("{command} needs a file or a device, not standard input")));
        }
        if self.address.stored.is_some() {
            let message = format!("{command} looks into image files; \"tintype verify\" looks into repositories");
            return Err(Failure::usage(message));
        }
        if self.address.partition.is_some() {
            return Err(Failure::usage(format!("{command} looks into whole images; leave ?partition= out")));
        }
        let options = OpenOptions {
            format: self.format.clone(),
            disk: self.address.disk.clone(),
            snapshot: None,
            references,
            secrets: self.secrets.for_images(),
            nbd: self.nbd.options(),
            read_repeatedly: false,
        };
        let opened = sources::open_image(&self.address.path, &options)?;
        let watch = Watch::begin(&self.address.path, std::slice::from_ref(&opened.file));
        warn_if_in_use(&self.address, &watch, &global);
        Ok(opened)
    }
}

/// Number of workers.
#[derive(Debug, Clone, Copy, Args)]
pub struct ThreadArgs {
    /// Number of workers; two for each processor by default. The result does not depend on it
    #[arg(long, value_name = "N", env = "TINTYPE_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl ThreadArgs {
    /// Returns the number of workers. By default more than processors: some wait for the disk or for their turn.
    pub fn workers(self) -> usize {
        self.workers_at_least(1)
    }

    /// The same for a job that waits more than it computes: at least so many, unless the user says how many.
    pub fn workers_at_least(self, least: usize) -> usize {
        let by_default = || (std::thread::available_parallelism().map_or(2, usize::from) * 2).max(least);
        self.threads.map_or_else(by_default, usize::from)
    }
}
