//! The native format: what a repository and a `.tin` file have in common.
//!
//! `src/repository/FORMAT.md` says every byte of it. A *holder* (a host or a person) has a [`keys::KeyRing`]: what its *role*
//! lets it open, and a *certificate* by the repository's *root* key. A [`slot`] is a key ring under a passphrase. A *segment*
//! is what one writer encrypts under one random key, and its [`seal::SegmentRecord`] is that key, sealed to who may read it. A
//! [`signed`] object names who made it.
//!
//! ```text
//!  passphrase ──► slot ──► KeyRing ─┬─► chunk_id, page_id          what a chunk is called
//!                                   ├─► SegmentRecord, SegmentKey  who can open it
//!                                   └─► SignedObject               who made it
//! ```
//!
//! Nothing here is read from the store before its lengths are held against the bytes that there are. Secrets are wiped when
//! they are dropped, and never printed.

mod certificate;
pub mod chunk;
pub mod id;
pub mod keys;
pub mod manifest;
pub mod map;
pub mod pack;
pub mod pack_stream;
mod parts;
pub mod read;
pub mod rotation;
pub mod seal;
pub mod signed;
pub mod slot;
#[cfg(test)]
mod tests;
pub mod write;
