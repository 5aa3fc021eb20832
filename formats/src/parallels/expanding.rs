//! An expanding image: header, BAT and the layer that answers from the BAT.

use byteorder::{ByteOrder, LittleEndian};
use zerocopy::{FromZeros, IntoBytes};

use super::on_disk::*;
use crate::error::{ImageError, Result};
use crate::extent::{HostFileId, HostRange, LayerExtent, LayerKind};
use crate::host_file::OpenFile;
use crate::layer::{ImageInfo, ImageLayer};
use crate::limits::MAX_DISK_BYTES;
use crate::source::Geometry;
use crate::stored::read_stored;

const READ_HEADER: &str = "read Parallels header";
pub(super) const READ_BAT: &str = "read Parallels BAT";

/// Any part of a cluster can be read by itself; this is what file systems read at once.
const UNIT_BYTES: u64 = 4096;

/// Largest BAT, in bytes: it is held in memory, once more while it is looked through. 16 TiB with the usual clusters of
/// 1 MiB.
pub(super) const MAX_BAT_BYTES: u64 = 64 << 20;

/// An expanding image whose header is good.
pub(super) struct ExpandingImage {
    pub file: OpenFile,
    pub file_len_bytes: u64,
    pub header: Header,
    pub layout: Layout,
    pub info: ImageInfo,
}

/// What the header comes to, checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub disk_bytes: u64,
    pub cluster_bytes: u64,
    /// What a BAT entry is multiplied by, in bytes.
    pub entry_unit_bytes: u64,
    /// How many entries of the BAT the disk needs; there may be more.
    pub used_entries: u64,
    /// Where the BAT ends in the file.
    pub bat_end: u64,
}

impl ExpandingImage {
    /// Reads and checks the header.
    pub fn open(file: OpenFile) -> Result<Self> {
        let file_len_bytes =
            file.file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
        let mut header = Header::new_zeroed();
        file.file
            .read_exact_at(0, header.as_mut_bytes())
            .map_err(|cause| ImageError::io(READ_HEADER, cause).at_host(0))?;
        let layout = Layout::new(&header, file_len_bytes)?;
        let info = describe(&header, &layout);
        Ok(ExpandingImage { file, file_len_bytes, header, layout, info })
    }

    /// Reads the part of the BAT that the disk needs.
    pub fn read_bat(&self) -> Result<Vec<u32>> {
        let bat_bytes = self.layout.used_entries * BAT_ENTRY_BYTES;
        if bat_bytes > MAX_BAT_BYTES {
            let detail = format!("it has {bat_bytes} bytes, at most {MAX_BAT_BYTES} work");
            return Err(ImageError::limit_exceeded(READ_BAT, detail));
        }
        let mut bat = vec![0; self.layout.used_entries as usize];
        let offset = size_of::<Header>() as u64;
        self.file
            .file
            .read_exact_at(offset, bat.as_mut_bytes())
            .map_err(|cause| ImageError::io(READ_BAT, cause).at_host(offset))?;
        LittleEndian::from_slice_u32(&mut bat);
        Ok(bat)
    }

    /// The layer, with the BAT looked through.
    pub fn expanding_layer(&self) -> Result<ExpandingLayer> {
        let bat = self.read_bat()?;
        self.layout.check_no_overlap(&bat)?;
        Ok(ExpandingLayer {
            geometry: self.info.geometry,
            layout: self.layout,
            file_len_bytes: self.file_len_bytes,
            files: [self.file.clone()],
            bat,
        })
    }
}

impl Layout {
    fn new(header: &Header, file_len_bytes: u64) -> Result<Self> {
        let corrupt = |detail: String| ImageError::corrupt(READ_HEADER, detail).at_host(0);
        let magic = magic_of(&header.magic)
            .ok_or_else(|| ImageError::not_this_format(READ_HEADER, "it does not begin like a Parallels image"))?;
        let version = header.version.get();
        if version != VERSION {
            let detail = format!("its version is {version}, only {VERSION} is known");
            return Err(ImageError::unsupported(READ_HEADER, detail).at_host(0));
        }
        let cluster_bytes = u64::from(header.cluster_sectors.get()) * SECTOR_BYTES;
        if cluster_bytes == 0 {
            return Err(corrupt("the cluster size is 0".to_owned()));
        }
        let (disk_sectors, entry_unit_bytes) = match magic {
            Magic::Sectors => (header.disk_sectors.get() & 0xffff_ffff, SECTOR_BYTES),
            Magic::Clusters => (header.disk_sectors.get(), cluster_bytes),
        };
        let disk_bytes = disk_sectors.checked_mul(SECTOR_BYTES).filter(|bytes| *bytes <= MAX_DISK_BYTES);
        let disk_bytes = disk_bytes.ok_or_else(|| {
            let detail = format!("the disk has {disk_sectors} sectors, at most {MAX_DISK_BYTES} bytes work");
            ImageError::limit_exceeded(READ_HEADER, detail).at_host(0)
        })?;
        let used_entries = disk_bytes.div_ceil(cluster_bytes);
        let bat_entries = u64::from(header.bat_entries.get());
        if bat_entries < used_entries {
            return Err(corrupt(format!("the BAT has {bat_entries} entries, the disk has {used_entries} clusters")));
        }
        let bat_end = size_of::<Header>() as u64 + bat_entries * BAT_ENTRY_BYTES;
        if bat_end > file_len_bytes {
            let detail = format!("the BAT ends at {bat_end:#x}, past the end of the file ({file_len_bytes:#x})");
            return Err(ImageError::truncated(READ_HEADER, detail).at_host(0));
        }
        Ok(Layout { disk_bytes, cluster_bytes, entry_unit_bytes, used_entries, bat_end })
    }

    /// Two clusters at one place are damage, and how a small file would stand for a huge disk.
    fn check_no_overlap(&self, bat: &[u32]) -> Result<()> {
        let mut entries: Vec<u32> = bat.iter().copied().filter(|entry| *entry != 0).collect();
        entries.sort_unstable();
        let nearest = entries.windows(2).find_map(|pair| match *pair {
            [one, other] if self.offset_of(other) - self.offset_of(one) < u128::from(self.cluster_bytes) => {
                Some((one, other))
            }
            _ => None,
        });
        match nearest {
            None => Ok(()),
            Some((one, other)) => {
                let index_of = |entry| bat.iter().position(|found| *found == entry).unwrap_or_default();
                let second = bat.iter().rposition(|found| *found == other).unwrap_or_default();
                let detail = format!(
                    "entries {} and {second} point to {:#x} and {:#x}, clusters that overlap",
                    index_of(one),
                    self.offset_of(one),
                    self.offset_of(other)
                );
                Err(ImageError::corrupt(READ_BAT, detail))
            }
        }
    }

    /// Where an entry points to, in bytes, inside of any file or not.
    pub fn offset_of(&self, entry: u32) -> u128 {
        u128::from(entry) * u128::from(self.entry_unit_bytes)
    }

    /// How much of a cluster the disk reaches into.
    pub fn needed_bytes(&self, index: u64) -> u64 {
        self.disk_bytes.saturating_sub(index * self.cluster_bytes).min(self.cluster_bytes)
    }

    /// Where the cluster of an entry begins, if it is behind the BAT and, as far as needed, inside the file.
    pub fn locate(&self, index: u64, entry: u32, needed_bytes: u64, file_len_bytes: u64) -> Result<u64> {
        let place = self.offset_of(entry);
        let end = place + u128::from(needed_bytes);
        let found = if place < u128::from(self.bat_end) {
            "inside the header and the BAT".to_owned()
        } else if end > u128::from(file_len_bytes) {
            format!("its cluster would end at {end:#x}, past the end of the file ({file_len_bytes:#x})")
        } else {
            // Inside the file, so that it fits.
            return Ok(place as u64);
        };
        let entry_offset = size_of::<Header>() as u64 + index * BAT_ENTRY_BYTES;
        Err(ImageError::corrupt(READ_BAT, format!("entry {index} points to {place:#x}, {found}")).at_host(entry_offset))
    }
}

fn describe(header: &Header, layout: &Layout) -> ImageInfo {
    let mut warnings = Vec::new();
    if header.in_use.get() == IN_USE {
        warnings.push("the image was not closed properly, or is in use".to_owned());
    }
    if header.flags.get() & FLAG_EMPTY != 0 {
        warnings.push("the header says that the image is empty; what its table names is read all the same".to_owned());
    }
    let magic = String::from_utf8_lossy(&header.magic).into_owned();
    ImageInfo {
        format: super::FORMAT.name,
        geometry: Geometry::of_512_byte_sectors(layout.disk_bytes, UNIT_BYTES),
        identity: None,
        details: vec![
            ("type", "expanding".into()),
            ("magic", magic.into()),
            ("cluster_size_bytes", layout.cluster_bytes.into()),
            ("format_extension", (header.extension_sector.get() != 0).into()),
        ],
        warnings,
    }
}

/// The mapping of one expanding image.
pub(super) struct ExpandingLayer {
    geometry: Geometry,
    layout: Layout,
    file_len_bytes: u64,
    files: [OpenFile; 1],
    /// The entries that the disk needs.
    bat: Vec<u32>,
}

impl ExpandingLayer {
    fn locate(&self, index: u64) -> Result<Option<u64>> {
        match self.bat.get(index as usize).copied().unwrap_or_default() {
            0 => Ok(None),
            entry => self.layout.locate(index, entry, self.layout.needed_bytes(index), self.file_len_bytes).map(Some),
        }
    }

    /// How many clusters from `first` on, at most `max`, are absent, or lie one behind the other from `place` on.
    fn run(&self, first: u64, max: u64, place: Option<u64>) -> u64 {
        let mut count = 1;
        while count < max {
            let expected = place.map(|start| start.saturating_add(count * self.layout.cluster_bytes));
            // What is wrong with a later entry is told to whoever asks for that cluster.
            match self.locate(first + count) {
                Ok(found) if found == expected => count += 1,
                _ => break,
            }
        }
        count
    }
}

impl ImageLayer for ExpandingLayer {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let max_bytes = self.geometry.clamp(guest_offset, max_bytes)?;
        let cluster_bytes = self.layout.cluster_bytes;
        let (cluster, within) = (guest_offset / cluster_bytes, guest_offset % cluster_bytes);
        let place = self.locate(cluster).map_err(|error| error.at_guest(guest_offset))?;
        let run = self.run(cluster, (within + max_bytes).div_ceil(cluster_bytes), place);
        let kind = match place {
            None => LayerKind::Absent,
            Some(start) => LayerKind::Data(HostRange { file: HostFileId(0), host_offset: start + within }),
        };
        Ok(LayerExtent { length_bytes: max_bytes.min(run * cluster_bytes - within), kind })
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        read_stored(self, "read Parallels cluster", guest_offset, buffer)
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}
