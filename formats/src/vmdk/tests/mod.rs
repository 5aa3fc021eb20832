//! Tests of the VMDK adapter that need no other program, and the tools that they share.

mod creating;
mod damage;
mod descriptors;
mod extents;
mod hand_made;
mod streams;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::FORMAT;
use crate::chain::Disk;
use crate::check::CheckReport;
use crate::error::{ErrorKind, ImageError, Result};
use crate::host_file::{HostFile, HostFileMut};
use crate::layer::Choice;
use crate::reference_gate::{FileReference, ReferenceGate, Referenced};
use crate::sink::{CreateOptions, TargetFiles};
use crate::source::BlockSource;
use crate::testing::{MemoryFile, check_disk, digest, open_file, store_disk_in};

/// A folder in memory, for images of several files; its main file is `disk.vmdk`.
#[derive(Clone, Default)]
struct Folder(Arc<Mutex<BTreeMap<String, Arc<MemoryFile>>>>);

const MAIN: &str = "disk.vmdk";

impl Folder {
    /// A folder with a descriptor of these extent lines.
    fn with_descriptor(extents: &str) -> Self {
        let folder = Folder::default();
        folder.put(MAIN, descriptor_text(extents).as_bytes());
        folder
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        self.0.lock().unwrap().insert(name.to_owned(), Arc::new(MemoryFile::from_bytes(bytes)));
    }

    fn file(&self, name: &str) -> Arc<MemoryFile> {
        let mut files = self.0.lock().unwrap();
        Arc::clone(files.entry(name.to_owned()).or_default())
    }

    fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }

    fn open(&self, name: &str) -> Result<Disk> {
        Disk::open(open_file(self.file(name)), Some(&FORMAT), Choice::default(), Arc::new(self.clone()))
    }

    /// All of the disk; for small ones.
    fn read(&self, name: &str) -> Result<Vec<u8>> {
        crate::testing::read_all(&self.open(name)?)
    }
}

impl ReferenceGate for Folder {
    fn open(&self, reference: &FileReference) -> Result<Referenced> {
        let files = self.0.lock().unwrap();
        let found = reference.names.iter().find_map(|name| files.get(name).map(|file| (name, file)));
        let (name, file) =
            found.ok_or_else(|| ImageError::reference_denied("open", format!("no {:?}", reference.names)))?;
        let mut file = open_file(file.clone());
        file.name = name.clone();
        Ok(Referenced { file, gate: Arc::new(self.clone()) })
    }
}

impl TargetFiles for Folder {
    fn main(&self) -> Arc<dyn HostFileMut> {
        self.file(MAIN)
    }

    fn main_name(&self) -> &str {
        MAIN
    }

    fn create(&self, name: &str) -> Result<Arc<dyn HostFileMut>> {
        assert!(!self.names().contains(&name.to_owned()), "{name} is there already");
        Ok(self.file(name))
    }
}

fn descriptor_text(extents: &str) -> String {
    format!("# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"custom\"\n{extents}\n")
}

fn options(disk: &dyn BlockSource, subformat: &str, own: &[(&str, &str)]) -> CreateOptions {
    let mut options = CreateOptions::new(disk.geometry());
    options.subformat = Some(subformat.to_owned());
    options.options = own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    options
}

/// An image of the disk, in a folder of its own.
fn image_of(disk: &dyn BlockSource, subformat: &str) -> Folder {
    let folder = Folder::default();
    store_disk_in(&FORMAT, &options(disk, subformat, &[]), disk, None, &folder).unwrap();
    folder
}

fn assert_same(image: &Disk, disk: &dyn BlockSource, seed: u64) {
    check_disk(image, seed).unwrap();
    assert_eq!(image.geometry().size_bytes, disk.geometry().size_bytes);
    assert_eq!(digest(image).unwrap(), digest(disk).unwrap());
}

fn check_file(file: Arc<dyn HostFile>) -> CheckReport {
    let mut report = CheckReport::default();
    (FORMAT.open)(open_file(file)).unwrap().check(&mut report).unwrap();
    report
}

fn warnings(file: Arc<dyn HostFile>) -> Vec<String> {
    (FORMAT.open)(open_file(file)).unwrap().info().warnings.clone()
}

fn open_error(file: Arc<dyn HostFile>) -> ErrorKind {
    (FORMAT.open)(open_file(file)).err().expect("the file opens").kind()
}

fn write_u32(file: &MemoryFile, host_offset: u64, value: u32) {
    file.write_all_at(host_offset, &value.to_le_bytes()).unwrap();
}

fn read_u32(file: &MemoryFile, host_offset: u64) -> u32 {
    let mut bytes = [0; 4];
    file.read_exact_at(host_offset, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

fn write_u64(file: &MemoryFile, host_offset: u64, value: u64) {
    file.write_all_at(host_offset, &value.to_le_bytes()).unwrap();
}
