//! `--log`: what a run did, for those who help others.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tracing_subscriber::filter::LevelFilter;

use super::failure::Failure;
use super::output;
use crate::error::{Error, OnPath as _};
use crate::system;

/// Options whose values are nobody's business: a command may have a password in it.
const SECRET_OPTIONS: [&str; 2] = ["--password-command", "--new-password-command"];

/// Appends what this run does to a file, which only its owner may read: names of disks and of files stand in it.
pub fn begin(path: &Path) -> Result<(), Failure> {
    let file = File::options().append(true).create(true).mode(0o600).open(path);
    let file = file.map_err(|cause| Error::io("open the log", cause)).on_path(path)?;
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(LevelFilter::DEBUG);
    let log = Arc::new(Log { file, is_broken: AtomicBool::new(false) });
    // There is one subscriber in a process, and this is the only place that makes it.
    let _ = tracing::subscriber::set_global_default(subscriber.with_writer(log).finish());
    let arguments = without_secrets(std::env::args_os().skip(1));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), host = system::host_name(), ?arguments, "tintype");
    Ok(())
}

/// The file. If it cannot be written any more, that is said once, and the run goes on.
struct Log {
    file: File,
    is_broken: AtomicBool,
}

impl Write for &Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(cause) = (&self.file).write_all(bytes)
            && !self.is_broken.swap(true, Relaxed)
        {
            output::say(&format!("warning: the log is not complete: {cause}"));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The arguments, without what may have a password in it.
fn without_secrets(arguments: impl Iterator<Item = OsString>) -> Vec<String> {
    let mut is_secret = false;
    let shown = |argument: OsString| {
        let text = argument.to_string_lossy().into_owned();
        let hidden = std::mem::replace(&mut is_secret, SECRET_OPTIONS.contains(&text.as_str()));
        let inline = SECRET_OPTIONS.iter().find(|option| text.starts_with(&format!("{option}=")));
        match (hidden, inline) {
            (true, _) => "(hidden)".to_owned(),
            (_, Some(option)) => format!("{option}=(hidden)"),
            (false, None) => text,
        }
    };
    arguments.map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_give_passwords_are_hidden() {
        let words = ["backup", "a.raw", "--password-command", "echo 1", "--new-password-command=echo 2", "--name", "b"];
        let shown = without_secrets(words.into_iter().map(OsString::from));
        let expected =
            ["backup", "a.raw", "--password-command", "(hidden)", "--new-password-command=(hidden)", "--name", "b"];
        assert_eq!(shown, expected);
    }
}
