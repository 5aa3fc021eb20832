//! Checking an archive: whether all clusters of all its devices are there, once.

use super::extents::{Run, overlap, scan};
use super::header::{Archive, Device};
use super::on_disk::{BLOCK_BYTES, MACHINE_STATE};
use crate::check::CheckReport;
use crate::error::Result;
use crate::host_file::HostFile;

/// Goes through all extent headers, and looks at what concerns `devices`.
pub(super) fn check(
    file: &dyn HostFile,
    archive: &Archive,
    devices: &[Device],
    report: &mut CheckReport,
) -> Result<()> {
    let known = |number: u8| archive.devices.iter().any(|device| device.number == number);
    let wanted = |number: u8| !known(number) || devices.iter().any(|device| device.number == number);
    let index = scan(file, archive, &wanted)?;
    report.host_end_offset = index.end_offset.min(archive.file_len_bytes);
    report.allocated_bytes = index.stored_blocks.saturating_mul(BLOCK_BYTES);
    if let Some(reason) = &index.ended_early {
        report.corruption(
            index.end_offset.min(archive.file_len_bytes),
            format_args!("the archive is not whole: {reason}"),
        );
    }
    for pair in index.runs.windows(2).filter(|pair| overlap(pair)) {
        let cluster = pair.last().map_or(0, |run| run.first_cluster);
        report.corruption(
            None,
            format_args!("cluster {cluster} of device {} is in it twice", pair.first().map_or(0, |run| run.device)),
        );
    }
    for run in index.runs.iter().filter(|run| !known(run.device)) {
        let text = format!("cluster {} is of device {}, which the header does not have", run.first_cluster, run.device);
        report.corruption(index.extents.get(run.extent as usize).copied(), text);
    }
    for device in devices {
        let begin = index.runs.partition_point(|run| run.device < device.number);
        let end = index.runs.partition_point(|run| run.device <= device.number);
        check_complete(device, index.runs.get(begin..end).unwrap_or_default(), report);
    }
    Ok(())
}

/// Every cluster of a disk is there. Of the machine's memory only the first ones are: it is written as it comes.
fn check_complete(device: &Device, runs: &[Run], report: &mut CheckReport) {
    let name = device.name.escape_debug().to_string();
    let mut expected = 0;
    let end = device.cluster_count();
    for run in runs {
        let first = u64::from(run.first_cluster);
        if first > expected {
            report.corruption(None, format_args!("clusters {expected} to {} of \"{name}\" are missing", first - 1));
        }
        expected = expected.max(run.end_cluster());
    }
    if device.name == MACHINE_STATE {
        return;
    }
    if expected < end {
        report.corruption(None, format_args!("clusters {expected} to {} of \"{name}\" are missing", end - 1));
    }
    if expected > end {
        report.corruption(None, format_args!("cluster {} of \"{name}\" is past its end", expected - 1));
    }
}
