//! Fills packs one after the other, by many threads at once.
//!
//! A place is reserved in guest order, under a lock and with a few instructions; chunks are sealed and put there in any order.
//! Whoever completes a pack hands it on, so that others go on filling the next one.

use std::sync::{Arc, Mutex, MutexGuard};

use tintype_tin::chunk::{ChunkHeader, ChunkKind, Packed};
use tintype_tin::id::Id;
use tintype_tin::keys::KeyRing;
use tintype_tin::map::Location;
use tintype_tin::pack::{self, PackBuilder};
use tintype_tin::seal::{SegmentKey, SegmentRecord};

use crate::error::Result;
use crate::locks::Unpoisoned as _;

/// A complete pack.
pub struct FinishedPack {
    /// Its id.
    pub id: Id,
    /// Which one it is of its stream, from 0.
    pub sequence: u64,
    /// All of its bytes.
    pub bytes: Vec<u8>,
    /// Each chunk's place and header, in order.
    pub chunks: Vec<(u32, ChunkHeader)>,
}

/// Where packs come from and go to.
pub trait PackTarget: Send + Sync {
    /// The id and the segment of a new pack.
    fn begin(&self, kind: ChunkKind, sequence: u64) -> Result<(Id, SegmentRecord, SegmentKey)>;

    /// Takes a complete pack; several threads may call at once, in any order.
    fn put(&self, kind: ChunkKind, pack: FinishedPack) -> Result<()>;
}

/// Packs of one kind on their way to a target.
pub struct PackStream<T> {
    ring: Arc<KeyRing>,
    kind: ChunkKind,
    target: Arc<T>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    pack: Option<Arc<OpenPack>>,
    next_sequence: u64,
}

struct OpenPack {
    id: Id,
    sequence: u64,
    key: SegmentKey,
    filling: Mutex<Filling>,
}

struct Filling {
    /// Gone when the pack is complete.
    builder: Option<PackBuilder>,
    next_number: u32,
    /// How many places are reserved and not filled, and 1 while the pack may get more.
    outstanding: usize,
}

/// Room for a chunk in a pack.
pub struct Place {
    /// Where the chunk will be.
    pub location: Location,
    pack: Arc<OpenPack>,
    number: u32,
    /// The pack before, which got its last chunk: whoever uses this place lets go of it first.
    full: Option<Arc<OpenPack>>,
}

impl<T: PackTarget> PackStream<T> {
    /// A stream of packs that begins with nothing.
    pub fn new(ring: Arc<KeyRing>, kind: ChunkKind, target: Arc<T>) -> Self {
        PackStream { ring, kind, target, open: Mutex::default() }
    }

    /// Makes room for a chunk of this length, header included. The place must be used, or the stream given up.
    pub fn reserve(&self, chunk_bytes: usize) -> Result<Place> {
        let mut open = lock(&self.open);
        let fits = |pack: &Arc<OpenPack>| {
            let filling = lock(&pack.filling);
            filling.builder.as_ref().is_some_and(|builder| builder.reserved_bytes() + chunk_bytes <= pack::TARGET_BYTES)
        };
        let full = open.pack.take_if(|pack| !fits(pack));
        let pack = match &open.pack {
            Some(pack) => Arc::clone(pack),
            None => {
                let pack = Arc::new(self.begin_pack(open.next_sequence)?);
                open.next_sequence += 1;
                open.pack = Some(Arc::clone(&pack));
                pack
            }
        };
        let mut filling = lock(&pack.filling);
        let number = filling.next_number;
        filling.next_number += 1;
        filling.outstanding += 1;
        let offset = filling.builder.as_mut().map_or(0, |builder| builder.reserve(chunk_bytes));
        drop(filling);
        let location = Location { pack: pack.id, offset, length: chunk_bytes as u32 };
        Ok(Place { location, pack, number, full })
    }

    fn begin_pack(&self, sequence: u64) -> Result<OpenPack> {
        let (id, record, key) = self.target.begin(self.kind, sequence)?;
        let builder = PackBuilder::new(self.ring.repository(), id, self.kind, std::slice::from_ref(&record));
        let filling = Filling { builder: Some(builder), next_number: 0, outstanding: 1 };
        Ok(OpenPack { id, sequence, key, filling: Mutex::new(filling) })
    }

    /// Seals a chunk and puts it at its place; hands the pack on if it was the last one.
    pub fn store(&self, place: Place, packed: Packed) -> Result<()> {
        if let Some(full) = place.full {
            self.let_go(&full)?;
        }
        let pack = place.pack;
        let (header, stored) = packed.seal(&pack.key, place.number)?;
        if let Some(builder) = lock(&pack.filling).builder.as_mut() {
            builder.fill(place.location.offset, header, &stored);
        }
        self.let_go(&pack)
    }

    /// Completes the pack that is being filled. No place may be left unused.
    pub fn flush(&self) -> Result<()> {
        let pack = lock(&self.open).pack.take();
        pack.map_or(Ok(()), |pack| self.let_go(&pack))
    }

    fn let_go(&self, pack: &OpenPack) -> Result<()> {
        let mut filling = lock(&pack.filling);
        filling.outstanding -= 1;
        let complete = if filling.outstanding == 0 { filling.builder.take() } else { None };
        drop(filling);
        let Some(builder) = complete else { return Ok(()) };
        let (bytes, chunks) = builder.finish(&self.ring, self.ring.certificate())?;
        self.target.put(self.kind, FinishedPack { id: pack.id, sequence: pack.sequence, bytes, chunks })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unpoisoned()
}
