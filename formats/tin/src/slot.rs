//! Key slots: a key ring under a passphrase, the content of a key file, or a recovery key.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use serde::de::{Deserialize, Deserializer};
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use crate::certificate::{Certificate, MAX_CERTIFICATE_BYTES, Role};
use crate::error::{Result, TinError};
use crate::id::{HexVisitor, Id, random, unhex_into};
use crate::keys::{ExchangeKey, Key, KeyRing, RingParts};
use crate::parts::Parts;
use crate::recovery::RecoveryKey;
use crate::seal::{TAG_BYTES, open_in_place, seal_in_place};

const MAGIC: [u8; 8] = *b"TINKEY1\n";
const VERSION: u16 = 1;
const READ: &str = "read a key slot";
const OPEN: &str = "open a key slot";
const MAKE: &str = "make a key slot";

/// Most ciphertext of a slot, in bytes.
const MAX_SEALED_BYTES: usize = 65_536;

/// Most memory that a slot may ask for, in KiB.
const MAX_MEMORY_KIB: u32 = 4 << 20;
const MAX_PASSES: u32 = 1_000;
const MAX_LANES: u32 = 64;

/// Most memory times passes, in KiB: a minute's work or so, where the bounds on each would allow an hour.
const MAX_WORK_KIB: u64 = 64 << 20;

/// How much work it is to try a passphrase (Argon2id).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// How often the memory is passed over.
    pub passes: u32,
    /// Into how many lanes it is divided.
    pub lanes: u32,
}

impl Default for Cost {
    /// A fifth of a second of one core of 2026 to try one passphrase, in 64 MiB.
    fn default() -> Self {
        Cost { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

impl Cost {
    fn check(self) -> Result<()> {
        let Cost { memory_kib, passes, lanes } = self;
        let work = u64::from(memory_kib) * u64::from(passes);
        if memory_kib > MAX_MEMORY_KIB || passes > MAX_PASSES || lanes > MAX_LANES || work > MAX_WORK_KIB {
            let detail = format!(
                "it asks for {memory_kib} KiB, {passes} passes and {lanes} lanes; at most {MAX_MEMORY_KIB}, {MAX_PASSES} \
                 and {MAX_LANES} are done, and {MAX_WORK_KIB} KiB in all passes together"
            );
            return Err(TinError::limit_exceeded(READ, detail));
        }
        Ok(())
    }
}

/// How a slot's key is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// From a passphrase or key file, with Argon2id.
    Argon2id(Cost),
    /// From the slot itself: the repository is not encrypted.
    Public,
    /// From a recovery key, with Argon2id.
    Recovery(Cost),
}

impl SlotKind {
    /// What Argon2id costs; `None` for a public slot.
    pub fn cost(self) -> Option<Cost> {
        match self {
            SlotKind::Argon2id(cost) | SlotKind::Recovery(cost) => Some(cost),
            SlotKind::Public => None,
        }
    }
}

/// A secret that makes or opens a slot.
#[derive(Clone, Copy)]
pub enum SlotSecret<'a> {
    /// A passphrase as it was typed, or the content of a key file. The letters of a recovery key open that key's slot, too.
    Password(&'a [u8]),
    /// A recovery key.
    RecoveryKey(&'a RecoveryKey),
}

/// What a slot says of itself to those who have no key. Nothing vouches for it before the slot is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// How its key is made.
    pub kind: SlotKind,
    /// What the holder may do.
    pub role: Role,
    /// The repository that it is for.
    pub repository: Id,
    /// What people call it.
    pub label: String,
}

impl SlotInfo {
    /// Reads what needs no key, and checks all lengths.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Slot::parse(bytes).map(|slot| slot.info)
    }
}

/// A slot taken apart.
struct Slot<'a> {
    info: SlotInfo,
    salt: [u8; 32],
    nonce: [u8; 12],
    /// All bytes before the ciphertext.
    associated: &'a [u8],
    sealed: &'a [u8],
}

impl<'a> Slot<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut parts = Parts::new(READ, bytes);
        if parts.array()? != MAGIC {
            return Err(TinError::not_this_format(READ, "it does not begin with \"TINKEY1\""));
        }
        let (version, kind) = (parts.u16()?, parts.u8()?);
        if version != VERSION {
            return Err(TinError::unsupported(READ, format!("its version is {version}, known is {VERSION}")));
        }
        let role = Role::from_byte(parts.u8()?, READ)?;
        let cost = Cost { memory_kib: parts.u32()?, passes: parts.u32()?, lanes: parts.u32()? };
        cost.check()?;
        let kind = match kind {
            1 => SlotKind::Argon2id(cost),
            2 if cost == (Cost { memory_kib: 0, passes: 0, lanes: 0 }) => SlotKind::Public,
            2 => return Err(TinError::corrupt(READ, "a public slot states costs of Argon2id")),
            3 => SlotKind::Recovery(cost),
            other => {
                return Err(TinError::unsupported(READ, format!("its key is made in way {other}, known are 1 to 3")));
            }
        };
        let repository = Id(parts.array()?);
        let (salt, nonce) = (parts.array()?, parts.array()?);
        let label = parts.name("label")?.to_owned();
        let length_bytes = parts.u32()? as usize;
        if length_bytes > MAX_SEALED_BYTES {
            let detail = format!("its ciphertext has {length_bytes} bytes, at most {MAX_SEALED_BYTES} are read");
            return Err(TinError::limit_exceeded(READ, detail));
        }
        let associated = &bytes[..parts.position()];
        let sealed = parts.slice(length_bytes)?;
        parts.end()?;
        Ok(Slot { info: SlotInfo { kind, role, repository, label }, salt, nonce, associated, sealed })
    }
}

/// Puts a ring into a new slot. A ring of a repository without encryption takes no secret, every other one needs one.
pub fn seal_slot(ring: &KeyRing, secret: Option<SlotSecret<'_>>, label: &str, cost: Cost) -> Result<Vec<u8>> {
    let kind = match (secret, ring.is_public()) {
        (Some(SlotSecret::RecoveryKey(_)), false) => SlotKind::Recovery(cost),
        (Some(SlotSecret::Password(bytes)), false) if !bytes.is_empty() => SlotKind::Argon2id(cost),
        (None, true) => SlotKind::Public,
        (Some(_), false) => return Err(refused("the passphrase or key file is empty")),
        (Some(_), true) => return Err(refused("a repository without encryption takes no passphrase")),
        (None, false) => return Err(refused("secret keys need a passphrase or key file")),
    };
    let label_length = u8::try_from(label.len())
        .map_err(|_| refused(&format!("the label has {} bytes, at most 255 are possible", label.len())))?;
    let salt = random::<32>()?;
    let nonce = random::<12>()?;
    let mut plain = content_of(ring)?;
    let mut slot = header(kind, ring, &salt, &nonce);
    slot.push(label_length);
    slot.extend_from_slice(label.as_bytes());
    slot.extend_from_slice(&((plain.len() + TAG_BYTES) as u32).to_le_bytes());
    let key = slot_key(kind, secret, ring.repository(), &salt)?;
    seal_in_place(&key, nonce, &slot, &mut plain).ok_or_else(|| refused("the keys could not be encrypted"))?;
    slot.extend_from_slice(&plain);
    Ok(slot)
}

/// Opens a slot. Fails with [`ErrorKind::WrongKey`](crate::ErrorKind::WrongKey) if `secret` is not what it was made with, or is missing.
///
/// A public slot is refused if there is a secret: whoever has one expects encryption, and a store that was tampered with must not
/// take it from him.
pub fn open_slot(bytes: &[u8], secret: Option<SlotSecret<'_>>) -> Result<KeyRing> {
    let Slot { info, salt, nonce, associated, sealed } = Slot::parse(bytes)?;
    match (info.kind, secret) {
        (SlotKind::Argon2id(_) | SlotKind::Recovery(_), None) => {
            return Err(TinError::wrong_key(OPEN, "it needs a passphrase or key file, and none was given"));
        }
        (SlotKind::Public, Some(_)) => {
            return Err(TinError::wrong_key(OPEN, "a passphrase or key file was given, but the slot is not encrypted"));
        }
        _ => {}
    }
    let key = slot_key(info.kind, secret, info.repository, &salt)?;
    let mut plain = Zeroizing::new(sealed.to_vec());
    let Some(json) = open_in_place(&key, nonce, associated, &mut plain) else {
        return Err(match info.kind {
            SlotKind::Argon2id(_) | SlotKind::Recovery(_) => wrong_secret(),
            SlotKind::Public => TinError::corrupt(OPEN, "its content is not what was written"),
        });
    };
    let ring = ring_of(&info, json)?;
    if info.kind != SlotKind::Public {
        return Ok(ring);
    }
    let public = KeyRing::public(info.repository)?;
    if !ring.is_same(&public) {
        return Err(TinError::corrupt(OPEN, "a public slot holds other keys than the public ones"));
    }
    Ok(public)
}

/// The first 84 bytes.
fn header(kind: SlotKind, ring: &KeyRing, salt: &[u8; 32], nonce: &[u8; 12]) -> Vec<u8> {
    let (number, cost) = match kind {
        SlotKind::Argon2id(cost) => (1, cost),
        SlotKind::Public => (2, Cost { memory_kib: 0, passes: 0, lanes: 0 }),
        SlotKind::Recovery(cost) => (3, cost),
    };
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&[number, ring.role() as u8]);
    for value in [cost.memory_kib, cost.passes, cost.lanes] {
        header.extend_from_slice(&value.to_le_bytes());
    }
    header.extend_from_slice(&ring.repository().0);
    header.extend_from_slice(salt);
    header.extend_from_slice(nonce);
    header
}

fn slot_key(kind: SlotKind, secret: Option<SlotSecret<'_>>, repository: Id, salt: &[u8; 32]) -> Result<Key> {
    let Some(cost) = kind.cost() else {
        let material = [&repository.0[..], salt].concat();
        return Ok(Zeroizing::new(blake3::derive_key("tintype no encryption 1", &material)));
    };
    let bytes = secret.and_then(|secret| bytes_for(secret, kind)).ok_or_else(wrong_secret)?;
    argon2id(&bytes, salt, cost)
}

/// The bytes that the key of a slot of this kind is made from; `None` if the secret cannot open such a slot.
fn bytes_for(secret: SlotSecret<'_>, kind: SlotKind) -> Option<Zeroizing<Vec<u8>>> {
    match (kind, secret) {
        (SlotKind::Argon2id(_), SlotSecret::Password(bytes)) => Some(Zeroizing::new(bytes.to_vec())),
        (SlotKind::Recovery(_), SlotSecret::Password(bytes)) => {
            RecoveryKey::read(bytes).map(|key| Zeroizing::new(key.letters().to_vec()))
        }
        (SlotKind::Recovery(_), SlotSecret::RecoveryKey(key)) => Some(Zeroizing::new(key.letters().to_vec())),
        (SlotKind::Argon2id(_), SlotSecret::RecoveryKey(_)) | (SlotKind::Public, _) => None,
    }
}

fn wrong_secret() -> TinError {
    TinError::wrong_key(OPEN, "the passphrase or key file is not the one of this slot, or the slot is damaged")
}

fn argon2id(secret: &[u8], salt: &[u8; 32], cost: Cost) -> Result<Key> {
    const DERIVE: &str = "derive a key with Argon2id";
    cost.check()?;
    let wrong = |cause: argon2::Error| TinError::corrupt(DERIVE, format!("{cost:?}: {cause}"));
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(wrong)?;
    let blocks = params.block_count();
    // Wiped afterwards, which the crate's own memory is not: the last blocks of it are all that the key is made of.
    let mut memory = Zeroizing::new(Vec::new());
    if memory.try_reserve_exact(blocks).is_err() {
        return Err(TinError::limit_exceeded(DERIVE, format!("there is no memory for {} KiB", cost.memory_kib)));
    }
    memory.resize(blocks, Block::new());
    let mut key = Zeroizing::new([0; 32]);
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into_with_memory(secret, salt, &mut *key, &mut memory[..]).map_err(wrong)?;
    Ok(key)
}

/// Secret bytes that are hexadecimal in JSON, wiped when dropped.
pub(crate) struct Hex(pub(crate) Key);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let digits = Zeroizing::new(hex(&*self.0));
        serializer.serialize_str(&digits)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_str(HexVisitor).map(|bytes| Hex(Zeroizing::new(bytes)))
    }
}

/// A public key and perhaps its private one, in JSON.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Pair {
    public: Hex,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    private: Option<Hex>,
}

impl From<&ExchangeKey> for Pair {
    fn from(key: &ExchangeKey) -> Self {
        let private = key.private.as_ref().map(|private| Hex(private.clone()));
        Pair { public: Hex(Zeroizing::new(key.public)), private }
    }
}

impl From<Pair> for ExchangeKey {
    fn from(pair: Pair) -> Self {
        ExchangeKey { public: *pair.public.0, private: pair.private.map(|key| key.0) }
    }
}

/// What a slot holds.
#[derive(serde::Serialize, serde::Deserialize)]
struct Content {
    role: Role,
    root: Hex,
    id_key: Hex,
    data: Vec<Pair>,
    map: Vec<Pair>,
    host_private: Hex,
    signing_seed: Hex,
    certificate: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root_seed: Option<Hex>,
}

/// The ring as JSON. The buffer never grows, so that no copy of it stays behind.
fn content_of(ring: &KeyRing) -> Result<Zeroizing<Vec<u8>>> {
    let secret = |key: &Key| Hex(key.clone());
    let pairs = |keys: &[ExchangeKey]| keys.iter().map(Pair::from).collect();
    let Some(host_private) = &ring.host.private else { return Err(refused("the ring has no private host key")) };
    let content = Content {
        role: ring.role(),
        root: Hex(Zeroizing::new(ring.root)),
        id_key: secret(&ring.id_key),
        data: pairs(&ring.data),
        map: pairs(&ring.map),
        host_private: secret(host_private),
        signing_seed: secret(&ring.signing_seed),
        certificate: hex(ring.certificate().as_bytes()),
        root_seed: ring.root_seed.as_ref().map(secret),
    };
    let mut plain = Zeroizing::new(vec![0; MAX_SEALED_BYTES]);
    let mut room = &mut plain[..MAX_SEALED_BYTES - TAG_BYTES];
    let before = room.len();
    serde_json::to_writer(&mut room, &content).map_err(|_| refused("the keys do not fit into a slot"))?;
    let length_bytes = before - room.len();
    plain.truncate(length_bytes);
    Ok(plain)
}

/// The ring that an opened slot's JSON says.
fn ring_of(info: &SlotInfo, json: &[u8]) -> Result<KeyRing> {
    // Without serde's words: they may quote what is secret.
    let content: Content = serde_json::from_slice(json).map_err(|cause| {
        TinError::corrupt(
            OPEN,
            format!("what it holds is no key ring (line {}, column {})", cause.line(), cause.column()),
        )
    })?;
    let certificate = certificate_of(&content.certificate)?;
    if content.role != certificate.role || info.role != certificate.role {
        let detail = format!(
            "it is of role {}, what it holds of role {}, and its certificate of role {}",
            info.role, content.role, certificate.role
        );
        return Err(TinError::corrupt(OPEN, detail));
    }
    let keys = |pairs: Vec<Pair>| pairs.into_iter().map(ExchangeKey::from).collect();
    KeyRing::assemble(RingParts {
        repository: info.repository,
        root: *content.root.0,
        id_key: content.id_key.0,
        data: keys(content.data),
        map: keys(content.map),
        host: ExchangeKey { public: certificate.host, private: Some(content.host_private.0) },
        signing_seed: content.signing_seed.0,
        root_seed: content.root_seed.map(|key| key.0),
        certificate,
    })
}

fn certificate_of(digits: &str) -> Result<Certificate> {
    let mut bytes = vec![0; (digits.len() / 2).min(MAX_CERTIFICATE_BYTES)];
    if !unhex_into(digits, &mut bytes) {
        return Err(TinError::corrupt(OPEN, "its certificate is not in hexadecimal digits"));
    }
    Certificate::parse(&bytes)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // Of the right size from the start: a string that grows leaves copies behind.
    let mut digits = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        digits.push(char::from(DIGITS[usize::from(byte >> 4)]));
        digits.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    digits
}

fn refused(detail: &str) -> TinError {
    TinError::invalid_option(MAKE, detail)
}
