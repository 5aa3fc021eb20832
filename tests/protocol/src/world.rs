//! What happens without any process: deletes and puts that arrive late or twice, forgets, damage, a hostile writer.

use crate::protocol::Protocol;
use crate::rules::Rule;
use crate::set::Set;
use crate::state::{End, PrunerStep, State, WriterStep};

/// A step of nobody.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// A delete of a verdict's pack arrives, for the first time or again.
    Delete { pack: usize },
    /// The put of a pack that was deleted arrives once more.
    PutAgain { pack: usize },
    /// A user forgets a snapshot.
    Forget { session: usize },
    /// The put of a manifest that was deleted arrives once more (only where there are no tombstones).
    ManifestAgain { session: usize },
    /// A pack is damaged and quarantined.
    Quarantine { pack: usize },
    /// An unused pack is deleted by hand.
    Mishap { pack: usize },
    /// The end marker of a snapshot is lost: a copy of the repository misses a file.
    LoseEnd { session: usize },
    /// The end marker gets damaged; or somebody without the right creates it.
    VoidEnd { session: usize },
    /// Somebody without the right creates the next `condemned`; or if that is there the `verdict`, which may as well be
    /// the true one, damaged.
    VoidEpoch { epoch: usize },
    /// The user's tombstone is synced.
    SyncTombstone { session: usize },
    /// The power fails: all processes are gone, and these names, which were not synced.
    PowerCut { packs: Set, tombstones: Set },
    /// A hostile writer puts other bytes under a true id.
    Plant { pack: usize },
}

/// What can happen next.
pub fn steps(model: &Protocol, state: &State, mut add: impl FnMut(Step)) {
    (state.doomed & state.present).members().for_each(|pack| add(Step::Delete { pack }));
    if state.budget.duplicates > 0 {
        (state.doomed - state.present).members().for_each(|pack| add(Step::PutAgain { pack }));
    }
    for (number, session) in state.sessions.iter().enumerate() {
        let is_known = session.visible() || session.end == End::Void && !session.forgotten || session.uncommitted();
        if is_known && state.budget.forgets > 0 {
            add(Step::Forget { session: number });
        }
        if session.visible() && state.budget.losses > 0 {
            add(Step::LoseEnd { session: number });
        }
        if session.end == End::Commit && session.forgotten && !model.keeps(Rule::TombstonesStay) {
            add(Step::ManifestAgain { session: number });
        }
    }
    if state.budget.damages > 0 && nothing_is_decided(state) {
        state.sound().members().for_each(|pack| add(Step::Quarantine { pack }));
    }
    if state.budget.mishaps > 0 && nobody_is_at_work(state) {
        let unused = |pack: &usize| (state.content[*pack] & state.committed()).is_empty();
        state.present.members().filter(unused).for_each(|pack| add(Step::Mishap { pack }));
    }
    state.unsynced_tombstones.members().for_each(|session| add(Step::SyncTombstone { session }));
    if state.budget.cuts > 0 {
        for packs in state.unsynced.subsets().chain([Set::EMPTY]) {
            let tombstones = state.unsynced_tombstones.subsets().chain([Set::EMPTY]);
            tombstones.for_each(|tombstones| add(Step::PowerCut { packs, tombstones }));
        }
    }
    if state.budget.voids > 0 {
        void_steps(model, state, &mut add);
    }
    if state.budget.plants > 0 {
        model.free_packs(state).into_iter().for_each(|pack| add(Step::Plant { pack }));
    }
}

fn void_steps(model: &Protocol, state: &State, add: &mut impl FnMut(Step)) {
    for (session, marker) in state.sessions.iter().enumerate() {
        if marker.end == End::Open || marker.visible() {
            add(Step::VoidEnd { session });
        }
    }
    let begun = state.epochs_begun();
    let newest_is_open = begun > 0 && !state.epochs[begun - 1].done;
    if newest_is_open {
        add(Step::VoidEpoch { epoch: begun - 1 });
    } else if begun < model.sizes.epochs {
        add(Step::VoidEpoch { epoch: begun });
    }
}

/// Whether a hand that deletes what no snapshot uses can do no harm at once.
fn nobody_is_at_work(state: &State) -> bool {
    let writers = state.writers.iter().all(|writer| writer.step == WriterStep::Idle);
    writers && state.pruners.iter().all(|pruner| pruner.step == PrunerStep::Idle)
}

/// Whether no pack is on its way out. Damage to the one copy that was kept, after all others were given up, is damage and
/// nothing that a protocol could prevent.
fn nothing_is_decided(state: &State) -> bool {
    let decided =
        state.pruners.iter().any(|pruner| matches!(pruner.step, PrunerStep::HalfListed | PrunerStep::Decided));
    !decided && (state.doomed & state.present).is_empty()
}

/// Does a step.
pub fn apply(model: &Protocol, state: &mut State, step: Step) {
    match step {
        Step::Delete { pack } => state.present -= Set::one(pack),
        Step::PutAgain { pack } => {
            state.budget.duplicates -= 1;
            state.present |= Set::one(pack);
        }
        Step::Forget { session } => {
            state.budget.forgets -= 1;
            state.sessions[session].forgotten = true;
            if state.budget.cuts > 0 {
                state.unsynced_tombstones |= Set::one(session);
            }
        }
        Step::SyncTombstone { session } => state.unsynced_tombstones -= Set::one(session),
        Step::PowerCut { packs, tombstones } => power_cut(state, packs, tombstones),
        Step::ManifestAgain { session } => state.sessions[session].forgotten = false,
        Step::Quarantine { pack } => {
            state.budget.damages -= 1;
            state.quarantined |= Set::one(pack);
        }
        Step::Mishap { pack } => {
            state.budget.mishaps -= 1;
            state.present -= Set::one(pack);
        }
        Step::LoseEnd { session } => {
            state.budget.losses -= 1;
            state.sessions[session].end = End::Open;
        }
        Step::VoidEnd { session } => {
            state.budget.voids -= 1;
            state.sessions[session].end = End::Void;
        }
        Step::VoidEpoch { epoch } => {
            state.budget.voids -= 1;
            void_epoch(model, state, epoch);
        }
        Step::Plant { pack } => {
            state.budget.plants -= 1;
            state.content[pack] = Set::one(0);
            state.present |= Set::one(pack);
            state.hostile |= Set::one(pack);
        }
    }
}

/// An object that does not count is there. Those who obey the rule see an epoch that is over.
fn void_epoch(model: &Protocol, state: &mut State, number: usize) {
    let epoch = &mut state.epochs[number];
    epoch.void = true;
    if model.keeps(Rule::VoidObjectsEnd) {
        epoch.condemned.get_or_insert_default();
        epoch.verdict.get_or_insert_default();
    }
}

/// What is not lost has reached the disk.
fn power_cut(state: &mut State, packs: Set, tombstones: Set) {
    state.budget.cuts -= 1;
    // A new pack gets a new name, so the lost one's number has to be free of all that was said of it.
    packs.members().for_each(|pack| state.content[pack] = Set::EMPTY);
    let State { present, quarantined, hostile, doomed, epochs, .. } = state;
    let published = epochs.iter_mut().flat_map(|epoch| epoch.condemned.iter_mut().chain(&mut epoch.verdict));
    published.chain([present, quarantined, hostile, doomed]).for_each(|set| *set -= packs);
    tombstones.members().for_each(|session| state.sessions[session].forgotten = false);
    (state.unsynced, state.unsynced_tombstones) = (Set::EMPTY, Set::EMPTY);
    (state.writers, state.pruners, state.reader) = Default::default();
}
