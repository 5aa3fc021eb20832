//! Index segments while they are merged: a model of its own.
//!
//! ```text
//!   packs      0 {a, b}   1 {a}   2 {b}, which a writer puts, and then its segment (or it is killed in between)
//!   segments   sets of (pack, chunk), one bit each        a and b are in use
//!   compactor  list, read one by one, put the merged one, delete one by one         two of them, killed anywhere
//!   pruner     list segments, read one by one, then the packs: what it takes for unneeded goes
//!   reader     list segments, read one by one; what no segment names is asked of the packs' tables
//! ```
//!
//! The index is a cache: whatever happens to it, nothing is lost and nothing is taken for lost.

use stateright::{Model, Property};

use crate::protocol::{NO_FALSE_ALARM, NOTHING_LOST};
use crate::set::Set;

/// What keeps the index harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexRule {
    /// A pack that no segment names is asked for its table, before anything is said of its chunks.
    UnnamedPacksAreAsked,
    /// A segment that names a pack has all its chunks.
    PacksAreNamedWhole,
    /// A segment counts for the packs of its signer only, or if the signer is trusted.
    SegmentsAreTrusted,
    /// A reader that finds a chunk in no segment asks the packs' tables.
    ReadersAskTables,
}

const PACKS: usize = 3;
const SEGMENTS: usize = 7;
const CHUNKS: usize = 2;
const CONTENT: [Set; PACKS] = [Set(0b11), Set(0b01), Set(0b10)];
const USED: Set = Set(0b11);

/// The entries of a pack: one bit for each (pack, chunk).
fn entries_of(pack: usize) -> Set {
    Set(CONTENT[pack].0 << (CHUNKS * pack))
}

/// The chunks that the entries give a pack.
fn chunks_in(entries: Set, pack: usize) -> Set {
    Set(entries.0 >> (CHUNKS * pack) & 0b11)
}

/// A process that reads the index, and what it knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lookup {
    /// 0 idle, 1 reading segments, 2 all read; a compactor: 3 merged.
    pub step: u8,
    /// The segments yet to read; a compactor's after the merge: yet to delete.
    pub segments: Set,
    /// The segments that were read.
    pub read: Set,
    /// What they said.
    pub entries: Set,
}

/// The store and all processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct IndexState {
    /// The packs that are there.
    pub packs: Set,
    /// The entries of each segment that is there.
    pub segments: [Option<Set>; SEGMENTS],
    /// Segments of a hostile writer.
    pub hostile: Set,
    /// Segment names used so far.
    pub names: u8,
    /// The writer: 0 nothing, 1 its pack is there, 2 its segment too.
    pub writer: u8,
    /// Two compactors, a pruner, a reader.
    pub lookups: [Lookup; 4],
    /// Compactions that may still begin.
    pub compactions: u8,
    /// The hostile segment may still come.
    pub may_lie: bool,
    /// Somebody took a chunk for lost that is not.
    pub false_alarm: bool,
    /// The pruner, the reader have done their work.
    pub ended: [bool; 2],
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum IndexAction {
    /// The writer puts its pack, then its segment.
    Write,
    /// A hostile writer puts a segment with a false entry.
    Lie,
    /// A process lists the segments.
    List(usize),
    /// A process reads the next segment that it listed; if it is gone, it goes on.
    Read(usize),
    /// A compactor puts the merged segment, or two with a chunk each.
    Merge(usize),
    /// A compactor deletes a segment that it merged.
    Delete(usize),
    /// A compactor is killed.
    Crash(usize),
    /// The pruner deletes those of these packs that nobody needs, as far as it knows.
    Prune(Set),
    /// The reader says what it found.
    Conclude,
}

const PRUNER: usize = 2;
const READER: usize = 3;

/// The model, as it is or with a rule left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Index {
    /// The rule that is left out.
    pub broken: Option<IndexRule>,
    /// How many compactions there are.
    pub compactions: u8,
    /// Who looks up chunks meanwhile.
    pub who: Who,
}

/// Who looks up chunks while segments are merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Who {
    /// A pruner, which must not take a chunk for unused or stored twice that is not.
    #[default]
    Pruner,
    /// A reader, which must find what is there.
    Reader,
}

impl Index {
    fn keeps(&self, rule: IndexRule) -> bool {
        self.broken != Some(rule)
    }

    /// What a process takes the chunks of a pack to be.
    fn believed(&self, state: &IndexState, knows: &Lookup, pack: usize) -> Set {
        let named = chunks_in(knows.entries, pack);
        let asks = self.keeps(IndexRule::UnnamedPacksAreAsked) && state.packs.has(pack);
        if named.is_empty() && asks { CONTENT[pack] } else { named }
    }

    fn merge(&self, state: &mut IndexState, number: usize) {
        let lookup = &mut state.lookups[number];
        let there = state.packs.members().fold(Set::EMPTY, |all, pack| all | Set(0b11 << (CHUNKS * pack)));
        let merged = lookup.entries & there;
        (lookup.step, lookup.segments, lookup.read, lookup.entries) = (3, lookup.read, Set::EMPTY, Set::EMPTY);
        let halves = [merged & Set(0b01_01_01), merged & Set(0b10_10_10)];
        let parts = if self.keeps(IndexRule::PacksAreNamedWhole) { vec![merged] } else { halves.to_vec() };
        parts.into_iter().for_each(|part| put(state, part));
    }

    fn prune(&self, state: &mut IndexState, condemned: Set) {
        let knows = state.lookups[PRUNER];
        let kept = (state.packs - condemned).members();
        let kept = kept.fold(Set::EMPTY, |all, pack| all | self.believed(state, &knows, pack));
        for pack in condemned.members() {
            if (self.believed(state, &knows, pack) & USED).within(kept) {
                state.packs -= Set::one(pack);
            }
        }
        (state.lookups[PRUNER], state.ended[0]) = (Lookup::default(), true);
    }

    fn conclude(&self, state: &mut IndexState) {
        let knows = state.lookups[READER];
        let mut found = state.packs.members().fold(Set::EMPTY, |all, pack| all | chunks_in(knows.entries, pack));
        if self.keeps(IndexRule::ReadersAskTables) {
            found |= chunks_of(state.packs);
        }
        state.false_alarm |= !USED.within(found);
        (state.lookups[READER], state.ended[1]) = (Lookup::default(), true);
    }
}

/// Puts a segment under a new name.
fn put(state: &mut IndexState, entries: Set) {
    state.segments[state.names as usize] = Some(entries);
    state.names += 1;
}

fn chunks_of(packs: Set) -> Set {
    packs.members().fold(Set::EMPTY, |all, pack| all | CONTENT[pack])
}

/// Lists the segments.
fn list(state: &mut IndexState, number: usize) {
    state.compactions -= u8::from(number < PRUNER);
    let there = (0..SEGMENTS).filter(|&segment| state.segments[segment].is_some());
    let segments = there.fold(Set::EMPTY, |all, segment| all | Set::one(segment));
    let step = if segments.is_empty() { 2 } else { 1 };
    state.lookups[number] = Lookup { step, segments, ..Lookup::default() };
}

/// Deletes the next of the merged segments; after the last one the compactor is done.
fn delete(state: &mut IndexState, number: usize) {
    let lookup = &mut state.lookups[number];
    match lookup.segments.members().next() {
        Some(segment) => {
            state.segments[segment] = None;
            lookup.segments -= Set::one(segment);
        }
        None => *lookup = Lookup::default(),
    }
}

/// Reads the next segment, if it is still there and its signer counts.
fn read(model: &Index, state: &mut IndexState, number: usize) {
    let Some(next) = state.lookups[number].segments.members().next() else { return };
    let counts = !state.hostile.has(next) || !model.keeps(IndexRule::SegmentsAreTrusted);
    let entries = state.segments[next].filter(|_| counts);
    let lookup = &mut state.lookups[number];
    lookup.segments -= Set::one(next);
    if let Some(entries) = entries {
        lookup.entries |= entries;
        // Only a compactor needs to know which ones.
        lookup.read |= if number < PRUNER { Set::one(next) } else { Set::EMPTY };
    }
    if lookup.segments.is_empty() {
        lookup.step = 2;
    }
}

impl Model for Index {
    type State = IndexState;
    type Action = IndexAction;

    fn init_states(&self) -> Vec<IndexState> {
        let ended = [self.who == Who::Reader, self.who == Who::Pruner];
        let (packs, compactions) = (Set(0b011), self.compactions);
        let mut state = IndexState { packs, compactions, may_lie: true, ended, ..IndexState::default() };
        put(&mut state, entries_of(0));
        put(&mut state, entries_of(1));
        vec![state]
    }

    fn actions(&self, state: &IndexState, actions: &mut Vec<IndexAction>) {
        let free = SEGMENTS - state.names as usize;
        if state.writer < 2 && free > 0 {
            actions.push(IndexAction::Write);
        }
        if state.may_lie && free > 0 {
            actions.push(IndexAction::Lie);
        }
        for (number, lookup) in state.lookups.iter().enumerate() {
            let may_begin = if number < PRUNER { state.compactions > 0 } else { !state.ended[number - PRUNER] };
            match lookup.step {
                0 if may_begin => actions.push(IndexAction::List(number)),
                1 => actions.push(IndexAction::Read(number)),
                2 if number == PRUNER => actions.extend(state.packs.subsets().map(IndexAction::Prune)),
                2 if number == READER => actions.push(IndexAction::Conclude),
                2 if free > 1 => actions.push(IndexAction::Merge(number)),
                3 => actions.push(IndexAction::Delete(number)),
                _ => {}
            }
            if number < PRUNER && lookup.step > 0 && state.compactions > 0 {
                actions.push(IndexAction::Crash(number));
            }
        }
    }

    fn next_state(&self, state: &IndexState, action: IndexAction) -> Option<IndexState> {
        let mut next = *state;
        match action {
            IndexAction::Write => {
                next.writer += 1;
                if next.writer == 1 {
                    next.packs |= Set::one(2);
                } else {
                    put(&mut next, entries_of(2));
                }
            }
            IndexAction::Lie => {
                next.may_lie = false;
                next.hostile |= Set::one(next.names as usize);
                // Pack 1 has no b.
                put(&mut next, Set(0b11 << CHUNKS));
            }
            IndexAction::List(number) => list(&mut next, number),
            IndexAction::Read(number) => read(self, &mut next, number),
            IndexAction::Merge(number) => self.merge(&mut next, number),
            IndexAction::Delete(number) => delete(&mut next, number),
            IndexAction::Crash(number) => next.lookups[number] = Lookup::default(),
            IndexAction::Prune(condemned) => self.prune(&mut next, condemned),
            IndexAction::Conclude => self.conclude(&mut next),
        }
        if next.lookups[1].step > next.lookups[0].step {
            next.lookups.swap(0, 1);
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(NOTHING_LOST, |_, state: &IndexState| USED.within(chunks_of(state.packs))),
            Property::always(NO_FALSE_ALARM, |_, state: &IndexState| !state.false_alarm),
            Property::sometimes("both compactors have merged", |_, state: &IndexState| {
                state.lookups[0].step == 3 && state.lookups[1].step == 3
            }),
        ];
        if self.who == Who::Pruner {
            properties.push(Property::sometimes("a pack is deleted", |_, state: &IndexState| !state.packs.has(0)));
        }
        properties
    }
}
