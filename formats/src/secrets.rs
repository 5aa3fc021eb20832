//! Secrets that open encrypted images, and where they come from.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::error::{ImageError, Result};
use crate::tin::recovery::RecoveryKey;

/// A passphrase, the content of a key file, or a recovery key. Wiped when it is dropped.
#[derive(PartialEq, Eq)]
pub struct Secret {
    bytes: Zeroizing<Vec<u8>>,
    /// True if slots of recovery keys are made with it.
    is_recovery: bool,
}

impl Secret {
    /// A passphrase as it was typed or read; one line feed at its end is not a part of it.
    pub fn passphrase(text: Vec<u8>) -> Self {
        let mut text = Zeroizing::new(text);
        if text.last() == Some(&b'\n') {
            text.pop();
        }
        Secret { bytes: text, is_recovery: false }
    }

    /// The whole content of a key file.
    pub fn key_file(content: Vec<u8>) -> Self {
        Secret { bytes: Zeroizing::new(content), is_recovery: false }
    }

    /// A recovery key, to make a slot of one. A passphrase with its letters opens that slot, too.
    pub fn recovery(key: &RecoveryKey) -> Self {
        Secret { bytes: Zeroizing::new(key.letters().to_vec()), is_recovery: true }
    }

    /// Copies the secret, for a caller that needs it again later.
    pub fn duplicate(&self) -> Self {
        Secret { bytes: self.bytes.clone(), is_recovery: self.is_recovery }
    }

    /// Returns true if the secret has the form of a recovery key.
    pub fn is_recovery_key(&self) -> bool {
        RecoveryKey::read(&self.bytes).is_some()
    }

    /// Returns true if the secret looks like a recovery key with a typing error.
    pub fn is_mistyped_recovery_key(&self) -> bool {
        RecoveryKey::is_mistyped(&self.bytes)
    }

    /// The bytes of a passphrase or key file, or the letters of a recovery key.
    pub(crate) fn bytes(&self) -> &Zeroizing<Vec<u8>> {
        &self.bytes
    }

    /// Returns true if slots of recovery keys are made with it.
    pub(crate) fn makes_recovery_slots(&self) -> bool {
        self.is_recovery
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
