//! Reading: the header, extents out of the mapping, and bytes out of the file.

use super::entry::EntryRules;
use super::header::{self, CompressionType, Header, TablePlace, check_l1_table};
use super::info;
use super::snapshots::{self, SnapshotTable};
use super::tables::{Mapping, Part, PartKind};
use crate::codec;
use crate::contents::SnapshotInfo;
use crate::error::{ErrorKind, ImageError, Result};
use crate::extent::{HostFileId, HostRange, LayerExtent, LayerKind};
use crate::host_file::OpenFile;
use crate::layer::{ImageInfo, ImageLayer};
use crate::reference_gate::{FileReference, ReferenceGate};
use crate::source::Geometry;
use crate::table_cache::TableCache;

/// Compressed clusters that lie one behind the other are read at once, up to this many bytes and one more cluster.
const MAX_COMPRESSED_READ_BYTES: u64 = 1 << 20;

const READ_COMPRESSED: &str = "read compressed cluster";

/// A QCOW2 file whose header is good.
pub(super) struct Qcow2Image {
    pub file: OpenFile,
    pub file_bytes: u64,
    pub header: Header,
    /// The table, or nothing if it is damaged, which keeps nobody from reading the active disk.
    pub snapshot_table: SnapshotTable,
    pub info: ImageInfo,
    pub parent: Option<FileReference>,
    pub snapshots: Vec<SnapshotInfo>,
}

impl Qcow2Image {
    /// Reads and checks the header, and the snapshot table.
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

    /// The active state of the disk, or that of a snapshot.
    pub fn disk(&self, snapshot: Option<&str>, gate: &dyn ReferenceGate) -> Result<Qcow2Layer> {
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
        Ok(Qcow2Layer { mapping, geometry: geometry(header, disk_bytes), compression, files, data_file })
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

    /// Host ranges that clusters and L2 tables must not overlap, as far as known without further reads.
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

/// The active state of an image, or a snapshot in it.
pub(super) struct Qcow2Layer {
    pub mapping: Mapping,
    pub geometry: Geometry,
    pub compression: CompressionType,
    /// The image, and the external data file if there is one.
    pub files: Vec<OpenFile>,
    /// Which of them holds the clusters.
    pub data_file: usize,
}

impl ImageLayer for Qcow2Layer {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let length_bytes = self.geometry.clamp(guest_offset, max_bytes)?;
        let mut parts = self.mapping.parts(guest_offset, length_bytes);
        let mut extent = match parts.next() {
            Some(part) => self.extent_of(&part?),
            None => return Err(ImageError::out_of_range(guest_offset, max_bytes, self.geometry.size_bytes)),
        };
        // What is wrong with a later part is told to whoever asks for that part.
        while !parts.has_looked_far()
            && let Some(Ok(part)) = parts.next()
        {
            let next = self.extent_of(&part);
            if !goes_on(&extent, &next) {
                break;
            }
            extent.length_bytes += next.length_bytes;
        }
        Ok(extent)
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.geometry.check_range(guest_offset, buffer.len() as u64)?;
        let mut parts = self.mapping.parts(guest_offset, buffer.len() as u64).peekable();
        let (mut guest_offset, mut rest) = (guest_offset, buffer);
        while let Some(part) = parts.next() {
            let mut run = Run::new(part?);
            while parts.next_if(|next| next.as_ref().is_ok_and(|next| run.push(next))).is_some() {}
            let (target, after) = rest.split_at_mut((run.length_bytes as usize).min(rest.len()));
            self.read_run(&run, target).map_err(|error| error.at_guest(guest_offset))?;
            guest_offset += target.len() as u64;
            rest = after;
        }
        Ok(())
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}

impl Qcow2Layer {
    fn extent_of(&self, part: &Part) -> LayerExtent {
        let kind = match part.kind {
            PartKind::Absent => LayerKind::Absent,
            PartKind::Zero => LayerKind::Zero,
            PartKind::Data { host_offset } => {
                LayerKind::Data(HostRange { file: HostFileId(self.data_file), host_offset })
            }
            PartKind::DataToEnd { .. } | PartKind::Compressed { .. } => LayerKind::Encoded,
        };
        LayerExtent { length_bytes: part.length_bytes, kind }
    }

    fn read_run(&self, run: &Run, target: &mut [u8]) -> Result<()> {
        match run.first.kind {
            PartKind::Absent | PartKind::Zero => {
                target.fill(0);
                Ok(())
            }
            PartKind::Data { host_offset } => self.read_data("read cluster", host_offset, target),
            PartKind::DataToEnd { host_offset } => {
                let available = self.mapping.data_bytes.saturating_sub(host_offset).min(target.len() as u64);
                let (inside, past_the_end) = target.split_at_mut(available as usize);
                past_the_end.fill(0);
                self.read_data("read cluster", host_offset, inside)
            }
            PartKind::Compressed { .. } => self.read_compressed(&run.compressed, target),
        }
    }

    fn read_data(&self, doing: &'static str, host_offset: u64, target: &mut [u8]) -> Result<()> {
        if target.is_empty() {
            return Ok(());
        }
        match self.files.get(self.data_file) {
            Some(open) => open.file.read_exact_at(host_offset, target),
            None => Err(std::io::ErrorKind::NotFound.into()),
        }
        .map_err(|cause| ImageError::io(doing, cause).at_host(host_offset))
    }

    fn read_compressed(&self, run: &CompressedRun, target: &mut [u8]) -> Result<()> {
        // What the sectors of the last cluster reach past the end of the file is not part of the stream.
        let mut stored = vec![0; (run.end - run.start) as usize];
        let available = self.mapping.data_bytes.saturating_sub(run.start).min(stored.len() as u64) as usize;
        self.read_data(READ_COMPRESSED, run.start, stored.get_mut(..available).unwrap_or_default())?;
        let mut rest = target;
        for cluster in &run.clusters {
            let (target, after) = rest.split_at_mut((cluster.wanted_bytes as usize).min(rest.len()));
            let begin = (cluster.host_offset - run.start) as usize;
            let stream = stored.get(begin..).and_then(|stored| stored.get(..cluster.stored_bytes as usize));
            self.decode(stream.unwrap_or_default(), cluster, target)?;
            rest = after;
        }
        Ok(())
    }

    fn decode(&self, stream: &[u8], cluster: &CompressedCluster, target: &mut [u8]) -> Result<()> {
        let cluster_bytes = self.mapping.shape.cluster_bytes() as usize;
        let decode = |target: &mut [u8]| {
            match self.compression {
                CompressionType::Deflate => codec::inflate_raw(stream, target),
                CompressionType::Zstd => codec::decode_zstd(stream, target),
            }
            .map_err(|cause| {
                let detail = format!("it does not decode to a cluster of {cluster_bytes} bytes");
                ImageError::corrupt(READ_COMPRESSED, detail).at_host(cluster.host_offset).caused_by(cause)
            })
        };
        if target.len() == cluster_bytes {
            return decode(target);
        }
        let mut whole = vec![0; cluster_bytes];
        decode(&mut whole)?;
        let wanted = whole.iter().skip(cluster.skip_bytes as usize);
        target.iter_mut().zip(wanted).for_each(|(to, from)| *to = *from);
        Ok(())
    }
}

fn goes_on(extent: &LayerExtent, next: &LayerExtent) -> bool {
    match (extent.kind, next.kind) {
        (LayerKind::Data(range), LayerKind::Data(next)) => range.advanced(extent.length_bytes) == next,
        (kind, next) => kind == next,
    }
}

/// Parts that are read at once.
struct Run {
    first: Part,
    length_bytes: u64,
    compressed: CompressedRun,
}

impl Run {
    fn new(first: Part) -> Self {
        let mut compressed = CompressedRun::default();
        compressed.push(&first);
        Run { first, length_bytes: first.length_bytes, compressed }
    }

    /// Takes the part in, unless it has to be read for itself.
    fn push(&mut self, next: &Part) -> bool {
        let so_far = Part { length_bytes: self.length_bytes, ..self.first };
        let taken = match self.first.kind {
            PartKind::Compressed { .. } => self.compressed.push(next),
            _ => so_far.goes_on_with(next),
        };
        if taken {
            self.length_bytes += next.length_bytes;
        }
        taken
    }
}

/// Compressed clusters whose stored bytes follow each other.
#[derive(Default)]
struct CompressedRun {
    start: u64,
    end: u64,
    clusters: Vec<CompressedCluster>,
}

struct CompressedCluster {
    host_offset: u64,
    stored_bytes: u64,
    skip_bytes: u64,
    wanted_bytes: u64,
}

impl CompressedRun {
    /// Takes the part in, unless it is not compressed or lies elsewhere.
    fn push(&mut self, part: &Part) -> bool {
        let PartKind::Compressed { host_offset, length_bytes, skip_bytes } = part.kind else { return false };
        if self.clusters.is_empty() {
            (self.start, self.end) = (host_offset, host_offset);
        }
        let follows = (self.start..=self.end).contains(&host_offset);
        if !follows || self.end - self.start > MAX_COMPRESSED_READ_BYTES {
            return false;
        }
        self.end = self.end.max(host_offset + length_bytes);
        let wanted_bytes = part.length_bytes;
        self.clusters.push(CompressedCluster { host_offset, stored_bytes: length_bytes, skip_bytes, wanted_bytes });
        true
    }
}
