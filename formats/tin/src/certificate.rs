//! Who a holder is and what it may do, signed by the repository's root key.

use std::fmt;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::error::{Result, TinError};
use crate::id::Id;
use crate::parts::Parts;

const CONTEXT: &[u8] = b"tintype certificate 1\0";
const READ: &str = "read a certificate";

/// Length of an Ed25519 signature in bytes.
pub(crate) const SIGNATURE_BYTES: usize = 64;

/// Longest certificate, in bytes: one with a name of 255.
pub(crate) const MAX_CERTIFICATE_BYTES: usize = 2 + 255 + 32 + 32 + SIGNATURE_BYTES;

/// What a holder of keys may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Role {
    /// Adds snapshots, and reads back nothing but its own maps.
    Write = 1,
    /// Reads all disks, and adds nothing.
    Read = 2,
    /// Adds snapshots, forgets, prunes, checks and copies, and reads all maps but no disk.
    Maintain = 3,
    /// Everything, and makes keys for others.
    Admin = 4,
    /// Adds snapshots, and reads all disks.
    Use = 5,
}

impl Role {
    pub(crate) fn from_byte(byte: u8, doing: &'static str) -> Result<Self> {
        Ok(match byte {
            1 => Role::Write,
            2 => Role::Read,
            3 => Role::Maintain,
            4 => Role::Admin,
            5 => Role::Use,
            other => return Err(TinError::corrupt(doing, format!("its role is {other}, expected 1 to 5"))),
        })
    }

    /// Its number on disk.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The role of that number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::from_byte(number, READ).ok()
    }

    /// Whether it has the private data keys.
    pub fn reads_data(self) -> bool {
        matches!(self, Role::Read | Role::Use | Role::Admin)
    }

    /// Returns true if the role adds snapshots.
    pub fn adds(self) -> bool {
        self != Role::Read
    }

    /// Returns true if the role forgets snapshots, prunes and repairs.
    pub fn maintains(self) -> bool {
        matches!(self, Role::Maintain | Role::Admin)
    }

    /// Returns true if every writer builds on what a holder of this role has stored (FORMAT.md §8).
    pub fn is_trusted(self) -> bool {
        matches!(self, Role::Use | Role::Admin)
    }

    /// Whether it has the private map keys.
    pub fn reads_maps(self) -> bool {
        self != Role::Write
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Write => "write",
            Role::Read => "read",
            Role::Maintain => "maintain",
            Role::Admin => "admin",
            Role::Use => "use",
        })
    }
}

/// A holder's public keys, name and role, as its repository's root key has signed them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// What the holder may do.
    pub role: Role,
    /// Name of the holder, for people and for grouping: not from a trusted alphabet.
    pub name: String,
    /// The Ed25519 key that verifies what the holder signs.
    pub signing: [u8; 32],
    /// The X25519 key to which the holder's maps are sealed.
    pub host: [u8; 32],
    bytes: Vec<u8>,
}

impl Certificate {
    /// Takes the bytes apart, which must be one certificate and no more; [`Certificate::check`] says whether it is true.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut parts = Parts::new(READ, bytes);
        let role = Role::from_byte(parts.u8()?, READ)?;
        let name = parts.name("name")?.to_owned();
        if name.is_empty() {
            return Err(TinError::corrupt(READ, "the holder has no name"));
        }
        let (signing, host) = (parts.array()?, parts.array()?);
        parts.array::<SIGNATURE_BYTES>()?;
        parts.end()?;
        Ok(Certificate { role, name, signing, host, bytes: bytes.to_vec() })
    }

    /// The bytes as they stand in objects.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Fails unless the `root` key has signed it, for this repository.
    pub fn check(&self, root: &[u8; 32], repository: Id) -> Result<()> {
        let (statement, signature) = self.bytes.split_at(self.bytes.len() - SIGNATURE_BYTES);
        if verified(root, &message(repository, statement), signature) {
            return Ok(());
        }
        let name = self.name.escape_debug();
        Err(TinError::corrupt(
            "check a certificate",
            format!("that of \"{name}\" is not signed by this repository's root key"),
        ))
    }

    /// Signs a new one with the root key.
    pub(crate) fn issue(
        root_seed: &[u8; 32],
        repository: Id,
        (role, name): (Role, &str),
        (signing, host): ([u8; 32], [u8; 32]),
    ) -> Result<Self> {
        let length = u8::try_from(name.len()).ok().filter(|length| *length > 0).ok_or_else(|| {
            let detail = format!("a holder's name has 1 to 255 bytes, not {}", name.len());
            TinError::invalid_option("make a certificate", detail)
        })?;
        let mut bytes = vec![role as u8, length];
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&signing);
        bytes.extend_from_slice(&host);
        let signature = sign(root_seed, &message(repository, &bytes))?;
        bytes.extend_from_slice(&signature);
        Ok(Certificate { role, name: name.to_owned(), signing, host, bytes })
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("role", &self.role).field("name", &self.name).finish_non_exhaustive()
    }
}

fn message(repository: Id, statement: &[u8]) -> Vec<u8> {
    [CONTEXT, &repository.0, statement].concat()
}

/// Whether `signature` is that of the Ed25519 key over the message.
pub(crate) fn verified(public: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
}

/// Signs with the Ed25519 key of the seed. The key is made anew each time: what `ring` makes of it is not wiped, so that it
/// should not stay.
pub(crate) fn sign(seed: &[u8; 32], message: &[u8]) -> Result<[u8; SIGNATURE_BYTES]> {
    let signature = key_pair(seed)?.sign(message);
    signature.as_ref().try_into().map_err(|_| TinError::corrupt("sign", "an Ed25519 signature has not 64 bytes"))
}

/// The public Ed25519 key of a seed.
pub(crate) fn public_of_seed(seed: &[u8; 32]) -> Result<[u8; 32]> {
    let pair = key_pair(seed)?;
    pair.public_key().as_ref().try_into().map_err(|_| TinError::corrupt("sign", "an Ed25519 key has not 32 bytes"))
}

fn key_pair(seed: &[u8; 32]) -> Result<Ed25519KeyPair> {
    Ed25519KeyPair::from_seed_unchecked(seed)
        .map_err(|cause| TinError::corrupt("sign", format!("the Ed25519 seed was refused: {cause}")))
}
