//! A reader: one that looks for its chunks once (restore), or one with a lease that stays (serve, mount, boot).

use crate::protocol::Protocol;
use crate::rules::Rule;
use crate::set::Set;
use crate::state::{End, Reader, ReaderStep, Session, State};

/// A step of the reader.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Creates a session that names the snapshot.
    Lease { session: usize, snapshot: usize },
    /// Sees that the snapshot is visible, and (without a lease) what is under `epochs/`.
    Open { snapshot: usize },
    /// Lists the packs, or the first page of them.
    List,
    /// Lists the second page.
    ListRest,
    /// Looks under `epochs/` again, since it has not found a chunk.
    LookAgain,
    /// Lets go.
    Close,
}

/// What the reader can do next.
pub fn steps(model: &Protocol, state: &State, mut add: impl FnMut(Step)) {
    let reader = &state.reader;
    match reader.step {
        ReaderStep::Idle => start_steps(model, state, add),
        ReaderStep::Begun => add(Step::Open { snapshot: reader.snapshot as usize }),
        ReaderStep::Reading if model.sizes.leases => add(Step::Close),
        ReaderStep::Reading => add(Step::List),
        ReaderStep::HalfListed => add(Step::ListRest),
        ReaderStep::Missed => add(Step::LookAgain),
    }
}

fn start_steps(model: &Protocol, state: &State, mut add: impl FnMut(Step)) {
    if state.budget.reads == 0 {
        return;
    }
    for (snapshot, _) in state.sessions.iter().enumerate().filter(|(_, session)| session.visible()) {
        if !model.sizes.leases {
            add(Step::Open { snapshot });
            continue;
        }
        for session in model.free_sessions(state) {
            add(Step::Lease { session, snapshot });
        }
    }
}

/// Does a step.
pub fn apply(model: &Protocol, state: &mut State, step: Step) {
    let mut reader = state.reader;
    match step {
        Step::Lease { session, snapshot } => {
            state.budget.reads -= 1;
            let needs = state.sessions[snapshot].needs;
            state.sessions[session] = Session { end: End::Open, needs, lease: true, ..Session::default() };
            let (session, snapshot) = (session as u8, snapshot as u8);
            reader = Reader { step: ReaderStep::Begun, session, snapshot, ..Reader::default() };
        }
        Step::Open { snapshot } => open(model, state, &mut reader, snapshot),
        Step::List => {
            reader.found = state.chunks_of(model.first_page(state.present));
            reader.step = ReaderStep::HalfListed;
            if !model.sizes.two_pages {
                look(state, &mut reader);
            }
        }
        Step::ListRest => {
            reader.found |= state.chunks_of(model.second_page(state.present));
            look(state, &mut reader);
        }
        Step::LookAgain => look_again(model, state, &mut reader),
        Step::Close => {
            end_lease(state, &reader);
            reader = Reader::default();
        }
    }
    state.reader = reader;
}

fn open(model: &Protocol, state: &mut State, reader: &mut Reader, snapshot: usize) {
    let visible = state.sessions[snapshot].visible();
    if model.sizes.leases {
        if visible {
            (reader.step, reader.snapshot) = (ReaderStep::Reading, reader.session);
        } else {
            end_lease(state, reader);
            *reader = Reader::default();
        }
        return;
    }
    state.budget.reads -= 1;
    let epochs_seen = epochs_seen(model, state);
    let snapshot = snapshot as u8;
    *reader = Reader { step: ReaderStep::Reading, session: snapshot, snapshot, epochs_seen, ..Reader::default() };
}

/// How many objects a reader sees under `epochs/`.
fn epochs_seen(model: &Protocol, state: &State) -> u8 {
    let mut seen = state.epochs_begun();
    if model.keeps(Rule::EveryEpochObjectCounts) {
        seen += state.epochs.iter().filter(|epoch| epoch.verdict.is_some()).count();
    }
    seen as u8
}

/// Whether all is found: then it is done.
fn look(state: &State, reader: &mut Reader) {
    if state.sessions[reader.snapshot as usize].needs.within(reader.found) {
        *reader = Reader::default();
    } else {
        (reader.step, reader.found) = (ReaderStep::Missed, Set::EMPTY);
    }
}

/// A chunk that is found nowhere is damage, unless prune was at work meanwhile.
fn look_again(model: &Protocol, state: &mut State, reader: &mut Reader) {
    let seen = epochs_seen(model, state);
    if seen != reader.epochs_seen && model.keeps(Rule::LookAgain) {
        let visible = state.sessions[reader.snapshot as usize].visible();
        (reader.step, reader.epochs_seen) = (ReaderStep::Reading, seen);
        if visible {
            return;
        }
    } else if state.sessions[reader.snapshot as usize].visible() {
        state.harm.false_alarm = true;
    }
    *reader = Reader::default();
}

fn end_lease(state: &mut State, reader: &Reader) {
    let session = &mut state.sessions[reader.session as usize];
    if session.end == End::Open {
        session.end = End::Ended;
    }
}

/// Whether a reader that holds a lease can read all.
pub fn lease_holds(state: &State) -> bool {
    let reader = &state.reader;
    let lease = &state.sessions[reader.session as usize];
    let holds = reader.step == ReaderStep::Reading && lease.end == End::Open;
    !holds || lease.needs.within(state.chunks_of(state.present - state.hostile))
}
