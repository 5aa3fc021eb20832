//! Segments: what one writer encrypts under one random key, and who may open it.
//!
//! HPKE (RFC 9180) seals a segment's key to each recipient. AES-256-GCM seals the segment's parts under it; the nonce is the
//! part's number, so that no number may be used twice, and a segment is never continued.

use std::convert::Infallible;

use blake3::OutputReader;
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, HpkeError, Kem, OpModeR, OpModeS, Serializable};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::{Zeroize, Zeroizing};

use crate::error::{Result, TinError};
use crate::id::{Id, random};
use crate::keys::{KeyRing, key_id};
use crate::parts::Parts;

/// How many bytes sealing adds: AES-256-GCM's tag.
pub const TAG_BYTES: usize = 16;

/// Most recipients of a segment.
pub const MAX_RECIPIENTS: usize = 64;

const CONTEXT: &[u8] = b"tintype segment 1\0";
const OPEN: &str = "open a segment";
const SEAL: &str = "seal a segment";

/// What the parts of a segment are, and so who may open it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// Chunks of disks, for the data key.
    Data = 1,
    /// Map pages, for the map key and the writer's host key.
    Map = 2,
    /// A manifest, for the same.
    Manifest = 3,
}

/// One recipient's part of a segment record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Recipient {
    key_id: [u8; 16],
    encapsulated: [u8; 32],
    sealed: [u8; 32 + TAG_BYTES],
}

/// A segment's name, and its key as sealed to each recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRecord {
    id: Id,
    recipients: Vec<Recipient>,
}

impl SegmentRecord {
    /// Name of the segment.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Takes a record from the beginning of `bytes`, and gives the bytes after it.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8])> {
        const READ: &str = "read a segment record";
        let mut parts = Parts::new(READ, bytes);
        let (id, count, reserved) = (Id(parts.array()?), usize::from(parts.u16()?), parts.u16()?);
        if count > MAX_RECIPIENTS {
            let detail = format!("segment {id} has {count} recipients, more than {MAX_RECIPIENTS}");
            return Err(TinError::limit_exceeded(READ, detail));
        }
        if count == 0 || reserved != 0 {
            let detail = format!("segment {id} has {count} recipients, and {reserved:#x} where 0 was expected");
            return Err(TinError::corrupt(READ, detail));
        }
        let recipients = (0..count)
            .map(|_| Ok(Recipient { key_id: parts.array()?, encapsulated: parts.array()?, sealed: parts.array()? }))
            .collect::<Result<_>>()?;
        Ok((SegmentRecord { id, recipients }, parts.rest()))
    }

    /// Appends the record's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0);
        // At most MAX_RECIPIENTS, wherever it was made.
        out.extend_from_slice(&(self.recipients.len() as u16).to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        for recipient in &self.recipients {
            out.extend_from_slice(&recipient.key_id);
            out.extend_from_slice(&recipient.encapsulated);
            out.extend_from_slice(&recipient.sealed);
        }
    }
}

/// The key of one segment.
pub struct SegmentKey {
    id: Id,
    key: Zeroizing<[u8; 32]>,
}

impl SegmentKey {
    /// Name of the segment.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Encrypts `buffer` in place as the segment's part of this number, and appends the tag. A number is used once.
    pub fn seal(&self, number: u32, associated: &[u8], buffer: &mut Vec<u8>) -> Result<()> {
        seal_in_place(&self.key, nonce(number), associated, buffer)
            .ok_or_else(|| TinError::limit_exceeded("encrypt", format!("{} bytes are too many", buffer.len())))
    }

    /// Decrypts a part in place, and gives its plain bytes; `buffer` ends with the tag.
    pub fn open<'a>(&self, number: u32, associated: &[u8], buffer: &'a mut [u8]) -> Result<&'a mut [u8]> {
        open_in_place(&self.key, nonce(number), associated, buffer).ok_or_else(|| {
            let detail = format!("part {number} of segment {} is not what was encrypted", self.id);
            TinError::corrupt("decrypt", detail)
        })
    }
}

impl std::fmt::Debug for SegmentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl KeyRing {
    /// Begins a segment with a random name and key, sealed to those who may open it.
    pub fn new_segment(&self, purpose: Purpose) -> Result<(SegmentRecord, SegmentKey)> {
        self.new_segment_also_for(purpose, &[])
    }

    /// The same, sealed to these host keys as well.
    pub(crate) fn new_segment_also_for(
        &self,
        purpose: Purpose,
        also: &[[u8; 32]],
    ) -> Result<(SegmentRecord, SegmentKey)> {
        let (id, key) = (Id::random()?, Zeroizing::new(random()?));
        self.seal_segment(purpose, SegmentKey { id, key }, also, &mut Ephemeral::random()?)
    }

    /// Begins a segment whose name, key and record follow from `seed`, so that the same seed makes the same bytes. Only
    /// where there is no encryption: elsewhere a seed that comes twice would undo it.
    pub fn derived_segment(&self, purpose: Purpose, seed: &[u8]) -> Result<(SegmentRecord, SegmentKey)> {
        if !self.is_public() {
            return Err(TinError::invalid_option(SEAL, "keys from a seed would undo the encryption"));
        }
        let material = [&[purpose as u8][..], &self.repository().0, seed].concat();
        let id = blake3::derive_key("tintype derived segment id 1", &material);
        let key = Zeroizing::new(blake3::derive_key("tintype derived segment key 1", &material));
        let mut ephemeral = Ephemeral::new("tintype derived segment ephemeral 1", &material);
        let id = Id(std::array::from_fn(|index| id[index]));
        self.seal_segment(purpose, SegmentKey { id, key }, &[], &mut ephemeral)
    }

    /// Opens a segment's key, if a recipient's private key is in the ring.
    pub fn open_segment(&self, purpose: Purpose, record: &SegmentRecord) -> Result<SegmentKey> {
        let info = self.segment_info(purpose, record.id);
        let mut named = false;
        for recipient in &record.recipients {
            for private in self.private_keys(&recipient.key_id) {
                named = true;
                if let Some(key) = open_key(private, recipient, &info) {
                    return Ok(SegmentKey { id: record.id, key });
                }
            }
        }
        let id = record.id;
        if named {
            return Err(TinError::corrupt(OPEN, format!("segment {id} names a key of ours, which does not open it")));
        }
        let (name, role) = (self.certificate().name.escape_debug(), self.role());
        Err(TinError::wrong_key(OPEN, format!("segment {id} is not for the {role} key of \"{name}\"")))
    }

    fn seal_segment(
        &self,
        purpose: Purpose,
        key: SegmentKey,
        also: &[[u8; 32]],
        ephemeral: &mut Ephemeral,
    ) -> Result<(SegmentRecord, SegmentKey)> {
        let info = self.segment_info(purpose, key.id);
        let mut publics = self.recipients(purpose);
        let others: Vec<_> = also.iter().filter(|other| !publics.contains(other)).copied().collect();
        publics.extend(others);
        let recipients =
            publics.iter().map(|public| seal_key(public, &key.key, &info, ephemeral)).collect::<Result<_>>()?;
        Ok((SegmentRecord { id: key.id, recipients }, key))
    }

    /// The public keys to which a segment is sealed.
    fn recipients(&self, purpose: Purpose) -> Vec<[u8; 32]> {
        match purpose {
            Purpose::Data => self.data.first().map(|key| key.public).into_iter().collect(),
            Purpose::Map | Purpose::Manifest => {
                self.map.first().map(|key| key.public).into_iter().chain([self.host.public]).collect()
            }
        }
    }

    fn segment_info(&self, purpose: Purpose, segment: Id) -> Vec<u8> {
        [CONTEXT, &[purpose as u8], &self.repository().0, &segment.0].concat()
    }
}

fn seal_key(public: &[u8; 32], key: &[u8; 32], info: &[u8], ephemeral: &mut Ephemeral) -> Result<Recipient> {
    let (encapsulated, sealed) = seal_to(public, key, info, ephemeral)?;
    let length_bytes = sealed.len();
    let sealed = sealed.try_into().map_err(|_| TinError::corrupt(SEAL, format!("HPKE made {length_bytes} bytes")))?;
    Ok(Recipient { key_id: key_id(public), encapsulated, sealed })
}

/// Seals a message by HPKE to a public key; `info` says what it is. Gives the encapsulated key, and the sealed bytes.
pub(crate) fn seal_to(
    public: &[u8; 32],
    plain: &[u8],
    info: &[u8],
    ephemeral: &mut Ephemeral,
) -> Result<([u8; 32], Vec<u8>)> {
    let failed = |cause: HpkeError| TinError::corrupt(SEAL, format!("HPKE refused the recipient's key: {cause}"));
    let recipient = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(public).map_err(failed)?;
    let (encapsulated, sealed) = hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &recipient,
        info,
        plain,
        &[],
        ephemeral,
    )
    .map_err(failed)?;
    Ok((encapsulated.to_bytes().into(), sealed))
}

/// The segment's key, if this private key and `info` open it.
fn open_key(private: &[u8; 32], recipient: &Recipient, info: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let opened = open_sealed(private, &recipient.encapsulated, &recipient.sealed, info)?;
    let mut key = Zeroizing::new([0; 32]);
    (opened.len() == key.len()).then(|| key.copy_from_slice(&opened))?;
    Some(key)
}

/// The reverse of [`seal_to`]; nothing if it was not sealed to this key, or as something else.
pub(crate) fn open_sealed(
    private: &[u8; 32],
    encapsulated: &[u8; 32],
    sealed: &[u8],
    info: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let private = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(private).ok()?;
    let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapsulated).ok()?;
    let opened = hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &private,
        &encapsulated,
        info,
        sealed,
        &[],
    );
    opened.ok().map(Zeroizing::new)
}

fn nonce(number: u32) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&number.to_le_bytes());
    nonce
}

/// AES-256-GCM, with the tag after the ciphertext. The key is expanded anew for each call, which takes far less than the
/// bytes do: what `ring` makes of a key is not wiped, so that it should not stay.
pub(crate) fn seal_in_place(key: &[u8; 32], nonce: [u8; 12], associated: &[u8], buffer: &mut Vec<u8>) -> Option<()> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce, Aad::from(associated), buffer).ok()
}

/// The reverse of [`seal_in_place`]; nothing if the bytes are not what was encrypted.
pub(crate) fn open_in_place<'a>(
    key: &[u8; 32],
    nonce: [u8; 12],
    associated: &[u8],
    buffer: &'a mut [u8],
) -> Option<&'a mut [u8]> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.open_in_place(nonce, Aad::from(associated), buffer).ok()
}

/// What HPKE makes its ephemeral keys of: bytes drawn before, because its generators cannot fail.
pub(crate) struct Ephemeral(OutputReader);

impl Ephemeral {
    /// Of secret bytes from the operating system's randomness.
    pub(crate) fn random() -> Result<Self> {
        Ok(Self::new("tintype segment ephemeral 1", &*Zeroizing::new(random::<32>()?)))
    }

    fn new(context: &str, material: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        let reader = hasher.update(material).finalize_xof();
        hasher.zeroize();
        Ephemeral(reader)
    }
}

impl Drop for Ephemeral {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl TryRng for Ephemeral {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> std::result::Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> std::result::Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> std::result::Result<(), Infallible> {
        self.0.fill(out);
        Ok(())
    }
}

impl TryCryptoRng for Ephemeral {}
