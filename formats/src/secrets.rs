//! Where the passwords of encrypted images come from.

use std::fmt;
use std::sync::Arc;

use crate::error::{ImageError, Result};
use crate::tin::slot::Secret;

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
