//! The policy on files that images name: only what lies in the image's own folder, or in folders that the user allowed.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::into_open_file;
use super::unix::{NotOpened, open_beneath};
use crate::error::ImageError;
use crate::format::Format;
use crate::host_file::OpenFile;
use crate::reference_gate::{FileReference, NoReferences, ReferenceGate, Referenced};
use crate::registry;

/// What the user allows.
#[derive(Debug, Clone, Default)]
pub struct ReferencePolicy {
    /// Images may name no other file at all.
    pub deny_all: bool,
    /// Folders, besides the image's own, whose files may be named.
    pub allowed_folders: Vec<PathBuf>,
    /// Says why a file that an image names is not to be opened, if it is not: because a running machine writes to it, for
    /// instance.
    pub refuse: Option<fn(&File) -> Option<String>>,
}

/// The gate for images in one folder.
///
/// By default a name has to be relative, and the file a regular one in the folder or below it, reached without a link
/// that leads out. A Windows path is tried by its last part in the folder. What an image knows by its identity alone is
/// looked for among the files of its format in the folder itself, then in each allowed one.
pub struct FolderGate {
    folder: PathBuf,
    policy: Arc<ReferencePolicy>,
}

impl FolderGate {
    /// The gate for what the image at `path` names.
    pub fn beside(path: &Path, policy: Arc<ReferencePolicy>) -> Arc<dyn ReferenceGate> {
        if policy.deny_all {
            return Arc::new(NoReferences);
        }
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Arc::new(FolderGate { folder, policy })
    }

    /// Tries one name; says why not, if not.
    fn try_name(&self, name: &str) -> Result<Referenced, Refusal> {
        if name.is_empty() || name.contains('\0') {
            return Err("is no file name".into());
        }
        if name.starts_with("json:") || has_protocol(name) {
            return Err("is not the name of a file".into());
        }
        let mut reasons = Vec::new();
        for (root, below) in self.candidates(name) {
            match self.open_below(&root, &below) {
                Ok(referenced) => return Ok(referenced),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(reasons.into_iter().next().unwrap_or_else(|| self.why_outside(name)))
    }

    /// Why a name does not do that is in none of the allowed folders.
    fn why_outside(&self, name: &str) -> Refusal {
        match self.folder.join(name).metadata() {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Refusal::failed(cause),
            _ => "leads out of the image's folder".into(),
        }
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

    fn open_below(&self, root: &Path, below: &Path) -> Result<Referenced, Refusal> {
        let open = open_regular_file(root, below)?;
        self.admit(open, &root.join(below))
    }

    /// Lets a file through, unless the policy has a reason not to.
    fn admit(&self, file: OpenFile, path: &Path) -> Result<Referenced, Refusal> {
        if let (Some(refuse), Some(file)) = (self.policy.refuse, file.file.as_file())
            && let Some(reason) = refuse(file)
        {
            return Err(reason.into());
        }
        Ok(Referenced { file, gate: FolderGate::beside(path, Arc::clone(&self.policy)) })
    }

    /// Looks for the file that the image knows by its identity alone: first in the image's folder, then in the allowed ones.
    fn find(&self, reference: &FileReference) -> Result<Referenced, Refusal> {
        let wanted = reference.format.as_deref().and_then(registry::by_name);
        let format =
            wanted.filter(|_| !reference.identities.is_empty()).ok_or("is known by neither name nor identity")?;
        for folder in std::iter::once(&self.folder).chain(&self.policy.allowed_folders) {
            let mut found: Vec<(PathBuf, OpenFile)> = Vec::new();
            for name in names_of_format(folder, format)? {
                let Ok(file) = open_regular_file(folder, &name) else { continue };
                let again = found.iter().any(|(_, known)| known.identity == file.identity);
                if !again && has_identity(&file, format, &reference.identities) {
                    found.push((folder.join(name), file));
                }
            }
            match found.as_slice() {
                [] => {}
                [(path, file)] => return self.admit(file.clone(), path),
                [(one, _), (other, _), ..] => {
                    let reason = format!(
                        "is both \"{}\" and \"{}\": only one of them may be in the folder",
                        one.display().to_string().escape_debug(),
                        other.display().to_string().escape_debug()
                    );
                    return Err(reason.into());
                }
            }
        }
        Err("is not in the image's folder, nor in one that was allowed".into())
    }
}

/// Why a file was not let through.
struct Refusal {
    reason: String,
    /// What the operating system said, if it refused.
    cause: Option<io::Error>,
}

impl Refusal {
    fn failed(cause: io::Error) -> Self {
        Refusal { reason: "cannot be opened".to_owned(), cause: Some(cause) }
    }

    fn is_missing(&self) -> bool {
        self.cause.as_ref().is_some_and(|cause| cause.kind() == io::ErrorKind::NotFound)
    }
}

impl<T: Into<String>> From<T> for Refusal {
    fn from(reason: T) -> Self {
        Refusal { reason: reason.into(), cause: None }
    }
}

/// Most files of one format that are looked into for an identity.
const MAX_CANDIDATES: usize = 4096;

/// The names in a folder that end as the format's files do, in order.
fn names_of_format(folder: &Path, format: &Format) -> Result<Vec<PathBuf>, String> {
    let unreadable = |cause: std::io::Error| {
        format!("cannot be looked for in \"{}\": {cause}", folder.display().to_string().escape_debug())
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let name = PathBuf::from(entry.map_err(unreadable)?.file_name());
        let extension = name.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|found| format.extensions.iter().any(|known| known.eq_ignore_ascii_case(found))) {
            names.push(name);
        }
        if names.len() > MAX_CANDIDATES {
            return Err(format!("would have to be looked for in more than {MAX_CANDIDATES} files"));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether the file is an image of the format with one of these identities. Follows nothing that it names.
fn has_identity(file: &OpenFile, format: &'static Format, identities: &[String]) -> bool {
    let image = registry::open_image(file, Some(format));
    image.is_ok_and(|image| image.info().identity.as_ref().is_some_and(|found| identities.contains(found)))
}

/// Opens a regular file below a folder, without following a link out of it.
fn open_regular_file(root: &Path, below: &Path) -> Result<OpenFile, Refusal> {
    let file = open_beneath(root, below).map_err(|refused| match refused {
        NotOpened::Folder(cause) => format!("its folder cannot be opened: {cause}").into(),
        NotOpened::LeadsOut => "leads out of the image's folder".into(),
        NotOpened::File(cause) => Refusal::failed(cause),
    })?;
    let metadata = file.metadata().map_err(|cause| cause.to_string())?;
    if !metadata.is_file() {
        return Err("is not a regular file".into());
    }
    into_open_file(file, &root.join(below)).map_err(|cause| cause.to_string().into())
}

impl ReferenceGate for FolderGate {
    fn follows_undeclared(&self) -> bool {
        !self.policy.allowed_folders.is_empty()
    }

    fn open(&self, reference: &FileReference) -> Result<Referenced, ImageError> {
        if reference.names.is_empty() {
            let refused = |refusal| denied(vec![(reference.described(), refusal)]);
            return self.find(reference).map_err(refused);
        }
        let mut refusals = Vec::new();
        for name in &reference.names {
            match self.try_name(name) {
                Ok(referenced) => return Ok(referenced),
                Err(refusal) => refusals.push((format!("\"{}\"", name.escape_debug()), refusal)),
            }
        }
        Err(denied(refusals))
    }
}

/// The error for a file that came under none of its names. It is caused by a missing file if all of them are missing.
fn denied(refusals: Vec<(String, Refusal)>) -> ImageError {
    let all_missing = refusals.iter().all(|(_, refusal)| refusal.is_missing());
    let reasons = refusals.iter().map(|(name, refusal)| match (&refusal.cause, all_missing) {
        (Some(cause), false) => format!("{name} {}: {cause}", refusal.reason),
        _ => format!("{name} {}", refusal.reason),
    });
    let detail = reasons.collect::<Vec<_>>().join("; ");
    let error = ImageError::reference_denied("open a file that the image names", detail);
    match refusals.into_iter().find_map(|(_, refusal)| refusal.cause).filter(|_| all_missing) {
        Some(cause) => error.caused_by(cause),
        None => error,
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
