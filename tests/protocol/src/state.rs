//! What a store holds and where each process stands.
//!
//! ```text
//!   packs      a name, its chunks, whether it is there    sessions   how each ended, and the chunks of its snapshot
//!   epochs     condemned, verdict, done                   processes  writers, pruners, a reader: a step and what it knows
//! ```
//!
//! A slow process and a delayed request are the same: a step that is taken late. A process that was killed leaves its slot
//! to another one. A request that arrives twice is an action of the world, for packs: a put or a delete that comes again.

use crate::set::Set;

/// How many pack names there can be.
pub const PACKS: usize = 7;
/// How many sessions there can be.
pub const SESSIONS: usize = 5;
/// How many epochs there can be.
pub const EPOCHS: usize = 4;

/// How a session ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// The name is not taken yet.
    #[default]
    Unused,
    /// Begun, without an end marker.
    Open,
    /// The marker says commit: the snapshot is there.
    Commit,
    /// The marker says fenced.
    Fenced,
    /// The marker says ended: a reader let go.
    Ended,
    /// There is a marker that does not count: damaged, or not by who may sign it.
    Void,
}

/// A session and its snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    /// Its end marker.
    pub end: End,
    /// The chunks of its snapshot; a reader's are those of the snapshot that it reads.
    pub needs: Set,
    /// A reader's lease, not a writer's session.
    pub lease: bool,
    /// There is a tombstone (or, where that rule is broken, the manifest is gone).
    pub forgotten: bool,
    /// The writer saw its commit succeed.
    pub acknowledged: bool,
    /// Its manifest is there (only where manifest and end are two steps).
    pub manifest: bool,
    /// Begun after the last damage (only where there is damage).
    pub fresh: bool,
}

impl Session {
    /// Whether the snapshot is visible.
    pub fn visible(self) -> bool {
        self.end == End::Commit && !self.forgotten
    }

    /// Whether there is a whole manifest without any end: the writer works, or died, or the end was lost.
    pub fn uncommitted(self) -> bool {
        self.end == End::Open && self.manifest && !self.forgotten
    }
}

/// What prune published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// The packs that may go.
    pub condemned: Option<Set>,
    /// The packs that go.
    pub verdict: Option<Set>,
    /// They are gone.
    pub done: bool,
    /// `condemned`, or if that is there `verdict`, is an object that does not count.
    pub void: bool,
}

impl Epoch {
    /// The packs that nobody may build on: the verdict's, and until there is a verdict that counts the condemned.
    pub fn taken(&self) -> Option<Set> {
        self.verdict.filter(|_| !self.void).or(self.condemned)
    }
}

/// Where a writer stands: the step it has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WriterStep {
    /// Nothing, or dead.
    #[default]
    Idle,
    /// W1.
    Begun,
    /// W2.
    KnowsEpochs,
    /// The first page of W2's list.
    HalfEpochs,
    /// The first page of W3's list.
    HalfListed,
    /// W3 before W2, where that rule is broken.
    ListedFirst,
    /// W3, or some of W4.
    Putting,
    /// W4: the name of its pack can be seen, and it has yet to sync it.
    Syncing,
    /// W5: its manifest is there.
    Manifested,
}

/// A writer, and what it knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Writer {
    /// Where it stands.
    pub step: WriterStep,
    /// Its session.
    pub session: u8,
    /// The packs that prune may take.
    pub excluded: Set,
    /// The packs listed so far.
    pub listed: Set,
    /// The chunks that it has yet to put.
    pub missing: Set,
    /// It gives an existing snapshot another manifest (tags, a name), and has no chunks to put.
    pub tag: bool,
    /// The chunks that it remembers to have put, where resuming by journal is tried.
    pub journal: Set,
}

/// Where a pruner stands: the step it has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrunerStep {
    /// Nothing, or dead.
    #[default]
    Idle,
    /// P1 and P2, some of P3.
    Planning,
    /// P4.
    Condemned,
    /// The first page of P5's list.
    HalfSessions,
    /// P5's list; it waits, or fences.
    Waiting,
    /// P6, the first page of the snapshots.
    HalfMarked,
    /// P6, the snapshots.
    Marked,
    /// P6, the first page of the packs.
    HalfListed,
    /// P6.
    Decided,
    /// P7, some of P8.
    Deleting,
}

/// A pruner, and what it knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pruner {
    /// Where it stands.
    pub step: PrunerStep,
    /// The number of its epoch.
    pub epoch: u8,
    /// The sessions that it waits for.
    pub waiting: Set,
    /// The chunks in use.
    pub used: Set,
    /// The packs listed so far; after P6 its verdict.
    pub packs: Set,
    /// A page could not be read, and it went on, where that rule is broken.
    pub blind: bool,
    /// The plan of a loser that does not drop it, where that rule is broken.
    pub own_plan: Set,
    /// P5's or P6's list was made too early, where that rule is broken.
    pub early: bool,
}

/// Where a reader stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReaderStep {
    /// Nothing, or dead.
    #[default]
    Idle,
    /// It holds a session.
    Begun,
    /// It saw that the snapshot is visible.
    Reading,
    /// The first page of a list of packs.
    HalfListed,
    /// The list had not what it looks for.
    Missed,
}

/// A reader, and what it knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reader {
    /// Where it stands.
    pub step: ReaderStep,
    /// Its lease; without one, the same as the next.
    pub session: u8,
    /// The session of the snapshot that it reads; once it has its lease, the same as that.
    pub snapshot: u8,
    /// The chunks found so far.
    pub found: Set,
    /// How many objects it saw under `epochs/` before it looked.
    pub epochs_seen: u8,
}

/// How much may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Budget {
    /// Sessions that writers begin.
    pub writes: u8,
    /// Times that a pruner starts.
    pub prunes: u8,
    /// Times that a reader starts.
    pub reads: u8,
    /// Tombstones.
    pub forgets: u8,
    /// Puts that arrive once more after the pack was deleted.
    pub duplicates: u8,
    /// Packs that get damaged and quarantined.
    pub damages: u8,
    /// Packs of a hostile writer, with other bytes than their ids say.
    pub plants: u8,
    /// Packs that pruners write.
    pub repacks: u8,
    /// Unused packs that are deleted by hand.
    pub mishaps: u8,
    /// Ends of sessions that get lost.
    pub losses: u8,
    /// Objects that do not count under a name that somebody wants.
    pub voids: u8,
    /// Snapshots that get another manifest.
    pub tags: u8,
    /// Power cuts: all processes end, and names that were not synced may be gone.
    pub cuts: u8,
}

/// What must never happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Harm {
    /// A verdict took a sound pack that had the only sound copy of a used chunk.
    pub lost: bool,
    /// Somebody took a chunk for lost that is not.
    pub false_alarm: bool,
}

/// The store and all processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    /// The chunks of each pack; none for a name that is free.
    pub content: [Set; PACKS],
    /// The packs that are there.
    pub present: Set,
    /// The packs that are quarantined.
    pub quarantined: Set,
    /// The packs of a hostile writer.
    pub hostile: Set,
    /// The packs that a delete was sent for, which may arrive at any time, and again.
    pub doomed: Set,
    /// The packs whose name is there and not synced (only where there are power cuts).
    pub unsynced: Set,
    /// The sessions whose tombstone is there and not synced (only where there are power cuts).
    pub unsynced_tombstones: Set,
    /// The sessions.
    pub sessions: [Session; SESSIONS],
    /// The epochs.
    pub epochs: [Epoch; EPOCHS],
    /// The writers.
    pub writers: [Writer; 2],
    /// The pruners.
    pub pruners: [Pruner; 2],
    /// The reader.
    pub reader: Reader,
    /// How much may still happen.
    pub budget: Budget,
    /// What must never happen.
    pub harm: Harm,
}

impl State {
    /// All chunks that these packs say they have.
    pub fn chunks_of(&self, packs: Set) -> Set {
        packs.members().filter_map(|pack| self.content.get(pack)).fold(Set::EMPTY, |all, &chunks| all | chunks)
    }

    /// The packs that are there with the bytes that they should have.
    pub fn sound(&self) -> Set {
        self.present - self.quarantined - self.hostile
    }

    /// The chunks of all snapshots that were committed and not forgotten, even if their end marker is damaged or lost.
    pub fn committed(&self) -> Set {
        let damaged = |session: &Session| {
            let harmed = session.end == End::Void && !session.forgotten || session.uncommitted();
            harmed && session.acknowledged
        };
        let sessions = self.sessions.iter().filter(|session| session.visible() || damaged(session));
        sessions.fold(Set::EMPTY, |all, session| all | session.needs)
    }

    /// The chunks of all visible snapshots.
    pub fn used(&self) -> Set {
        let visible = self.sessions.iter().filter(|session| session.visible());
        visible.fold(Set::EMPTY, |all, session| all | session.needs)
    }

    /// The packs that epochs before this one took, or may have taken.
    pub fn dead_before(&self, epoch: usize) -> Set {
        let over = self.epochs.iter().take(epoch).filter(|epoch| epoch.verdict.is_some());
        over.fold(Set::EMPTY, |all, epoch| all | epoch.taken().unwrap_or_default())
    }

    /// How many epochs have begun.
    pub fn epochs_begun(&self) -> usize {
        self.epochs.iter().filter(|epoch| epoch.condemned.is_some()).count()
    }

    /// The sessions whose marker says this.
    pub fn sessions_that(&self, end: End) -> Set {
        let those = self.sessions.iter().enumerate().filter(|(_, session)| session.end == end);
        those.fold(Set::EMPTY, |all, (number, _)| all | Set::one(number))
    }
}
