//! An open image: what its header says, and the layers that can be had of it.

use super::entry::EntryRules;
use super::header::{self, Header, TablePlace, check_l1_table};
use super::info;
use super::read::Qcow2Layer;
use super::snapshots::{self, SnapshotTable};
use super::tables::Mapping;
use crate::check::CheckReport;
use crate::contents::SnapshotInfo;
use crate::error::{ErrorKind, ImageError, Result};
use crate::host_file::OpenFile;
use crate::layer::{Image, ImageInfo, ImageLayer};
use crate::reference_gate::{FileReference, ReferenceGate};
use crate::source::Geometry;
use crate::table_cache::TableCache;

/// A QCOW2 file whose header is good.
pub(super) struct Qcow2Image {
    pub file: OpenFile,
    pub file_bytes: u64,
    pub header: Header,
    /// The table, or nothing if it is damaged, which keeps nobody from reading the active disk.
    pub snapshot_table: SnapshotTable,
    info: ImageInfo,
    parent: Option<FileReference>,
    snapshots: Vec<SnapshotInfo>,
}

pub(super) fn open(file: OpenFile) -> Result<Box<dyn Image>> {
    Ok(Box::new(Qcow2Image::open(file)?))
}

impl Qcow2Image {
    pub fn open(file: OpenFile) -> Result<Self> {
        let file_bytes = file.file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
        let header = header::read(file.file.as_ref(), file_bytes)?;
        snapshots::check_place(&header)?;
        let mut warnings = info::warnings(&header, file_bytes);
        let snapshot_table = match snapshots::read(file.file.as_ref(), file_bytes, &header) {
            Err(error) if error.kind() != ErrorKind::Io => {
                warnings.push(format!("the snapshots cannot be read: {error}"));
                SnapshotTable::default()
            }
            read => read?,
        };
        let geometry = geometry(&header, header.disk_bytes());
        let details = info::details(&header);
        let info = ImageInfo { format: super::FORMAT.name, geometry, identity: None, details, warnings };
        let snapshots = snapshot_table.snapshots.iter().map(|snapshot| snapshot.info.clone()).collect();
        let parent = info::parent(&header);
        Ok(Qcow2Image { file, file_bytes, header, snapshot_table, info, parent, snapshots })
    }

    /// The L1 table and the disk's size, of the active state or of a snapshot.
    fn mapped_disk(&self, snapshot: Option<&str>) -> Result<(TablePlace, u64)> {
        let Some(name) = snapshot else { return Ok((self.header.l1, self.header.disk_bytes())) };
        if self.snapshots.is_empty() && self.header.snapshot_count > 0 {
            snapshots::read(self.file.file.as_ref(), self.file_bytes, &self.header)?;
        }
        let table = &self.snapshot_table.snapshots;
        let found =
            table.iter().find(|one| one.info.id == name).or_else(|| table.iter().find(|one| one.info.name == name));
        let snapshot = found.ok_or_else(|| ImageError::no_such_snapshot(name, &self.snapshots))?;
        let disk_bytes = snapshot.info.size_bytes;
        check_l1_table(snapshot.l1, self.header.shape, disk_bytes, self.file_bytes)?;
        Ok((snapshot.l1, disk_bytes))
    }

    fn check_readable(&self, snapshot: Option<&str>) -> Result<()> {
        const DOING: &str = "read qcow2 image";
        if let Some(method) = self.header.encryption.name() {
            return Err(ImageError::unsupported(DOING, format!("it is encrypted with {method}")));
        }
        if snapshot.is_some() && self.header.snapshot_count > 0 && self.header.features.data_file() {
            // "neither compressed clusters nor internal snapshots are supported" (incompatible feature bit 2)
            return Err(ImageError::corrupt(DOING, "it has both an external data file and snapshots"));
        }
        Ok(())
    }

    /// Opens the external data file, if there is one.
    fn open_data_file(&self, gate: &dyn ReferenceGate) -> Result<Option<OpenFile>> {
        if !self.header.features.data_file() {
            return Ok(None);
        }
        let Some(name) = self.header.extensions.data_file.clone() else {
            let detail = "the image keeps its data in another file, but does not name it";
            return Err(ImageError::unsupported("open the external data file", detail));
        };
        let reference = FileReference { names: vec![name], format: Some("raw".to_owned()), identities: Vec::new() };
        Ok(Some(gate.open(&reference)?.file))
    }

    /// What clusters and L2 tables cannot overlap, as far as that can be known without reading more.
    fn metadata(&self, l1: TablePlace) -> Vec<(&'static str, std::ops::Range<u64>)> {
        let shape = self.header.shape;
        let clusters_of = |table: TablePlace| {
            let length = shape.clusters_for(table.length_bytes()).saturating_mul(shape.cluster_bytes());
            table.host_offset..table.host_offset.saturating_add(length)
        };
        let tables = [
            ("the active L1 table", self.header.l1),
            ("the snapshot's L1 table", if l1 == self.header.l1 { TablePlace { entries: 0, ..l1 } } else { l1 }),
            ("the refcount table", self.header.refcount_table),
        ];
        let valid =
            tables.into_iter().filter(|(_, table)| table.entries > 0 && table.check(shape, self.file_bytes).is_ok());
        let header = ("the header", 0..shape.cluster_bytes());
        std::iter::once(header).chain(valid.map(|(name, table)| (name, clusters_of(table)))).collect()
    }
}

impl Image for Qcow2Image {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn parent(&self) -> Option<&FileReference> {
        self.parent.as_ref()
    }

    fn snapshots(&self) -> &[SnapshotInfo] {
        &self.snapshots
    }

    fn layer(&self, snapshot: Option<&str>, gate: &dyn ReferenceGate) -> Result<Box<dyn ImageLayer>> {
        self.check_readable(snapshot)?;
        let (l1, disk_bytes) = self.mapped_disk(snapshot)?;
        let mut files = vec![self.file.clone()];
        files.extend(self.open_data_file(gate)?);
        let data_bytes = match files.get(1) {
            Some(data) => data.file.len_bytes(),
            None => Ok(self.file_bytes),
        }
        .map_err(|cause| ImageError::io("find out the data file's length", cause))?;
        let header = &self.header;
        let mapping = Mapping {
            cache: TableCache::new(self.file.file.clone(), self.file_bytes),
            shape: header.shape,
            rules: rules(header),
            disk_bytes,
            l1,
            file_bytes: self.file_bytes,
            data_bytes,
            metadata: self.metadata(l1),
        };
        let (data_file, compression) = (files.len() - 1, header.compression);
        Ok(Box::new(Qcow2Layer { mapping, geometry: geometry(header, disk_bytes), compression, files, data_file }))
    }

    fn check(&self, report: &mut CheckReport) -> Result<()> {
        super::check::check(self, report)
    }
}

pub(super) fn rules(header: &Header) -> EntryRules {
    EntryRules {
        cluster_bits: header.shape.cluster_bits,
        extended_l2: header.shape.extended_l2,
        zero_flag: header.version >= 3,
        data_file: header.features.data_file(),
    }
}

fn geometry(header: &Header, disk_bytes: u64) -> Geometry {
    Geometry::of_512_byte_sectors(disk_bytes, header.shape.cluster_bytes())
}
