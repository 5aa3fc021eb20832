//! The one way from an image to the other files it names.
//!
//! An image is untrusted: it may name `/etc/shadow`, a device or a FIFO as its parent. Format adapters therefore never
//! open anything; they ask the gate, and who opened the image decides what the gate lets through.

use std::sync::Arc;

use crate::error::{ImageError, Result};
use crate::host_file::OpenFile;
use crate::layer::FileReference;

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
