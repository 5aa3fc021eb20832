//! Secrets from files, commands, the environment and the terminal. Every copy of one is wiped.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use tintype_formats::secrets::Secret;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::prompt::{TRIES, Terminal};
use crate::error::{Error, Kind, OnPath as _, Result};

/// The environment variable that holds a password itself.
const PASSWORD_VARIABLE: &str = "TINTYPE_PASSWORD";

/// Longest secret that is read, in bytes.
const MAX_SECRET_BYTES: usize = 8 << 20;

/// How much of a secret is read at a time, in bytes.
const BLOCK_BYTES: usize = 4096;

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
        match said {
            Some(secret) => Ok(secret),
            None => typed_twice("new password: "),
        }
    }
}

/// A new password from the terminal.
pub fn typed_twice(prompt: &str) -> Result<Secret, Failure> {
    let terminal = Terminal::open()?;
    let mut wrong = "";
    for _ in 0..TRIES {
        if !wrong.is_empty() {
            terminal.say(&format!("{wrong}; try again"));
        }
        let mut first = terminal.ask(prompt)?;
        if first.is_empty() {
            wrong = "the password is empty";
        } else if *first != *terminal.ask("the same again: ")? {
            wrong = "the two passwords are not the same";
        } else {
            return Ok(Secret::passphrase(std::mem::take(&mut *first)));
        }
    }
    Err(Failure::usage(wrong))
}

/// The secret that one of these gives; none if there are none.
pub fn read_secret(
    key_file: Option<&Path>,
    password_file: Option<&Path>,
    password_command: Option<&str>,
) -> Result<Option<Secret>> {
    if let Some(path) = key_file {
        let mut content = read_file(path, "read the key file")?;
        return Ok(Some(Secret::key_file(std::mem::take(&mut *content))));
    }
    if let Some(path) = password_file {
        return passphrase(&read_file(path, "read the password file")?, "the password file").map(Some);
    }
    password_command.map(|command| passphrase(&output_of(command)?, "the password command")).transpose()
}

/// The password in the environment; a variable that is set to nothing counts as not set.
pub fn from_environment() -> Option<Zeroizing<Vec<u8>>> {
    let password = std::env::var_os(PASSWORD_VARIABLE)?.into_encoded_bytes();
    Some(Zeroizing::new(password)).filter(|password| !password.is_empty())
}

/// The first line of what was read.
pub fn passphrase(content: &[u8], from: &str) -> Result<Secret> {
    let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(Error::new(Kind::Usage, format!("{from} gives no password: its first line is empty")));
    }
    Ok(Secret::passphrase(line.to_vec()))
}

fn read_file(path: &Path, doing: &str) -> Result<Zeroizing<Vec<u8>>> {
    let content = std::fs::File::open(path).and_then(read_wiped);
    content.map_err(|cause| Error::io(doing, cause)).on_path(path)
}

fn output_of(command: &str) -> Result<Zeroizing<Vec<u8>>> {
    let doing = |cause| Error::io("run the password command", cause);
    let mut shell = Command::new("sh");
    let mut child = shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(doing)?;
    let content = child.stdout.take().map(read_wiped);
    let status = child.wait().map_err(doing)?;
    if !status.success() {
        return Err(Error::new(Kind::Io, format!("the password command ended with {status}")));
    }
    content.unwrap_or_else(|| Ok(Zeroizing::default())).map_err(doing)
}

/// Reads all there is, and leaves no copy of it behind, as a vector does that grows by itself.
fn read_wiped(mut source: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::new(Vec::with_capacity(BLOCK_BYTES));
    let mut block = Zeroizing::new([0; BLOCK_BYTES]);
    loop {
        let count = match source.read(&mut block[..]) {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if count == 0 {
            return Ok(content);
        }
        if content.len() + count > MAX_SECRET_BYTES {
            let message = format!("it is longer than {MAX_SECRET_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        if content.len() + count > content.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(2 * content.capacity()));
            larger.extend_from_slice(&content);
            content = larger;
        }
        content.extend_from_slice(&block[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_any_length_are_read_whole() {
        for length in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 5 * BLOCK_BYTES, MAX_SECRET_BYTES] {
            let bytes: Vec<u8> = (0..length).map(|index| index as u8).collect();
            assert_eq!(*read_wiped(&bytes[..]).unwrap(), bytes, "{length}");
        }
        assert!(read_wiped(&vec![0; MAX_SECRET_BYTES + 1][..]).is_err());
        assert!(read_wiped(io::repeat(7)).is_err());
    }
}
