//! The codecs of Tintype's native format: what a repository and a `.tin` file have in common.
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
//! A disk is cut into [`chunk`]s, which lie in [`pack`]s; the pages of a [`map`] say where each one is, and a [`manifest`]
//! names the root page.
//!
//! Nothing here is read before its lengths are held against the bytes that there are. Secrets are wiped when they are
//! dropped, and never printed. Everything works on bytes in memory: this crate knows no files, starts no threads and prints
//! nothing.
//!
//! # Example
//!
//! ```
//! use tintype_tin::chunk::{self, ChunkHeader, ChunkKind, Packed};
//! use tintype_tin::id::Id;
//! use tintype_tin::keys::KeyRing;
//! use tintype_tin::seal::Purpose;
//! use zerocopy::IntoBytes as _;
//!
//! # fn main() -> tintype_tin::Result<()> {
//! let ring = KeyRing::generate(Id::random()?, "anna")?;
//! let plain = b"a piece of a disk ".repeat(1000);
//!
//! let (record, key) = ring.new_segment(Purpose::Data)?;
//! let packed = Packed::new(ChunkKind::Data, ring.chunk_id(&plain), &plain, Some(3));
//! let (header, stored) = packed.seal(&key, 0)?;
//! let mut bytes = [header.as_bytes(), &stored].concat();
//!
//! // The record is stored with the chunk: it gives the key to whoever may read it.
//! let header = ChunkHeader::parse(&bytes)?;
//! let key = ring.open_segment(Purpose::Data, &record)?;
//! let mut found = vec![0; header.plain_bytes()];
//! chunk::open(&header, &key, &mut bytes, &mut found)?;
//! assert!(found == plain && ring.chunk_id(&found) == header.id());
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod certificate;
pub mod chunk;
mod compression;
pub mod disk_identity;
pub mod error;
pub mod id;
pub mod keys;
pub mod manifest;
pub mod map;
pub mod pack;
pub mod parts;
pub mod recovery;
pub mod rotation;
pub mod seal;
pub mod signed;
pub mod slot;
#[cfg(test)]
mod tests;

pub use error::{ErrorKind, Result, TinError};
