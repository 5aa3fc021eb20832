//! Tests of the EWF adapter that need no other program.

mod build;
mod damage;
mod reading;

use std::collections::HashMap;
use std::sync::Arc;

use build::{Builder, Style};

use super::FORMAT;
use crate::chain::Disk;
use crate::check::CheckReport;
use crate::error::{ErrorKind, ImageError, Result};
use crate::host_file::{HostFile, OpenFile};
use crate::layer::Choice;
use crate::reference_gate::{FileReference, ReferenceGate, Referenced};
use crate::testing::{MemoryFile, Random};

const STYLES: [Style; 3] = [Style::EnCase, Style::OldEnCase, Style::Smart];

/// Files by their names.
#[derive(Clone, Default)]
struct Folder(HashMap<String, Arc<dyn HostFile>>);

impl Folder {
    fn of(segments: &[Vec<u8>]) -> Folder {
        let name = |index: usize| format!("disk.E{:02}", index + 1);
        let file = |bytes: &Vec<u8>| Arc::new(MemoryFile::from_bytes(bytes)) as Arc<dyn HostFile>;
        Folder(segments.iter().enumerate().map(|(index, bytes)| (name(index), file(bytes))).collect())
    }

    fn file(&self, name: &str) -> OpenFile {
        OpenFile {
            file: Arc::clone(&self.0[name]),
            name: format!("some/folder/{name}"),
            identity: None,
            secrets: Default::default(),
        }
    }

    fn disk(&self) -> Result<Disk> {
        Disk::open(self.file("disk.E01"), None, Choice::default(), Arc::new(self.clone()))
    }

    fn check(&self) -> CheckReport {
        let mut report = CheckReport::default();
        let image = (FORMAT.open)(self.file("disk.E01")).unwrap();
        image.check_all_files(self, &mut report).unwrap();
        report
    }

    fn findings(&self) -> String {
        self.check().findings.into_iter().map(|finding| finding.text + "\n").collect()
    }
}

impl ReferenceGate for Folder {
    fn open(&self, reference: &FileReference) -> Result<Referenced> {
        let known = reference.names.iter().find(|name| self.0.contains_key(*name));
        let name = known.ok_or_else(|| ImageError::reference_denied("open", reference.names.join(", ")))?;
        Ok(Referenced { file: self.file(name), gate: Arc::new(self.clone()) })
    }
}

/// Sectors of text with some noise in it.
fn content(sectors: u64) -> Vec<u8> {
    let mut random = Random(sectors);
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < sectors * 512 {
        match random.below(3) {
            0 => bytes.extend(random.next_u64().to_be_bytes()),
            1 => bytes.resize(bytes.len() + random.below(3000) as usize, random.below(2) as u8),
            _ => bytes.extend_from_slice(format!("sector text {} ", random.below(50)).as_bytes()),
        }
    }
    bytes.truncate((sectors * 512) as usize);
    bytes
}

/// 23 chunks, the last one of 3 sectors, in three segments.
fn segments(style: Style) -> Vec<Vec<u8>> {
    Builder::new(style, &content(22 * 8 + 3)).finish()
}

fn open_error(segments: &[Vec<u8>]) -> ImageError {
    Folder::of(segments).disk().err().expect("the image opens")
}

fn assert_refused(segments: &[Vec<u8>], kind: ErrorKind, words: &str) {
    let error = open_error(segments);
    let text = error.to_string();
    assert!(error.kind() == kind && text.contains(words), "{:?}: {text}", error.kind());
}
