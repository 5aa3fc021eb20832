//! Where the objects of a repository are.
//!
//! An *object* has a name like `packs/3f/3f0a…` and bytes; it is created once and whole, and never changed. A *store* keeps
//! objects; a *folder* is what stands before the last `/` of a name. Stores know nothing of what the objects mean.
//!
//! A *power cut* is the worst that a store has to survive: of what was put or deleted and not yet synced, any part may be
//! undone, in any order; but an object is there whole, or it is not there.

mod error;
pub mod local;
mod logged;
mod name;
mod patient;
#[cfg(any(test, feature = "testing"))]
pub mod simulated;
#[cfg(test)]
mod tests;

pub use error::{StoreError, StoreErrorKind};
pub use local::{CreateOptions, DEFAULT_RESERVE_BYTES, LocalStore, NewFolder};
pub use logged::LoggedStore;
pub use patient::PatientStore;

/// Keeps objects. Many threads, and many processes by stores of their own, may use one place at once.
///
/// A name has parts of `a-z A-Z 0-9 . _ -` with `/` between them, at most 255 bytes in all; no part is empty or begins with
/// a dot. No object's name is the folder of another. What is in the place under other names belongs to somebody else, and is
/// neither seen nor touched.
pub trait Store: Send + Sync {
    /// Creates an object, whole or not at all; fails with `AlreadyExists` if the name is taken.
    ///
    /// The content is durable before the name appears. The name is durable after the next [`sync`](Self::sync) by this
    /// store object, also if it was found taken. After `Unclear` the object may be there, or may appear later.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError>;

    /// Reads a whole object; fails with `TooLarge` if it is longer than `max_bytes`.
    fn get(&self, name: &str, max_bytes: u64) -> Result<Vec<u8>, StoreError>;

    /// Fills the buffer from this offset in the object, or fails; with `Truncated` if the object ends before.
    ///
    /// An object that was deleted may still be read for a while, by who read from it before.
    fn get_range(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError>;

    /// The length of an object in bytes.
    fn len_bytes(&self, name: &str) -> Result<u64, StoreError>;

    /// The objects in a folder and all below it, by name. The prefix is empty or ends with `/`.
    ///
    /// Everything is listed whose put was over before the call and whose delete was not begun before its end; what came
    /// or went meanwhile may be listed or not. A folder that is not there is empty.
    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError>;

    /// Deletes an object; succeeds if it is not there. Durable after the next [`sync`](Self::sync).
    fn delete(&self, name: &str) -> Result<(), StoreError>;

    /// Makes the next [`sync`](Self::sync) also cover what others did with this name: a name can be seen before it is
    /// durable, and whoever builds on it must not outlive it.
    fn adopt(&self, name: &str);

    /// Makes everything durable that this store object put, deleted or adopted before. If it fails, nobody can know what will be
    /// there after a power cut, and every later call of this store object fails; so it does after a put whose content could
    /// not be made durable.
    fn sync(&self) -> Result<(), StoreError>;

    /// The place, as messages name it.
    fn shown(&self) -> String;

    /// How many bytes are free where the objects are, if the store knows.
    fn free_bytes(&self) -> Option<u64> {
        None
    }

    /// The space that the store holds for those who free some, if it can hold any.
    fn reserve(&self) -> Option<&dyn Reserve> {
        None
    }
}

/// Space that a store holds, so that a full one has a way out: whoever frees space has to write a little first.
pub trait Reserve: Send + Sync {
    /// Has this store object's writes take space from the reserve where there is no other, or not any more.
    fn allow(&self, allowed: bool);

    /// Adds what was given up, as far as there is space again.
    fn refill(&self);

    /// Returns the name of the reserve and what is wrong with it, if anything is.
    fn problem(&self) -> Option<(String, String)>;

    /// Makes a damaged reserve again.
    fn remake(&self) -> Result<(), StoreError>;
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The object's whole name.
    pub name: String,
    /// The object's length.
    pub len_bytes: u64,
}
