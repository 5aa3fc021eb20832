//! The formats that there are. Help, documentation, `tintype formats` and the tests iterate [`FORMATS`].

use crate::error::{ImageError, Result};
use crate::format::{Format, Formats};
use crate::guess::{self, Guess, Probe};
use crate::host_file::{HostFile, OpenFile};
use crate::layer::{Choice, Image};
use crate::ova;
use crate::reference_gate::ReferenceGate;

/// Every format, in the order in which a file is tried. `raw` is last: it is only ever a guess.
pub static FORMATS: Formats = &[
    &crate::qcow2::FORMAT,
    &crate::vhdx::FORMAT,
    &crate::vhd::FORMAT,
    &crate::vmdk::FORMAT,
    &crate::vdi::FORMAT,
    &crate::qed::FORMAT,
    &crate::qcow::FORMAT,
    &crate::parallels::FORMAT,
    &crate::vma::FORMAT,
    &crate::asif::FORMAT,
    &crate::bochs::FORMAT,
    &crate::cloop::FORMAT,
    &crate::ewf::FORMAT,
    &crate::dmg::FORMAT,
    &OVA,
    &crate::gce::FORMAT,
    #[cfg(feature = "tin")]
    &crate::tin::FORMAT,
    &crate::raw::FORMAT,
];

/// The OVA and OVF format. A package holds disks of other formats, so it is given the list of them.
pub static OVA: Format = ova::format(|file| ova::open(file, FORMATS));

/// Finds a format by its name (case does not matter).
pub fn by_name(name: &str) -> Option<&'static Format> {
    FORMATS.iter().copied().find(|format| format.name.eq_ignore_ascii_case(name))
}

/// Finds a format by the extension of a file name; an extension may have two parts, such as `tar.gz`.
pub fn by_file_name(name: &str) -> Option<&'static Format> {
    guess::by_extension(name, FORMATS)
}

/// Says which format a file looks like; [`raw`](crate::raw) if none other.
///
/// A guest writes what it likes into its disk, so a file that is known to be a raw disk must not be probed: its content
/// could claim to be another format, with a parent of the guest's choice.
pub fn probe(file: &dyn HostFile) -> Result<&'static Format> {
    Ok(Probe::read(file)?.format(FORMATS))
}

/// Opens a file as `format`, or as the one that it looks like. A file that looks like none, but whose name claims one, is a
/// raw disk with a warning.
pub fn open_image(file: &OpenFile, format: Option<&'static Format>) -> Result<Box<dyn Image>> {
    match format {
        Some(format) => (format.open)(file.clone()),
        None => Guess::of(file, FORMATS)?.open(file),
    }
}

/// Opens the disk that was chosen of an image: the image itself, or one of the disks inside a container.
pub fn choose_disk(image: Box<dyn Image>, choice: Choice<'_>, gate: &dyn ReferenceGate) -> Result<Box<dyn Image>> {
    let disks = image.disks();
    match choice.disk {
        None if disks.is_empty() => Ok(image),
        Some(_) if disks.is_empty() => Err(ImageError::no_such_disk("the file is one disk itself", &[])),
        None if disks.len() == 1 => image.open_disk(0, gate),
        None => Err(ImageError::no_such_disk("it has several disks", disks)),
        Some(name) => {
            let number = || name.parse::<usize>().ok()?.checked_sub(1).filter(|index| *index < disks.len());
            let index = disks.iter().position(|disk| disk.name == name).or_else(number);
            let index = index.ok_or_else(|| {
                ImageError::no_such_disk(format!("there is no disk \"{}\" in it", name.escape_debug()), disks)
            })?;
            image.open_disk(index, gate)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_extensions_are_unique_and_raw_is_last() {
        let mut names: Vec<_> = FORMATS.iter().map(|format| format.name).collect();
        let mut extensions: Vec<_> = FORMATS.iter().flat_map(|format| format.extensions).collect();
        let (name_count, extension_count) = (names.len(), extensions.len());
        names.sort_unstable();
        names.dedup();
        extensions.sort_unstable();
        extensions.dedup();
        assert_eq!((names.len(), extensions.len()), (name_count, extension_count));
        assert_eq!(FORMATS.last().map(|format| format.name), Some("raw"));
    }

    #[test]
    fn a_raw_file_whose_name_claims_a_format_is_read_with_a_warning() {
        let about = |name: &str, format| {
            let file = std::sync::Arc::new(crate::testing::MemoryFile::from_bytes(&[b'P'; 1024]));
            let file = OpenFile { file, name: name.to_owned(), identity: None, secrets: Default::default() };
            open_image(&file, format).unwrap().info().warnings.join("; ")
        };
        for name in ["x.ova", "folder.raw/x.v2.VMDK", "./x.tar.gz"] {
            assert!(about(name, None).contains("but the content is not"), "{name}");
            assert_eq!(about(name, Some(&crate::raw::FORMAT)), "", "{name}");
        }
        for name in ["x", "x.raw", "x.img", "x.vmdk.raw", "x.vmdk/x", "x.txt", "disk.ova/.vmdk"] {
            assert_eq!(about(name, None), "", "{name}");
        }
    }

    #[test]
    fn file_names_tell_the_format_by_their_longest_extension() {
        let found = |name| by_file_name(name).map(|format| format.name);
        assert_eq!(found("disk.qcow2"), Some("qcow2"));
        assert_eq!(found("my.disk.RAW"), Some("raw"));
        assert_eq!(found("image.tar.gz"), Some("gce"));
        assert_eq!(found("image.v1.TAR.GZ"), Some("gce"));
        for none in ["", "disk", ".raw", "disk.", "disk.gz", "disk.tar", "qcow2", "disk.raw.xz"] {
            assert_eq!(found(none), None, "{none}");
        }
    }
}
