//! The one way from an image to the other files it names.
//!
//! An image is untrusted: it may name `/etc/shadow`, a device or a FIFO as its parent. Format adapters therefore never
//! open anything; they ask the gate, and who opened the image decides what the gate lets through.

use std::sync::Arc;

use crate::error::{ImageError, Result};
use crate::host_file::OpenFile;

/// Another file that an image names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReference {
    /// The names it may be found under, best first, as they stand in the image. Empty if the image says only which file it
    /// is and of which format: then the gate looks for it by its identity.
    pub names: Vec<String>,
    /// The format that the image says the file has.
    pub format: Option<String>,
    /// The identities, any of which the file's own must equal ([`ImageInfo::identity`](crate::layer::ImageInfo::identity)); empty if the format has none.
    pub identities: Vec<String>,
}

impl FileReference {
    /// What the image says of the file, for errors. May come from the image: it is escaped.
    pub fn described(&self) -> String {
        if let Some(name) = self.names.first() {
            return format!("\"{}\"", name.escape_debug());
        }
        let format = self.format.as_deref().unwrap_or("image");
        format!("the {} file {}", format.escape_debug(), self.identities.join(" or ").escape_debug())
    }
}

/// Decides which of the files that an image names may be opened, and opens them for reading.
pub trait ReferenceGate: Send + Sync {
    /// Opens the file, trying its names in order, or fails with [`ReferenceDenied`](crate::ErrorKind::ReferenceDenied).
    ///
    /// A reference without names is one by identity: the gate may look for the one file of the format that has it, where
    /// it lets files through, and refuses if there are two.
    fn open(&self, reference: &FileReference) -> Result<Referenced>;

    /// True if files may also be named by an image whose format only its content states. A guest can have written such an
    /// image into its raw disk, so this needs the user's word.
    fn follows_undeclared(&self) -> bool {
        false
    }
}

/// A file that came through the gate.
pub struct Referenced {
    /// The file.
    pub file: OpenFile,
    /// The gate for what that file names in turn: relative names count from its folder.
    pub gate: Arc<dyn ReferenceGate>,
}

/// Lets nothing through.
pub struct NoReferences;

impl ReferenceGate for NoReferences {
    fn open(&self, reference: &FileReference) -> Result<Referenced> {
        Err(ImageError::reference_denied(
            "open a file that the image names",
            format!("{} is named, and references are not allowed here", reference.described()),
        ))
    }
}
