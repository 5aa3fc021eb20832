//! Creating: a stream-optimized VMDK inside of an archive, with a descriptor before and a manifest after it.
//!
//! ```text
//!   | header, descriptor | header | disk ......... | header, manifest | two blocks of zeros, padding |
//!          last             after the disk           after the disk
//! ```
//!
//! The descriptor comes first and says how long the disk's file is, which is known at the end: so its place is kept, and a
//! package cannot go to a pipe. Written last, it also makes the package whole: an archive begins with zeros until then.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::manifest::Algorithm;
use super::member_file::{MemberFile, MemberTarget};
use super::write_descriptor::Machine;
use crate::HostFileMut;
use crate::error::{ErrorKind, ImageError, Result};
use crate::format::{Format, Measure, TouchedBytes};
use crate::sink::{CreateOptions, GuestUnit, IdentitySeed, ImageWriter, TargetFiles, Turn, UnitTarget, WriterLayout};
use crate::tar::{self, BLOCK_BYTES, Flavour, RECORD_BYTES};

pub(super) use super::write_descriptor::OPTIONS;

const DOING: &str = "create OVA package";

/// Longest name of the package's files without their extension: with it, names have to fit a tar header.
const MAX_BASE_CHARS: usize = 64;

/// What the disk in a package is.
static DISK_FORMAT: &Format = &crate::vmdk::FORMAT;

struct PackageWriter {
    file: Arc<dyn HostFileMut>,
    machine: Machine,
    descriptor_name: String,
    manifest_name: String,
    disk: Box<dyn ImageWriter>,
    member: Arc<MemberFile>,
}

/// Where the header of the disk is; its bytes follow.
fn disk_header_offset(machine: &Machine) -> u64 {
    BLOCK_BYTES + machine.descriptor_bytes().next_multiple_of(BLOCK_BYTES)
}

pub(super) fn begin(files: &dyn TargetFiles, options: &CreateOptions) -> Result<Box<dyn ImageWriter>> {
    if options.target_holds_old_data {
        let detail = "a package can only be made in an empty file, not over old data";
        return Err(ImageError::unsupported(DOING, detail));
    }
    let base = base_name(files.main_name());
    let machine = Machine::from_options(options, &base)?;
    let file = files.main();
    let member = Arc::new(MemberFile::new(Arc::clone(&file), disk_header_offset(&machine) + BLOCK_BYTES));
    let target = MemberTarget { file: Arc::clone(&member), name: machine.disk_name().to_owned() };
    let disk = DISK_FORMAT.begin(&target, &disk_options(options, &machine))?;
    let (descriptor_name, manifest_name) = (format!("{base}.ovf"), format!("{base}.mf"));
    Ok(Box::new(PackageWriter { file, machine, descriptor_name, manifest_name, disk, member }))
}

pub(super) fn measure(options: &CreateOptions, touched_bytes: &TouchedBytes<'_>) -> Result<Measure> {
    let machine = Machine::from_options(options, "machine")?;
    let disk = DISK_FORMAT.measure(&disk_options(options, &machine), touched_bytes)?;
    // The manifest is two lines.
    let archive_bytes = |disk_bytes: u64| {
        let end = disk_header_offset(&machine) + BLOCK_BYTES + disk_bytes.next_multiple_of(BLOCK_BYTES);
        (end + 2 * BLOCK_BYTES + 2 * BLOCK_BYTES).next_multiple_of(RECORD_BYTES)
    };
    Ok(Measure {
        required_bytes: archive_bytes(disk.required_bytes),
        fully_allocated_bytes: archive_bytes(disk.fully_allocated_bytes),
    })
}

fn disk_options(options: &CreateOptions, machine: &Machine) -> CreateOptions {
    CreateOptions {
        subformat: Some("streamOptimized".to_owned()),
        compression: options.compression,
        options: BTreeMap::from([("adapter_type".to_owned(), machine.adapter_type().to_owned())]),
        ..CreateOptions::new(options.geometry)
    }
}

/// The name of the package's files: that of the package, as far as every system and URL takes it.
fn base_name(main_name: &str) -> String {
    let base = main_name.rsplit_once('.').map_or(main_name, |(base, _)| base);
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    let base: String = base.trim_start_matches('.').chars().take(MAX_BASE_CHARS).map(plain).collect();
    if base.is_empty() { "machine".to_owned() } else { base }
}

impl UnitTarget for PackageWriter {
    fn layout(&self) -> WriterLayout {
        self.disk.layout()
    }

    fn store(&self, unit: &GuestUnit<'_>, turn: &dyn Turn) -> Result<()> {
        self.disk.store(unit, turn)
    }
}

impl ImageWriter for PackageWriter {
    fn finish(self: Box<Self>, seed: &IdentitySeed) -> Result<()> {
        let PackageWriter { file, machine, descriptor_name, manifest_name, disk, member } = *self;
        disk.finish(seed)?;
        let (disk_bytes, disk_digest) =
            member.digest().map_err(|cause| ImageError::io("make the digest of the disk", cause))?;
        let descriptor = machine.descriptor(disk_bytes)?;
        let digest = Algorithm::Sha256.of_bytes(&descriptor);
        let name = Algorithm::Sha256.name();
        let manifest = format!("{name}({descriptor_name})= {digest}\n{name}({})= {disk_digest}\n", machine.disk_name());

        let disk_header = disk_header_offset(&machine);
        write(file.as_ref(), disk_header, &header(machine.disk_name(), disk_bytes)?)?;
        let manifest_offset = disk_header + BLOCK_BYTES + disk_bytes.next_multiple_of(BLOCK_BYTES);
        let manifest = member_bytes(&manifest_name, manifest.as_bytes())?;
        write(file.as_ref(), manifest_offset, &manifest)?;
        let archive_bytes = (manifest_offset + manifest.len() as u64 + 2 * BLOCK_BYTES).next_multiple_of(RECORD_BYTES);
        file.set_len_bytes(archive_bytes).map_err(|cause| ImageError::io("set the length of the package", cause))?;
        sync(file.as_ref())?;
        write(file.as_ref(), 0, &member_bytes(&descriptor_name, &descriptor)?)?;
        sync(file.as_ref())
    }
}

fn header(name: &str, size_bytes: u64) -> Result<[u8; BLOCK_BYTES as usize]> {
    tar::file_header(Flavour::Ustar, name, size_bytes).ok_or_else(|| {
        let detail = format!("the name \"{}\" is too long for the archive", name.escape_debug());
        ImageError::new(ErrorKind::InvalidOption, DOING, detail)
    })
}

/// A small file with its header, padded.
fn member_bytes(name: &str, content: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = [&header(name, content.len() as u64)?, content].concat();
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES as usize), 0);
    Ok(bytes)
}

fn write(file: &dyn HostFileMut, host_offset: u64, bytes: &[u8]) -> Result<()> {
    let written = file.write_all_at(host_offset, bytes);
    written.map_err(|cause| ImageError::io("write OVA package", cause).at_host(host_offset))
}

fn sync(file: &dyn HostFileMut) -> Result<()> {
    file.sync_data().map_err(|cause| ImageError::io("flush the OVA package", cause))
}
