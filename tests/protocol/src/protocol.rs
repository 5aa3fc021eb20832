//! The model as stateright takes it: its sizes, its actions, its properties.

use stateright::{Model, Property};

use crate::rules::Rule;
use crate::set::Set;
use crate::state::{Budget, End, Epoch, Session, State};
use crate::{alone, pruner, reader, symmetry, world, writer};

/// Nothing that a visible snapshot needs is gone, and nothing sound was deleted that had the only sound copy.
pub const NOTHING_LOST: &str = "no chunk of a visible snapshot is deleted";
/// A session ends once: what a writer saw committed stays so.
pub const ONE_END: &str = "what was committed stays committed";
/// A snapshot that began after the damage was known does not build on it, and keeps what it built on.
pub const NEW_ONES_WHOLE: &str = "what is backed up after damage is whole";
/// A chunk that is not lost is never taken for lost.
pub const NO_FALSE_ALARM: &str = "no false alarm";
/// A reader whose lease is not fenced finds all that it reads.
pub const LEASES_HOLD: &str = "a lease keeps its packs";
/// Whatever has happened, a pruner that is left alone removes all garbage.
pub const GARBAGE_GOES: &str = "garbage can always go";

/// How large a model is.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Writers at the same time, at most 2.
    pub writers: usize,
    /// Pruners at the same time, at most 2.
    pub pruners: usize,
    /// Pack names.
    pub packs: usize,
    /// Session names.
    pub sessions: usize,
    /// Epochs.
    pub epochs: usize,
    /// What may happen in all.
    pub budget: Budget,
    /// What snapshots may need: sets of chunks.
    pub needs: &'static [Set],
    /// Chunk 1 is a map page that refers to chunk 0.
    pub pages: bool,
    /// Lists come in two pages: the even names, then the odd ones.
    pub two_pages: bool,
    /// The reader holds a lease; otherwise it looks once, and must not be misled.
    pub leases: bool,
    /// W5 and W6 are two steps: others see a manifest before its end.
    pub manifests: bool,
    /// Whether [`GARBAGE_GOES`] is checked, which costs more than all others together.
    pub garbage: bool,
}

/// One chunk, or two and both.
pub const ONE_CHUNK: &[Set] = &[Set(1)];
/// Two chunks, in snapshots of one or both.
pub const TWO_CHUNKS: &[Set] = &[Set(1), Set(2), Set(3)];
/// A chunk and the page that refers to it.
pub const PAGE_AND_CHUNK: &[Set] = &[Set(3)];

impl Default for Sizes {
    fn default() -> Self {
        Self {
            writers: 1,
            pruners: 1,
            packs: 4,
            sessions: 3,
            epochs: 2,
            budget: Budget { writes: 2, prunes: 2, forgets: 1, ..Budget::default() },
            needs: ONE_CHUNK,
            pages: false,
            two_pages: false,
            leases: false,
            manifests: false,
            garbage: false,
        }
    }
}

/// The model: the protocol at some size, as it is or with a rule left out.
#[derive(Clone, Debug, Default)]
pub struct Protocol {
    /// How large it is.
    pub sizes: Sizes,
    /// The rule that is left out.
    pub broken: Option<Rule>,
    /// Whether states keep their names, so that a trace can be read; otherwise states that differ only in names are one.
    pub keep_names: bool,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// A writer does a step.
    Writer(usize, writer::Step),
    /// A pruner does a step.
    Pruner(usize, pruner::Step),
    /// The reader does a step.
    Reader(reader::Step),
    /// The store, a user, or damage does something.
    World(world::Step),
}

impl Protocol {
    /// Whether the rule is in force.
    pub fn keeps(&self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    /// Whether an object that does not count keeps everybody from creating the one that does.
    pub(crate) fn is_blocked(&self, epoch: &Epoch) -> bool {
        epoch.void && !self.keeps(Rule::VoidObjectsEnd)
    }

    /// The names for a new pack or session: the first free one, or with lists of two pages one on each.
    pub(crate) fn free_names(&self, count: usize, free: impl Fn(usize) -> bool) -> Vec<usize> {
        let first = |step: usize, start: usize| (start..count).step_by(step).find(|&name| free(name));
        if self.sizes.two_pages {
            [first(2, 0), first(2, 1)].into_iter().flatten().collect()
        } else {
            first(1, 0).into_iter().collect()
        }
    }

    /// Free pack names.
    pub(crate) fn free_packs(&self, state: &State) -> Vec<usize> {
        self.free_names(self.sizes.packs, |pack| state.content[pack].is_empty())
    }

    /// Free session names.
    pub(crate) fn free_sessions(&self, state: &State) -> Vec<usize> {
        self.free_names(self.sizes.sessions, |session| state.sessions[session] == Session::default())
    }

    /// What the first page of a list shows, or all where lists have one page.
    pub(crate) fn first_page(&self, all: Set) -> Set {
        if self.sizes.two_pages { all & Set(0b0101_0101) } else { all }
    }

    /// What the second page of a list shows.
    pub(crate) fn second_page(&self, all: Set) -> Set {
        all & Set(0b1010_1010)
    }

    /// Does one step.
    pub fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::Writer(number, step) => writer::apply(self, state, number, step),
            Action::Pruner(number, step) => pruner::apply(self, state, number, step),
            Action::Reader(step) => reader::apply(self, state, step),
            Action::World(step) => world::apply(self, state, step),
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    /// One snapshot, in one pack (with pages: one for the chunk, one for its page).
    fn init_states(&self) -> Vec<State> {
        let mut state = State { budget: self.sizes.budget, ..State::default() };
        let needs = self.sizes.needs.first().copied().unwrap_or_default();
        state.sessions[0] =
            Session { end: End::Commit, needs, acknowledged: true, manifest: true, ..Session::default() };
        let packs: Vec<Set> = if self.sizes.pages { needs.members().map(Set::one).collect() } else { vec![needs] };
        for (pack, &chunks) in packs.iter().enumerate() {
            state.content[pack] = chunks;
            state.present |= Set::one(pack);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for number in 0..self.sizes.writers {
            writer::steps(self, state, number, |step| actions.push(Action::Writer(number, step)));
        }
        for number in 0..self.sizes.pruners {
            pruner::steps(self, state, number, |step| actions.push(Action::Pruner(number, step)));
        }
        reader::steps(self, state, |step| actions.push(Action::Reader(step)));
        world::steps(self, state, |step| actions.push(Action::World(step)));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        self.step(&mut next, action);
        Some(if self.keep_names { next } else { symmetry::representative(self, &next) })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(NOTHING_LOST, |_, state| nothing_lost(state)),
            Property::always(ONE_END, one_end),
            Property::always(NEW_ONES_WHOLE, |_, state| new_ones_whole(state)),
            Property::always(NO_FALSE_ALARM, |_, state: &State| !state.harm.false_alarm),
        ];
        if self.sizes.leases {
            properties.push(Property::always(LEASES_HOLD, |_, state| reader::lease_holds(state)));
        }
        if self.sizes.garbage {
            properties.push(Property::always(GARBAGE_GOES, alone::garbage_can_go));
        }
        properties.extend(witnesses(&self.sizes));
        properties
    }
}

/// What must be reached at least once: without it a check would prove nothing.
fn witnesses(sizes: &Sizes) -> Vec<Property<Protocol>> {
    let mut witnesses = vec![
        Property::sometimes("a snapshot is committed while an epoch is open", |_, state: &State| {
            let open = state.epochs.iter().any(|epoch| epoch.condemned.is_some() && epoch.verdict.is_none());
            open && state.sessions.iter().skip(1).any(|session| session.visible())
        }),
        Property::sometimes("a writer is fenced", |_, state: &State| {
            state.sessions.iter().any(|session| session.end == End::Fenced && !session.lease)
        }),
        Property::sometimes("a condemned pack is rescued", |_, state: &State| {
            let rescued = |epoch: &Epoch| epoch.verdict.is_some() && !epoch.done && epoch.verdict != epoch.condemned;
            state.epochs.iter().any(rescued)
        }),
    ];
    if sizes.manifests {
        witnesses.push(Property::sometimes("a pruner decides while a manifest has no end", |_, state: &State| {
            let decided = state.epochs.iter().any(|epoch| epoch.verdict.is_some() && !epoch.done);
            decided && state.sessions.iter().any(|session| session.uncommitted())
        }));
    }
    if sizes.epochs > 1 {
        witnesses.push(Property::sometimes("a second epoch has a verdict", |_, state: &State| {
            state.epochs[1].verdict.is_some_and(|verdict| !verdict.is_empty())
        }));
    }
    witnesses
}

fn nothing_lost(state: &State) -> bool {
    let there = state.chunks_of(state.present - state.hostile);
    !state.harm.lost && state.committed().within(there)
}

fn new_ones_whole(state: &State) -> bool {
    let there = state.chunks_of(state.sound());
    state
        .sessions
        .iter()
        .filter(|session| session.fresh && session.visible())
        .all(|session| session.needs.within(there))
}

/// Of a snapshot that lost its end and is forgotten, nothing is left to commit.
fn one_end(model: &Protocol, state: &State) -> bool {
    let losses = model.sizes.budget.losses > 0;
    let stays = |session: &Session| match session.end {
        End::Commit | End::Void => true,
        End::Open => session.manifest,
        _ => losses && session.forgotten,
    };
    state.sessions.iter().all(|session| !session.acknowledged || stays(session))
}
