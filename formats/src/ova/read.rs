//! Reading: the package as a container of disks.

use std::sync::Arc;

use super::descriptor::{Descriptor, MAX_DESCRIPTOR_BYTES, PackageDisk, PackageFile};
use super::manifest::{self, Entry, MAX_MANIFEST_BYTES};
use super::package::{Archive, StoredFile, open_stored, read_small, uncompressed};
use crate::check::CheckReport;
use crate::contents::{DiskInfo, SnapshotInfo};
use crate::error::{ErrorKind, ImageError, Result};
use crate::extent::LayerExtent;
use crate::format::{Format, Formats, PROBE_BYTES};
use crate::guess::Guess;
use crate::host_file::{HostFile, OpenFile};
use crate::layer::{Detail, Image, ImageInfo, ImageLayer};
use crate::reference_gate::{FileReference, NoReferences, ReferenceGate};
use crate::secrets::Secrets;
use crate::source::Geometry;
use crate::{qcow2, raw, tar, vdi, vhd, vhdx, vmdk};

const OPEN_PACKAGE: &str = "open OVF package";
const OPEN_DISK: &str = "open a disk of the OVF package";

/// What a package's archive may begin with. The descriptor has to be first (DSP0243, 5.4), but not everybody cares.
const FIRST_EXTENSIONS: [&str; 4] = ["ovf", "mf", "cert", "vmdk"];

pub(super) fn looks_like(head: &[u8]) -> bool {
    match tar::first_name(head) {
        Some(name) => FIRST_EXTENSIONS.iter().any(|extension| has_extension(&name, extension)),
        None => looks_like_descriptor(head),
    }
}

/// An XML document that names the namespace of envelopes early.
fn looks_like_descriptor(head: &[u8]) -> bool {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let has = |word: &[u8]| text.windows(word.len()).any(|place| place == word);
    text.starts_with(b"<") && has(b"Envelope") && (has(b"/ovf/envelope/") || has(b"/schema/ovf/1/envelope"))
}

fn has_extension(name: &str, extension: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, found)| found.eq_ignore_ascii_case(extension))
}

/// A package. Its files come from the archive, or through the gate that [`Image::open_disk`] is given.
pub(super) struct Package {
    pub file: OpenFile,
    pub file_bytes: u64,
    /// The formats that its disks can have.
    formats: Formats,
    pub archive: Option<Arc<Archive>>,
    pub descriptor: Descriptor,
    pub descriptor_name: String,
    descriptor_bytes: Vec<u8>,
    /// Of an archive; that of a folder is read when a gate is there.
    pub manifest: Option<Vec<Entry>>,
    pub disks: Vec<DiskInfo>,
    pub info: ImageInfo,
}

fn open_archive(file: OpenFile, file_bytes: u64, formats: Formats) -> Result<Package> {
    let archive = Archive::open(file.clone(), file_bytes)?;
    let found = archive.members().iter().position(|member| has_extension(&member.name, "ovf"));
    let Some((place, member)) = found.and_then(|place| Some((place, archive.members().get(place)?))) else {
        return Err(ImageError::not_this_format(OPEN_PACKAGE, "there is no .ovf file in the archive"));
    };
    let bytes = archive.read_small(member, MAX_DESCRIPTOR_BYTES)?;
    let manifest = find_manifest(&archive, &member.name)?;
    let name = member.name.clone();
    let archive = Some(Arc::new(archive));
    let mut package = Package::new(file, file_bytes, formats, archive, (name, bytes), manifest)?;
    if place > 0 {
        package
            .info
            .warnings
            .push("the .ovf file is not the first one in the archive: some programs refuse that".into());
    }
    Ok(package)
}

/// The manifest has the descriptor's name (DSP0243, 5.1); one that has another is better than none.
fn find_manifest(archive: &Archive, descriptor_name: &str) -> Result<Option<Vec<Entry>>> {
    let own = archive.find(&manifest_name(descriptor_name))?;
    let any = || archive.members().iter().find(|member| has_extension(&member.name, "mf"));
    let Some(member) = own.or_else(any) else { return Ok(None) };
    manifest::parse(&archive.read_small(member, MAX_MANIFEST_BYTES)?).map(Some)
}

fn manifest_name(descriptor_name: &str) -> String {
    let base = descriptor_name.rsplit_once('.').map_or(descriptor_name, |(base, _)| base);
    format!("{base}.mf")
}

impl Package {
    pub fn open(file: OpenFile, formats: Formats) -> Result<Package> {
        let file_bytes = file.file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
        let mut head = vec![0; file_bytes.min(PROBE_BYTES as u64) as usize];
        let read = file.file.read_exact_at(0, &mut head);
        read.map_err(|cause| ImageError::io(OPEN_PACKAGE, cause).at_host(0))?;
        if tar::first_name(&head).is_some() {
            return open_archive(file, file_bytes, formats);
        }
        if !head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head).trim_ascii_start().starts_with(b"<") {
            let detail = "it is neither a tar archive nor an XML document";
            return Err(ImageError::not_this_format(OPEN_PACKAGE, detail));
        }
        let bytes = read_small(file.file.as_ref(), &file.name, MAX_DESCRIPTOR_BYTES)?;
        let name = file.name.rsplit('/').next().unwrap_or_default().to_owned();
        Package::new(file, file_bytes, formats, None, (name, bytes), None)
    }

    fn new(
        file: OpenFile,
        file_bytes: u64,
        formats: Formats,
        archive: Option<Arc<Archive>>,
        (descriptor_name, descriptor_bytes): (String, Vec<u8>),
        manifest: Option<Vec<Entry>>,
    ) -> Result<Package> {
        let descriptor = Descriptor::parse(&descriptor_bytes)?;
        let disks = descriptor.disks.iter().map(|disk| disk_info(&descriptor, disk)).collect();
        let info = info(&descriptor, manifest.as_deref());
        let mut package = Package {
            file,
            file_bytes,
            formats,
            archive,
            descriptor,
            descriptor_name,
            descriptor_bytes,
            manifest,
            disks,
            info,
        };
        if let Err(error) = package.check_descriptor(package.manifest.as_deref()) {
            package.info.warnings.push(error.to_string());
        }
        Ok(package)
    }

    /// The cheap part of the manifest: what decides which file is which disk is what the manifest's author saw.
    fn check_descriptor(&self, manifest: Option<&[Entry]>) -> Result<()> {
        let entries = manifest.unwrap_or_default().iter();
        for entry in entries.filter(|entry| entry.name == self.descriptor_name) {
            let found = entry.algorithm.of_bytes(&self.descriptor_bytes);
            if found != entry.digest {
                let (name, algorithm) = (self.descriptor_name.escape_debug(), entry.algorithm.name());
                let detail = format!(
                    "the {algorithm} digest of \"{name}\" is {found}, the manifest says {}: one of them was changed; \
                     unpack the package to use its disks all the same",
                    entry.digest
                );
                return Err(ImageError::corrupt("check the OVF manifest", detail));
            }
        }
        Ok(())
    }

    /// The manifest beside a descriptor; none if the gate gives none.
    fn manifest_beside(&self, gate: &dyn ReferenceGate) -> Result<Option<Vec<Entry>>> {
        let names = vec![manifest_name(&self.descriptor_name)];
        match gate.open(&FileReference { names, format: None, identities: Vec::new() }) {
            Ok(found) => {
                let bytes = read_small(found.file.file.as_ref(), &found.file.name, MAX_MANIFEST_BYTES)?;
                manifest::parse(&bytes).map(Some)
            }
            Err(error) if error.kind() == ErrorKind::ReferenceDenied => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn disk_and_file(&self, index: usize) -> Result<(&PackageDisk, &PackageFile)> {
        let disk = self.descriptor.disks.get(index);
        let found = disk.and_then(|disk| Some((disk, self.descriptor.files.get(disk.file)?)));
        found.ok_or_else(|| ImageError::no_such_disk(format!("there is no disk {} in it", index + 1), &self.disks))
    }

    /// Opens a disk's file with the format that the descriptor says, or the one that it looks like.
    /// False comes with it if only the file's content states the format.
    fn open_image(
        &self,
        disk: &PackageDisk,
        file: &PackageFile,
        stored: &StoredFile,
    ) -> Result<(Box<dyn Image>, bool)> {
        let content = uncompressed(file, Arc::clone(&stored.content))?;
        let (format, is_declared) = match format_of(disk.format.as_deref()) {
            Some(format) => (format, true),
            None => self.probe(Arc::clone(&content), file, disk)?,
        };
        let name = format!("{} in {}", file.href, self.file.name);
        let identity = stored.files.first().and_then(|first| first.identity);
        let image = (format.open)(OpenFile { file: content, name, identity, ..self.file.clone() })?;
        if !image.disks().is_empty() {
            let detail = format!("it is a package of disks itself ({})", format.title);
            return Err(ImageError::unsupported(OPEN_DISK, detail));
        }
        if image.parent().is_some() || disk.parent.is_some() {
            let detail = "it inherits from another disk, and packages of such disks are not read: unpack it first";
            return Err(ImageError::unsupported(OPEN_DISK, detail));
        }
        Ok((image, is_declared))
    }

    /// The format of a disk of which the descriptor does not state one that is known, and whether the file's name states it.
    /// Everything looks raw; a guest's bytes must not be able to choose what they are taken for.
    fn probe(
        &self,
        content: Arc<dyn HostFile>,
        file: &PackageFile,
        disk: &PackageDisk,
    ) -> Result<(&'static Format, bool)> {
        let named = OpenFile { file: content, name: file.href.clone(), identity: None, secrets: Secrets::default() };
        let guess = Guess::of(&named, self.formats)?;
        if guess.format.name == raw::FORMAT.name {
            let uri = disk.format.as_deref().unwrap_or("none").escape_debug();
            let detail =
                format!("its format is not known (the descriptor says \"{uri}\") and it does not look like any");
            return Err(ImageError::unsupported(OPEN_DISK, detail));
        }
        Ok((guess.format, guess.is_declared))
    }

    /// Opens one of the disks, by its index.
    pub fn disk_image(&self, index: usize, gate: &dyn ReferenceGate) -> Result<PackageDiskImage> {
        let (disk, file) = self.disk_and_file(index)?;
        let stored = match &self.archive {
            Some(archive) => {
                self.check_descriptor(self.manifest.as_deref())?;
                open_stored(file, archive.as_ref()).map_err(|cause| in_package(&file.href, cause))?
            }
            None => {
                self.check_descriptor(self.manifest_beside(gate)?.as_deref())?;
                open_stored(file, gate)?
            }
        };
        let opened = self.open_image(disk, file, &stored);
        let (inner, is_declared) = opened.map_err(|cause| in_package(&file.href, cause))?;
        let mut info = inner.info().clone();
        let (size_bytes, href) = (info.geometry.size_bytes, file.href.escape_debug());
        if let Some(said) = disk.capacity_bytes.filter(|said| *said != size_bytes) {
            info.warnings.push(format!("the package says that disk \"{href}\" has {said} bytes, it has {size_bytes}"));
        }
        if let Some(said) = file.size_bytes.filter(|said| *said != stored.len_bytes) {
            info.warnings
                .push(format!("the package says that file \"{href}\" has {said} bytes, it has {}", stored.len_bytes));
        }
        let files = std::iter::once(self.file.clone()).chain(stored.files).collect();
        Ok(PackageDiskImage { inner, is_declared, info, archive: self.archive.clone(), files })
    }
}

/// A disk of a package, with what the package says of it.
pub(super) struct PackageDiskImage {
    inner: Box<dyn Image>,
    /// False if only the content states the format: then a guest may have written it, and it may name no file.
    is_declared: bool,
    info: ImageInfo,
    archive: Option<Arc<Archive>>,
    /// The package's own files that the disk is made of.
    files: Vec<OpenFile>,
}

impl PackageDiskImage {
    /// The gate for the files that the disk names.
    fn gate<'a>(&'a self, outer: &'a dyn ReferenceGate) -> &'a dyn ReferenceGate {
        match &self.archive {
            _ if !self.is_declared && !outer.follows_undeclared() => &NoReferences,
            Some(archive) => archive.as_ref(),
            None => outer,
        }
    }
}

impl Image for PackageDiskImage {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn parent(&self) -> Option<&FileReference> {
        self.inner.parent()
    }

    fn snapshots(&self) -> &[SnapshotInfo] {
        self.inner.snapshots()
    }

    fn layer(&self, snapshot: Option<&str>, gate: &dyn ReferenceGate) -> Result<Box<dyn ImageLayer>> {
        let inner = self.inner.layer(snapshot, self.gate(gate))?;
        let files = inner.host_files().iter().chain(&self.files).cloned().collect();
        Ok(Box::new(PackageLayer { inner, files }))
    }

    fn check(&self, report: &mut CheckReport) -> Result<()> {
        self.inner.check(report)
    }

    fn check_all_files(&self, gate: &dyn ReferenceGate, report: &mut CheckReport) -> Result<()> {
        self.inner.check_all_files(self.gate(gate), report)
    }
}

/// A disk's layer that also names the package's files: whoever looks for what must not be written over, finds them all.
struct PackageLayer {
    inner: Box<dyn ImageLayer>,
    /// Those of the disk, which host ranges count in, then those of the package.
    files: Vec<OpenFile>,
}

impl ImageLayer for PackageLayer {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        self.inner.extent_at(guest_offset, max_bytes)
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.inner.read_at(guest_offset, buffer)
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}

fn disk_info(descriptor: &Descriptor, disk: &PackageDisk) -> DiskInfo {
    let href = |disk: &PackageDisk| descriptor.files.get(disk.file).map_or("", |file| file.href.as_str());
    let shared = descriptor.disks.iter().filter(|other| href(other) == href(disk)).count() > 1;
    DiskInfo {
        name: if shared { disk.id.clone() } else { href(disk).to_owned() },
        size_bytes: disk.capacity_bytes,
        format: format_of(disk.format.as_deref()).map(|format| format.name),
    }
}

fn info(descriptor: &Descriptor, manifest: Option<&[Entry]>) -> ImageInfo {
    let mut details: Vec<(&'static str, Detail)> = Vec::new();
    details.extend(descriptor.machine.clone().map(|name| ("machine", name.into())));
    details.extend(descriptor.operating_system.clone().map(|name| ("operating_system", name.into())));
    if let Some(entries) = manifest {
        let algorithms = entries.first().map_or("no", |entry| entry.algorithm.name());
        details.push(("manifest", format!("{algorithms} digests of {} files", entries.len()).into()));
    }
    let sizes = descriptor.disks.iter().map(|disk| disk.capacity_bytes.unwrap_or(0));
    let size_bytes = sizes.fold(0, u64::saturating_add);
    let empty = descriptor.empty_disks.iter();
    let warnings = empty.map(|id| format!("disk \"{}\" is empty and has no file: it is left out", id.escape_debug()));
    ImageInfo {
        format: super::NAME,
        geometry: Geometry::of_512_byte_sectors(size_bytes, 512),
        identity: None,
        details,
        warnings: warnings.collect(),
    }
}

/// The format that a URI stands for; `None` if nobody knows it. `SPEC.md` says who writes which.
fn format_of(uri: Option<&str>) -> Option<&'static Format> {
    let lower = uri?.to_ascii_lowercase();
    let known: [(&str, &'static Format); 9] = [
        ("vmdk", &vmdk::FORMAT),
        ("vhdx", &vhdx::FORMAT),
        ("vhd", &vhd::FORMAT),
        ("linkid=137171", &vhd::FORMAT),
        ("bb676673", &vhd::FORMAT),
        ("vdi", &vdi::FORMAT),
        ("qcow", &qcow2::FORMAT),
        ("wiki/byte", &raw::FORMAT),
        ("raw", &raw::FORMAT),
    ];
    known.into_iter().find(|(part, _)| lower.contains(part)).map(|(_, format)| format)
}

fn in_package(href: &str, cause: ImageError) -> ImageError {
    // What is missing in an archive is not anywhere else.
    let kind = match cause.kind() {
        ErrorKind::NotThisFormat | ErrorKind::ReferenceDenied => ErrorKind::Corrupt,
        kind => kind,
    };
    let detail = "a disk of the package cannot be used";
    ImageError::new(kind, format!("open disk \"{}\"", href.escape_debug()), detail).caused_by(cause)
}
