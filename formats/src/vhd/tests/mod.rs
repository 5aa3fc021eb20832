//! Tests of the VHD adapter that need no other program, and the tools that they share.

mod creating;
mod damage;
mod differencing;
mod footers;

use std::sync::Arc;

use zerocopy::{FromZeros, IntoBytes};

use super::FORMAT;
use super::on_disk::*;
use crate::check::CheckReport;
use crate::error::{ErrorKind, ImageError, Result};
use crate::host_file::{HostFile, HostFileMut};
use crate::sink::CreateOptions;
use crate::source::BlockSource;
use crate::testing::{MemoryFile, ModelDisk, check_disk, create_image, digest, open_disk, open_file};

const MIB: u64 = 1 << 20;
const BLOCK_BYTES: u64 = 512 << 10;

/// Where the writer puts the dynamic header and the BAT.
const HEADER_OFFSET: u64 = 512;
const BAT_OFFSET: u64 = 1536;

fn options(disk: &dyn BlockSource, subformat: &str, own: &[(&str, &str)]) -> CreateOptions {
    let mut options = CreateOptions::new(disk.geometry());
    options.subformat = Some(subformat.to_owned());
    options.options = own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    options
}

fn image_of(disk: &dyn BlockSource, subformat: &str, own: &[(&str, &str)]) -> Arc<MemoryFile> {
    create_image(&FORMAT, &options(disk, subformat, own), disk, None).unwrap()
}

/// A dynamic image with blocks of 512 KiB.
fn small_blocks(disk: &ModelDisk) -> Arc<MemoryFile> {
    image_of(disk, "dynamic", &[("block_size", "512k")])
}

/// A disk of 4 MiB and a sector, with data in most of its blocks, and its image.
fn example() -> (ModelDisk, Arc<MemoryFile>) {
    let disk = ModelDisk::random(7, 4 * MIB + 512, 8, 60);
    let file = small_blocks(&disk);
    (disk, file)
}

fn assert_same(file: Arc<dyn HostFile>, disk: &dyn BlockSource, seed: u64) {
    let image = open_disk(file, Some(&FORMAT)).unwrap();
    check_disk(&image, seed).unwrap();
    assert_eq!(digest(&image).unwrap(), digest(disk).unwrap());
}

fn open_error(file: Arc<dyn HostFile>) -> ImageError {
    open_disk(file, Some(&FORMAT)).err().expect("the file opens")
}

fn check_file(file: Arc<dyn HostFile>) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    (FORMAT.open)(open_file(file))?.check(&mut report)?;
    Ok(report)
}

fn warnings(file: Arc<dyn HostFile>) -> Vec<String> {
    (FORMAT.open)(open_file(file)).unwrap().info().warnings.clone()
}

fn probed(file: &MemoryFile) -> &'static str {
    crate::registry::probe(file).unwrap().name
}

fn footer_offset(file: &MemoryFile) -> u64 {
    file.len_bytes().unwrap() - FOOTER_BYTES
}

fn footer_at(file: &MemoryFile, host_offset: u64) -> Footer {
    let mut footer = Footer::new_zeroed();
    file.read_exact_at(host_offset, footer.as_mut_bytes()).unwrap();
    footer
}

/// Changes the footer at one place and gives it the right checksum again.
fn change_footer_at(file: &MemoryFile, host_offset: u64, change: &dyn Fn(&mut Footer)) {
    let mut footer = footer_at(file, host_offset);
    change(&mut footer);
    footer.checksum.set(footer.right_checksum());
    file.write_all_at(host_offset, footer.as_bytes()).unwrap();
}

/// The same for the footer and its copy.
fn change_footers(file: &MemoryFile, change: &dyn Fn(&mut Footer)) {
    change_footer_at(file, 0, change);
    change_footer_at(file, footer_offset(file), change);
}

/// Changes the dynamic header and gives it the right checksum again.
fn change_header(file: &MemoryFile, change: impl FnOnce(&mut DynamicHeader)) {
    let mut header = DynamicHeader::new_zeroed();
    file.read_exact_at(HEADER_OFFSET, header.as_mut_bytes()).unwrap();
    change(&mut header);
    header.checksum.set(header.right_checksum());
    file.write_all_at(HEADER_OFFSET, header.as_bytes()).unwrap();
}

fn bat(file: &MemoryFile, block: u64) -> u32 {
    let mut bytes = [0; 4];
    file.read_exact_at(BAT_OFFSET + 4 * block, &mut bytes).unwrap();
    u32::from_be_bytes(bytes)
}

fn set_bat(file: &MemoryFile, block: u64, entry: u32) {
    file.write_all_at(BAT_OFFSET + 4 * block, &entry.to_be_bytes()).unwrap();
}

fn flip(file: &MemoryFile, host_offset: u64) {
    let mut byte = [0];
    file.read_exact_at(host_offset, &mut byte).unwrap();
    file.write_all_at(host_offset, &[byte[0] ^ 0x10]).unwrap();
}
