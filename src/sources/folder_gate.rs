//! The policy on files that images name: only what lies in the image's own folder, or in folders that the user allowed.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use tintype_formats::layer::FileReference;
use tintype_formats::reference_gate::{ReferenceGate, Referenced};
use tintype_formats::{ImageError, OpenFile};

use super::open::{check_not_in_use, into_open_file};

/// What the user allows.
#[derive(Debug, Clone, Default)]
pub struct ReferencePolicy {
    /// Images may name no other file at all.
    pub deny_all: bool,
    /// Folders, besides the image's own, whose files may be named.
    pub allowed_folders: Vec<PathBuf>,
    /// Images that a running machine writes to are opened all the same.
    pub force_share: bool,
}

/// The gate for images in one folder.
///
/// By default a name has to be relative, and the file a regular one in the folder or below it, reached without a link
/// that leads out. A Windows path is tried by its last part in the folder.
pub struct FolderGate {
    folder: PathBuf,
    policy: Arc<ReferencePolicy>,
}

impl FolderGate {
    /// The gate for what the image at `path` names.
    pub fn beside(path: &Path, policy: Arc<ReferencePolicy>) -> Arc<dyn ReferenceGate> {
        if policy.deny_all {
            return Arc::new(tintype_formats::reference_gate::NoReferences);
        }
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Arc::new(FolderGate { folder, policy })
    }

    /// Tries one name; says why not, if not.
    fn try_name(&self, name: &str) -> Result<Referenced, String> {
        if name.is_empty() || name.contains('\0') {
            return Err("is no file name".to_owned());
        }
        if name.starts_with("json:") || has_protocol(name) {
            return Err("is not the name of a file".to_owned());
        }
        let mut reasons = Vec::new();
        for (root, below) in self.candidates(name) {
            match self.open_beneath(&root, &below) {
                Ok(referenced) => return Ok(referenced),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(reasons.into_iter().next().unwrap_or_else(|| "leads out of the image's folder".to_owned()))
    }

    /// The allowed folders that the name may lie in, with the rest of the path.
    fn candidates(&self, name: &str) -> Vec<(PathBuf, PathBuf)> {
        let path = Path::new(name);
        let mut found = Vec::new();
        if path.is_relative() && !path.components().any(|part| part == Component::ParentDir) {
            found.push((self.folder.clone(), path.to_owned()));
        }
        if let Ok(full) = self.folder.join(path).canonicalize() {
            for root in self.policy.allowed_folders.iter().filter_map(|root| root.canonicalize().ok()) {
                if let Ok(below) = full.strip_prefix(&root) {
                    found.push((root.clone(), below.to_owned()));
                }
            }
        }
        if let Some(base) = windows_base_name(name) {
            found.push((self.folder.clone(), PathBuf::from(base)));
        }
        found
    }

    fn open_beneath(&self, root: &Path, below: &Path) -> Result<Referenced, String> {
        let path = root.join(below);
        let directory = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| format!("its folder cannot be opened: {errno}"))?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = match rustix::fs::openat2(&directory, below, flags, Mode::empty(), resolve) {
            Ok(descriptor) => std::fs::File::from(descriptor),
            Err(rustix::io::Errno::XDEV) => return Err("leads out of the image's folder".to_owned()),
            Err(errno) => return Err(format!("cannot be opened: {}", std::io::Error::from(errno))),
        };
        let metadata = file.metadata().map_err(|cause| cause.to_string())?;
        if !metadata.is_file() {
            return Err("is not a regular file".to_owned());
        }
        check_not_in_use(&file, self.policy.force_share)?;
        let file: OpenFile = into_open_file(file, &path).map_err(|cause| cause.to_string())?;
        Ok(Referenced { file, gate: FolderGate::beside(&path, Arc::clone(&self.policy)) })
    }
}

impl ReferenceGate for FolderGate {
    fn open(&self, reference: &FileReference) -> Result<Referenced, ImageError> {
        let mut reasons = Vec::new();
        for name in &reference.names {
            match self.try_name(name) {
                Ok(referenced) => return Ok(referenced),
                Err(reason) => reasons.push(format!("\"{}\" {reason}", name.escape_debug())),
            }
        }
        let detail = match reasons.as_slice() {
            [] => "the image names it by nothing that could be a file".to_owned(),
            reasons => reasons.join("; "),
        };
        Err(ImageError::reference_denied("open a file that the image names", detail))
    }
}

/// Whether a name begins as `nbd:` or `rbd:` does. A single letter is a Windows drive.
fn has_protocol(name: &str) -> bool {
    match name.split_once(':') {
        Some((scheme, _)) => {
            scheme.len() > 1 && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_'))
        }
        None => false,
    }
}

/// The last part of a Windows path, if it is one.
fn windows_base_name(name: &str) -> Option<&str> {
    let drive = name.as_bytes().get(1) == Some(&b':');
    if !drive && !name.contains('\\') {
        return None;
    }
    let base = name.rsplit(['\\', '/', ':']).next()?;
    (!base.is_empty() && base != "." && base != "..").then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_paths_are_known_by_their_last_part() {
        assert_eq!(windows_base_name(r".\sub\base.vhdx"), Some("base.vhdx"));
        assert_eq!(windows_base_name(r"C:\VMs\base.vhdx"), Some("base.vhdx"));
        assert_eq!(windows_base_name(r"\\?\Volume{x}\base.vhdx"), Some("base.vhdx"));
        assert_eq!(windows_base_name(r"C:\VMs\.."), None);
        assert_eq!(windows_base_name("base.vhdx"), None);
    }

    #[test]
    fn protocols_are_not_file_names() {
        assert!(has_protocol("nbd://host/x") && has_protocol("rbd:pool/x") && has_protocol("fat:/etc"));
        assert!(!has_protocol("C:\\x") && !has_protocol("plain.img"));
    }
}
