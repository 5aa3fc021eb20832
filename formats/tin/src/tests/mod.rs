//! Keys, slots, segments and signatures: what opens what, and that nothing else does.

mod keys;
mod rotation;
mod seal;
mod signed;
mod slot;
mod vectors;

use crate::error::{ErrorKind, Result};
use crate::id::Id;
use crate::keys::{KeyRing, Role};

const REPOSITORY: Id = Id([7; 16]);

fn admin() -> KeyRing {
    KeyRing::generate(REPOSITORY, "anna").unwrap()
}

fn kind_of<T>(result: Result<T>) -> ErrorKind {
    result.err().expect("a failure").kind()
}

/// Every copy of `bytes` with one bit changed, another one in each byte.
fn flipped(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..bytes.len()).map(|index| {
        let mut copy = bytes.to_vec();
        copy[index] ^= 1 << (index % 8);
        (index, copy)
    })
}

const ROLES: [Role; 5] = [Role::Write, Role::Read, Role::Use, Role::Maintain, Role::Admin];
