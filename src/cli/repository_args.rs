//! The arguments of every command that opens a repository, and where its password comes from.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tintype_formats::secrets::{SecretSource, Secrets};
use tintype_formats::tin::slot::Secret;
use tintype_formats::{ErrorKind, ImageError};

use super::failure::Failure;
use crate::error::{Error, Kind, OnPath as _, Result};
use crate::repository::Repository;
use crate::repository::names;
use crate::repository::store::{LocalStore, PatientStore, Store};

/// The environment variable that holds a password itself.
const PASSWORD_VARIABLE: &str = "TINTYPE_PASSWORD";

/// What opens a repository.
#[derive(Debug, Clone, Default, Args)]
pub struct SecretArgs {
    /// File whose first line is the repository's password
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
    /// The repository
    #[arg(long, short, value_name = "REPO", env = "TINTYPE_REPOSITORY")]
    pub repo: PathBuf,
    #[command(flatten)]
    pub secrets: SecretArgs,
}

impl RepositoryArgs {
    /// Opens the repository.
    pub fn open(&self) -> Result<Arc<Repository>, Failure> {
        self.secrets.open(&self.repo)
    }
}

impl SecretArgs {
    /// Opens the repository at a path.
    pub fn open(&self, path: &Path) -> Result<Arc<Repository>, Failure> {
        let store = open_store(path)?;
        Ok(Repository::open(store, self.cache_folder(), self.is_said(), &mut || self.secret("password: "))?)
    }

    /// Opens the repository at a path for a long reader, which waits so long for it whenever it is away.
    pub fn open_patiently(&self, path: &Path, patience: Duration) -> Result<Arc<Repository>, Failure> {
        let store: Box<dyn Store> = match PatientStore::open(path, names::REPOSITORY, patience) {
            Ok(store) => Box::new(store),
            // Nothing there to wait for: this one says what it is instead.
            Err(_) => open_store(path)?,
        };
        Ok(Repository::open(store, self.cache_folder(), self.is_said(), &mut || self.secret("password: "))?)
    }

    /// The secret in this file, and no other.
    pub fn with_password_file(&self, path: &Path) -> SecretArgs {
        SecretArgs { password_file: Some(path.to_owned()), cache_dir: self.cache_dir.clone(), ..SecretArgs::default() }
    }

    /// The same secret for encrypted images, asked for only where there is one.
    pub fn for_images(&self) -> Secrets {
        Secrets::from_source(Arc::new(ImageSecret(self.clone())))
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
        sources.contains(&true) || std::env::var_os(PASSWORD_VARIABLE).is_some()
    }

    /// The secret: from a file, a command, the environment, or the person at the terminal.
    pub fn secret(&self, prompt: &str) -> Result<Secret> {
        let said =
            read_secret(self.key_file.as_deref(), self.password_file.as_deref(), self.password_command.as_deref())?;
        if let Some(secret) = said {
            return Ok(secret);
        }
        if let Some(password) = std::env::var_os(PASSWORD_VARIABLE) {
            return passphrase(password.into_encoded_bytes(), PASSWORD_VARIABLE);
        }
        ask(prompt)
    }
}

struct ImageSecret(SecretArgs);

impl SecretSource for ImageSecret {
    fn secret(&self, file_name: &str) -> Result<Secret, ImageError> {
        let prompt = format!("password of {}: ", file_name.escape_debug());
        self.0.secret(&prompt).map_err(|cause| {
            let kind = if cause.kind() == Kind::WrongKey { ErrorKind::WrongKey } else { ErrorKind::Io };
            ImageError::new(kind, "find out the password of an encrypted image", cause.to_string()).caused_by(cause)
        })
    }
}

/// A new secret, for a key slot that is to be made.
#[derive(Debug, Clone, Args)]
pub struct NewSecretArgs {
    /// File whose first line is the new password
    #[arg(help_heading = "The new password", long, value_name = "FILE", conflicts_with_all = ["new_password_command", "new_key_file"])]
    new_password_file: Option<PathBuf>,
    /// Command whose output is the new password
    #[arg(help_heading = "The new password", long, value_name = "COMMAND", conflicts_with = "new_key_file")]
    new_password_command: Option<String>,
    /// File whose content, as a whole, is to open the slot
    #[arg(help_heading = "The new password", long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,
}

impl NewSecretArgs {
    /// The secret: from a file, a command, or typed twice.
    pub fn secret(&self) -> Result<Secret, Failure> {
        let said = read_secret(
            self.new_key_file.as_deref(),
            self.new_password_file.as_deref(),
            self.new_password_command.as_deref(),
        )?;
        if let Some(secret) = said {
            return Ok(secret);
        }
        let secret = ask("new password: ")?;
        match ask("the same again: ")? == secret {
            true => Ok(secret),
            false => Err(Failure::usage("the two passwords are not the same")),
        }
    }
}

/// The secret that one of these gives; none if there are none.
fn read_secret(
    key_file: Option<&Path>,
    password_file: Option<&Path>,
    password_command: Option<&str>,
) -> Result<Option<Secret>> {
    if let Some(path) = key_file {
        let content = std::fs::read(path).map_err(|cause| Error::io("read the key file", cause));
        return Ok(Some(Secret::key_file(content.on_path(path)?)));
    }
    if let Some(path) = password_file {
        let content = std::fs::read(path).map_err(|cause| Error::io("read the password file", cause));
        return passphrase(content.on_path(path)?, "the password file").map(Some);
    }
    password_command.map(|command| passphrase(output_of(command)?, "the password command")).transpose()
}

/// The store at a path.
pub fn open_store(path: &Path) -> Result<Box<dyn Store>, Failure> {
    if !path.exists() {
        let message = format!("{}: there is no such folder", path.display().to_string().escape_debug());
        return Err(Error::new(Kind::NoRepository, message).into());
    }
    if !path.is_dir() {
        let message = format!("{}: it is no folder, and so no repository", path.display().to_string().escape_debug());
        return Err(Error::new(Kind::NoRepository, message).into());
    }
    Ok(Box::new(LocalStore::open(path).map_err(Error::from)?))
}

/// The first line of what was read.
fn passphrase(content: Vec<u8>, from: &str) -> Result<Secret> {
    let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(Error::new(Kind::Usage, format!("{from} gives no password: its first line is empty")));
    }
    Ok(Secret::passphrase(line.to_vec()))
}

fn output_of(command: &str) -> Result<Vec<u8>> {
    let doing = |cause| Error::io("run the password command", cause);
    let output = Command::new("sh").args(["-c", command]).stderr(std::process::Stdio::inherit()).output();
    let output = output.map_err(doing)?;
    if !output.status.success() {
        return Err(Error::new(Kind::Io, format!("the password command ended with {}", output.status)));
    }
    Ok(output.stdout)
}

/// Asks at the terminal, without showing what is typed.
pub fn ask(prompt: &str) -> Result<Secret> {
    let terminal = std::fs::File::options().read(true).write(true).open("/dev/tty");
    let Some(terminal) = terminal.ok().filter(IsTerminal::is_terminal) else {
        let message = "a password is needed, and there is no terminal to ask for it";
        return Err(Error::new(Kind::WrongKey, message));
    };
    let doing = |cause| Error::io("ask for the password", cause);
    let before = rustix::termios::tcgetattr(&terminal).map_err(|errno| doing(errno.into()))?;
    let mut silent = before.clone();
    silent.local_modes.remove(rustix::termios::LocalModes::ECHO);
    let set = |modes| rustix::termios::tcsetattr(&terminal, rustix::termios::OptionalActions::Flush, modes);
    set(&silent).map_err(|errno| doing(errno.into()))?;
    let mut line = Vec::new();
    let read = write!(&terminal, "{prompt}").and_then(|()| io::BufReader::new(&terminal).read_until(b'\n', &mut line));
    // The terminal is to be as it was, whatever came of the question.
    let restored = set(&before);
    let _ = writeln!(&terminal);
    read.map_err(doing)?;
    restored.map_err(|errno| doing(errno.into()))?;
    passphrase(line, "the terminal")
}
