//! Tests of the VHDX adapter that need no other program, and the tools that they share.

mod creating;
mod damage;
mod differencing;
mod replay;

use std::sync::Arc;

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::FORMAT;
use super::on_disk::*;
use crate::check::CheckReport;
use crate::error::{ErrorKind, Result};
use crate::host_file::{HostFile, HostFileMut};
use crate::sink::CreateOptions;
use crate::source::BlockSource;
use crate::testing::{MemoryFile, ModelDisk, check_disk, create_image, digest, open_disk, open_file};

/// Where the writer puts the metadata region and the BAT.
const METADATA_OFFSET: u64 = 2 * MIB;
const BAT_OFFSET: u64 = 3 * MIB;

fn options(disk: &dyn BlockSource, subformat: &str, own: &[(&str, &str)]) -> CreateOptions {
    let mut options = CreateOptions::new(disk.geometry());
    options.subformat = Some(subformat.to_owned());
    options.options = own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    options
}

fn image_of(disk: &dyn BlockSource, subformat: &str, own: &[(&str, &str)]) -> Arc<MemoryFile> {
    create_image(&FORMAT, &options(disk, subformat, own), disk, None).unwrap()
}

/// A dynamic image with blocks of 1 MiB.
fn small_blocks(disk: &ModelDisk) -> Arc<MemoryFile> {
    image_of(disk, "dynamic", &[("block_size", "1M")])
}

fn assert_same(file: Arc<dyn HostFile>, disk: &dyn BlockSource, seed: u64) {
    let image = open_disk(file, Some(&FORMAT)).unwrap();
    check_disk(&image, seed).unwrap();
    assert_eq!(digest(&image).unwrap(), digest(disk).unwrap());
}

fn open_error(file: Arc<dyn HostFile>) -> ErrorKind {
    open_disk(file, Some(&FORMAT)).err().expect("the file opens").kind()
}

fn check_file(file: Arc<dyn HostFile>) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    (FORMAT.open)(open_file(file))?.check(&mut report)?;
    Ok(report)
}

fn warnings(file: Arc<dyn HostFile>) -> Vec<String> {
    (FORMAT.open)(open_file(file)).unwrap().info().warnings.clone()
}

fn read_u64(file: &MemoryFile, host_offset: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(host_offset, &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

fn write_u64(file: &MemoryFile, host_offset: u64, value: u64) {
    file.write_all_at(host_offset, &value.to_le_bytes()).unwrap();
}

fn set_bat(file: &MemoryFile, index: u64, raw: u64) {
    write_u64(file, BAT_OFFSET + index * BAT_ENTRY_BYTES, raw);
}

fn bat(file: &MemoryFile, index: u64) -> u64 {
    read_u64(file, BAT_OFFSET + index * BAT_ENTRY_BYTES)
}

/// Changes one header and gives it the right checksum again.
fn change_header(file: &MemoryFile, number: usize, change: impl FnOnce(&mut Header)) {
    let mut header = Header::new_zeroed();
    file.read_exact_at(HEADER_OFFSETS[number], header.as_mut_bytes()).unwrap();
    change(&mut header);
    header.checksum.set(checksum(header.as_bytes(), &[]));
    file.write_all_at(HEADER_OFFSETS[number], header.as_bytes()).unwrap();
}

/// Changes the entries of one region table and gives it the right checksum again.
fn change_regions(file: &MemoryFile, number: usize, change: impl FnOnce(&mut Vec<RegionEntry>)) {
    let mut bytes = vec![0; REGION_TABLE_BYTES];
    file.read_exact_at(REGION_TABLE_OFFSETS[number], &mut bytes).unwrap();
    let (header, rest) = RegionTableHeader::mut_from_prefix(&mut bytes).unwrap();
    let (entries, _) = <[RegionEntry]>::ref_from_prefix_with_elems(rest, header.entry_count.get() as usize).unwrap();
    let mut entries = entries.to_vec();
    change(&mut entries);
    header.entry_count.set(entries.len() as u32);
    rest.fill(0);
    rest[..entries.as_bytes().len()].copy_from_slice(entries.as_bytes());
    let sum = checksum(&bytes, &[]);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(REGION_TABLE_OFFSETS[number], &bytes).unwrap();
}

/// Adds an item to the metadata, 4 KiB behind the last such one.
fn add_item(file: &MemoryFile, item: uuid::Uuid, flags: u32, content: &[u8]) {
    let mut header = MetadataTableHeader::new_zeroed();
    file.read_exact_at(METADATA_OFFSET, header.as_mut_bytes()).unwrap();
    let count = header.entry_count.get();
    let offset = METADATA_TABLE_BYTES + 4096 * u64::from(count);
    let entry = MetadataEntry {
        item: item.into(),
        offset: (offset as u32).into(),
        length_bytes: (content.len() as u32).into(),
        flags: flags.into(),
        reserved: 0.into(),
    };
    header.entry_count.set(count + 1);
    file.write_all_at(METADATA_OFFSET, header.as_bytes()).unwrap();
    file.write_all_at(METADATA_OFFSET + 32 * (u64::from(count) + 1), entry.as_bytes()).unwrap();
    file.write_all_at(METADATA_OFFSET + offset, content).unwrap();
}
