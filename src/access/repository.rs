//! Opens repositories: finds the store, and the secret that opens it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tintype_formats::secrets::Secret;

use crate::error::{Error, Kind, Result};
use crate::repository::store::{LocalStore, LoggedStore, PatientStore, Store};
use crate::repository::{Repository, names};
use crate::sources::looks_remote;

/// Where secrets come from, and copies of the index are kept.
pub trait Keys {
    /// The secret of a repository.
    fn secret(&self) -> Result<Secret>;

    /// True if the secret is said already, so that nobody is asked for it.
    fn is_said(&self) -> bool;

    /// Says why a secret opens nothing to whoever was asked for it; true if that one is to be asked again.
    fn refused(&self, cause: &Error) -> bool;

    /// The folder for copies of indexes; none, if there is to be none.
    fn cache_folder(&self) -> Option<PathBuf>;

    /// Tells of trouble with those copies, as long as the repository is open.
    fn on_cache_trouble(&self) -> fn(&str);
}

/// Opens the repository at a path; with patience, one that waits so long for its folder whenever that is away. Also returns the
/// secret that opened it; none for a repository without encryption.
pub fn open_repository(
    path: &Path,
    patience: Option<Duration>,
    keys: &dyn Keys,
) -> Result<(Arc<Repository>, Option<Secret>)> {
    loop {
        let mut used = None;
        let mut secret = || {
            let secret = keys.secret()?;
            used = Some(secret.duplicate());
            Ok(secret)
        };
        match Repository::open(store(path, patience)?, keys.cache_folder(), keys.is_said(), &mut secret) {
            // Whoever types a password has several tries.
            Err(cause) if cause.kind() == Kind::WrongKey && used.is_some() && keys.refused(&cause) => {}
            other => {
                let repository = other?;
                repository.cache().on_trouble(keys.on_cache_trouble());
                return Ok((repository, used));
            }
        }
    }
}

fn store(path: &Path, patience: Option<Duration>) -> Result<Box<dyn Store>> {
    let Some(patience) = patience else { return open_store(path) };
    refuse_remote(path)?;
    match PatientStore::open(path, names::REPOSITORY, patience) {
        Ok(store) => Ok(Box::new(LoggedStore::new(Box::new(store)))),
        // Nothing there to wait for: this one says what it is instead.
        Err(_) => open_store(path),
    }
}

/// Refuses names that look like those of another computer.
pub fn refuse_remote(path: &Path) -> Result<()> {
    if !looks_remote(path) {
        return Ok(());
    }
    let message = format!("{}: remote repositories are not supported yet", path.to_string_lossy().escape_debug());
    let advice = "mount the remote folder here and name that; a local name with a colon is written ./NAME";
    Err(Error::new(Kind::Usage, message).with_advice(advice))
}

/// The store at a path.
pub fn open_store(path: &Path) -> Result<Box<dyn Store>> {
    refuse_remote(path)?;
    let none = |why: &str| {
        let shown = path.display().to_string();
        Err(Error::new(Kind::NoRepository, format!("{}: {why}", shown.escape_debug())))
    };
    match path.metadata() {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => none("there is no such folder"),
        Err(cause) => Err(Error::io("look at the repository", cause).with_path(path)),
        Ok(found) if !found.is_dir() => none("it is no folder, and so no repository"),
        Ok(_) => Ok(Box::new(LoggedStore::new(Box::new(LocalStore::open(path)?)))),
    }
}
