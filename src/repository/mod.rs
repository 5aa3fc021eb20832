//! The backup repository: objects that are created once and never changed, in any store that can create exclusively.
//!
//! `FORMAT.md` says byte for byte what the objects hold, and by which protocol they come and go.

pub mod store;
