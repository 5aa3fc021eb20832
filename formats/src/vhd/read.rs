//! Reading: from the footer to the layer that answers where the guest's bytes are.

use std::sync::Arc;

use super::header::{self, Found, Kind};
use super::on_disk::*;
use super::parent::{identity_text, read_parent};
use super::tables::{Bat, Layout};
use crate::error::{ImageError, Result};
use crate::extent::{HostFileId, HostRange, LayerExtent, LayerKind};
use crate::host_file::OpenFile;
use crate::layer::{Detail, ImageInfo, ImageLayer};
use crate::reference_gate::FileReference;
use crate::source::Geometry;
use crate::stored::read_stored;

/// Any part of a block can be read by itself; this is what file systems read at once.
const UNIT_BYTES: u64 = 4096;

/// XenServer writes only the sectors that the guest does, and does not clear the rest of a new block.
const CREATOR_XENSERVER: &[u8; 4] = b"tap\0";

/// A VHD file whose footer and dynamic header have been read.
pub(super) struct VhdImage {
    pub file: OpenFile,
    pub file_len_bytes: u64,
    pub footer: Footer,
    pub data_end_offset: u64,
    /// `None` for a fixed disk.
    pub tables: Option<Layout>,
    pub parent: Option<FileReference>,
    pub info: ImageInfo,
}

/// All of a fixed disk has to be there.
fn check_fixed(found: &Found, size_bytes: u64, warnings: &mut Vec<String>) -> Result<()> {
    let (held_bytes, current_bytes) = (found.data_end_offset, found.footer.current_bytes.get());
    if size_bytes > held_bytes {
        let detail = format!("the disk has {size_bytes} bytes, the file holds {held_bytes} of them");
        return Err(ImageError::truncated("open fixed VHD", detail));
    }
    if held_bytes != current_bytes && held_bytes != size_bytes {
        warnings.push(format!("the file holds {held_bytes} bytes before the footer, the disk has {size_bytes} only"));
    }
    Ok(())
}

fn describe(found: &Found, header: Option<&DynamicHeader>, size_bytes: u64, warnings: Vec<String>) -> ImageInfo {
    let footer = &found.footer;
    let unix_s = |timestamp: u32| u64::from(timestamp) + EPOCH_UNIX_S;
    let mut details: Vec<(&'static str, Detail)> = vec![("type", found.kind.name().into())];
    if let Some(header) = header {
        details.push(("block_size_bytes", header.block_bytes.get().into()));
    }
    let (cylinders, heads, sectors) = (footer.cylinders.get(), footer.heads, footer.sectors_per_track);
    details.extend([
        ("creator", text_of(&footer.creator).into()),
        ("creator_version", format!("{:#x}", footer.creator_version.get()).into()),
        ("creator_host", text_of(&footer.creator_host).into()),
        ("created_unix_s", unix_s(footer.timestamp.get()).into()),
        ("geometry", format!("{cylinders} cylinders, {heads} heads, {sectors} sectors").into()),
        ("unique_id", identity_text(footer.unique_id).into()),
        ("saved_state", (footer.saved_state != 0).into()),
    ]);
    if let Some(header) = header.filter(|_| found.kind == Kind::Differencing) {
        // A file's last change is lost when it is copied: it is shown, but proves nothing.
        details.push(("parent_changed_unix_s", unix_s(header.parent_timestamp.get()).into()));
    }
    ImageInfo {
        format: super::FORMAT.name,
        geometry: Geometry::of_512_byte_sectors(size_bytes, UNIT_BYTES),
        identity: Some(identity_text(footer.unique_id)),
        details,
        warnings,
    }
}

/// Four characters, of which spaces and NULs only fill up.
fn text_of(code: &[u8; 4]) -> String {
    String::from_utf8_lossy(code).trim_end_matches(['\0', ' ']).to_owned()
}

impl VhdImage {
    /// Reads and checks everything but the BAT.
    pub fn open(file: OpenFile) -> Result<VhdImage> {
        let host = file.file.as_ref();
        let file_len_bytes = host.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
        let mut warnings = Vec::new();
        let found = header::find_footer(host, file_len_bytes, &mut warnings)?;
        let size_bytes = header::checked_disk_bytes(&found.footer, found.kind, &mut warnings)?;
        let Found { kind, data_end_offset, .. } = found;
        let (mut tables, mut parent, mut dynamic_header) = (None, None, None);
        if kind == Kind::Fixed {
            check_fixed(&found, size_bytes, &mut warnings)?;
        } else {
            let header_offset = found.footer.header_offset.get();
            let header = header::read_dynamic_header(host, &found.footer, file_len_bytes)?;
            let bitmaps_decide = kind == Kind::Differencing || found.footer.creator == *CREATOR_XENSERVER;
            tables = Some(Layout::new(&header, header_offset, size_bytes, data_end_offset, bitmaps_decide)?);
            if kind == Kind::Differencing {
                parent = Some(read_parent(host, file_len_bytes, &header, &mut warnings)?);
            }
            dynamic_header = Some(header);
        }
        let info = describe(&found, dynamic_header.as_ref(), size_bytes, warnings);
        let footer = found.footer;
        Ok(VhdImage { file, file_len_bytes, footer, data_end_offset, tables, parent, info })
    }

    /// The BAT, read anew; `None` for a fixed disk.
    pub(super) fn bat(&self) -> Result<Option<Bat>> {
        let read = |layout: &Layout| Bat::read(Arc::clone(&self.file.file), self.file_len_bytes, layout.clone());
        self.tables.as_ref().map(read).transpose()
    }

    /// The disk's size in bytes.
    pub(super) fn size_bytes(&self) -> u64 {
        self.info.geometry.size_bytes
    }

    /// The disk, with a BAT of its own.
    pub fn disk(&self) -> Result<VhdLayer> {
        Ok(VhdLayer { geometry: self.info.geometry, files: [self.file.clone()], bat: self.bat()? })
    }
}

/// The disk.
pub(super) struct VhdLayer {
    geometry: Geometry,
    files: [OpenFile; 1],
    /// `None` for a fixed disk, whose bytes are where the guest sees them.
    bat: Option<Bat>,
}

impl VhdLayer {
    fn block_extent(&self, bat: &Bat, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let layout = bat.layout();
        let (block, within) = (guest_offset / layout.block_bytes, guest_offset % layout.block_bytes);
        let Some(bitmap_offset) = bat.block_at(block)? else {
            let blocks = bat.absent_run(block, (within + max_bytes).div_ceil(layout.block_bytes)).max(1);
            let length_bytes = max_bytes.min(blocks * layout.block_bytes - within);
            return Ok(LayerExtent { length_bytes, kind: LayerKind::Absent });
        };
        let mut length_bytes = max_bytes.min(layout.block_bytes - within);
        let kind = data_at(bitmap_offset + layout.bitmap_bytes() + within);
        if !layout.bitmaps_decide {
            return Ok(LayerExtent { length_bytes, kind });
        }
        let first = within / SECTOR_BYTES;
        let max_sectors = (within + length_bytes).div_ceil(SECTOR_BYTES) - first;
        let (here, sectors) = bat.sector_run(bitmap_offset, first, max_sectors)?;
        length_bytes = length_bytes.min((first + sectors) * SECTOR_BYTES - within);
        Ok(LayerExtent { length_bytes, kind: if here { kind } else { LayerKind::Absent } })
    }
}

fn data_at(host_offset: u64) -> LayerKind {
    LayerKind::Data(HostRange { file: HostFileId(0), host_offset })
}

impl ImageLayer for VhdLayer {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn extent_at(&self, guest_offset: u64, max_bytes: u64) -> Result<LayerExtent> {
        let length_bytes = self.geometry.clamp(guest_offset, max_bytes)?;
        match &self.bat {
            Some(bat) => {
                self.block_extent(bat, guest_offset, length_bytes).map_err(|error| error.at_guest(guest_offset))
            }
            None => Ok(LayerExtent { length_bytes, kind: data_at(guest_offset) }),
        }
    }

    fn read_at(&self, guest_offset: u64, buffer: &mut [u8]) -> Result<()> {
        read_stored(self, "read VHD block", guest_offset, buffer)
    }

    fn host_files(&self) -> &[OpenFile] {
        &self.files
    }
}
