//! One state for all that differ only in names: of packs, sessions, writers, pruners. And names that nothing can ever
//! speak of again are given back.

use crate::protocol::Protocol;
use crate::rules::Rule;
use crate::set::Set;
use crate::state::{End, PACKS, Pruner, PrunerStep, SESSIONS, Session, State, Writer};

/// The one state that stands for all with other names.
pub fn representative(model: &Protocol, state: &State) -> State {
    let mut state = *state;
    give_back_sessions(model, &mut state);
    drop_overtaken_verdicts(model, &mut state);
    give_back_packs(model, &mut state);
    let mut least = renamed(model, &state);
    for (writers, pruners) in [(true, false), (false, true), (true, true)] {
        let mut other = state;
        if writers && model.sizes.writers == 2 {
            other.writers.swap(0, 1);
        }
        if pruners && model.sizes.pruners == 2 {
            other.pruners.swap(0, 1);
        }
        if other.writers != state.writers || other.pruners != state.pruners {
            least = least.min(renamed(model, &other));
        }
    }
    least
}

/// Sorts packs and sessions by all that is known of them, so that their old names leave no trace.
fn renamed(model: &Protocol, state: &State) -> State {
    let mut state = *state;
    let order = order_of::<SESSIONS>(model, |session| session_traits(&state, session));
    rename_sessions(&mut state, &order);
    let order = order_of::<PACKS>(model, |pack| pack_traits(&mut state, pack));
    rename_packs(&mut state, &order);
    state
}

/// The old numbers in their new order. Names on one page of a list stay on that page.
fn order_of<const N: usize>(model: &Protocol, mut traits: impl FnMut(usize) -> u64) -> [usize; N] {
    let mut order: [usize; N] = std::array::from_fn(|number| number);
    let keys: [u64; N] = std::array::from_fn(&mut traits);
    if !model.sizes.two_pages {
        order.sort_by_key(|&number| std::cmp::Reverse(keys[number]));
        return order;
    }
    for page in 0..2 {
        let mut names: Vec<usize> = (page..N).step_by(2).collect();
        names.sort_by_key(|&number| std::cmp::Reverse(keys[number]));
        names.into_iter().enumerate().for_each(|(place, number)| order[page + 2 * place] = number);
    }
    order
}

/// Every set of packs.
fn pack_sets(state: &mut State, mut each: impl FnMut(&mut Set)) {
    let State { present, quarantined, hostile, doomed, unsynced, epochs, writers, pruners, .. } = state;
    [present, quarantined, hostile, doomed, unsynced].into_iter().for_each(&mut each);
    for epoch in epochs {
        epoch.condemned.iter_mut().chain(&mut epoch.verdict).for_each(&mut each);
    }
    for Writer { excluded, listed, .. } in writers {
        [excluded, listed].into_iter().for_each(&mut each);
    }
    for Pruner { packs, own_plan, .. } in pruners {
        [packs, own_plan].into_iter().for_each(&mut each);
    }
}

fn pack_traits(state: &mut State, pack: usize) -> u64 {
    let mut traits = u64::from(state.content[pack].0);
    pack_sets(state, |set| traits = traits << 1 | u64::from(set.has(pack)));
    traits
}

fn rename_packs(state: &mut State, order: &[usize; PACKS]) {
    state.content = order.map(|old| state.content[old]);
    pack_sets(state, |set| *set = set.renumbered(order));
}

fn session_traits(state: &State, session: usize) -> u64 {
    let Session { end, needs, lease, forgotten, acknowledged, manifest, fresh } = state.sessions[session];
    let mut traits = u64::from(needs.0) << 8 | end as u64;
    let mut push = |bit: bool| traits = traits << 1 | u64::from(bit);
    [lease, forgotten, acknowledged, manifest, fresh].into_iter().for_each(&mut push);
    state.writers.iter().for_each(|writer| push(holds(writer, session)));
    state.pruners.iter().for_each(|pruner| push(pruner.waiting.has(session)));
    push(state.unsynced_tombstones.has(session));
    let reader = state.reader;
    push(reader != Default::default() && reader.session as usize == session);
    push(reader != Default::default() && reader.snapshot as usize == session);
    traits
}

fn holds(writer: &Writer, session: usize) -> bool {
    writer.step != Default::default() && writer.session as usize == session
}

fn rename_sessions(state: &mut State, order: &[usize; SESSIONS]) {
    state.sessions = order.map(|old| state.sessions[old]);
    let new = |old: u8| order.iter().position(|&number| number == old as usize).unwrap_or(0) as u8;
    for writer in &mut state.writers {
        writer.session = if writer.step == Default::default() { 0 } else { new(writer.session) };
    }
    state.pruners.iter_mut().for_each(|pruner| pruner.waiting = pruner.waiting.renumbered(order));
    state.unsynced_tombstones = state.unsynced_tombstones.renumbered(order);
    let reader = &mut state.reader;
    if *reader != Default::default() {
        (reader.session, reader.snapshot) = (new(reader.session), new(reader.snapshot));
    }
}

/// A session that has ended and has no visible snapshot is never looked at again, once its own process has let go.
fn give_back_sessions(model: &Protocol, state: &mut State) {
    for number in 0..SESSIONS {
        let session = state.sessions[number];
        let gone = match session.end {
            End::Commit => session.forgotten && model.keeps(Rule::TombstonesStay),
            End::Fenced | End::Ended => !session.acknowledged,
            End::Void => session.forgotten,
            End::Unused | End::Open => false,
        };
        let read = state.reader != Default::default()
            && [state.reader.session, state.reader.snapshot].contains(&(number as u8));
        let may_come_back = state.unsynced_tombstones.has(number);
        if gone && !read && !may_come_back && !state.writers.iter().any(|writer| holds(writer, number)) {
            state.sessions[number] = Session::default();
            state.pruners.iter_mut().for_each(|pruner| pruner.waiting -= Set::one(number));
        }
    }
}

/// What a pruner decided makes no difference once there is a verdict.
fn drop_overtaken_verdicts(model: &Protocol, state: &mut State) {
    if !model.keeps(Rule::VerdictIsExclusive) {
        return;
    }
    let decided = state.pruners.iter_mut().filter(|pruner| pruner.step == PrunerStep::Decided);
    for pruner in decided.filter(|pruner| state.epochs[pruner.epoch as usize].verdict.is_some()) {
        (pruner.packs, pruner.used) = (Set::EMPTY, Set::EMPTY);
    }
}

/// A pack that was deleted and cannot come again is never looked at again, once no process has it in a list.
fn give_back_packs(model: &Protocol, state: &mut State) {
    let names_come_again = [Rule::EntriesNeedListedPacks, Rule::PackNamesAreNew, Rule::VerdictIsExclusive];
    if state.budget.duplicates > 0
        || model.sizes.budget.voids > 0
        || names_come_again.iter().any(|&rule| !model.keeps(rule))
    {
        return;
    }
    let mut listed = Set::EMPTY;
    state.writers.iter().for_each(|writer| listed |= writer.listed);
    state.pruners.iter().for_each(|pruner| listed |= pruner.packs | pruner.own_plan);
    let gone = state.doomed - state.present - listed;
    for pack in gone.members() {
        state.content[pack] = Set::EMPTY;
    }
    pack_sets(state, |set| *set -= gone);
}
