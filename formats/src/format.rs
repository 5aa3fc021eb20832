//! A format: its names, what it can do, and how its images are opened and created.

use crate::error::{ImageError, Result};
use crate::host_file::OpenFile;
use crate::layer::Image;
use crate::sink::{Compression, CreateOptions, ImageWriter, TargetFiles, invalid_option};

/// A format: its names and what can be done with it.
#[non_exhaustive]
pub struct Format {
    /// The name on the command line and in images that name their parent's format.
    pub name: &'static str,
    /// The name for people.
    pub title: &'static str,
    /// File name extensions without the dot, the usual one first.
    pub extensions: &'static [&'static str],
    /// The variants that are read, in a few words.
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
    /// Means to create images of the format, if there are any.
    pub create: Option<Create>,
}

/// Formats in the order in which a file is tried; `raw`, which fits every file, is last.
pub type Formats = &'static [&'static Format];

/// Means to create images of a format.
#[non_exhaustive]
pub struct Create {
    /// Begins an image in empty files (or, for raw, one with old data).
    pub begin: Begin,
    /// Returns the size of the file without compression.
    pub measure: fn(&CreateOptions, &TouchedBytes<'_>) -> Result<Measure>,
    /// The variants, the default one first.
    pub subformats: &'static [&'static str],
    /// The format's own options.
    pub options: &'static [OptionHelp],
    /// The compressions, by name.
    pub compressions: &'static [&'static str],
    /// True if an image can inherit from another one.
    pub parents: bool,
    /// True if images record the logical sector size; without it, a disk of 4096-byte sectors loses its partition table.
    pub records_sectors: bool,
    /// The variants that are one file, written front to back: they can go to a pipe.
    pub streamable: &'static [&'static str],
}

impl Create {
    /// Returns true if the variant (the default one if `None`) can go to a pipe.
    pub fn is_streamable(&self, subformat: Option<&str>) -> bool {
        let subformat = subformat.or_else(|| self.subformats.first().copied());
        subformat.is_some_and(|name| self.streamable.contains(&name))
    }
}

/// Begins an image.
pub type Begin = fn(&dyn TargetFiles, &CreateOptions) -> Result<Box<dyn ImageWriter>>;

/// Returns, for a unit size, the number of bytes to store in units that are not known to be zeros.
pub type TouchedBytes<'a> = dyn Fn(u64) -> Result<u64> + 'a;

/// One of a format's own options for new images.
#[non_exhaustive]
pub struct OptionHelp {
    /// Its name.
    pub name: &'static str,
    /// The values it can have, and the default.
    pub values: &'static str,
    /// What it does.
    pub help: &'static str,
}

/// Size of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Measure {
    /// With only the data stored, in bytes.
    pub required_bytes: u64,
    /// With every part of the disk stored, in bytes.
    pub fully_allocated_bytes: u64,
}

/// The parts of a file that a probe sees.
pub struct ProbeInput<'a> {
    /// The first bytes of the file ([`PROBE_BYTES`], or all of a shorter one).
    pub head: &'a [u8],
    /// The last bytes of the file ([`PROBE_TAIL_BYTES`], or all of a shorter one): some formats have a footer only.
    pub tail: &'a [u8],
    /// The length of the file.
    pub len_bytes: u64,
}

/// Size of the part of a file's beginning that a probe sees, in bytes.
pub const PROBE_BYTES: usize = 4096;

/// Size of the part of a file's end that a probe sees, in bytes.
pub const PROBE_TAIL_BYTES: usize = 512;

impl Format {
    /// Returns the means to create images of this format; fails if there are none.
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

    /// Returns the size that an image of a disk would have.
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
            Compression::None => "none",
            Compression::Zlib(_) => "zlib",
            Compression::Zstd(_) => "zstd",
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
