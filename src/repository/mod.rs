//! The backup repository: objects that are created once and never changed, in any store that can create exclusively.
//!
//! `FORMAT.md` says byte for byte what the objects hold, and by which protocol they come and go.

pub mod disk;
mod entrance;
mod ids;
pub mod index;
pub mod keys;
pub mod lease;
pub mod ledger;
pub mod lineup;
pub mod listing;
pub mod names;
pub mod policy;
mod process;
pub mod protocol;
pub mod prune;
pub mod repair;
pub mod resolve;
pub mod session;
pub mod snapshots;
pub mod store;
pub mod time;
pub mod transfer;
pub mod verify;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tintype_formats::ImageError;
use tintype_formats::secrets::Secret;
use tintype_tin::id::Id;
use tintype_tin::keys::KeyRing;
use tintype_tin::pack::{self, PackTable, TRAILER_BYTES};
use tintype_tin::recovery::RecoveryKey;
use tintype_tin::signed::ObjectKind;
use tintype_tin::slot::{Cost, SlotSecret};

use self::entrance::Entrance;
use self::index::{Cache, Index, PackRow, Scope, SegmentBuilder};
use self::protocol::{ListedPack, Protocol, put_own};
use self::store::{Store, StoreErrorKind};
use crate::error::{Error, Kind, Result, in_words};

/// The program and its version, as manifests and sessions name it.
pub const PROGRAM: &str = concat!("tintype ", env!("CARGO_PKG_VERSION"));

/// The format that this program writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// The length of a chunk in new repositories, in bytes. `benches/compare-backup --chunk-sizes` measures others.
pub const DEFAULT_CHUNK_BYTES: u64 = 256 << 10;

/// The chunk lengths that there can be, in bytes.
pub const CHUNK_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=4 << 20;

/// The longest key slot, and the longest description of a repository, in bytes.
const MAX_SMALL_BYTES: u64 = 1 << 20;

/// The longest index segment, in bytes.
const MAX_INDEX_BYTES: u64 = 1 << 30;

/// What a repository is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The version of the format.
    pub format: u32,
    /// The repository's id.
    pub id: Id,
    /// The length of a chunk in bytes.
    pub chunk_bytes: u64,
    /// "keys", or "none".
    pub encryption: String,
    /// What a program must know of.
    #[serde(default)]
    pub features: Features,
}

/// What a program must know of to read, write or check the repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// To do anything.
    #[serde(default)]
    pub read: Vec<String>,
    /// To write.
    #[serde(default)]
    pub write: Vec<String>,
    /// To verify and prune.
    #[serde(default)]
    pub check: Vec<String>,
}

/// An open repository.
pub struct Repository {
    store: Box<dyn Store>,
    ring: Arc<KeyRing>,
    /// The key slot that it was opened with.
    slot: Option<Id>,
    config: Config,
    cache: Cache,
}

/// How a new repository is to be.
pub struct InitOptions<'a> {
    /// The length of a chunk in bytes.
    pub chunk_bytes: u64,
    /// What opens it; without one, it is not encrypted.
    pub secret: Option<&'a Secret>,
    /// A recovery key, for when the secret is lost.
    pub recovery: Option<&'a RecoveryKey>,
    /// Who makes it.
    pub holder: &'a str,
    /// What deriving a key from a passphrase costs.
    pub cost: Cost,
}

impl Repository {
    /// Makes a new repository in an empty store.
    pub fn init(store: Box<dyn Store>, cache: Option<PathBuf>, options: &InitOptions<'_>) -> Result<Arc<Repository>> {
        if !CHUNK_BYTES.contains(&options.chunk_bytes) || !options.chunk_bytes.is_power_of_two() {
            let message = format!("chunks of {} bytes; expected a power of two from 64k to 4M", options.chunk_bytes);
            return Err(Error::new(Kind::Usage, message));
        }
        if let Some(found) = store.list("")?.first() {
            let message = format!("{} holds \"{}\" already", store.shown(), found.name.escape_debug());
            return Err(Error::new(Kind::TargetExists, message));
        }
        let id = Id::random()?;
        let ring = match options.secret {
            Some(_) => KeyRing::generate(id, options.holder)?,
            None => KeyRing::public(id)?,
        };
        let encryption = if options.secret.is_some() { "keys" } else { "none" }.to_owned();
        let config =
            Config { format: FORMAT, id, chunk_bytes: options.chunk_bytes, encryption, features: Features::default() };
        let put = |secret, label| keys::put_slot(store.as_ref(), &ring, &ring, secret, label, options.cost);
        put(options.secret.map(|secret| SlotSecret::Password(secret.bytes())), options.holder)?;
        if let Some(key) = options.recovery {
            put(Some(SlotSecret::RecoveryKey(key)), keys::RECOVERY_LABEL)?;
        }
        store.sync()?;
        // Last: without it, there is no repository.
        let body = serde_json::to_vec(&config).unwrap_or_default();
        let object = ring.sign(ObjectKind::Repository, names::REPOSITORY, &body)?;
        put_own(store.as_ref(), names::REPOSITORY, &object)?;
        store.sync()?;
        let cache = Cache::open(cache.as_deref(), id);
        Ok(Arc::new(Repository { store, ring: Arc::new(ring), slot: None, config, cache }))
    }

    /// Opens a repository; `secret` is asked for what opens it, if it is encrypted, and refused if it is not.
    pub fn open(
        store: Box<dyn Store>,
        cache: Option<PathBuf>,
        secret_is_said: bool,
        secret: &mut dyn FnMut() -> Result<Secret>,
    ) -> Result<Arc<Repository>> {
        let Entrance { object, id } = Entrance::find(store.as_ref())?;
        let (ring, slot) = keys::unlock(store.as_ref(), id, secret_is_said, secret)?;
        let object = object.ok_or_else(|| entrance::damaged(names::REPOSITORY, "it is not there"))?;
        let config = read_config(&ring, &object)?;
        let cache = Cache::open(cache.as_deref(), id);
        Ok(Arc::new(Repository { store, ring: Arc::new(ring), slot: Some(slot), config, cache }))
    }

    /// Where the objects are.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// The keys that it was opened with.
    pub fn ring(&self) -> &Arc<KeyRing> {
        &self.ring
    }

    /// Has writes take space from the store's reserve where there is no other, or not any more: those that free space, and
    /// small ones by people who look after a full disk.
    pub fn allow_reserve(&self, allowed: bool) {
        if let Some(reserve) = self.store.reserve() {
            reserve.allow(allowed);
        }
    }

    /// What it is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The index on this computer.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The protocol's requests.
    pub fn protocol(&self) -> Protocol<'_> {
        Protocol { store: self.store(), ring: &self.ring }
    }

    /// Fails unless the holder may forget, prune and repair.
    pub fn require_admin(&self, doing: &str) -> Result<()> {
        self.require(self.ring.role().maintains(), doing, "admin or maintain")
    }

    /// Fails unless the holder may add snapshots.
    pub fn require_adds(&self, doing: &str) -> Result<()> {
        self.require(self.ring.role().adds(), doing, "write, use, maintain or admin")
    }

    /// Fails unless the holder may read the content of disks.
    pub fn require_data(&self, doing: &str) -> Result<()> {
        self.require(self.ring.can_read_data(), doing, "use, read or admin")
    }

    /// What a key that opens only its own snapshots does not find may be another host's: then its role is what is missing.
    pub fn explain_missing(&self, cause: Error) -> Error {
        let sees_all = cause.kind() != Kind::NoSnapshot || self.ring.can_read_maps();
        if sees_all || !self.snapshots().is_ok_and(|listing| listing.sealed > 0) {
            return cause;
        }
        let role = self.ring.role();
        Error::new(Kind::Denied, format!("{cause}; a key with the role {role} opens only its own host's snapshots"))
    }

    fn require(&self, allowed: bool, doing: &str, roles: &str) -> Result<()> {
        let role = self.ring.role();
        let denied =
            || Error::new(Kind::Denied, format!("{doing}: needs the role {roles}; this key has the role {role}"));
        if allowed { Ok(()) } else { Err(denied()) }
    }

    /// Fails if somebody who verifies or prunes must know of something that this program does not.
    pub fn require_features(&self) -> Result<()> {
        let Some(feature) = self.config.features.check.first() else { return Ok(()) };
        let feature = feature.escape_debug();
        let message = format!("verify or prune: it takes a program that knows of \"{feature}\": use a newer one");
        Err(Error::new(Kind::Io, message))
    }

    /// The ids of the index segments.
    pub fn index_ids(&self) -> Result<Vec<Id>> {
        Ok(self.store.list("index/")?.iter().filter_map(|listed| names::parse_flat("index", &listed.name)).collect())
    }

    /// What the index segments say, of whomever they are. Readers prove every chunk themselves.
    pub fn index_for_reading(&self) -> Result<Index> {
        self.cache.load(&Scope::Everybody, &self.index_ids()?, None, |id| self.fetch_index(id, false))
    }

    /// W3: the index for a writer, with a segment for those of these packs that no trusted segment names: a writer that died
    /// before it wrote its own, or whose word is not trusted. What packs' tables say is put into the store, or not.
    pub fn index_of_packs(&self, packs: &[ListedPack], publish: bool) -> Result<Index> {
        let scope = self.trusted_scope();
        let live: HashSet<Id> = packs.iter().map(|pack| pack.id).collect();
        let mut index = self.cache.load(&scope, &self.index_ids()?, Some(&live), |id| self.fetch_index(id, true))?;
        let mut segment = SegmentBuilder::default();
        for pack in packs.iter().filter(|pack| !index.knows_pack(&pack.id)) {
            // A damaged pack is nothing to build on; verify reports it.
            if let Ok(table) = self.pack_table(*pack) {
                self.store.adopt(&names::pack(pack.id));
                segment.add_pack(row_of(*pack, &table), &table.chunks);
            }
        }
        match (segment.is_empty(), publish) {
            (true, _) => {}
            (false, false) => index.add_body(&segment.encode())?,
            (false, true) => {
                let body = segment.encode();
                match self.put_index_body(&body) {
                    Ok(id) => self.cache.add(&scope, &mut index, id, &body)?,
                    // The packs' tables say it too: a full disk needs no segment.
                    Err(cause) if cause.kind() == Kind::NoSpace => index.add_body(&body)?,
                    Err(cause) => return Err(cause),
                }
            }
        }
        Ok(index)
    }

    /// What the packs' own tables say, where no trusted segment says it.
    pub fn index_with_tables(&self) -> Result<Index> {
        self.index_of_packs(&self.protocol().packs()?, false)
    }

    /// Puts an index segment.
    pub fn put_index(&self, segment: SegmentBuilder) -> Result<(Id, Vec<u8>)> {
        let body = segment.encode();
        Ok((self.put_index_body(&body)?, body))
    }

    fn put_index_body(&self, body: &[u8]) -> Result<Id> {
        // Whoever finds a pack in an index segment may build on it: it is durable before.
        self.store.sync()?;
        let id = Id::random()?;
        self.protocol().create(ObjectKind::Index, &names::index(id), body)?;
        Ok(id)
    }

    /// Whose segments a writer with these keys builds on.
    pub fn trusted_scope(&self) -> Scope {
        let own = self.ring.certificate().signing;
        match self.ring.role().reads_maps() {
            true => Scope::Trusted,
            false => Scope::TrustedAnd(Id(std::array::from_fn(|index| own[index]))),
        }
    }

    /// The body of an index segment, unless it is gone or does not count (or, `trusted`, is of somebody not to be trusted).
    pub fn fetch_index(&self, id: Id, trusted: bool) -> Result<Option<Vec<u8>>> {
        let name = names::index(id);
        let bytes = match self.store.get(&name, MAX_INDEX_BYTES) {
            Ok(bytes) => bytes,
            Err(cause) if cause.kind() == StoreErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(cause.into()),
        };
        let Ok(signed) = self.ring.verify(ObjectKind::Index, &name, &bytes) else { return Ok(None) };
        let own = signed.signer.signing == self.ring.certificate().signing;
        let counts = !trusted || own || signed.signer.role.reads_maps();
        let counts = counts && index::parse_rows(signed.body).is_some();
        Ok(counts.then(|| signed.body.to_vec()))
    }

    /// The table of a pack.
    pub fn pack_table(&self, pack: ListedPack) -> Result<PackTable> {
        let name = names::pack(pack.id);
        let mut trailer = [0; TRAILER_BYTES];
        let Some(trailer_at) = pack.len_bytes.checked_sub(TRAILER_BYTES as u64) else {
            return Err(ImageError::truncated("read the trailer of a pack", format!("{name} is too short")).into());
        };
        self.store.get_range(&name, trailer_at, &mut trailer)?;
        let (offset, length) = pack::table_range(&trailer, pack.len_bytes)?;
        let mut bytes = vec![0; length];
        self.store.get_range(&name, offset, &mut bytes)?;
        Ok(PackTable::parse(&self.ring, pack.id, &bytes, offset)?)
    }
}

/// What an index segment says of a pack itself.
pub fn row_of(pack: ListedPack, table: &PackTable) -> PackRow {
    PackRow {
        id: pack.id,
        author: table.author.signing,
        role: Some(table.author.role),
        kind: table.chunks.first().map_or(0, |(_, header)| header.kind().number()),
        length_bytes: pack.len_bytes as u32,
    }
}

fn read_config(ring: &KeyRing, object: &[u8]) -> Result<Config> {
    let signed = ring.verify(ObjectKind::Repository, names::REPOSITORY, object);
    let signed = signed.map_err(|cause| entrance::damaged(names::REPOSITORY, in_words(&cause)))?;
    let damaged = |what: String| Error::new(Kind::Io, format!("read the object \"repository\": {what}"));
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let version: Version = serde_json::from_slice(signed.body).map_err(|cause| damaged(cause.to_string()))?;
    if version.format > FORMAT {
        let found = version.format;
        return Err(damaged(format!("it has format version {found}, this program knows {FORMAT}: use a newer one")));
    }
    let config: Config = serde_json::from_slice(signed.body).map_err(|cause| damaged(cause.to_string()))?;
    if let Some(feature) = config.features.read.first() {
        let feature = feature.escape_debug();
        return Err(damaged(format!("it takes a program that knows of \"{feature}\": use a newer one")));
    }
    if !CHUNK_BYTES.contains(&config.chunk_bytes) || !config.chunk_bytes.is_power_of_two() {
        return Err(damaged(format!("its chunks have {} bytes", config.chunk_bytes)));
    }
    Ok(config)
}
