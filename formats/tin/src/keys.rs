//! The keys of one holder.
//!
//! ```text
//!             id key   data, map: public   map private   data private   root seed   host, signing: private
//!  write        x              x                                                             x
//!  maintain     x              x               x                                             x
//!  read, use    x              x               x              x                              x
//!  admin        x              x               x              x             x                x
//! ```
//!
//! A repository without encryption takes the same path, with keys that anyone can derive from its id.

use std::fmt;

use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, Serializable};
use zeroize::Zeroizing;

use crate::certificate::{public_of_seed, sign};
use crate::error::{Result, TinError};
use crate::id::{ChunkId, Id, random};

pub use crate::certificate::{Certificate, Role};

/// Most data keys, and most map keys, of a ring: one, and those before it.
pub(crate) const MAX_KEYS: usize = 64;

/// A secret of 32 bytes, wiped when it is dropped.
pub(crate) type Key = Zeroizing<[u8; 32]>;

/// A public X25519 key, and the private one where the holder has it.
pub(crate) struct ExchangeKey {
    pub(crate) public: [u8; 32],
    pub(crate) private: Option<Key>,
}

impl ExchangeKey {
    pub(crate) fn of_private(private: Key) -> Result<Self> {
        Ok(ExchangeKey { public: public_of_private(&private)?, private: Some(private) })
    }

    pub(crate) fn copy(&self, with_private: bool) -> Self {
        ExchangeKey { public: self.public, private: self.private.clone().filter(|_| with_private) }
    }
}

/// What one holder has of a repository's keys.
pub struct KeyRing {
    pub(crate) repository: Id,
    pub(crate) root: [u8; 32],
    pub(crate) id_key: Key,
    map_id_key: Key,
    /// Newest first.
    pub(crate) data: Vec<ExchangeKey>,
    /// Newest first.
    pub(crate) map: Vec<ExchangeKey>,
    pub(crate) host: ExchangeKey,
    pub(crate) signing_seed: Key,
    pub(crate) root_seed: Option<Key>,
    certificate: Certificate,
    public: bool,
}

/// The keys of a ring before anybody has said that they belong together.
pub(crate) struct RingParts {
    pub(crate) repository: Id,
    pub(crate) root: [u8; 32],
    pub(crate) id_key: Key,
    pub(crate) data: Vec<ExchangeKey>,
    pub(crate) map: Vec<ExchangeKey>,
    pub(crate) host: ExchangeKey,
    pub(crate) signing_seed: Key,
    pub(crate) root_seed: Option<Key>,
    pub(crate) certificate: Certificate,
}

impl KeyRing {
    /// Makes the keys of a new repository; the ring of its first administrator has them all.
    pub fn generate(repository: Id, holder: &str) -> Result<Self> {
        Self::first(repository, holder, |_| random().map(Zeroizing::new))
    }

    /// The keys of a repository without encryption: they follow from its id, and keep nothing secret.
    pub fn public(repository: Id) -> Result<Self> {
        let derive = |context: &'static str| Ok(Zeroizing::new(blake3::derive_key(context, &repository.0)));
        Ok(KeyRing { public: true, ..Self::first(repository, "public", derive)? })
    }

    /// Makes the ring of a new holder; only an administrator can.
    pub fn issue(&self, role: Role, name: &str) -> Result<Self> {
        const ISSUE: &str = "make keys for a new holder";
        if self.public {
            let detail = "a repository without encryption has no keys but the public ones";
            return Err(TinError::invalid_option(ISSUE, detail));
        }
        let Some(root_seed) = &self.root_seed else {
            return Err(TinError::wrong_key(
                ISSUE,
                format!("it takes an admin key, and this is a {} key", self.role()),
            ));
        };
        let host = ExchangeKey::of_private(Zeroizing::new(random()?))?;
        let signing_seed = Zeroizing::new(random()?);
        let publics = (public_of_seed(&signing_seed)?, host.public);
        KeyRing::assemble(RingParts {
            repository: self.repository,
            root: self.root,
            id_key: self.id_key.clone(),
            data: self.data.iter().map(|key| key.copy(role.reads_data())).collect(),
            map: self.map.iter().map(|key| key.copy(role.reads_maps())).collect(),
            certificate: Certificate::issue(root_seed, self.repository, (role, name), publics)?,
            root_seed: (role == Role::Admin).then(|| root_seed.clone()),
            host,
            signing_seed,
        })
    }

    /// Makes an administrator's ring of new keys; each is asked for by the context of its derivation.
    fn first(repository: Id, holder: &str, mut key: impl FnMut(&'static str) -> Result<Key>) -> Result<Self> {
        let root_seed = key("tintype public root 1")?;
        let signing_seed = key("tintype public signing 1")?;
        let host = ExchangeKey::of_private(key("tintype public host 1")?)?;
        let publics = (public_of_seed(&signing_seed)?, host.public);
        KeyRing::assemble(RingParts {
            repository,
            root: public_of_seed(&root_seed)?,
            id_key: key("tintype public id 1")?,
            data: vec![ExchangeKey::of_private(key("tintype public data 1")?)?],
            map: vec![ExchangeKey::of_private(key("tintype public map 1")?)?],
            certificate: Certificate::issue(&root_seed, repository, (Role::Admin, holder), publics)?,
            root_seed: Some(root_seed),
            host,
            signing_seed,
        })
    }

    /// Makes a ring of its parts, if they belong together and are what the role has.
    pub(crate) fn assemble(parts: RingParts) -> Result<Self> {
        parts.check()?;
        let map_id_key = Zeroizing::new(blake3::derive_key("tintype map page 1", &*parts.id_key));
        let RingParts { repository, root, id_key, data, map, host, signing_seed, root_seed, certificate } = parts;
        Ok(KeyRing {
            repository,
            root,
            id_key,
            map_id_key,
            data,
            map,
            host,
            signing_seed,
            root_seed,
            certificate,
            public: false,
        })
    }

    /// Id of the repository that the keys are for.
    pub fn repository(&self) -> Id {
        self.repository
    }

    /// What the holder may do.
    pub fn role(&self) -> Role {
        self.certificate.role
    }

    /// The holder's name and public keys.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Whether these are the keys of a repository without encryption.
    pub fn is_public(&self) -> bool {
        self.public
    }

    /// Whether everybody's data segments can be opened.
    pub fn can_read_data(&self) -> bool {
        self.role().reads_data()
    }

    /// Whether everybody's maps and manifests can be opened.
    pub fn can_read_maps(&self) -> bool {
        self.role().reads_maps()
    }

    /// Whether keys for others can be made.
    pub fn can_admin(&self) -> bool {
        self.root_seed.is_some()
    }

    /// The name of a data chunk with this content.
    pub fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.id_key, plain).as_bytes())
    }

    /// The name of a map page with this core.
    pub fn page_id(&self, core: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.map_id_key, core).as_bytes())
    }

    /// Takes a certificate apart, and fails unless it is by this repository's root key.
    pub fn certified(&self, certificate: &[u8]) -> Result<Certificate> {
        if certificate == self.certificate.as_bytes() {
            return Ok(self.certificate.clone());
        }
        let certificate = Certificate::parse(certificate)?;
        certificate.check(&self.root, self.repository)?;
        Ok(certificate)
    }

    /// The private keys with this key id.
    pub(crate) fn private_keys<'a>(&'a self, id: &[u8; 16]) -> impl Iterator<Item = &'a [u8; 32]> {
        let keys = self.data.iter().chain(&self.map).chain([&self.host]).filter(|key| key_id(&key.public) == *id);
        keys.filter_map(|key| key.private.as_deref())
    }

    /// Signs in the holder's name.
    pub(crate) fn sign_message(&self, message: &[u8]) -> Result<[u8; 64]> {
        sign(&self.signing_seed, message)
    }

    /// Whether both rings have the same keys: private keys follow from being there for these public ones.
    pub(crate) fn is_same(&self, other: &KeyRing) -> bool {
        let certified = (&self.certificate, self.root) == (&other.certificate, other.root);
        let lists = same_publics(&self.data, &other.data) && same_publics(&self.map, &other.map);
        certified && lists && self.id_key == other.id_key
    }
}

impl RingParts {
    fn check(&self) -> Result<()> {
        let role = self.certificate.role;
        let wrong = |what: &str| TinError::corrupt("check a key ring", format!("{what}, in a {role} key"));
        self.certificate.check(&self.root, self.repository)?;
        if self.certificate.signing != public_of_seed(&self.signing_seed)? {
            return Err(wrong("the signing key is not that of the certificate"));
        }
        if self.certificate.host != self.host.public {
            return Err(wrong("the host key is not that of the certificate"));
        }
        if self.root_seed.is_some() != (role == Role::Admin) {
            return Err(wrong(&format!("the root's private key is {}", there(self.root_seed.is_some()))));
        }
        if let Some(seed) = &self.root_seed
            && public_of_seed(seed)? != self.root
        {
            return Err(wrong("the root's private key is not that of the pinned one"));
        }
        check_keys(&self.data, role.reads_data()).map_err(|what| wrong(&format!("data keys: {what}")))?;
        check_keys(&self.map, role.reads_maps()).map_err(|what| wrong(&format!("map keys: {what}")))?;
        check_keys(std::slice::from_ref(&self.host), true).map_err(|what| wrong(&format!("host key: {what}")))
    }
}

/// Whether the keys are as many as may be, and have their private parts exactly if they should.
pub(crate) fn check_keys(keys: &[ExchangeKey], private: bool) -> std::result::Result<(), String> {
    if keys.is_empty() || keys.len() > MAX_KEYS {
        return Err(format!("there are {}, 1 to {MAX_KEYS} were expected", keys.len()));
    }
    for (index, key) in keys.iter().enumerate() {
        if key.private.is_some() != private {
            return Err(format!("private key {index} is {}", there(key.private.is_some())));
        }
        if let Some(private) = &key.private
            && public_of_private(private).ok() != Some(key.public)
        {
            return Err(format!("private key {index} is not that of the public one"));
        }
    }
    Ok(())
}

fn there(is: bool) -> &'static str {
    if is { "there" } else { "missing" }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("repository", &self.repository)
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

fn same_publics(ours: &[ExchangeKey], others: &[ExchangeKey]) -> bool {
    ours.iter().map(|key| key.public).eq(others.iter().map(|key| key.public))
}

/// The public X25519 key of a private one.
fn public_of_private(private: &[u8; 32]) -> Result<[u8; 32]> {
    let private = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(private)
        .map_err(|cause| TinError::corrupt("read a private key", cause.to_string()))?;
    Ok(X25519HkdfSha256::sk_to_pk(&private).to_bytes().into())
}

/// The short name of a public X25519 key.
pub(crate) fn key_id(public: &[u8; 32]) -> [u8; 16] {
    let hash = blake3::hash(public);
    std::array::from_fn(|index| hash.as_bytes()[index])
}
