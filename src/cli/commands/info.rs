//! `tintype info`

use std::os::unix::fs::MetadataExt;

use clap::Args as ClapArgs;
use serde::Serialize;
use tintype_formats::contents::{DiskInfo, SnapshotInfo};
use tintype_formats::layer::Detail;
use tintype_formats::reference_gate::FileReference;
use tintype_formats::{Image, ImageError, OpenFile, raw};

use crate::access::Address;
use crate::cli::choice::ChoiceArgs;
use crate::cli::failure::Failure;
use crate::cli::source_args::ImageArgs;
use crate::cli::{Global, Outcome, escape::printable, info_repository, info_stored, output, units};
use crate::sources::{self, OpenedImage, ReferencePolicy};

/// Show what an image, a stored snapshot or a whole repository (REPO::) is
///
/// Of an image: format, size, options, snapshots, files. No file that it names is opened.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    choice: ChoiceArgs,
}

#[derive(Serialize)]
struct Report {
    path: String,
    format: &'static str,
    #[serde(flatten)]
    disk: Option<DiskReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    disks: Vec<Disk>,
    file_bytes: u64,
    allocated_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    details: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Parent>,
    snapshots: Vec<Snapshot>,
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

/// What a file that is one disk has.
#[derive(Serialize)]
struct DiskReport {
    size_bytes: u64,
    logical_sector_bytes: u32,
    physical_sector_bytes: u32,
    unit_bytes: u64,
}

/// A disk in a container.
#[derive(Serialize)]
struct Disk {
    name: String,
    size_bytes: Option<u64>,
    format: Option<&'static str>,
}

#[derive(Serialize)]
struct Parent {
    names: Vec<String>,
    format: Option<String>,
    identities: Vec<String>,
}

#[derive(Serialize)]
struct Snapshot {
    id: String,
    name: String,
    size_bytes: u64,
    taken_unix_s: Option<u64>,
    machine_state_bytes: u64,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    if args.image.address.is_repository() {
        return info_repository::run(&args.image.address, &args.image.secrets, global);
    }
    if let Some(wanted) = &args.image.address.stored {
        return info_stored::run(&args.image.address, wanted, (&args.image.secrets, &args.choice), global);
    }
    // Reading the header of an image that is in use does no harm.
    let references = ReferencePolicy { force_share: true, ..ReferencePolicy::default() };
    let OpenedImage { file, image, guess, .. } = args.image.open("info", references, global)?;
    let address = &args.image.address;
    let mut report = report(address, &file, image.as_ref());
    report.notes = sources::guess_note(&file.name, guess.as_ref()).into_iter().collect();
    if let Some(sectors) = sources::device_sector_bytes(&address.path) {
        if let Some(disk) = &mut report.disk {
            (disk.logical_sector_bytes, disk.physical_sector_bytes) = sectors;
        }
        report.allocated_bytes = None;
    }
    let is_file = address.disk.is_none() && sources::device_sector_bytes(&address.path).is_none();
    let is_raw = is_file && report.format == raw::FORMAT.name;
    if let Some(disk) = report.disk.as_mut().filter(|_| is_raw) {
        let opened = sources::open_raw(file.clone())?.disk.geometry();
        disk.logical_sector_bytes = opened.logical_sector_bytes;
        disk.physical_sector_bytes = opened.physical_sector_bytes;
    }
    if let Some(name) = &address.snapshot {
        let chosen = find_snapshot(image.snapshots(), name)?;
        if let Some(disk) = &mut report.disk {
            disk.size_bytes = chosen.size_bytes;
        }
        report.snapshots = vec![snapshot(chosen)];
    }
    if global.json {
        output::print_json(&report)?
    } else {
        output::print(&text(&report))?
    }
    Ok(Outcome::Done)
}

/// The snapshot of this id, or else the first one of this name.
fn find_snapshot<'a>(all: &'a [SnapshotInfo], name: &str) -> Result<&'a SnapshotInfo, ImageError> {
    let found = all.iter().find(|one| one.id == name).or_else(|| all.iter().find(|one| one.name == name));
    found.ok_or_else(|| ImageError::no_such_snapshot(name, all))
}

fn report(address: &Address, file: &OpenFile, image: &dyn Image) -> Report {
    let info = image.info();
    let value = |detail: &Detail| match detail {
        Detail::Text(text) => text.clone().into(),
        Detail::Number(number) => (*number).into(),
        Detail::Flag(flag) => (*flag).into(),
    };
    Report {
        path: address.to_string(),
        format: info.format,
        disk: image.disks().is_empty().then_some(DiskReport {
            size_bytes: info.geometry.size_bytes,
            logical_sector_bytes: info.geometry.logical_sector_bytes,
            physical_sector_bytes: info.geometry.physical_sector_bytes,
            unit_bytes: info.geometry.unit_bytes,
        }),
        disks: image.disks().iter().map(disk).collect(),
        file_bytes: file.file.len_bytes().unwrap_or_default(),
        allocated_bytes: file.file.as_file().and_then(|file| file.metadata().ok()).map(|found| found.blocks() * 512),
        identity: info.identity.clone(),
        details: info.details.iter().map(|(name, detail)| ((*name).to_owned(), value(detail))).collect(),
        parent: image.parent().map(parent),
        snapshots: image.snapshots().iter().map(snapshot).collect(),
        warnings: info.warnings.clone(),
        notes: Vec::new(),
    }
}

fn disk(disk: &DiskInfo) -> Disk {
    Disk { name: disk.name.clone(), size_bytes: disk.size_bytes, format: disk.format }
}

fn parent(reference: &FileReference) -> Parent {
    Parent {
        names: reference.names.clone(),
        format: reference.format.clone(),
        identities: reference.identities.clone(),
    }
}

fn snapshot(snapshot: &SnapshotInfo) -> Snapshot {
    Snapshot {
        id: snapshot.id.clone(),
        name: snapshot.name.clone(),
        size_bytes: snapshot.size_bytes,
        taken_unix_s: snapshot.taken_unix_s,
        machine_state_bytes: snapshot.machine_state_bytes,
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut add = |name: &str, value: &str| text += &format!("{:<18} {}\n", format!("{name}:"), printable(value));
    add("image", &report.path);
    add("format", report.format);
    if let Some(disk) = &report.disk {
        add("disk size", &units::exact_size(disk.size_bytes));
        add("sectors", &format!("{} logical, {} physical", disk.logical_sector_bytes, disk.physical_sector_bytes));
    }
    for (index, disk) in report.disks.iter().enumerate() {
        add(&format!("disk {}", index + 1), &disk_line(disk));
    }
    add("file size", &units::exact_size(report.file_bytes));
    if let Some(allocated) = report.allocated_bytes {
        add("on disk", &units::exact_size(allocated));
    }
    if let Some(identity) = &report.identity {
        add("identity", identity);
    }
    for (name, value) in &report.details {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        add(&name.replace('_', " "), &value);
    }
    if let Some(parent) = &report.parent {
        let format = parent.format.as_deref().map(|format| format!(" ({format})")).unwrap_or_default();
        let names = if parent.names.is_empty() { "by identity".to_owned() } else { parent.names.join(", or ") };
        add("parent", &format!("{names}{format}"));
        parent.identities.iter().for_each(|identity| add("parent identity", identity));
    }
    for snapshot in &report.snapshots {
        add("snapshot", &snapshot_line(snapshot));
    }
    for warning in &report.warnings {
        add("warning", warning);
    }
    for note in &report.notes {
        add("note", note);
    }
    text
}

fn disk_line(disk: &Disk) -> String {
    let size = disk.size_bytes.map(|bytes| format!(", {}", units::size(bytes))).unwrap_or_default();
    let format = disk.format.map(|format| format!(" ({format})")).unwrap_or_default();
    format!("\"{}\"{format}{size}", disk.name)
}

fn snapshot_line(snapshot: &Snapshot) -> String {
    let taken =
        snapshot.taken_unix_s.map(|seconds| format!(", taken {}", units::utc_time(seconds))).unwrap_or_default();
    let state = match snapshot.machine_state_bytes {
        0 => String::new(),
        bytes => format!(", {} of machine state", units::size(bytes)),
    };
    format!("{} \"{}\", {}{taken}{state}", snapshot.id, snapshot.name, units::size(snapshot.size_bytes))
}
