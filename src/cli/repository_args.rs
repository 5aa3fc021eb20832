//! The arguments of every command that opens a repository.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use clap::Args;
use tintype_formats::secrets::{Secret, SecretSource, Secrets};
use tintype_formats::{ErrorKind, ImageError};

use super::escape::printable;
use super::failure::Failure;
use super::output;
use super::prompt::{TRIES, Terminal};
use super::secrets::{from_environment, passphrase, read_secret};
use super::usage;
use crate::access::{Keys, SnapshotName, open_repository};
use crate::error::{Error, Kind, Result, in_words};
use crate::repository::Repository;

/// What opens a repository.
#[derive(Debug, Clone, Default, Args)]
pub struct SecretArgs {
    /// File whose first line is the repository's password. Without one of these three, the variable TINTYPE_PASSWORD holds it,
    /// or it is asked for
    #[arg(help_heading = "Keys of a repository", long, value_name = "FILE", env = "TINTYPE_PASSWORD_FILE", conflicts_with_all = ["password_command", "key_file"])]
    password_file: Option<PathBuf>,
    /// Command whose output is the repository's password
    #[arg(
        help_heading = "Keys of a repository",
        long,
        value_name = "COMMAND",
        env = "TINTYPE_PASSWORD_COMMAND",
        conflicts_with = "key_file"
    )]
    password_command: Option<String>,
    /// File whose content, as a whole, opens the repository
    #[arg(help_heading = "Keys of a repository", long, value_name = "FILE", env = "TINTYPE_KEY_FILE")]
    key_file: Option<PathBuf>,
    /// Folder for copies of the index; they can be deleted at any time
    #[arg(help_heading = "Keys of a repository", long, value_name = "DIR", env = "TINTYPE_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
}

/// Which repository.
#[derive(Debug, Clone, Args)]
pub struct RepositoryArgs {
    /// The repository, where none stands before the snapshot's name (REPO::NAME)
    #[arg(long, short, value_name = "REPO", env = "TINTYPE_REPOSITORY")]
    repo: Option<PathBuf>,
    #[command(flatten)]
    pub secrets: SecretArgs,
}

impl RepositoryArgs {
    /// Returns the path of the repository.
    pub fn path(&self) -> Result<&Path, Failure> {
        self.repo.as_deref().ok_or_else(|| {
            Failure::usage("no repository is named")
                .hinted("say --repo REPO or REPO::NAME, or set the variable TINTYPE_REPOSITORY")
        })
    }

    /// Opens the repository.
    pub fn open(&self) -> Result<Arc<Repository>, Failure> {
        self.secrets.open(self.path()?)
    }

    /// Opens the repository of these snapshots: the one that stands before their names, if one does.
    pub fn open_of<'a>(&self, names: impl IntoIterator<Item = &'a SnapshotName>) -> Result<Arc<Repository>, Failure> {
        let mut named: Vec<&Path> = names.into_iter().filter_map(|name| name.repository.as_deref()).collect();
        // A variable is for those that name none.
        named.extend(self.repo.as_deref().filter(|_| !named.is_empty() && !usage::is_from_variable("repo")));
        match named.as_slice() {
            [] => self.open(),
            [first, others @ ..] => match others.iter().find(|other| *other != first) {
                None => self.secrets.open(first),
                Some(other) => {
                    let (first, other) = (first.display(), other.display());
                    Err(Failure::usage(format!("two repositories are named, {first} and {other}; expected one")))
                }
            },
        }
    }
}

impl SecretArgs {
    /// Opens the repository at a path.
    pub fn open(&self, path: &Path) -> Result<Arc<Repository>, Failure> {
        self.open_and_keep(path).map(|(repository, _)| repository)
    }

    /// The same, and the secret that opened it; none for a repository without encryption.
    pub fn open_and_keep(&self, path: &Path) -> Result<(Arc<Repository>, Option<Secret>), Failure> {
        Ok(open_repository(path, None, &self.keys())?)
    }

    /// What opens repositories.
    pub fn keys(&self) -> SaidKeys<'_> {
        SaidKeys { secrets: self, tries_left: Cell::new(TRIES) }
    }

    /// The secret in this file, and no other.
    pub fn with_password_file(&self, path: &Path) -> SecretArgs {
        SecretArgs { password_file: Some(path.to_owned()), cache_dir: self.cache_dir.clone(), ..SecretArgs::default() }
    }

    /// The same secret for encrypted images, asked for only where there is one.
    pub fn for_images(&self) -> Secrets {
        Secrets::from_source(Arc::new(ImageSecret { secrets: self.clone(), tries_left: AtomicU32::new(TRIES) }))
    }

    /// The folder for the index; none if there is no home.
    pub fn cache_folder(&self) -> Option<PathBuf> {
        let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")));
        self.cache_dir.clone().or_else(|| Some(home()?.join("tintype")))
    }

    /// Whether the secret is said by options or the environment, so that nobody needs to be asked.
    pub fn is_said(&self) -> bool {
        let sources = [self.password_file.is_some(), self.password_command.is_some(), self.key_file.is_some()];
        sources.contains(&true) || from_environment().is_some()
    }

    /// The secret: from a file, a command, the environment, or the person at the terminal.
    pub fn secret(&self, prompt: &str) -> Result<Secret> {
        let said =
            read_secret(self.key_file.as_deref(), self.password_file.as_deref(), self.password_command.as_deref())?;
        if let Some(secret) = said {
            return Ok(secret);
        }
        if let Some(password) = from_environment() {
            return passphrase(&password, "TINTYPE_PASSWORD");
        }
        Ok(Secret::passphrase(std::mem::take(&mut *Terminal::open()?.ask(prompt)?)))
    }
}

/// What options, the environment or the person at the terminal say of a repository.
pub struct SaidKeys<'a> {
    secrets: &'a SecretArgs,
    /// Whoever types a password has several tries.
    tries_left: Cell<u32>,
}

impl Keys for SaidKeys<'_> {
    fn secret(&self) -> Result<Secret> {
        self.secrets.secret("password: ")
    }

    fn is_said(&self) -> bool {
        self.secrets.is_said()
    }

    fn refused(&self, cause: &Error) -> bool {
        self.tries_left.set(self.tries_left.get().saturating_sub(1));
        let again = !self.is_said() && self.tries_left.get() > 0;
        if again {
            say_refused(&in_words(cause));
        }
        again
    }

    fn cache_folder(&self) -> Option<PathBuf> {
        self.secrets.cache_folder()
    }

    fn on_cache_trouble(&self) -> fn(&str) {
        output::warn_always
    }
}

/// Says at the terminal why the password that was typed there is not the one.
fn say_refused(why: &str) {
    if let Ok(terminal) = Terminal::open() {
        terminal.say(&format!("{}; try again", printable(why)));
    }
}

struct ImageSecret {
    secrets: SecretArgs,
    /// Of the file that is asked for.
    tries_left: AtomicU32,
}

impl ImageSecret {
    fn ask(&self, file_name: &str) -> Result<Secret, ImageError> {
        let prompt = format!("password of {}: ", file_name.escape_debug());
        self.secrets.secret(&prompt).map_err(|cause| {
            let kind = if cause.kind() == Kind::WrongKey { ErrorKind::WrongKey } else { ErrorKind::Io };
            ImageError::new(kind, "find out the password of an encrypted image", cause.to_string()).caused_by(cause)
        })
    }
}

impl SecretSource for ImageSecret {
    fn secret(&self, file_name: &str) -> Result<Secret, ImageError> {
        self.tries_left.store(TRIES, Ordering::Relaxed);
        self.ask(file_name)
    }

    fn another(&self, file_name: &str, refused: &ImageError) -> Option<Result<Secret, ImageError>> {
        let tries_left = self.tries_left.fetch_sub(1, Ordering::Relaxed);
        if self.secrets.is_said() || tries_left <= 1 {
            return None;
        }
        say_refused(&refused.to_string());
        Some(self.ask(file_name))
    }
}
