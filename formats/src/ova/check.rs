//! Checking: every digest of the manifest, every size, and the disks' own structures.

use std::sync::Arc;

use super::package::{Archive, open_stored};
use super::read::Package;
use crate::check::CheckReport;
use crate::error::{ErrorKind, ImageError, Result};
use crate::layer::Image;
use crate::reference_gate::NoReferences;

/// A package in a folder has its descriptor checked only: a check opens no file that another names.
pub(super) fn check_package(package: &Package, report: &mut CheckReport) -> Result<()> {
    report.host_end_offset = package.file_bytes;
    let Some(archive) = &package.archive else { return Ok(()) };
    report.host_end_offset = archive.end_offset;
    check_files(package, archive, report)?;
    check_manifest(package, archive, report)?;
    for (index, disk) in package.disks.iter().enumerate() {
        let name = disk.name.as_str();
        let mut inner = CheckReport::default();
        let checked =
            package.disk_image(index, &NoReferences).and_then(|disk| disk.check_all_files(&NoReferences, &mut inner));
        note(checked, &format!("disk \"{}\"", name.escape_debug()), report)?;
        report.add_file(name, inner);
    }
    Ok(())
}

/// Every file that the descriptor lists is there and has its size.
fn check_files(package: &Package, archive: &Arc<Archive>, report: &mut CheckReport) -> Result<()> {
    for file in &package.descriptor.files {
        let stored = open_stored(file, archive.as_ref());
        let what = format!("file \"{}\"", file.href.escape_debug());
        let Some(stored) = note(stored, &what, report)? else { continue };
        let len_bytes = stored.len_bytes;
        if let Some(said) = file.size_bytes.filter(|said| *said != len_bytes) {
            report.corruption(None, format_args!("{what} has {len_bytes} bytes, the descriptor says {said}"));
        }
    }
    Ok(())
}

fn check_manifest(package: &Package, archive: &Arc<Archive>, report: &mut CheckReport) -> Result<()> {
    for entry in package.manifest.iter().flatten() {
        let (name, algorithm) = (entry.name.escape_debug(), entry.algorithm.name());
        let Some(member) = note(archive.find(&entry.name), &format!("file \"{name}\""), report)? else { continue };
        let Some(member) = member else {
            // The digest of a whole file may stand beside those of its chunks.
            if !package.descriptor.files.iter().any(|file| file.href == entry.name && file.chunk_bytes.is_some()) {
                report.corruption(None, format_args!("the manifest has a digest of \"{name}\", which is not there"));
            }
            continue;
        };
        let opened = archive.open_member(member);
        let Some(content) = note(opened, &format!("file \"{name}\""), report)? else { continue };
        let found = entry.algorithm.of_file(content.as_ref());
        let found = found.map_err(|cause| ImageError::io("check the manifest", cause).at_host(member.host_offset))?;
        if found != entry.digest {
            let text = format!("the {algorithm} digest of \"{name}\" is {found}, the manifest says {}", entry.digest);
            report.corruption(member.host_offset, text);
        }
    }
    Ok(())
}

/// A failure that is the package's is a finding; one of the operating system ends the check.
fn note<T>(result: Result<T>, what: &str, report: &mut CheckReport) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::Io => Err(error),
        Err(error) => {
            let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
            report.corruption(error.host_offset(), format_args!("{what}: {error}{cause}"));
            Ok(None)
        }
    }
}
