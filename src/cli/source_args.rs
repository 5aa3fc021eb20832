//! The arguments of every command that opens disks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::{PathBufValueParser, StringValueParser, TypedValueParser};
use tintype_formats::{ErrorKind, Geometry};
use tintype_tin::id::Id;
use tintype_tin::manifest::DiskRecord;

use super::address::{self, Address};
use super::choice::ChoiceArgs;
use super::failure::Failure;
use super::in_use::warn_if_in_use;
use super::repository_args::SecretArgs;
use super::snapshots::unreadable_text;
use super::{Global, output};
use crate::engine::disk_source::parts_within;
use crate::error::{Error, Kind};
use crate::repository::Repository;
use crate::repository::disk::SnapshotDisk;
use crate::repository::lease::Lease;
use crate::repository::snapshots::Snapshot;
use crate::sources::{
    self, NbdOptions, OpenOptions, OpenedDisk, OpenedImage, OverlayReader, ReferencePolicy, Slice, StandardInput,
    Watch, WithSectors, partition_of,
};

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
    /// Opens a disk, and says what is wrong with it and who else uses it.
    pub fn open(&self, address: &Address, parent: Option<&Path>, global: Global) -> Result<OpenedDisk, Failure> {
        let opened = self.open_to_copy(address, parent, global)?;
        warn_if_in_use(address, &opened.watch, global);
        Ok(opened)
    }

    /// Opens a disk, and says what is wrong with it. Whether it may be in use is for the caller to decide.
    pub fn open_to_copy(
        &self,
        address: &Address,
        parent: Option<&Path>,
        global: Global,
    ) -> Result<OpenedDisk, Failure> {
        self.open_as(address, parent, &self.options(address), global)
    }

    /// Opens a disk for other programs, which read the same places again and again.
    pub fn open_for_others(&self, address: &Address, global: Global) -> Result<OpenedDisk, Failure> {
        let options = OpenOptions { read_repeatedly: true, ..self.options(address) };
        let opened = self.open_as(address, None, &options, global)?;
        warn_if_in_use(address, &opened.watch, global);
        Ok(opened)
    }

    fn open_as(
        &self,
        address: &Address,
        parent: Option<&Path>,
        options: &OpenOptions,
        global: Global,
    ) -> Result<OpenedDisk, Failure> {
        let opened = match &address.stored {
            Some(wanted) => self.open_stored(address, wanted, global)?,
            None if address.is_standard_input() => self.open_standard_input()?,
            None => {
                sources::open_disk(&address.path, options, parent).map_err(|error| self.references.explain(error))?
            }
        };
        opened.warnings().for_each(|text| output::warn(&text, global));
        opened.note().iter().for_each(|text| output::note(text, global));
        self.finished(opened, address)
    }

    /// Gives the disk what the user says of it: its sectors, which partition of it is meant, and an overlay.
    pub fn finished(&self, opened: OpenedDisk, address: &Address) -> Result<OpenedDisk, Failure> {
        // An overlay is over what was served, mounted or booted: the same address.
        self.under_overlay(chosen_part(self.in_sectors(opened)?, address)?)
    }

    /// Gives the disk the sectors that the user says it has.
    fn in_sectors(&self, opened: OpenedDisk) -> Result<OpenedDisk, Failure> {
        match self.sector_size {
            None => Ok(opened),
            Some(sector_bytes) => {
                let disk = Box::new(WithSectors::new(opened.disk, sector_bytes)?);
                Ok(OpenedDisk { disk, ..opened })
            }
        }
    }

    /// The numbers that describe a disk of this size in a pipe.
    pub fn geometry_of_pipe(&self, size_bytes: u64) -> Result<Geometry, Failure> {
        let geometry = Geometry::of_512_byte_sectors(size_bytes, 1);
        let Some(sector_bytes) = self.sector_size else { return Ok(geometry) };
        if !size_bytes.is_multiple_of(u64::from(sector_bytes)) {
            let message = format!("--size {size_bytes} is no whole number of sectors of {sector_bytes} bytes");
            return Err(Failure::usage(message));
        }
        Ok(Geometry { logical_sector_bytes: sector_bytes, physical_sector_bytes: sector_bytes, ..geometry })
    }

    fn under_overlay(&self, opened: OpenedDisk) -> Result<OpenedDisk, Failure> {
        match &self.with_overlay {
            None => Ok(opened),
            Some(path) => {
                let disk = Box::new(OverlayReader::open(path, opened.disk.into())?);
                Ok(OpenedDisk { disk, ..opened })
            }
        }
    }

    /// Opens all disks that an address stands for, for a command that reads them for long.
    pub fn open_all(&self, address: &Address, command: &'static str, global: Global) -> Result<OpenedDisks, Failure> {
        let Some(wanted) = &address.stored else {
            return Ok(OpenedDisks {
                disks: vec![(None, self.open_for_others(address, global)?)],
                snapshot: None,
                lease: None,
            });
        };
        let (repository, snapshot) = self.open_snapshot(address, wanted, global)?;
        repository.require_data(command)?;
        let records = match &address.disk {
            Some(chosen) => vec![snapshot.disk(Some(chosen))?],
            None => snapshot.manifest.disks.iter().collect(),
        };
        if self.with_overlay.is_some() && records.len() != 1 {
            return Err(Failure::usage(format!("--with-overlay is of one disk; choose it: {address}?disk=NAME")));
        }
        let lease = take_lease(&repository, &snapshot, command, global)?;
        let open = |record: &DiskRecord| {
            let opened = self.finished(stored_disk(&repository, record, global)?, address)?;
            Ok((Some(record.name.clone()), opened))
        };
        let disks = records.into_iter().map(open).collect::<Result<_, Failure>>()?;
        Ok(OpenedDisks { disks, snapshot: Some(snapshot.id), lease })
    }

    /// A disk of a stored snapshot.
    fn open_stored(&self, address: &Address, wanted: &str, global: Global) -> Result<OpenedDisk, Failure> {
        let (repository, snapshot) = self.open_snapshot(address, wanted, global)?;
        stored_disk(&repository, snapshot.disk(address.disk.as_deref())?, global)
    }

    fn open_snapshot(
        &self,
        address: &Address,
        wanted: &str,
        global: Global,
    ) -> Result<(Arc<Repository>, Snapshot), Failure> {
        if address.snapshot.is_some() {
            return Err(Failure::usage(format!(
                "{address}: a stored disk has no snapshots inside; say NAME@ID instead"
            )));
        }
        let repository = self.secrets.open(&address.path)?;
        let snapshot = self.choice.choose(&repository, wanted, global)?;
        Ok((repository, snapshot))
    }

    /// As the sources understand it.
    pub fn options(&self, address: &Address) -> OpenOptions {
        OpenOptions {
            format: self.format.clone(),
            disk: address.disk.clone(),
            snapshot: address.snapshot.clone(),
            references: self.references.policy(),
            secrets: self.secrets.for_images(),
            nbd: self.nbd.options(),
            read_repeatedly: false,
        }
    }

    /// Standard input as a disk that can be read at any place: a redirected file, or what a pipe gave, stored.
    fn open_standard_input(&self) -> Result<OpenedDisk, Failure> {
        self.check_standard_input_format()?;
        match sources::open_standard_input(true)? {
            StandardInput::Disk(opened) => Ok(*opened),
            StandardInput::Pipe(_) => Err(Failure::usage("standard input is not a file")),
        }
    }

    /// Standard input is raw only, and that is to be said: a stream cannot be probed.
    pub fn check_standard_input_format(&self) -> Result<(), Failure> {
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

/// The partition of the disk that is chosen, if one is.
fn chosen_part(opened: OpenedDisk, address: &Address) -> Result<OpenedDisk, Failure> {
    let Some(number) = address.partition else { return Ok(opened) };
    let part = partition_of(opened.disk.as_ref(), number)?;
    let unreadable = parts_within(&opened.unreadable, part.begin..part.begin + part.size_bytes);
    let identity = sources::identify_part(opened.disk.as_ref(), &address.path, part.begin);
    let disk = Box::new(Slice::new(opened.disk, part.begin, Some(part.size_bytes))?);
    Ok(OpenedDisk { disk, unreadable, part: Some(Box::new(identity)), ..opened })
}

/// All disks that an address stands for.
pub struct OpenedDisks {
    /// Each with its name, if it is one of a stored snapshot.
    pub disks: Vec<(Option<String>, OpenedDisk)>,
    /// The snapshot that they are of, if they are stored.
    pub snapshot: Option<Id>,
    /// Keeps what they need in their repository, until it is dropped.
    pub lease: Option<Lease>,
}

/// Keeps a snapshot for a command that reads it for long. One that cannot be kept is read all the same.
fn take_lease(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    command: &'static str,
    global: Global,
) -> Result<Option<Lease>, Failure> {
    match repository.lease(command, snapshot) {
        Ok(lease) => Ok(Some(lease)),
        Err(error) if error.kind() == Kind::NoSnapshot => Err(error.into()),
        Err(error) => {
            let text =
                "a prune does not know that the snapshot is read, and takes it away if it is forgotten meanwhile";
            output::warn(&format!("{text}: {}", Failure::from(error).message()), global);
            Ok(None)
        }
    }
}

/// Opens a disk of a stored snapshot, and says what is missing of it.
fn stored_disk(repository: &Arc<Repository>, record: &DiskRecord, global: Global) -> Result<OpenedDisk, Failure> {
    if record.is_incomplete() {
        output::warn(&unreadable_text(record), global);
    }
    let disk = Box::new(SnapshotDisk::open(repository, record)?);
    let (unreadable, watch) = (record.unreadable_ranges(), Watch::default());
    let (layers, remarks) = (Vec::new(), Vec::new());
    Ok(OpenedDisk { disk, layers, snapshots: 0, guess: None, unreadable, remarks, watch, part: None })
}

/// One image file by itself: no file that it names is opened.
#[derive(Debug, Clone, Args)]
pub struct ImageArgs {
    /// The image
    #[arg(value_name = "IMAGE", value_parser = address::parser())]
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
        warn_if_in_use(&self.address, &watch, global);
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
