//! Files of this machine, as the formats take them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tintype_formats::OpenFile;
use tintype_formats::local_file::LocalFile;
use tintype_formats::secrets::Secrets;

use super::{identity, qemu_lock};
use crate::error::{Error, Result};

/// Fails if a running machine writes to the image, unless that is wanted.
pub fn check_not_in_use(file: &File, force_share: bool) -> Result<(), String> {
    if !force_share && qemu_lock::is_held_for_writing(file) {
        return Err("a running machine has the image open for writing, a copy would be torn".to_owned());
    }
    Ok(())
}

/// Wraps an open file for the formats.
pub fn into_open_file(file: File, path: &Path) -> Result<OpenFile> {
    let metadata = file.metadata().map_err(|cause| Error::io("look at the file", cause))?;
    let file = LocalFile::new(file).map_err(|cause| Error::io("find out the length", cause))?;
    let name = PathBuf::from(path).display().to_string();
    Ok(OpenFile {
        file: Arc::new(file),
        name,
        identity: Some(identity::of_metadata(&metadata)),
        secrets: Secrets::default(),
    })
}
