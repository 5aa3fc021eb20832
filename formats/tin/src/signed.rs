//! Signed objects: everything in a repository but packs' chunks and key slots says who made it.

use crate::certificate::{Certificate, MAX_CERTIFICATE_BYTES, Role, SIGNATURE_BYTES, verified};
use crate::error::{Result, TinError};
use crate::id::Id;
use crate::keys::KeyRing;
use crate::parts::Parts;

const MAGIC: [u8; 8] = *b"TINOBJ1\n";
const VERSION: u16 = 1;
const CONTEXT: &[u8] = b"tintype object 1\0";
const READ: &str = "read a signed object";
const SIGN: &str = "sign an object";

/// What a signed object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ObjectKind {
    /// What the repository is.
    Repository = 1,
    /// The table at the end of a pack.
    PackTable = 2,
    /// An index segment.
    Index = 3,
    /// The manifest of a snapshot.
    Manifest = 4,
    /// The mark of a forgotten snapshot.
    Tombstone = 5,
    /// The beginning of a session.
    SessionBegin = 6,
    /// The end of a session.
    SessionEnd = 7,
    /// The packs that an epoch means to take away.
    Condemned = 8,
    /// The packs that an epoch takes away.
    Verdict = 9,
    /// The end of an epoch.
    Done = 10,
    /// The mark of a damaged pack.
    Quarantine = 11,
    /// What was verified.
    Ledger = 12,
    /// Where a `.tin` file has its packs and its manifest.
    Directory = 13,
    /// Whose a key slot is.
    Holder = 14,
    /// The mark of a key slot that was taken away.
    Removed = 15,
    /// New keys to seal to, for every holder.
    Rotation = 16,
}

impl ObjectKind {
    fn from_number(number: u16) -> Option<Self> {
        use ObjectKind::*;
        const KINDS: [ObjectKind; 16] = [
            Repository,
            PackTable,
            Index,
            Manifest,
            Tombstone,
            SessionBegin,
            SessionEnd,
            Condemned,
            Verdict,
            Done,
            Quarantine,
            Ledger,
            Directory,
            Holder,
            Removed,
            Rotation,
        ];
        KINDS.into_iter().find(|kind| *kind as u16 == number)
    }

    /// Returns true if a holder of this role may sign such an object. For the end of a session it also depends on which end it
    /// is, and for a holder's object on whose slot it is: the caller checks that.
    pub fn signed_by(self, role: Role) -> bool {
        use ObjectKind::*;
        match self {
            Repository | Tombstone | Condemned | Verdict | Done | Quarantine => role.maintains(),
            Removed | Rotation => role == Role::Admin,
            PackTable | Index | Manifest => role.adds(),
            SessionBegin | SessionEnd | Ledger | Directory | Holder => true,
        }
    }
}

/// A signed object that counts.
#[derive(Debug)]
pub struct SignedObject<'a> {
    /// What it says.
    pub body: &'a [u8],
    /// Who says it.
    pub signer: Certificate,
}

impl SignedObject<'_> {
    /// What the bytes say they are, and of which repository; nobody vouches for it.
    pub fn sniff(bytes: &[u8]) -> Option<(ObjectKind, Id)> {
        Unchecked::begin(&mut Parts::new(READ, bytes)).ok().map(|(kind, repository, _)| (kind, repository))
    }
}

/// A signed object taken apart.
struct Unchecked<'a> {
    kind: ObjectKind,
    repository: Id,
    body: &'a [u8],
    certificate: &'a [u8],
    signature: [u8; SIGNATURE_BYTES],
    /// All bytes before the signature.
    signed: &'a [u8],
}

impl<'a> Unchecked<'a> {
    /// The first 32 bytes: kind, repository, length of the body in bytes.
    fn begin(parts: &mut Parts<'_>) -> Result<(ObjectKind, Id, usize)> {
        if parts.array()? != MAGIC {
            return Err(TinError::not_this_format(READ, "it does not begin with \"TINOBJ1\""));
        }
        let (version, number) = (parts.u16()?, parts.u16()?);
        if version != VERSION {
            return Err(TinError::unsupported(READ, format!("its version is {version}, known is {VERSION}")));
        }
        let kind = ObjectKind::from_number(number)
            .ok_or_else(|| TinError::corrupt(READ, format!("its kind is {number}, and there are 1 to 16")))?;
        let length_bytes = parts.u32()? as usize;
        Ok((kind, Id(parts.array()?), length_bytes))
    }

    fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut parts = Parts::new(READ, bytes);
        let (kind, repository, length_bytes) = Self::begin(&mut parts)?;
        let body = parts.slice(length_bytes)?;
        let certificate_bytes = usize::from(parts.u16()?);
        if certificate_bytes > MAX_CERTIFICATE_BYTES {
            let detail =
                format!("its certificate has {certificate_bytes} bytes, at most {MAX_CERTIFICATE_BYTES} are possible");
            return Err(TinError::corrupt(READ, detail));
        }
        let certificate = parts.slice(certificate_bytes)?;
        let signed = &bytes[..parts.position()];
        let signature = parts.array()?;
        parts.end()?;
        Ok(Unchecked { kind, repository, body, certificate, signature, signed })
    }
}

impl KeyRing {
    /// Signs `body` as the object of this name, and gives the object's bytes.
    pub fn sign(&self, kind: ObjectKind, name: &str, body: &[u8]) -> Result<Vec<u8>> {
        if !kind.signed_by(self.role()) {
            return Err(TinError::wrong_key(SIGN, format!("a {} key cannot make a {kind:?}", self.role())));
        }
        let length = u32::try_from(body.len())
            .map_err(|_| TinError::limit_exceeded(SIGN, format!("{name} has {} bytes, more than fit", body.len())))?;
        let certificate = self.certificate().as_bytes();
        let mut object = Vec::with_capacity(34 + body.len() + certificate.len() + SIGNATURE_BYTES);
        object.extend_from_slice(&MAGIC);
        object.extend_from_slice(&VERSION.to_le_bytes());
        object.extend_from_slice(&(kind as u16).to_le_bytes());
        object.extend_from_slice(&length.to_le_bytes());
        object.extend_from_slice(&self.repository().0);
        object.extend_from_slice(body);
        // At most MAX_CERTIFICATE_BYTES.
        object.extend_from_slice(&(certificate.len() as u16).to_le_bytes());
        object.extend_from_slice(certificate);
        let signature = self.sign_message(&message(name, &object))?;
        object.extend_from_slice(&signature);
        Ok(object)
    }

    /// Takes the object of this kind and name apart, and fails unless it counts: it is whole, of this repository, and signed for
    /// this name by a holder whom the root key certifies for a role that may.
    pub fn verify<'a>(&self, kind: ObjectKind, name: &str, bytes: &'a [u8]) -> Result<SignedObject<'a>> {
        const VERIFY: &str = "verify a signed object";
        let object = Unchecked::parse(bytes)?;
        let wrong = |detail: String| Err(TinError::corrupt(VERIFY, format!("{name}: {detail}")));
        if object.kind != kind {
            return wrong(format!("it is a {:?}, where a {kind:?} was expected", object.kind));
        }
        if object.repository != self.repository() {
            return wrong(format!("it is of repository {}, not of {}", object.repository, self.repository()));
        }
        let signer = self.certified(object.certificate)?;
        let who = signer.name.escape_debug();
        if !kind.signed_by(signer.role) {
            return wrong(format!("\"{who}\" signed it, whose {} key cannot make a {kind:?}", signer.role));
        }
        if !verified(&signer.signing, &message(name, object.signed), &object.signature) {
            return wrong(format!("the signature is not that of \"{who}\" over these bytes under this name"));
        }
        Ok(SignedObject { body: object.body, signer })
    }
}

/// What is signed: the object's name and the hash of all that is before the signature.
fn message(name: &str, signed: &[u8]) -> Vec<u8> {
    [CONTEXT, name.as_bytes(), &[0], blake3::hash(signed).as_bytes()].concat()
}
