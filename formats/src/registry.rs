//! The formats that there are. Help, documentation, `tintype formats` and the tests iterate [`FORMATS`].

use crate::error::{ImageError, Result};
use crate::guess::Guess;
use crate::host_file::{HostFile, OpenFile};
use crate::layer::{Choice, Image};
use crate::reference_gate::ReferenceGate;
use crate::sink::{CreateOptions, ImageWriter, TargetFiles, invalid_option};

/// Every format, in the order in which a file is tried. `raw` is last: it is only ever a guess.
pub static FORMATS: &[&Format] = &[
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
    &crate::ova::FORMAT,
    &crate::gce::FORMAT,
    &crate::tin::FORMAT,
    &crate::raw::FORMAT,
];

/// A format: its names and what can be done with it.
pub struct Format {
    /// The name on the command line and in images that name their parent's format.
    pub name: &'static str,
    /// The name for people.
    pub title: &'static str,
    /// File name extensions without the dot, the usual one first.
    pub extensions: &'static [&'static str],
    /// What of the format is read, in a few words.
    pub reads: &'static str,
    /// The file to open where the user names a folder that is an image of this format.
    pub folder_entry: Option<&'static str>,
    /// Says whether a file that has one of the extensions, and looks like this format, may be a raw part of an image all the
    /// same: then its content is the guest's, and is not trusted.
    pub is_guest_content: fn(file_name: &str, input: &ProbeInput<'_>) -> bool,
    /// Says whether a file looks like this format.
    pub probe: fn(&ProbeInput<'_>) -> bool,
    /// Reads and checks the header.
    pub open: fn(OpenFile) -> Result<Box<dyn Image>>,
    /// How images of the format are created, if they are.
    pub create: Option<Create>,
}

/// How images of a format are created.
pub struct Create {
    /// Begins an image in empty files (or, for raw, one with old data).
    pub begin: Begin,
    /// How large the file becomes without compression.
    pub measure: fn(&CreateOptions, &TouchedBytes<'_>) -> Result<Measure>,
    /// The variants, the default one first.
    pub subformats: &'static [&'static str],
    /// The format's own options.
    pub options: &'static [OptionHelp],
    /// The compressions, by name.
    pub compressions: &'static [&'static str],
    /// Whether an image can inherit from another one.
    pub parents: bool,
    /// Whether images record the logical sector size; without it, a disk of 4096-byte sectors loses its partition table.
    pub records_sectors: bool,
    /// The variants that are one file, written front to back: they can go to a pipe.
    pub streamable: &'static [&'static str],
}

impl Create {
    /// Whether the variant (the default one if `None`) can go to a pipe.
    pub fn is_streamable(&self, subformat: Option<&str>) -> bool {
        let subformat = subformat.or_else(|| self.subformats.first().copied());
        subformat.is_some_and(|name| self.streamable.contains(&name))
    }
}

/// Begins an image.
pub type Begin = fn(&dyn TargetFiles, &CreateOptions) -> Result<Box<dyn ImageWriter>>;

/// How many bytes of the disk to be stored lie in units of so many bytes that are not known to be zeros.
pub type TouchedBytes<'a> = dyn Fn(u64) -> Result<u64> + 'a;

/// One of a format's own options for new images.
pub struct OptionHelp {
    /// Its name.
    pub name: &'static str,
    /// The values it can have, and the default.
    pub values: &'static str,
    /// What it does.
    pub help: &'static str,
}

/// How large an image would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// With only the data stored, in bytes.
    pub required_bytes: u64,
    /// With every part of the disk stored, in bytes.
    pub fully_allocated_bytes: u64,
}

/// What a probe gets to see.
pub struct ProbeInput<'a> {
    /// The first bytes of the file ([`PROBE_BYTES`], or all of a shorter one).
    pub head: &'a [u8],
    /// The last bytes of the file ([`PROBE_TAIL_BYTES`], or all of a shorter one): some formats have a footer only.
    pub tail: &'a [u8],
    /// The length of the file.
    pub len_bytes: u64,
}

/// How much of a file's begin a probe sees.
pub const PROBE_BYTES: usize = 4096;

/// How much of a file's end a probe sees.
pub const PROBE_TAIL_BYTES: usize = 512;

/// Finds a format by its name (case does not matter).
pub fn by_name(name: &str) -> Option<&'static Format> {
    FORMATS.iter().copied().find(|format| format.name.eq_ignore_ascii_case(name))
}

/// Finds a format by the extension of a file name; an extension may have two parts, such as `tar.gz`.
pub fn by_file_name(name: &str) -> Option<&'static Format> {
    // From the first dot on, so that the longest extension counts; a name that begins with a dot has a name before it.
    let extensions = name.match_indices('.').filter(|(dot, _)| *dot > 0).map(|(dot, _)| &name[dot + 1..]);
    let knows =
        |format: &Format, extension: &str| format.extensions.iter().any(|one| one.eq_ignore_ascii_case(extension));
    extensions.into_iter().find_map(|extension| FORMATS.iter().copied().find(|format| knows(format, extension)))
}

/// Says which format a file looks like; [`raw`](crate::raw) if none other.
///
/// A guest writes what it likes into its disk, so a file that is known to be a raw disk must not be probed: its content
/// could claim to be another format, with a parent of the guest's choice.
pub fn probe(file: &dyn HostFile) -> Result<&'static Format> {
    Ok(Probe::read(file)?.format())
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

    /// Returns the first format that the file looks like; raw fits every file.
    pub fn format(&self) -> &'static Format {
        FORMATS.iter().copied().find(|format| self.fits(format)).unwrap_or(&crate::raw::FORMAT)
    }
}

/// Opens a file as `format`, or as the one that it looks like. A file that looks like none, but whose name claims one, is a
/// raw disk with a warning.
pub fn open_image(file: &OpenFile, format: Option<&'static Format>) -> Result<Box<dyn Image>> {
    match format {
        Some(format) => (format.open)(file.clone()),
        None => Guess::of(file)?.open(file),
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

impl Format {
    /// How images of this format are created; fails if they are not.
    pub fn creation(&self) -> Result<&Create> {
        self.create.as_ref().ok_or_else(|| {
            ImageError::unsupported("create an image", format!("{} images can be read, but not created", self.title))
        })
    }

    /// Begins an image, after checking that the options are ones that this format has.
    pub fn begin(&self, files: &dyn TargetFiles, options: &CreateOptions) -> Result<Box<dyn ImageWriter>> {
        let create = self.creation()?;
        self.check_options(create, options)?;
        (create.begin)(files, options)
    }

    /// How large an image of a disk would be.
    pub fn measure(&self, options: &CreateOptions, touched_bytes: &TouchedBytes<'_>) -> Result<Measure> {
        let create = self.creation()?;
        self.check_options(create, options)?;
        (create.measure)(options, touched_bytes)
    }

    fn check_options(&self, create: &Create, options: &CreateOptions) -> Result<()> {
        if let Some(subformat) = options.subformat.as_deref()
            && !create.subformats.contains(&subformat)
        {
            return Err(invalid_option("subformat", subformat, &one_of(create.subformats)));
        }
        for (name, value) in &options.options {
            if !create.options.iter().any(|known| known.name == name) {
                let known: Vec<_> = create.options.iter().map(|option| option.name).collect();
                return Err(invalid_option(name, value, &format!("for {} only {}", self.name, one_of(&known))));
            }
        }
        let compression = match options.compression {
            crate::sink::Compression::None => "none",
            crate::sink::Compression::Zlib(_) => "zlib",
            crate::sink::Compression::Zstd(_) => "zstd",
        };
        if compression != "none" && !create.compressions.contains(&compression) {
            return Err(invalid_option(
                "compress",
                compression,
                &format!("for {} {}", self.name, one_of(create.compressions)),
            ));
        }
        if options.parent.is_some() && !create.parents {
            return Err(ImageError::unsupported(
                "create an image",
                format!("{} images cannot name a parent", self.title),
            ));
        }
        Ok(())
    }
}

fn one_of(names: &[&str]) -> String {
    if names.is_empty() { "none at all".to_owned() } else { names.join(", ") }
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
