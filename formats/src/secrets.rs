//! Secrets that open encrypted images, and where they come from.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::error::{ImageError, Result};

/// A passphrase, or the content of a key file. Wiped when it is dropped.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// A passphrase as it was typed or read; one line feed at its end is not a part of it.
    pub fn passphrase(text: Vec<u8>) -> Self {
        let mut text = Zeroizing::new(text);
        if text.last() == Some(&b'\n') {
            text.pop();
        }
        Secret(text)
    }

    /// The whole content of a key file.
    pub fn key_file(content: Vec<u8>) -> Self {
        Secret(Zeroizing::new(content))
    }

    /// Copies the secret, for a caller that needs it again later.
    pub fn duplicate(&self) -> Self {
        Secret(self.0.clone())
    }

    /// The bytes that keys are derived from.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Somebody who knows a password, or whom to ask for it.
pub trait SecretSource: Send + Sync {
    /// The password of the file of this name.
    fn secret(&self, file_name: &str) -> Result<Secret>;

    /// Another password for the file, after one that was `refused`; `None` if there is nobody to ask again.
    fn another(&self, _file_name: &str, _refused: &ImageError) -> Option<Result<Secret>> {
        None
    }
}

/// Whom to ask for passwords, if there is anybody. Asked only where an image needs one.
#[derive(Clone, Default)]
pub struct Secrets(Option<Arc<dyn SecretSource>>);

impl Secrets {
    /// Passwords come from `source`.
    pub fn from_source(source: Arc<dyn SecretSource>) -> Self {
        Secrets(Some(source))
    }

    /// The password of a file.
    pub fn ask(&self, file_name: &str) -> Result<Secret> {
        match &self.0 {
            Some(source) => source.secret(file_name),
            None => Err(ImageError::wrong_key("open an encrypted image", "it needs a password, and none was given")),
        }
    }

    /// Another password for a file, if somebody can be asked again.
    pub fn ask_again(&self, file_name: &str, refused: &ImageError) -> Option<Result<Secret>> {
        self.0.as_ref()?.another(file_name, refused)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Secrets(some)" } else { "Secrets(none)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_feed_ends_a_passphrase_and_belongs_to_a_key_file() {
        for (typed, bytes) in [("", ""), ("open", "open"), ("open\n", "open"), ("open\n\n", "open\n"), ("\n", "")] {
            assert_eq!(Secret::passphrase(typed.into()).bytes(), bytes.as_bytes(), "{typed:?}");
            assert_eq!(Secret::key_file(typed.into()).bytes(), typed.as_bytes());
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", Secret::passphrase(b"open".to_vec())), "Secret");
    }
}
