//! Reading: the disk is the raw file in the archive in the gzip file.

use std::io;
use std::sync::Arc;

use crate::check::CheckReport;
use crate::contents::SnapshotInfo;
use crate::error::{ErrorKind, ImageError, Result};
use crate::file_parts::FileParts;
use crate::gzip_file::{GzipFile, MAGIC, inflate_head};
use crate::host_file::{HostExtent, HostFile, OpenFile};
use crate::layer::{Image, ImageInfo, ImageLayer};
use crate::reference_gate::{FileReference, ReferenceGate};
use crate::tar::{self, Member};

const DOING: &str = "open Google Compute Engine image";

/// How much of the archive's begin is inflated to find the first name in it.
const PROBED_BYTES: usize = 4096;

/// Any archive in a gzip file: one of other files is refused when it is opened, which is better than to take it for a disk.
pub(super) fn looks_like(head: &[u8]) -> bool {
    let mut begin = [0; PROBED_BYTES];
    let inflated = if head.starts_with(&MAGIC) { inflate_head(head, &mut begin) } else { 0 };
    tar::first_name(&begin[..inflated]).is_some()
}

fn is_disk(name: &str) -> bool {
    name.strip_prefix("./").unwrap_or(name) == super::DISK_NAME
}

pub(super) fn open(file: OpenFile) -> Result<Box<dyn Image>> {
    let file_bytes = file.file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
    let mut magic = [0; MAGIC.len()];
    let read = file.file.read_exact_at(0, &mut magic[..MAGIC.len().min(file_bytes as usize)]);
    read.map_err(|cause| ImageError::io(DOING, cause).at_host(0))?;
    if magic != MAGIC {
        return Err(ImageError::not_this_format(DOING, "it does not begin as a gzip file does").at_host(0));
    }
    let gzip = Arc::new(GzipFile::new(Arc::clone(&file.file)).map_err(|cause| ImageError::io(DOING, cause))?);
    let member = find_disk(gzip.as_ref())?;
    let archive: Arc<dyn HostFile> = gzip.clone();
    let parts = member.open(&archive)?;
    let checked_from = parts.stored_end();
    let disk = OpenFile { file: Arc::new(CheckedAtEnd { parts, checked_from, gzip: Arc::clone(&gzip) }), ..file };
    // Never probed: what the guest wrote is not to choose another format.
    let raw = (crate::raw::FORMAT.open)(disk)?;
    let info = ImageInfo { format: super::FORMAT.name, ..raw.info().clone() };
    Ok(Box::new(GceImage { raw, info, gzip, member, file_bytes }))
}

fn find_disk(archive: &GzipFile) -> Result<Member> {
    match tar::member_at(archive, 0, None).map_err(|cause| as_inside(DOING, cause))? {
        Some(member) if is_disk(&member.name) => Ok(member),
        Some(member) => {
            let detail = format!("the first file in it is \"{}\", expected disk.raw", member.name.escape_debug());
            Err(ImageError::not_this_format(DOING, detail))
        }
        None => Err(ImageError::not_this_format(DOING, "the archive in it is empty, expected disk.raw")),
    }
}

/// Offsets in the archive are no offsets in the file.
fn as_inside(doing: &'static str, cause: ImageError) -> ImageError {
    let detail = "the archive in the gzip file cannot be read";
    ImageError::new(cause.kind(), doing, detail).caused_by(cause)
}

/// The raw file. Whoever reads its last stored byte has the checksum of everything checked: nobody passes it on the way.
struct CheckedAtEnd {
    parts: FileParts,
    checked_from: u64,
    gzip: Arc<GzipFile>,
}

impl HostFile for CheckedAtEnd {
    fn len_bytes(&self) -> io::Result<u64> {
        self.parts.len_bytes()
    }

    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.parts.read_exact_at(host_offset, buffer)?;
        if host_offset + buffer.len() as u64 >= self.checked_from {
            self.gzip.check_to_end()?;
        }
        Ok(())
    }

    fn extent_at(&self, host_offset: u64, max_bytes: u64) -> io::Result<HostExtent> {
        self.parts.extent_at(host_offset, max_bytes)
    }
}

struct GceImage {
    raw: Box<dyn Image>,
    info: ImageInfo,
    gzip: Arc<GzipFile>,
    member: Member,
    file_bytes: u64,
}

impl Image for GceImage {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn parent(&self) -> Option<&FileReference> {
        None
    }

    fn snapshots(&self) -> &[SnapshotInfo] {
        &[]
    }

    fn layer(&self, snapshot: Option<&str>, gate: &dyn ReferenceGate) -> Result<Box<dyn ImageLayer>> {
        self.raw.layer(snapshot, gate)
    }

    /// Inflates everything: the checksum at the end is the only protection that there is.
    fn check(&self, report: &mut CheckReport) -> Result<()> {
        report.allocated_bytes = self.member.stored_bytes;
        report.host_end_offset = self.file_bytes;
        match self.gzip.check_to_end() {
            Ok(archive_bytes) => self.check_end(archive_bytes, report),
            Err(cause) => {
                let error = ImageError::io("check the gzip file", cause);
                if error.kind() == ErrorKind::Io {
                    return Err(error);
                }
                let cause = error.io_cause().map_or_else(|| error.to_string(), |cause| cause.to_string());
                report.corruption(None, format_args!("the gzip file: {cause}"));
                Ok(())
            }
        }
    }
}

impl GceImage {
    fn check_end(&self, archive_bytes: u64, report: &mut CheckReport) -> Result<()> {
        let Some(end) = self.member.end().filter(|end| *end <= archive_bytes) else {
            report.corruption(None, format_args!("the archive ends at {archive_bytes:#x}, inside of disk.raw"));
            return Ok(());
        };
        match tar::member_at(self.gzip.as_ref(), end, Some(archive_bytes)) {
            Ok(None) => {}
            Ok(Some(member)) => {
                let name = member.name.escape_debug().to_string();
                report
                    .corruption(None, format_args!("the archive also holds \"{name}\": an image holds disk.raw alone"));
            }
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => report.corruption(None, format_args!("the archive after disk.raw: {error}")),
        }
        Ok(())
    }
}
