//! What one pruner achieves when everybody else has stopped for good.

use crate::protocol::{Action, Protocol, Sizes};
use crate::rules::Rule;
use crate::set::Set;
use crate::state::{EPOCHS, End, Pruner, PrunerStep, Session, State};
use crate::{pruner, world};

/// More steps than finishing an epoch and one of its own can take.
const STEPS: usize = 60;

/// Whether a pruner that starts twice (once to take over) removes all garbage, from here and without help.
pub fn garbage_can_go(model: &Protocol, state: &State) -> bool {
    if unreadable(model, state) {
        return true;
    }
    let model = Protocol { sizes: Sizes { epochs: EPOCHS, ..model.sizes }, ..model.clone() };
    let mut state = *state;
    state.pruners = [Pruner::default(); 2];
    state.budget = Default::default();
    for _ in 0..2 {
        state.budget.prunes = 1;
        if !run_once(&model, &mut state) {
            return false;
        }
    }
    garbage(&state).is_empty()
}

/// A page that nobody can read stops every pruner, until it is repaired or forgotten.
fn unreadable(model: &Protocol, state: &State) -> bool {
    model.sizes.pages && state.used().has(1) && !state.chunks_of(state.sound()).has(1)
}

/// Runs the first pruner until it has nothing more to do.
fn run_once(model: &Protocol, state: &mut State) -> bool {
    for _ in 0..STEPS {
        let Some(action) = next(model, state) else { break };
        model.step(state, action);
    }
    state.pruners[0].step == PrunerStep::Idle && (state.budget.prunes == 0 || garbage(state).is_empty())
}

/// What it does: its only step, or with a choice of plans the right one. Deletes arrive at once.
fn next(model: &Protocol, state: &State) -> Option<Action> {
    if let Some(pack) = (state.doomed & state.present).members().next()
        && state.pruners[0].step == PrunerStep::Deleting
    {
        return Some(Action::World(world::Step::Delete { pack }));
    }
    let planning = state.pruners[0].step == PrunerStep::Planning;
    let plan = planned(model, state);
    if planning && plan.is_empty() {
        return Some(Action::Pruner(0, pruner::Step::Crash));
    }
    let mut steps = Vec::new();
    pruner::steps(model, state, 0, |step| steps.push(step));
    let step = steps.into_iter().find(|step| match step {
        pruner::Step::Condemn { plan: condemned } => *condemned == plan,
        pruner::Step::Repack { .. } | pruner::Step::Crash => false,
        _ => true,
    });
    step.map(|step| Action::Pruner(0, step))
}

/// P2: all that is garbage.
fn planned(model: &Protocol, state: &State) -> Set {
    let garbage = garbage(state);
    if model.keeps(Rule::DeadNamesAreGarbage) { garbage } else { garbage - dead(state) }
}

/// The packs without a used chunk, and those that a verdict named.
fn garbage(state: &State) -> Set {
    let used = state.committed() | uncertain(state);
    let unused = state.present.members().filter(|&pack| (state.content[pack] & used).is_empty());
    unused.fold(state.present & dead(state), |all, pack| all | Set::one(pack))
}

/// The packs of all verdicts that count.
fn dead(state: &State) -> Set {
    let verdicts = state.epochs.iter().filter(|epoch| !epoch.void).filter_map(|epoch| epoch.verdict);
    verdicts.fold(Set::EMPTY, |all, verdict| all | verdict)
}

/// What snapshots need whose end marker does not count, or is missing: kept until they are forgotten.
fn uncertain(state: &State) -> Set {
    let void = |session: &&Session| session.end == End::Void && !session.forgotten;
    let sessions = state.sessions.iter().filter(|session| void(session) || session.uncommitted());
    sessions.fold(Set::EMPTY, |all, session| all | session.needs)
}
