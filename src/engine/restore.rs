//! Names of the files that the disks of a snapshot are restored to.

use std::path::{Path, PathBuf};

use tintype_formats::Format;
use tintype_tin::manifest::DiskRecord;

/// The longest name that Linux's file systems take.
const MAX_FILE_NAME_BYTES: usize = 255;

/// The files of a folder that these disks are restored to: each has a name of its own, whatever somebody wrote into the snapshot.
pub fn files_in(folder: &Path, disks: &[DiskRecord], format: &Format) -> Vec<PathBuf> {
    let mut taken: Vec<String> = Vec::new();
    for disk in disks {
        let name = file_name(&disk.name, format, &taken);
        taken.push(name);
    }
    taken.iter().map(|name| folder.join(name)).collect()
}

fn file_name(disk: &str, format: &Format, taken: &[String]) -> String {
    let harmless = |letter: char| if letter.is_alphanumeric() || "._-".contains(letter) { letter } else { '_' };
    let mut stem: String = disk.chars().map(harmless).collect();
    if stem.is_empty() || stem.starts_with(['.', '-']) {
        stem.insert(0, '_');
    }
    let extension = format.extensions.first().copied().unwrap_or("img");
    let numbered = (2..).map(|number| fitted(&stem, &format!("-{number}.{extension}")));
    let mut names = std::iter::once(fitted(&stem, &format!(".{extension}"))).chain(numbered);
    names.find(|name| !taken.contains(name)).unwrap_or_default()
}

/// As much of a name as fits before its end.
fn fitted(stem: &str, end: &str) -> String {
    let most = MAX_FILE_NAME_BYTES.saturating_sub(end.len());
    let cut = (0..=most.min(stem.len())).rev().find(|at| stem.is_char_boundary(*at)).unwrap_or_default();
    format!("{}{end}", &stem[..cut])
}
