//! Turns the layers of an image and its parents into one disk.
//!
//! ```text
//!   guest offset ──► overlay.qcow2 ──Absent──► middle.vhdx ──Absent──► base.raw ──Absent or past its end──► zeros
//!                    layers[0]                 layers[1]               layers[2]
//! ```
//!
//! Invariants: layer 0 is the one that was asked for and gives the disk its size; a parent that is shorter reads as zeros
//! past its end, one that is longer is cut; no file is in a chain twice.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{ErrorKind, ImageError, Result};
use crate::extent::{DiskExtent, DiskKind, HostFileId, HostRange, LayerKind};
use crate::format::Format;
use crate::guess::{self, Gated, Guess};
use crate::host_file::{FileIdentity, OpenFile};
use crate::layer::{Choice, Image, ImageInfo, ImageLayer};
use crate::limits::MAX_CHAIN_DEPTH;
use crate::reference_gate::{FileReference, ReferenceGate};
use crate::registry::{self, FORMATS};
use crate::source::{BlockSource, Geometry};

/// A disk: an image with everything that it inherits from.
pub struct Disk {
    layers: Vec<Layer>,
    files: Vec<OpenFile>,
    /// The first layer that belongs to the declared parent.
    inherited_from: usize,
    snapshot_count: usize,
    guess: Option<Guess>,
}

struct Layer {
    mapping: Box<dyn ImageLayer>,
    info: ImageInfo,
    /// Ranges that could not be read when the image was made.
    unreadable: Vec<Range<u64>>,
    /// The host file of the image itself.
    name: String,
    identity: Option<FileIdentity>,
    /// Index of its first host file in `Disk::files`.
    first_file: usize,
}

impl Disk {
    /// Opens what is chosen of `file`, which is read as `format` (probed if `None`), with all its parents. What an image names
    /// whose format only its content states is opened only if the gate [says so](ReferenceGate::follows_undeclared).
    pub fn open(
        file: OpenFile,
        format: Option<&'static Format>,
        choice: Choice<'_>,
        gate: Arc<dyn ReferenceGate>,
    ) -> Result<Disk> {
        let Gated { image, gate, guess } = guess::open_gated(&file, format, FORMATS, gate)?;
        let image = registry::choose_disk(image, choice, gate.as_ref())?;
        let snapshot_count = image.snapshots().len();
        let mut disk =
            Disk { layers: Vec::new(), files: Vec::new(), inherited_from: usize::MAX, snapshot_count, guess };
        let mut next = disk.add(file, image.as_ref(), choice.snapshot, gate.as_ref())?.map(|parent| (parent, gate));
        while let Some((reference, gate)) = next {
            let referenced = gate.open(&reference)?;
            let name = referenced.file.name.clone();
            next = disk
                .add_parent(referenced.file, &reference, referenced.gate)
                .map_err(|cause| in_parent(&name, cause))?;
        }
        Ok(disk)
    }

    fn add_parent(
        &mut self,
        file: OpenFile,
        reference: &FileReference,
        gate: Arc<dyn ReferenceGate>,
    ) -> Result<Option<(FileReference, Arc<dyn ReferenceGate>)>> {
        self.check_position(&file)?;
        let format = match reference.format.as_deref() {
            Some(name) => Some(registry::by_name(name).ok_or_else(|| {
                ImageError::unsupported(
                    "open parent",
                    format!("the image says that its format is \"{}\"", name.escape_default()),
                )
            })?),
            None => None,
        };
        let Gated { image, gate, .. } = guess::open_gated(&file, format, FORMATS, gate)?;
        check_identity(reference, image.info())?;
        self.check_sectors(image.info())?;
        let parent = self.add(file, image.as_ref(), None, gate.as_ref())?;
        Ok(parent.map(|reference| (reference, gate)))
    }

    /// Appends an image as the lowest layer; returns the parent that it names.
    fn add(
        &mut self,
        file: OpenFile,
        image: &dyn Image,
        snapshot: Option<&str>,
        gate: &dyn ReferenceGate,
    ) -> Result<Option<FileReference>> {
        let mapping = image.layer(snapshot, gate)?;
        let first_file = self.files.len();
        self.files.extend_from_slice(mapping.host_files());
        let (info, unreadable) = (image.info().clone(), image.unreadable());
        self.layers.push(Layer { mapping, info, unreadable, name: file.name, identity: file.identity, first_file });
        Ok(image.parent().cloned())
    }

    fn check_position(&self, file: &OpenFile) -> Result<()> {
        if self.layers.len() >= MAX_CHAIN_DEPTH {
            let detail = format!("the chain is longer than {MAX_CHAIN_DEPTH} files");
            return Err(ImageError::limit_exceeded("open parent", detail));
        }
        let repeated = self.layers.iter().any(|layer| layer.identity.is_some() && layer.identity == file.identity);
        if repeated {
            return Err(ImageError::corrupt(
                "open parent",
                "the chain comes back to a file that it already went through",
            ));
        }
        Ok(())
    }

    /// A parent of the child's own format has the child's logical sectors: formats that record their size demand it
    /// ([MS-VHDX] §2.6.2.4).
    fn check_sectors(&self, parent: &ImageInfo) -> Result<()> {
        let Some(child) = self.layers.last().map(|layer| &layer.info) else { return Ok(()) };
        let (ours, theirs) = (child.geometry.logical_sector_bytes, parent.geometry.logical_sector_bytes);
        if child.format == parent.format && ours != theirs {
            let detail =
                format!("its logical sectors have {theirs} bytes, the child's have {ours}: they must be equal");
            return Err(ImageError::corrupt("open parent", detail));
        }
        Ok(())
    }

    /// What the header of each layer says, with the layer's file name, from the top down.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = (&str, &ImageInfo)> {
        self.layers.iter().map(|layer| (layer.name.as_str(), &layer.info))
    }

    /// Ranges that could not be read when any of the files was made; a file above may have them.
    pub fn unreadable(&self) -> Vec<Range<u64>> {
        let size_bytes = self.geometry().size_bytes;
        let ranges = self.layers.iter().flat_map(|layer| &layer.unreadable);
        ranges.map(|range| range.start..range.end.min(size_bytes)).filter(|range| !range.is_empty()).collect()
    }

    /// Origin of the format, if it was not stated.
    pub fn guess(&self) -> Option<&Guess> {
        self.guess.as_ref()
    }

    /// How many snapshots there are inside the top image.
    pub fn snapshot_count(&self) -> usize {
        self.snapshot_count
    }

    /// Makes everything that comes from `file`, or from below it in the chain, [`DiskKind::Inherited`].
    ///
    /// Returns whether the chain goes through that file; if not, nothing is inherited.
    pub fn declare_parent(&mut self, file: FileIdentity) -> bool {
        let position = self.layers.iter().skip(1).position(|layer| layer.identity == Some(file));
        self.inherited_from = position.map_or(usize::MAX, |below_top| below_top + 1);
        position.is_some()
    }

    /// What is stored may be a hole of its host file: sparse files hold sparse disks, in every format.
    fn stored_extent(&self, range: HostRange, length_bytes: u64) -> Result<DiskExtent> {
        let Some(open) = self.files.get(range.file.0) else {
            return Ok(DiskExtent { length_bytes, kind: DiskKind::Data(Some(range)) });
        };
        let found = open
            .file
            .extent_at(range.host_offset, length_bytes)
            .map_err(|cause| ImageError::io("look for holes in the host file", cause).at_host(range.host_offset))?;
        let kind = if found.hole { DiskKind::Hole } else { DiskKind::Data(Some(range)) };
        Ok(DiskExtent { length_bytes: found.length_bytes.min(length_bytes), kind })
    }

    fn read_from(&self, depth: usize, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        let Some(layer) = self.layers.get(depth) else {
            buffer.fill(0);
            return Ok(());
        };
        let size_bytes = layer.mapping.geometry().size_bytes;
        let here = size_bytes.saturating_sub(guest_offset).min(buffer.len() as u64) as usize;
        let (mut inside, past_the_end) = buffer.split_at_mut(here);
        past_the_end.fill(0);
        let mut guest_offset = guest_offset;
        while !inside.is_empty() {
            let extent = layer.mapping.extent_at(guest_offset, inside.len() as u64)?;
            let (part, rest) = inside.split_at_mut(extent.length_bytes.min(inside.len() as u64) as usize);
            match extent.kind {
                LayerKind::Data(_) | LayerKind::Encoded => layer.mapping.read_at(guest_offset, part)?,
                LayerKind::Zero => part.fill(0),
                LayerKind::Absent => self.read_from(depth + 1, guest_offset, part)?,
            }
            guest_offset += part.len() as u64;
            inside = rest;
        }
        Ok(())
    }
}

impl BlockSource for Disk {
    fn geometry(&self) -> Geometry {
        let mut geometry = self.layers[0].mapping.geometry();
        geometry.unit_bytes = self.layers.iter().map(|layer| layer.mapping.geometry().unit_bytes).max().unwrap_or(1);
        geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<DiskExtent> {
        let mut length_bytes = self.geometry().clamp(guest_offset, max_bytes)?;
        for (depth, layer) in self.layers.iter().enumerate() {
            if depth >= self.inherited_from {
                return Ok(DiskExtent { length_bytes, kind: DiskKind::Inherited });
            }
            let size_bytes = layer.mapping.geometry().size_bytes;
            if guest_offset >= size_bytes {
                break;
            }
            length_bytes = length_bytes.min(size_bytes - guest_offset);
            let extent = layer.mapping.extent_at(guest_offset, length_bytes)?;
            length_bytes = length_bytes.min(extent.length_bytes);
            let kind = match extent.kind {
                LayerKind::Data(HostRange { file: HostFileId(index), host_offset }) => {
                    let file = HostFileId(layer.first_file + index);
                    return self.stored_extent(HostRange { file, host_offset }, length_bytes);
                }
                LayerKind::Encoded => DiskKind::Encoded,
                LayerKind::Zero => DiskKind::Zero,
                LayerKind::Absent => continue,
            };
            return Ok(DiskExtent { length_bytes, kind });
        }
        Ok(DiskExtent { length_bytes, kind: DiskKind::Hole })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.geometry().check_range(guest_offset, buffer.len() as u64)?;
        self.read_from(0, guest_offset, buffer)
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}

/// The child says who its parent is; a file of the same name that is somebody else would give wrong data silently.
fn check_identity(reference: &FileReference, parent: &ImageInfo) -> Result<()> {
    if reference.identities.is_empty() {
        return Ok(());
    }
    match &parent.identity {
        Some(identity) if reference.identities.contains(identity) => Ok(()),
        found => Err(ImageError::corrupt(
            "open parent",
            format!(
                "the file is {}, the child expects {}: it is not the parent, or was changed after the child was made",
                found.as_deref().unwrap_or("without an identity"),
                reference.identities.join(" or ")
            ),
        )),
    }
}

fn in_parent(name: &str, cause: ImageError) -> ImageError {
    let kind = match cause.kind() {
        ErrorKind::NotThisFormat => ErrorKind::Corrupt,
        kind => kind,
    };
    ImageError::new(kind, format!("open the chain through \"{}\"", name.escape_debug()), "a parent cannot be used")
        .caused_by(cause)
}
