//! Decides what a file is whose format nobody stated, and how far its content is trusted.
//!
//! The content of a raw disk belongs to its guest, which can write any format's header into it and name a neighbour's disk
//! as its parent. The file name belongs to the host. So the content decides which format is read, but files that the image
//! names are opened only if the file name states that format too.

use std::sync::Arc;

use crate::error::{ImageError, Result};
use crate::format::{Format, Formats, PROBE_BYTES, PROBE_TAIL_BYTES, ProbeInput};
use crate::host_file::{HostFile, OpenFile};
use crate::layer::Image;
use crate::raw;
use crate::reference_gate::{FileReference, ReferenceGate, Referenced};

/// The format of a file, found without being stated by the user or by another image.
#[derive(Clone, Copy)]
pub struct Guess {
    /// The format that the file is read as.
    pub format: &'static Format,
    /// The format that the file's name states, if any.
    pub named: Option<&'static Format>,
    /// True if the name states the format of the content, so that a guest cannot have chosen it.
    pub is_declared: bool,
}

impl Guess {
    /// Looks in the file's name and content for one of `formats`; it is raw if there is none.
    ///
    /// If the content fits the format of the name, that format is taken: the first sectors of a fixed VHD, which has only a
    /// footer, are the guest's. Otherwise the first format that the content fits is taken.
    pub fn of(file: &OpenFile, formats: Formats) -> Result<Guess> {
        let name = file.name.rsplit('/').next().unwrap_or_default();
        let probe = Probe::read(file.file.as_ref())?;
        let named = named_format(name, formats);
        let own = named.filter(|named| !is_raw(named) && probe.fits(named));
        let format = own.unwrap_or_else(|| probe.format(formats));
        let is_declared = is_raw(format) || is_same(named, format) && !(format.is_guest_content)(name, &probe.input());
        Ok(Guess { format, named, is_declared })
    }

    /// Opens the file. A raw disk whose name states another format gets a warning.
    pub fn open(&self, file: &OpenFile) -> Result<Box<dyn Image>> {
        match self.named {
            Some(named) if is_raw(self.format) && !is_raw(named) => raw::open_doubtful(file.clone(), named),
            _ => (self.format.open)(file.clone()),
        }
    }

    /// Says that the name does not state the format of the content; `None` if it does.
    pub fn note(&self) -> Option<String> {
        let content = self.format.name;
        let name = match self.named {
            _ if self.is_declared => return None,
            Some(named) if !is_same(Some(named), self.format) => format!("the name says {}", named.name),
            _ => "the name does not state a format".to_owned(),
        };
        Some(format!("{name}, the content is {content}: it is read as {content}"))
    }
}

/// The format that a file name states: by its extension, or as the file that stands for a folder.
fn named_format(name: &str, formats: Formats) -> Option<&'static Format> {
    let is_entry = |format: &&&'static Format| format.folder_entry.is_some_and(|entry| entry == name);
    formats.iter().find(is_entry).copied().or_else(|| by_extension(name, formats))
}

/// Finds the one of `formats` that has the extension of a file name; an extension may have two parts, such as `tar.gz`.
pub(crate) fn by_extension(name: &str, formats: Formats) -> Option<&'static Format> {
    // From the first dot on, so that the longest extension counts; a name that begins with a dot has a name before it.
    let extensions = name.match_indices('.').filter(|(dot, _)| *dot > 0).map(|(dot, _)| &name[dot + 1..]);
    let knows =
        |format: &Format, extension: &str| format.extensions.iter().any(|one| one.eq_ignore_ascii_case(extension));
    extensions.into_iter().find_map(|extension| formats.iter().copied().find(|format| knows(format, extension)))
}

fn is_raw(format: &Format) -> bool {
    std::ptr::eq(format, &raw::FORMAT)
}

fn is_same(named: Option<&'static Format>, format: &'static Format) -> bool {
    named.is_some_and(|named| std::ptr::eq(named, format))
}

/// The ends of a file, read once to try all formats on them.
pub struct Probe {
    head: Vec<u8>,
    tail: Vec<u8>,
    len_bytes: u64,
}

impl Probe {
    /// Reads the ends of the file.
    pub fn read(file: &dyn HostFile) -> Result<Probe> {
        let len_bytes = file.len_bytes().map_err(|cause| ImageError::io("find out the file's length", cause))?;
        let mut head = vec![0; len_bytes.min(PROBE_BYTES as u64) as usize];
        file.read_exact_at(0, &mut head)
            .map_err(|cause| ImageError::io("read the beginning of the file", cause).at_host(0))?;
        let mut tail = vec![0; len_bytes.min(PROBE_TAIL_BYTES as u64) as usize];
        let tail_offset = len_bytes - tail.len() as u64;
        file.read_exact_at(tail_offset, &mut tail)
            .map_err(|cause| ImageError::io("read the end of the file", cause).at_host(tail_offset))?;
        Ok(Probe { head, tail, len_bytes })
    }

    /// Returns what formats get to see.
    pub fn input(&self) -> ProbeInput<'_> {
        ProbeInput { head: &self.head, tail: &self.tail, len_bytes: self.len_bytes }
    }

    /// True if the file looks like this format.
    pub fn fits(&self, format: &Format) -> bool {
        (format.probe)(&self.input())
    }

    /// Returns the first of `formats` that the file looks like; raw fits every file.
    pub fn format(&self, formats: Formats) -> &'static Format {
        formats.iter().copied().find(|format| self.fits(format)).unwrap_or(&raw::FORMAT)
    }
}

/// An image, and the gate for the files that it names.
pub struct Gated {
    /// The image.
    pub image: Box<dyn Image>,
    /// The gate to use from here on.
    pub gate: Arc<dyn ReferenceGate>,
    /// Returns the origin of the format, if it was not stated.
    pub guess: Option<Guess>,
}

/// Opens a file as `format`, or as the one of `formats` that it looks like. The gate is closed if only the content states
/// the format, unless the gate follows references of such images.
pub fn open_gated(
    file: &OpenFile,
    format: Option<&'static Format>,
    formats: Formats,
    gate: Arc<dyn ReferenceGate>,
) -> Result<Gated> {
    if let Some(format) = format {
        return Ok(Gated { image: (format.open)(file.clone())?, gate, guess: None });
    }
    let guess = Guess::of(file, formats)?;
    let closed = !guess.is_declared && !gate.follows_undeclared();
    let gate = if closed { Arc::new(Undeclared(guess.format)) } else { gate };
    Ok(Gated { image: guess.open(file)?, gate, guess: Some(guess) })
}

/// The gate for images whose format only their content states.
struct Undeclared(&'static Format);

impl ReferenceGate for Undeclared {
    fn open(&self, reference: &FileReference) -> Result<Referenced> {
        let (named, format) = (reference.described(), self.0.name);
        Err(ImageError::reference_denied(
            "open a file that the image names",
            format!(
                "{named} is named, but only the content says that the image is {format}, not the file's name: a guest \
                 can write such content into a raw disk"
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::FORMATS;
    use crate::testing::MemoryFile;

    fn guess(name: &str, content: &[u8]) -> (&'static str, bool) {
        let mut bytes = content.to_vec();
        bytes.resize(8192, 0);
        let file: Arc<dyn HostFile> = Arc::new(MemoryFile::from_bytes(&bytes));
        let file = OpenFile { file, name: name.to_owned(), identity: None, secrets: Default::default() };
        let guess = Guess::of(&file, FORMATS).unwrap();
        assert_eq!(guess.note().is_some(), !guess.is_declared);
        (guess.format.name, guess.is_declared)
    }

    #[test]
    fn only_a_name_of_the_same_format_declares_it() {
        let qcow2 = b"QFI\xfb\0\0\0\x03";
        for name in ["a.qcow2", "folder.raw/a.QCOW2", "a.raw.qcow2"] {
            assert_eq!(guess(name, qcow2), ("qcow2", true), "{name}");
        }
        for name in ["a", "a.raw", "a.img", "a.iso", "a.dd", "a.bin", "a.qcow2.old", "a.vmdk", "a.qcow2/disk"] {
            assert_eq!(guess(name, qcow2), ("qcow2", false), "{name}");
        }
        assert_eq!(guess("a.qcow2", b"nothing known"), ("raw", true));
    }

    /// These files are parts of an image, and hold what the guest wrote.
    #[test]
    fn a_raw_part_of_an_image_is_not_declared_by_its_extension() {
        let descriptor = b"# Disk DescriptorFile\nversion=1\n";
        assert_eq!(guess("a.vmdk", descriptor), ("vmdk", true));
        for name in ["a-flat.vmdk", "a-f001.vmdk", "A-FLAT.VMDK", "a-f012.vmdk"] {
            assert_eq!(guess(name, descriptor), ("vmdk", false), "{name}");
        }
        assert_eq!(guess("a-flat.vmdk", b"KDMV\x01\0\0\0"), ("vmdk", false));
        let bundle = b"<?xml version='1.0'?><Parallels_disk_image Version=\"1.0\">";
        assert_eq!(guess("x.hdd/DiskDescriptor.xml", bundle), ("parallels", true));
        for name in ["x.hds", "x.hdd", "x.xml"] {
            assert_eq!(guess(name, bundle), ("parallels", false), "{name}");
        }
    }

    /// The guest of a fixed VHD owns its first sector.
    #[test]
    fn the_format_of_the_name_comes_first_if_it_fits() {
        let geometry = crate::Geometry::of_512_byte_sectors(1 << 20, 1);
        let options = crate::sink::CreateOptions {
            subformat: Some("fixed".to_owned()),
            ..crate::sink::CreateOptions::new(geometry)
        };
        let file = Arc::new(MemoryFile::new());
        let target = crate::sink::SingleFile(Arc::clone(&file) as Arc<dyn crate::HostFileMut>);
        let writer = crate::vhd::FORMAT.begin(&target, &options).unwrap();
        writer.finish(&crate::sink::IdentitySeed([0; 32])).unwrap();
        crate::HostFileMut::write_all_at(file.as_ref(), 0, b"QFI\xfb\0\0\0\x03").unwrap();
        let open = |name: &str| OpenFile {
            file: Arc::clone(&file) as Arc<dyn HostFile>,
            name: name.to_owned(),
            identity: None,
            secrets: Default::default(),
        };
        assert_eq!(Guess::of(&open("a.vhd"), FORMATS).unwrap().format.name, "vhd");
        assert_eq!(Guess::of(&open("a.img"), FORMATS).unwrap().format.name, "qcow2");
    }
}
