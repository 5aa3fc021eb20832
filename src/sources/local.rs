//! Files of this machine, as the formats take them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tintype_formats::OpenFile;
use tintype_formats::local::{self, FolderGate};
use tintype_formats::reference_gate::ReferenceGate;

use super::qemu_lock;
use crate::error::{Error, Result};

/// What the user allows images to name.
#[derive(Debug, Clone, Default)]
pub struct ReferencePolicy {
    /// Images may name no other file at all.
    pub deny_all: bool,
    /// Folders, besides the image's own, whose files may be named.
    pub allowed_folders: Vec<PathBuf>,
    /// Images that a running machine writes to are opened all the same.
    pub force_share: bool,
}

impl ReferencePolicy {
    /// The gate for what the image at `path` names.
    pub fn gate_beside(&self, path: &Path) -> Arc<dyn ReferenceGate> {
        let policy = local::ReferencePolicy {
            deny_all: self.deny_all,
            allowed_folders: self.allowed_folders.clone(),
            refuse: (!self.force_share).then_some(|file| check_not_in_use(file, false).err()),
        };
        FolderGate::beside(path, Arc::new(policy))
    }
}

/// Fails if a running machine writes to the image, unless that is wanted.
pub fn check_not_in_use(file: &File, force_share: bool) -> Result<(), String> {
    if !force_share && qemu_lock::is_held_for_writing(file) {
        return Err("a running machine has the image open for writing, a copy would be torn".to_owned());
    }
    Ok(())
}

/// Wraps an open file for the formats.
pub fn into_open_file(file: File, path: &Path) -> Result<OpenFile> {
    local::into_open_file(file, path).map_err(|cause| Error::io("look at the file", cause))
}
