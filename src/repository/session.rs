//! A writer's session: finds chunks that are stored already, stores the others, and commits (FORMAT.md §11, W1 to W6).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, RwLock};

use tintype_formats::error::{ImageError, Result as ImageResult};
use tintype_formats::locks::Unpoisoned as _;
use tintype_formats::tin::pack_stream::{FinishedPack, PackStream, PackTarget, Place};
use tintype_formats::tin::write::{ChunkSink, Reserved};
use tintype_tin::chunk::{ChunkHeader, ChunkKind, Packed};
use tintype_tin::id::{ChunkId, Id};
use tintype_tin::keys::Certificate;
use tintype_tin::manifest::{self, Manifest};
use tintype_tin::map::Location;
use tintype_tin::pack::{self, PackBuilder, PackTable};
use tintype_tin::seal::{Purpose, SegmentKey, SegmentRecord};

use super::index::{FreshChunks, Index, PackRow, SegmentBuilder};
use super::protocol::{End, ListedPack, put_own};
use super::store::StoreErrorKind;
use super::{Repository, names};
use crate::error::{Error, Kind, Result};

/// How many new chunks are kept in memory before their index segment is written: 64 GiB of a disk, 24 MiB of memory.
const SEGMENT_CHUNKS: usize = 256 << 10;

/// A session that stores chunks.
pub struct WriteSession {
    repository: Arc<Repository>,
    /// Nothing, if it only pretends.
    id: Option<Id>,
    usable: HashSet<Id>,
    target: Arc<SessionTarget>,
    data: PackStream<SessionTarget>,
    maps: PackStream<SessionTarget>,
}

/// Puts complete packs into the store, and knows what is in them.
struct SessionTarget {
    repository: Arc<Repository>,
    index: RwLock<Index>,
    fresh: FreshChunks,
    segment: Mutex<SegmentBuilder>,
    /// The packs that this session has put.
    own: Mutex<HashSet<Id>>,
    /// Nothing is to be stored.
    pretends: bool,
}

impl WriteSession {
    /// W1 to W3: announces the session, and finds out what may be built on. `begins_again` says whether its writer makes a new
    /// one if it is fenced.
    pub fn begin(repository: &Arc<Repository>, operation: &str, begins_again: bool) -> Result<WriteSession> {
        repository.require_adds(operation)?;
        // Before this session needs the space: one that fills the disk must leave a way out.
        if let Some(reserve) = repository.store().reserve() {
            reserve.refill();
        }
        let id = repository.protocol().begin_session(operation, &[], begins_again)?;
        Self::prepare(repository, Some(id))
    }

    /// A session that finds what is stored, and stores nothing: it cannot be committed.
    pub fn pretend(repository: &Arc<Repository>, operation: &str) -> Result<WriteSession> {
        // What its writer may not do must not look as if it would work.
        repository.require_adds(operation)?;
        Self::prepare(repository, None)
    }

    fn prepare(repository: &Arc<Repository>, id: Option<Id>) -> Result<WriteSession> {
        let protocol = repository.protocol();
        let excluded = protocol.epochs()?.excluded();
        let quarantined = protocol.quarantined()?;
        let mut packs = protocol.packs()?;
        packs.retain(|pack| !excluded.contains(&pack.id) && !quarantined.contains(&pack.id));
        let index = repository.index_of_packs(&packs, id.is_some())?;
        // Whose chunks are not to be built on, and what cannot be read, is as if it were not there: a parent of the same
        // name may be of a host that can only write.
        let trusted = index.packs().filter(|row| row.is_trusted_by(repository.ring())).map(|row| row.id);
        let trusted: HashSet<Id> = trusted.collect();
        packs.retain(|pack| trusted.contains(&pack.id));
        let target = Arc::new(SessionTarget {
            repository: Arc::clone(repository),
            index: RwLock::new(index),
            fresh: FreshChunks::default(),
            segment: Mutex::default(),
            own: Mutex::default(),
            pretends: id.is_none(),
        });
        let stream = |kind| PackStream::new(Arc::clone(repository.ring()), kind, Arc::clone(&target));
        Ok(WriteSession {
            repository: Arc::clone(repository),
            id,
            usable: packs.iter().map(|pack| pack.id).collect(),
            data: stream(ChunkKind::Data),
            maps: stream(ChunkKind::MapPage),
            target,
        })
    }

    /// W4 to W6: completes what is stored, writes the manifest and commits. A session that was fenced fails with
    /// [`Kind::Fenced`]: all begins again, with a new session.
    pub fn commit(self, manifest: &Manifest) -> Result<Id> {
        let snapshot = super::ids::new_id()?;
        self.commit_as(snapshot, manifest)
    }

    /// The same, under an id of the caller's.
    pub fn commit_as(self, snapshot: Id, manifest: &Manifest) -> Result<Id> {
        let Some(session) = self.id else {
            return Err(Error::new(Kind::Usage, "a session that stores nothing cannot be committed"));
        };
        self.flush()?;
        let store = self.repository.store();
        let object = manifest::seal(self.repository.ring(), snapshot, session, manifest)?;
        put_own(store, &names::snapshot(snapshot), &object)?;
        store.sync()?;
        let commit = End::Commit { snapshot, manifest: *blake3::hash(&object).as_bytes() };
        match self.repository.protocol().end_session(session, commit)? {
            end if end == commit => Ok(snapshot),
            _ => Err(Error::new(Kind::Fenced, "commit the snapshot: a prune did not wait for this backup")),
        }
    }

    /// Makes durable what was stored so far: the next session finds it, whatever becomes of this one. No place may be left unused.
    pub fn flush(&self) -> Result<()> {
        self.data.flush()?;
        self.maps.flush()?;
        self.target.write_segment()?;
        self.repository.store().sync()?;
        Ok(())
    }

    /// Puts a pack of chunks that were copied as they are stored; `author` sealed them.
    pub fn put_copied(&self, kind: ChunkKind, builder: PackBuilder, author: &Certificate) -> Result<()> {
        let id = builder.id();
        let (bytes, chunks) = builder.finish(self.repository.ring(), author)?;
        self.target.put_pack(kind, FinishedPack { id, sequence: 0, bytes, chunks }, author)
    }

    /// Completes what is stored, and ends the session without a snapshot.
    pub fn close(self) -> Result<()> {
        self.flush()?;
        self.abandon();
        Ok(())
    }

    /// Takes a whole pack that was sealed for this repository before, with the table that it has.
    pub fn adopt(&self, id: Id, bytes: &[u8], table: &PackTable) -> Result<()> {
        let store = self.repository.store();
        match store.put(&names::pack(id), bytes) {
            // Of this session, after an answer that was lost, or of another import: a name stands for the same bytes.
            Err(cause) if cause.kind() == StoreErrorKind::AlreadyExists => {
                let found = store.get(&names::pack(id), pack::MAX_BYTES)?;
                if found != bytes {
                    let message = format!("import pack {id}: the repository has other bytes of that name");
                    return Err(Error::new(Kind::Io, message));
                }
            }
            Err(cause) if cause.kind() == StoreErrorKind::Unclear => put_own(store, &names::pack(id), bytes)?,
            other => other?,
        }
        let row = super::row_of(ListedPack { id, len_bytes: bytes.len() as u64 }, table);
        self.target.note_pack(row, &table.chunks)
    }

    /// Gives the session up; what it stored is found by the next one.
    pub fn abandon(self) {
        // Whoever waits for it is told at once; if that fails, a prune fences it.
        let _ = self.id.map(|id| self.repository.protocol().end_session(id, End::Ended));
    }

    /// The packs that may be built on.
    pub fn usable(&self) -> &HashSet<Id> {
        &self.usable
    }

    fn stream(&self, kind: ChunkKind) -> &PackStream<SessionTarget> {
        match kind {
            ChunkKind::Data => &self.data,
            ChunkKind::MapPage => &self.maps,
        }
    }
}

impl ChunkSink for WriteSession {
    fn may_use(&self, location: &Location) -> bool {
        self.target.counts(location, &self.usable)
    }

    fn find(&self, id: &ChunkId) -> ImageResult<Option<Location>> {
        if let Some(location) = self.target.fresh.get(id) {
            return Ok(Some(location));
        }
        let found = self.target.index.read().unpoisoned().find(id).map_err(to_image)?;
        let ring = self.repository.ring();
        let good =
            found.iter().find(|found| self.target.counts(&found.location, &self.usable) && found.is_trusted_by(ring));
        Ok(good.map(|found| found.location))
    }

    fn reserve(&self, kind: ChunkKind, id: ChunkId, chunk_bytes: usize) -> ImageResult<Reserved> {
        if let Some(location) = self.target.fresh.get(&id) {
            return Ok(Reserved::Known(location));
        }
        let place = self.stream(kind).reserve(chunk_bytes)?;
        self.target.fresh.insert(id, place.location);
        Ok(Reserved::New(place))
    }

    fn store(&self, kind: ChunkKind, place: Place, packed: Packed) -> ImageResult<()> {
        self.stream(kind).store(place, packed)
    }
}

impl SessionTarget {
    /// Whether a pack is usable: one that was there, or one of this session that an early index segment names.
    fn counts(&self, location: &Location, usable: &HashSet<Id>) -> bool {
        usable.contains(&location.pack) || self.own.lock().unpoisoned().contains(&location.pack)
    }

    /// Remembers a pack that is in the store, for the index segment.
    fn note_pack(&self, row: PackRow, chunks: &[(u32, ChunkHeader)]) -> Result<()> {
        self.own.lock().unpoisoned().insert(row.id);
        let mut segment = self.segment.lock().unpoisoned();
        segment.add_pack(row, chunks);
        let full = segment.len() >= SEGMENT_CHUNKS;
        drop(segment);
        if full { self.write_segment() } else { Ok(()) }
    }

    /// W5: writes the index segment of what was put so far, and is durable.
    fn write_segment(&self) -> Result<()> {
        let segment = std::mem::take(&mut *self.segment.lock().unpoisoned());
        if segment.is_empty() {
            return Ok(());
        }
        let ids: Vec<ChunkId> = segment.ids().collect();
        let (id, body) = self.repository.put_index(segment)?;
        let mut index = self.index.write().unpoisoned();
        self.repository.cache().add(&self.repository.trusted_scope(), &mut index, id, &body)?;
        self.fresh.remove_all(ids.into_iter());
        Ok(())
    }

    /// W4: puts a pack, and notes its chunks for the index.
    fn put_pack(&self, kind: ChunkKind, pack: FinishedPack, author: &Certificate) -> Result<()> {
        if self.pretends {
            return Ok(());
        }
        put_own(self.repository.store(), &names::pack(pack.id), &pack.bytes)?;
        let row = PackRow {
            id: pack.id,
            author: author.signing,
            role: Some(author.role),
            kind: kind.number(),
            length_bytes: pack.bytes.len() as u32,
        };
        self.note_pack(row, &pack.chunks)
    }
}

impl PackTarget for SessionTarget {
    fn begin(&self, kind: ChunkKind, _sequence: u64) -> ImageResult<(Id, SegmentRecord, SegmentKey)> {
        let purpose = match kind {
            ChunkKind::Data => Purpose::Data,
            ChunkKind::MapPage => Purpose::Map,
        };
        let (record, key) = self.repository.ring().new_segment(purpose)?;
        Ok((Id::random()?, record, key))
    }

    fn put(&self, kind: ChunkKind, pack: FinishedPack) -> ImageResult<()> {
        self.put_pack(kind, pack, self.repository.ring().certificate()).map_err(to_image)
    }
}

/// A failure of the repository inside of an image writer.
pub fn to_image(cause: Error) -> ImageError {
    use tintype_formats::ErrorKind;
    let detail = cause.to_string();
    ImageError::new(ErrorKind::Io, "use the repository", detail).caused_by(cause)
}
