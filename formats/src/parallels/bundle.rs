//! A bundle: the image that its descriptor is, and the layer made of the images that it names.

use uuid::Uuid;

use super::descriptor::{self, Descriptor, Storage, StorageImage};
use super::expanding::{ExpandingImage, MAX_BAT_BYTES};
use super::on_disk::BAT_ENTRY_BYTES;
use crate::check::CheckReport;
use crate::contents::SnapshotInfo;
use crate::error::{ErrorKind, ImageError, Result};
use crate::extent::{HostFileId, HostRange, LayerExtent, LayerKind};
use crate::host_file::OpenFile;
use crate::layer::{Image, ImageInfo, ImageLayer};
use crate::reference_gate::{FileReference, ReferenceGate};
use crate::source::Geometry;
use crate::stored::read_stored;

const OPEN_IMAGE: &str = "open an image of the Parallels bundle";

/// What file systems read at once: clusters need not be read whole.
const UNIT_BYTES: u64 = 4096;

struct Bundle {
    descriptor: Descriptor,
    descriptor_bytes: u64,
    info: ImageInfo,
    snapshots: Vec<SnapshotInfo>,
}

/// Opens a file that is a descriptor.
pub(super) fn open(file: OpenFile) -> Result<Box<dyn Image>> {
    let descriptor = descriptor::read(&file)?;
    let descriptor_bytes =
        file.file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
    let info = describe(&descriptor);
    let snapshots = snapshots_of(&descriptor);
    Ok(Box::new(Bundle { descriptor, descriptor_bytes, info, snapshots }))
}

fn describe(descriptor: &Descriptor) -> ImageInfo {
    let mut geometry = Geometry::of_512_byte_sectors(descriptor.disk_bytes, UNIT_BYTES);
    geometry.physical_sector_bytes = descriptor.physical_sector_bytes;
    let mut details: Vec<(&'static str, crate::layer::Detail)> = vec![
        ("type", "bundle".into()),
        ("storages", (descriptor.storages.len() as u64).into()),
        ("top_shot", descriptor.top.braced().to_string().into()),
    ];
    if let Some(name) = &descriptor.name {
        details.push(("name", name.clone().into()));
    }
    let warnings = descriptor.unreadable.iter().map(|reason| format!("the disk cannot be read: {reason}")).collect();
    ImageInfo { format: super::FORMAT.name, geometry, identity: None, details, warnings }
}

/// All shots but the top one, which is the current state. The names that users gave them are in another file.
fn snapshots_of(descriptor: &Descriptor) -> Vec<SnapshotInfo> {
    let shots = descriptor.shots.iter().filter(|shot| shot.id != descriptor.top);
    shots
        .map(|shot| SnapshotInfo {
            id: shot.id.braced().to_string(),
            name: shot.id.to_string(),
            size_bytes: descriptor.disk_bytes,
            taken_unix_s: None,
            machine_state_bytes: 0,
        })
        .collect()
}

impl Bundle {
    fn shot_called(&self, name: Option<&str>) -> Result<Uuid> {
        let Some(name) = name else { return Ok(self.descriptor.top) };
        let id = Uuid::try_parse(name).ok().filter(|id| self.descriptor.shots.iter().any(|shot| shot.id == *id));
        id.ok_or_else(|| ImageError::no_such_snapshot(name, &self.snapshots))
    }
}

impl Image for Bundle {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn parent(&self) -> Option<&FileReference> {
        None
    }

    fn snapshots(&self) -> &[SnapshotInfo] {
        &self.snapshots
    }

    fn layer(&self, snapshot: Option<&str>, gate: &dyn ReferenceGate) -> Result<Box<dyn ImageLayer>> {
        if let Some(reason) = &self.descriptor.unreadable {
            return Err(ImageError::unsupported("read Parallels bundle", reason.clone()));
        }
        let chain = self.descriptor.chain_of(self.shot_called(snapshot)?)?;
        let mut layer =
            BundleLayer { geometry: self.info.geometry, parts: Vec::new(), files: Vec::new(), bat_bytes: 0 };
        for storage in &self.descriptor.storages {
            layer.add_storage(storage, &chain, gate)?;
        }
        Ok(Box::new(layer))
    }

    fn check(&self, report: &mut CheckReport) -> Result<()> {
        report.host_end_offset = self.descriptor_bytes;
        for shot in &self.descriptor.shots {
            if let Err(error) = self.descriptor.chain_of(shot.id) {
                report.corruption(None, &error);
            }
            for storage in &self.descriptor.storages {
                if let Err(error) = image_of(storage, shot.id) {
                    report.corruption(None, &error);
                }
            }
        }
        Ok(())
    }

    fn check_all_files(&self, gate: &dyn ReferenceGate, report: &mut CheckReport) -> Result<()> {
        self.check(report)?;
        if self.descriptor.unreadable.is_some() {
            return Ok(());
        }
        for storage in &self.descriptor.storages {
            for image in &storage.images {
                let mut found = CheckReport::default();
                check_image(storage, image, gate, &mut found)?;
                report.add_file(&image.file, found);
            }
        }
        report.allocated_bytes = report.allocated_bytes.min(self.descriptor.disk_bytes);
        Ok(())
    }
}

/// Looks for damage in an image of a storage.
fn check_image(
    storage: &Storage,
    image: &StorageImage,
    gate: &dyn ReferenceGate,
    report: &mut CheckReport,
) -> Result<()> {
    let file = open_file(image, gate)?;
    let checked = if image.expanding {
        open_expanding(storage, file).and_then(|opened| {
            check_size(opened.layout.disk_bytes, storage)?;
            opened.check(report)
        })
    } else {
        (crate::raw::FORMAT.open)(file).and_then(|opened| {
            check_size(opened.info().geometry.size_bytes, storage)?;
            opened.check(report)
        })
    };
    match checked {
        Err(error) if error.kind() != ErrorKind::Io => {
            report.corruption(error.host_offset(), &error);
            Ok(())
        }
        checked => checked,
    }
}

fn open_file(image: &StorageImage, gate: &dyn ReferenceGate) -> Result<OpenFile> {
    let format = if image.expanding { super::FORMAT.name } else { crate::raw::FORMAT.name };
    let names = vec![image.file.clone()];
    let reference = FileReference { names, format: Some(format.to_owned()), identities: Vec::new() };
    Ok(gate.open(&reference)?.file)
}

fn open_expanding(storage: &Storage, file: OpenFile) -> Result<ExpandingImage> {
    let image = ExpandingImage::open(file)?;
    if image.layout.cluster_bytes != storage.cluster_bytes {
        let (found, expected) = (image.layout.cluster_bytes, storage.cluster_bytes);
        let detail = format!("its clusters have {found} bytes, the descriptor says {expected}");
        return Err(ImageError::corrupt("read Parallels header", detail));
    }
    Ok(image)
}

/// The image that a shot has in a storage.
fn image_of(storage: &Storage, shot: Uuid) -> Result<&StorageImage> {
    let mut found = storage.images.iter().filter(|image| image.shot == shot);
    match (found.next(), found.next()) {
        (Some(image), None) => Ok(image),
        (found, _) => {
            let count = if found.is_some() { "several images" } else { "no image" };
            let detail = format!("the storage at {:#x} has {count} for the shot {}", storage.start, shot.braced());
            Err(ImageError::corrupt("read DiskDescriptor.xml", detail))
        }
    }
}

/// A state of the disk of a bundle.
struct BundleLayer {
    geometry: Geometry,
    /// In the order of the disk, without gaps.
    parts: Vec<Part>,
    files: Vec<OpenFile>,
    /// What the BATs take in memory, all together.
    bat_bytes: u64,
}

/// A storage.
struct Part {
    start: u64,
    end: u64,
    /// From the top shot down.
    images: Vec<PartImage>,
}

/// An image of a storage.
struct PartImage {
    layer: Box<dyn ImageLayer>,
    /// Index of its file in `BundleLayer::files`.
    first_file: usize,
}

impl BundleLayer {
    fn add_storage(&mut self, storage: &Storage, chain: &[Uuid], gate: &dyn ReferenceGate) -> Result<()> {
        let mut images = Vec::new();
        for (depth, shot) in chain.iter().enumerate() {
            let image = image_of(storage, *shot)?;
            if !image.expanding && depth + 1 < chain.len() {
                let detail = format!("\"{}\" is plain, but has a parent", image.file.escape_debug());
                return Err(ImageError::corrupt(OPEN_IMAGE, detail));
            }
            images.push(self.open_image(storage, image, gate)?);
        }
        self.parts.push(Part { start: storage.start, end: storage.end, images });
        Ok(())
    }

    fn open_image(&mut self, storage: &Storage, image: &StorageImage, gate: &dyn ReferenceGate) -> Result<PartImage> {
        let file = open_file(image, gate)?;
        if file.identity.is_some() && self.files.iter().any(|other| other.identity == file.identity) {
            let detail = format!("\"{}\" is in it twice", image.file.escape_debug());
            return Err(ImageError::corrupt(OPEN_IMAGE, detail));
        }
        let opened = if image.expanding { self.open_expanding(storage, file) } else { open_plain(file, gate) };
        let fits = |layer: Box<dyn ImageLayer>| check_size(layer.geometry().size_bytes, storage).map(|()| layer);
        let layer = opened.and_then(fits).map_err(|cause| {
            let detail = format!("\"{}\" cannot be used", image.file.escape_debug());
            ImageError::new(cause.kind(), OPEN_IMAGE, detail).caused_by(cause)
        })?;
        let first_file = self.files.len();
        self.files.extend_from_slice(layer.host_files());
        Ok(PartImage { layer, first_file })
    }

    fn open_expanding(&mut self, storage: &Storage, file: OpenFile) -> Result<Box<dyn ImageLayer>> {
        let image = open_expanding(storage, file)?;
        self.bat_bytes = self.bat_bytes.saturating_add(image.layout.used_entries.saturating_mul(BAT_ENTRY_BYTES));
        if self.bat_bytes > MAX_BAT_BYTES {
            let detail = format!("the BATs of the bundle have more than {MAX_BAT_BYTES} bytes together");
            return Err(ImageError::limit_exceeded(super::expanding::READ_BAT, detail));
        }
        Ok(Box::new(image.expanding_layer()?))
    }

    fn part_at(&self, guest_offset: u64) -> Result<&Part> {
        let index = self.parts.partition_point(|part| part.end <= guest_offset);
        self.parts.get(index).ok_or_else(|| ImageError::out_of_range(guest_offset, 1, self.geometry.size_bytes))
    }
}

fn open_plain(file: OpenFile, gate: &dyn ReferenceGate) -> Result<Box<dyn ImageLayer>> {
    (crate::raw::FORMAT.open)(file)?.layer(None, gate)
}

/// A file that holds less than its storage was cut, or is another one.
fn check_size(found: u64, storage: &Storage) -> Result<()> {
    let expected = storage.end - storage.start;
    if found < expected {
        let detail = format!("it holds {found:#x} bytes, its storage has {expected:#x}");
        return Err(ImageError::truncated(OPEN_IMAGE, detail));
    }
    Ok(())
}

impl ImageLayer for BundleLayer {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let max_bytes = self.geometry.clamp(guest_offset, max_bytes)?;
        let part = self.part_at(guest_offset)?;
        let mut length_bytes = max_bytes.min(part.end - guest_offset);
        for image in &part.images {
            let extent = image
                .layer
                .extent_at(guest_offset - part.start, length_bytes)
                .map_err(|error| error.at_guest(guest_offset))?;
            length_bytes = extent.length_bytes;
            let kind = match extent.kind {
                LayerKind::Absent => continue,
                LayerKind::Data(range) => {
                    let file = HostFileId(image.first_file + range.file.0);
                    LayerKind::Data(HostRange { file, ..range })
                }
                other => other,
            };
            return Ok(LayerExtent { length_bytes, kind });
        }
        Ok(LayerExtent { length_bytes, kind: LayerKind::Absent })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        read_stored(self, "read Parallels bundle", guest_offset, buffer)
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}
