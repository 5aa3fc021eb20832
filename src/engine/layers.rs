//! A chain of files that becomes a chain of files.

use std::path::{Path, PathBuf};

use tintype_formats::layer::ImageInfo;

use crate::error::{Error, Kind, Result};

/// A file of the chain, and what becomes of it.
#[derive(Debug)]
pub struct Step {
    /// The file.
    pub source: PathBuf,
    /// Name of its format.
    pub format: &'static str,
    /// The new file.
    pub target: PathBuf,
}

/// Returns the new file of each file of a chain, from the top down. The top one becomes the target; each other keeps its name, with the
/// target's extension, in the target's folder.
pub fn steps(layers: &[(String, ImageInfo)], target: &Path) -> Result<Vec<Step>> {
    let extension = target.extension().unwrap_or_default();
    let mut steps: Vec<Step> = Vec::new();
    for (index, (name, info)) in layers.iter().enumerate() {
        let source = PathBuf::from(name);
        let name = source.file_name().map(|name| Path::new(name).with_extension(extension)).unwrap_or_default();
        let made = if index == 0 { target.to_owned() } else { target.with_file_name(name) };
        let exists = index > 0 && made.symlink_metadata().is_ok();
        if exists || steps.iter().any(|step| step.target == made) {
            let message = format!("\"{}\" of the chain would become \"{}\"", source.display(), made.display());
            let reason = if exists { "which exists already" } else { "as another one does" };
            return Err(Error::new(Kind::Usage, format!("{message}, {reason}")));
        }
        steps.push(Step { source, format: info.format, target: made });
    }
    Ok(steps)
}
