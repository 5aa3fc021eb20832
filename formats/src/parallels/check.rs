//! Checking an expanding image: where its clusters are, and what its format extension says.

use md5::{Digest, Md5};
use zerocopy::FromBytes;

use super::expanding::ExpandingImage;
use super::on_disk::*;
use crate::check::CheckReport;
use crate::error::{ImageError, Result};

/// Largest format extension that is read, in bytes: it is one cluster.
const MAX_EXTENSION_BYTES: u64 = 64 << 20;

/// Goes through all of the BAT's entries for the disk.
pub(super) fn check(image: &ExpandingImage, report: &mut CheckReport) -> Result<()> {
    let bat = image.read_bat()?;
    report.host_end_offset = image.layout.bat_end;
    // The entry in the high half, so that sorting sorts by the place; its index in the low half.
    let mut places: Vec<u64> = Vec::new();
    for (index, entry) in bat.iter().enumerate().filter(|(_, entry)| **entry != 0) {
        places.push(u64::from(*entry) << 32 | index as u64);
        let needed = image.layout.needed_bytes(index as u64);
        match image.layout.locate(index as u64, *entry, needed, image.file_len_bytes) {
            Err(error) => report.corruption(error.host_offset(), &error),
            Ok(host_offset) => {
                report.allocated_bytes = report.allocated_bytes.saturating_add(needed);
                report.host_end_offset = report.host_end_offset.max(host_offset.saturating_add(needed));
                check_alignment(image, index, host_offset, report);
            }
        }
    }
    drop(bat);
    places.sort_unstable();
    check_overlaps(image, &places, report);
    let extension = check_extension(image, report)?;
    find_leaks(image, places, &extension, report);
    Ok(())
}

/// Where the clusters begin, in bytes: by the header, or after the BAT.
fn data_start(image: &ExpandingImage) -> u64 {
    match u64::from(image.header.data_sector.get()) * SECTOR_BYTES {
        0 => image.layout.bat_end.next_multiple_of(SECTOR_BYTES),
        start => start,
    }
}

fn check_alignment(image: &ExpandingImage, index: usize, host_offset: u64, report: &mut CheckReport) {
    let start = data_start(image);
    let aligned = host_offset.checked_sub(start).is_some_and(|within| within % image.layout.cluster_bytes == 0);
    if !aligned {
        let text = format!("entry {index} points to {host_offset:#x}, no whole clusters after {start:#x}");
        report.corruption(size_of::<Header>() as u64 + index as u64 * BAT_ENTRY_BYTES, text);
    }
}

fn check_overlaps(image: &ExpandingImage, places: &[u64], report: &mut CheckReport) {
    for pair in places.windows(2) {
        let &[one, other] = pair else { continue };
        let offset_of = |place: u64| image.layout.offset_of((place >> 32) as u32);
        if offset_of(other) - offset_of(one) < u128::from(image.layout.cluster_bytes) {
            let (first, second) = (one & 0xffff_ffff, other & 0xffff_ffff);
            let text = format!("entries {first} and {second} point to clusters that overlap, at {:#x}", offset_of(one));
            report.corruption(size_of::<Header>() as u64 + second * BAT_ENTRY_BYTES, text);
        }
    }
}

/// Checks the format extension; returns where the clusters begin that it takes.
fn check_extension(image: &ExpandingImage, report: &mut CheckReport) -> Result<Vec<u64>> {
    let sector = image.header.extension_sector.get();
    if sector == 0 {
        return Ok(Vec::new());
    }
    let cluster_bytes = image.layout.cluster_bytes;
    let place = sector.checked_mul(SECTOR_BYTES);
    let inside = |place: &u64| place.checked_add(cluster_bytes).is_some_and(|end| end <= image.file_len_bytes);
    let Some(place) = place.filter(inside) else {
        report.corruption(None, format_args!("the format extension at sector {sector:#x} is not inside the file"));
        return Ok(Vec::new());
    };
    if cluster_bytes > MAX_EXTENSION_BYTES {
        let detail = format!("it has {cluster_bytes} bytes, at most {MAX_EXTENSION_BYTES} are read");
        return Err(ImageError::limit_exceeded("read Parallels format extension", detail));
    }
    let mut bytes = vec![0; cluster_bytes as usize];
    image
        .file
        .file
        .read_exact_at(place, &mut bytes)
        .map_err(|cause| ImageError::io("read Parallels format extension", cause).at_host(place))?;
    let mut clusters = vec![place];
    match bitmap_clusters(&bytes) {
        Ok(bitmaps) => clusters.extend(bitmaps),
        Err(found) => report.corruption(place, format_args!("the format extension {found}")),
    }
    Ok(clusters)
}

/// The clusters of dirty bitmaps, in bytes.
fn bitmap_clusters(extension: &[u8]) -> std::result::Result<Vec<u64>, &'static str> {
    let (header, mut features) = ExtensionHeader::ref_from_prefix(extension).map_err(|_| "is too short")?;
    if header.magic.get() != EXTENSION_MAGIC {
        return Err("does not begin with its magic");
    }
    if Md5::digest(features).as_slice() != header.md5 {
        return Err("has a wrong checksum");
    }
    let mut clusters = Vec::new();
    loop {
        let (feature, rest) = FeatureHeader::ref_from_prefix(features).map_err(|_| "has no end")?;
        if feature.magic.get() == END_OF_FEATURES {
            return Ok(clusters);
        }
        let length = feature.data_bytes.get() as usize;
        let data = rest.get(..length).ok_or("has a feature that is longer than it")?;
        if feature.magic.get() == DIRTY_BITMAP {
            let (bitmap, table) =
                DirtyBitmap::ref_from_prefix(data).map_err(|_| "has a dirty bitmap that is too short")?;
            let count = bitmap.table_entries.get() as usize;
            let (entries, _) = <[zerocopy::little_endian::U64]>::ref_from_prefix_with_elems(table, count)
                .map_err(|_| "has a dirty bitmap whose table is too short")?;
            let stored = entries.iter().map(|entry| entry.get()).filter(|entry| *entry > 1);
            clusters.extend(stored.map(|sector| sector.saturating_mul(SECTOR_BYTES)));
        }
        features = rest.get(length.next_multiple_of(8)..).ok_or("has no end")?;
    }
}

/// Notes what lies between the clusters in use, and behind them.
fn find_leaks(image: &ExpandingImage, places: Vec<u64>, extension: &[u64], report: &mut CheckReport) {
    let cluster_bytes = image.layout.cluster_bytes;
    let file_end = image.file_len_bytes;
    let of_bat = places.into_iter().map(|place| image.layout.offset_of((place >> 32) as u32));
    let mut used: Vec<u64> = of_bat.filter_map(|offset| u64::try_from(offset).ok()).collect();
    used.extend_from_slice(extension);
    used.sort_unstable();
    let mut free = data_start(image);
    for start in used.into_iter().filter(|start| *start < file_end).chain([file_end]) {
        if start.saturating_sub(free) >= cluster_bytes {
            let count = (start - free) / cluster_bytes;
            report.leak(free, format_args!("{count} clusters from {free:#x} on are not used"));
        }
        free = free.max(start.saturating_add(cluster_bytes));
    }
}
