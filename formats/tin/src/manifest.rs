//! Manifests: what a snapshot is, sealed and signed (FORMAT.md §10).

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::certificate::MAX_CERTIFICATE_BYTES;
use crate::disk_identity::DiskIdentity;
use crate::error::{Result, TinError};
use crate::id::{ChunkId, Id, unhex_into};
use crate::keys::{Certificate, KeyRing};
use crate::map::Location;
use crate::seal::{Purpose, SegmentKey, SegmentRecord};
use crate::signed::ObjectKind;

/// The schema that this program writes.
const SCHEMA: u32 = 1;

/// The longest manifest that is read, in bytes.
pub const MAX_BYTES: u64 = 16 << 20;

/// What a snapshot is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of these fields.
    pub schema: u32,
    /// What a reader must know of to read it.
    #[serde(default)]
    pub features: Vec<String>,
    /// What it is a snapshot of: the same for all snapshots of one machine.
    pub name: String,
    /// When it was begun, as RFC 3339 in UTC.
    pub time: String,
    /// The computer that made it.
    pub host: String,
    /// What the user wrote on it.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// The snapshot that it was compared with.
    #[serde(default)]
    pub parent: Option<Id>,
    /// The snapshot whose place this one took when tags were changed: the one that a backup made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Original>,
    /// The program that made it.
    pub program: String,
    /// In which state the disks were: "crash", "frozen", "application" or "unknown".
    pub consistency: String,
    /// The disks.
    pub disks: Vec<DiskRecord>,
    /// The machine's configuration, where there is one.
    #[serde(default)]
    pub machine: Option<serde_json::Value>,
}

/// The snapshot that a backup made, where another one has taken its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Original {
    /// Its id.
    pub id: Id,
    /// The certificate of who signed it, in hexadecimal digits: it still reads its own snapshot.
    pub certificate: String,
}

impl Original {
    /// The snapshot of this id, by this signer.
    pub fn new(id: Id, signer: &Certificate) -> Self {
        let certificate = signer.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        Original { id, certificate }
    }

    /// Who signed it; fails if it is nobody of this repository.
    pub fn signer(&self, ring: &KeyRing) -> Result<Certificate> {
        let mut bytes = vec![0; (self.certificate.len() / 2).min(MAX_CERTIFICATE_BYTES)];
        if !unhex_into(&self.certificate, &mut bytes) {
            return Err(TinError::corrupt("read a manifest", "the certificate of its original is no certificate"));
        }
        ring.certified(&bytes)
    }
}

/// A disk of a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// Its name, unique in the snapshot.
    pub name: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its logical sector size in bytes.
    pub logical_sector_bytes: u32,
    /// Its physical sector size in bytes.
    pub physical_sector_bytes: u32,
    /// Where it was read from.
    pub source: SourceRecord,
    /// Identity apart from its name, where something is known.
    #[serde(default, skip_serializing_if = "DiskIdentity::is_empty")]
    pub identity: DiskIdentity,
    /// Ranges (offset, length) that could not be read, and are zeros here.
    #[serde(default)]
    pub unreadable: Vec<(u64, u64)>,
    /// The root page of its map.
    pub root: Option<RootRecord>,
    /// What it took to store it.
    #[serde(default)]
    pub statistics: Statistics,
}

/// What storing a disk came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Pieces that are no zeros, in bytes of the disk.
    pub data_bytes: u64,
    /// Those of them that are not what the parent has there.
    pub changed_bytes: u64,
    /// Those of them that were not stored at all before.
    pub new_bytes: u64,
    /// What was stored for them, compressed, with headers and map pages.
    pub stored_bytes: u64,
}

impl Statistics {
    /// What it came to when the same disk was stored again, with what was read later.
    pub fn then(self, later: Statistics) -> Statistics {
        Statistics {
            data_bytes: later.data_bytes,
            changed_bytes: self.changed_bytes + later.changed_bytes,
            new_bytes: self.new_bytes + later.new_bytes,
            stored_bytes: self.stored_bytes + later.stored_bytes,
        }
    }
}

/// Where a disk was read from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// The path or address.
    pub path: String,
    /// The format's name.
    pub format: String,
}

/// The root page of a map, and where it was when the manifest was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRecord {
    /// The page's id: the disk's Merkle root.
    pub id: ChunkId,
    /// The pack.
    pub pack: Id,
    /// Where in it.
    pub offset: u32,
    /// How long, with the header.
    pub length: u32,
}

impl DiskRecord {
    /// The root page and its place.
    pub fn root(&self) -> Option<(ChunkId, Location)> {
        self.root.map(|root| (root.id, Location { pack: root.pack, offset: root.offset, length: root.length }))
    }

    /// True if a part of the disk could not be read when it was stored.
    pub fn is_incomplete(&self) -> bool {
        !self.unreadable.is_empty()
    }

    /// The ranges that could not be read when the disk was stored, and are zeros.
    pub fn unreadable_ranges(&self) -> Vec<Range<u64>> {
        self.unreadable.iter().map(|(at, length)| *at..at.saturating_add(*length)).collect()
    }

    /// Number of bytes that could not be read when the disk was stored.
    pub fn unreadable_bytes(&self) -> u64 {
        self.unreadable.iter().fold(0, |sum, (_, length)| sum.saturating_add(*length))
    }
}

impl From<(ChunkId, Location)> for RootRecord {
    fn from((id, location): (ChunkId, Location)) -> Self {
        RootRecord { id, pack: location.pack, offset: location.offset, length: location.length }
    }
}

impl Manifest {
    /// The schema of new manifests.
    pub const SCHEMA: u32 = SCHEMA;

    /// True if a part of any of its disks could not be read when the snapshot was made.
    pub fn is_incomplete(&self) -> bool {
        self.disks.iter().any(DiskRecord::is_incomplete)
    }
}

/// The name of a snapshot's object, which it is signed with.
pub fn name(snapshot: Id) -> String {
    format!("snapshots/{snapshot}")
}

/// A manifest's envelope.
pub struct Envelope {
    /// The session that wrote it.
    pub session: Id,
    /// Who signed it.
    pub signer: Certificate,
    /// What it says; an error of kind [`ErrorKind::WrongKey`](crate::ErrorKind::WrongKey) if it was not sealed for these keys.
    pub manifest: Result<Manifest>,
}

fn associated(repository: Id, snapshot: Id, session: Id) -> Vec<u8> {
    [b"tintype manifest 1\0".as_slice(), &repository.0, &snapshot.0, &session.0].concat()
}

/// Seals and signs a manifest: the whole object.
pub fn seal(ring: &KeyRing, snapshot: Id, session: Id, manifest: &Manifest) -> Result<Vec<u8>> {
    let original = manifest.original.as_ref().map(|original| original.signer(ring)).transpose()?;
    let also = original.map(|signer| signer.host);
    let segment = ring.new_segment_also_for(Purpose::Manifest, also.as_slice())?;
    seal_in(ring, segment, (snapshot, session), manifest)
}

/// Like [`seal`], in a segment that nothing else is sealed in.
pub fn seal_in(
    ring: &KeyRing,
    (record, key): (SegmentRecord, SegmentKey),
    (snapshot, session): (Id, Id),
    manifest: &Manifest,
) -> Result<Vec<u8>> {
    const DOING: &str = "write a manifest";
    let mut text = serde_json::to_vec(manifest)
        .map_err(|cause| TinError::unsupported(DOING, "it cannot be written as JSON").caused_by(cause))?;
    key.seal(0, &associated(ring.repository(), snapshot, session), &mut text)?;
    let mut body = [snapshot.0, session.0].concat();
    record.encode(&mut body);
    body.extend_from_slice(&(text.len() as u32).to_le_bytes());
    body.extend_from_slice(&text);
    ring.sign(ObjectKind::Manifest, &name(snapshot), &body)
}

/// Checks a manifest's signature, and opens it if it is for these keys.
pub fn open(ring: &KeyRing, snapshot: Id, bytes: &[u8]) -> Result<Envelope> {
    let signed = ring.verify(ObjectKind::Manifest, &name(snapshot), bytes)?;
    let short = || TinError::corrupt("read a manifest", "it is cut short");
    let (ids, rest) = signed.body.split_first_chunk::<32>().ok_or_else(short)?;
    let (own, session) = ids.split_at(16);
    let session = Id(session.try_into().map_err(|_| short())?);
    if own != snapshot.0 {
        return Err(TinError::corrupt("read a manifest", "it is another snapshot's"));
    }
    let (record, rest) = SegmentRecord::parse(rest)?;
    let (length, sealed) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    if sealed.len() != u32::from_le_bytes(*length) as usize {
        return Err(short());
    }
    let manifest = open_sealed(ring, snapshot, session, &record, sealed);
    Ok(Envelope { session, signer: signed.signer, manifest })
}

fn open_sealed(ring: &KeyRing, snapshot: Id, session: Id, record: &SegmentRecord, sealed: &[u8]) -> Result<Manifest> {
    const DOING: &str = "read a manifest";
    let key = ring.open_segment(Purpose::Manifest, record)?;
    let mut sealed = sealed.to_vec();
    let text = key.open(0, &associated(ring.repository(), snapshot, session), &mut sealed)?;
    let manifest: Manifest = serde_json::from_slice(text)
        .map_err(|cause| TinError::corrupt(DOING, "it is no JSON that is understood").caused_by(cause))?;
    if manifest.schema > SCHEMA || !manifest.features.is_empty() {
        let detail =
            format!("schema {} with features {:?}, expected {SCHEMA} with none", manifest.schema, manifest.features);
        return Err(TinError::unsupported(DOING, detail));
    }
    Ok(manifest)
}
