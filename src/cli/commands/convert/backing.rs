//! The image that a new one is to inherit from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tintype_formats::raw;
use tintype_formats::reference_gate::ReferenceGate;
use tintype_formats::sink::ParentLink;

use super::Args;
use crate::access::Admitted;
use crate::cli::failure::Failure;
use crate::cli::live_args::LiveArgs;
use crate::cli::{Global, output};
use crate::engine::convert::parent_name;
use crate::sources::{self, OpenOptions, OpenedDisk, ReferencePolicy};

/// The image that the target is to inherit from.
pub struct Backing {
    path: PathBuf,
    /// Its disk.
    pub opened: OpenedDisk,
    policy: ReferencePolicy,
}

impl Backing {
    /// Opens it with everything that it inherits from in turn.
    pub fn open(args: &Args, path: &Path, global: Global) -> Result<Backing, Failure> {
        let policy = args.input.references.policy();
        let format = args.backing_format.clone();
        let options = OpenOptions { format, references: policy.clone(), ..OpenOptions::default() };
        let opened = sources::open_disk(path, &options, None).map_err(|error| args.input.references.explain(error))?;
        opened.warnings().for_each(|text| output::warn(&text, global));
        opened.note().iter().for_each(|text| output::note(text, global));
        Ok(Backing { path: path.to_owned(), opened, policy })
    }

    /// Refuses one in use, unless it is to be taken as it is: what is left out of the target has to stay as it was.
    pub fn admit(&mut self, live: LiveArgs, global: Global) -> Result<Admitted, Failure> {
        let watch = std::mem::take(&mut self.opened.watch);
        live.admit_named(self.path.display().to_string(), &self.path, watch, global)
    }

    /// What the target says of it.
    pub fn link(&self, target: &Path) -> Result<ParentLink, Failure> {
        let name = parent_name(target, &self.path)
            .ok_or_else(|| Failure::usage("the name of the backing file cannot be put into an image"))?;
        let info = self.opened.layers.first().map(|(_, info)| info);
        Ok(ParentLink {
            name,
            format: info.map_or(raw::FORMAT.name, |info| info.format).to_owned(),
            identity: info.and_then(|info| info.identity.clone()),
            size_bytes: self.opened.disk.geometry().size_bytes,
        })
    }

    /// The gate that lets the finished target find it: the user has named it, so its folder is allowed.
    pub fn gate(&self, target: &Path) -> Arc<dyn ReferenceGate> {
        let mut policy = ReferencePolicy { deny_all: false, ..self.policy.clone() };
        policy.allowed_folders.extend(self.path.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned)));
        policy.gate_beside(target)
    }
}
