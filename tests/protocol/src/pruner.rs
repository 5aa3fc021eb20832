//! The pruner: P1 to P8. P2 is left open: it may condemn whatever is there.

use crate::protocol::Protocol;
use crate::rules::Rule;
use crate::set::Set;
use crate::state::{End, Pruner, PrunerStep, Session, State};

/// A step of a pruner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// P1: reads the epochs, and takes over an open one.
    ReadEpochs,
    /// P3: writes the chunks of a pack once more.
    Repack { from: usize, to: usize },
    /// P4: creates `condemned`.
    Condemn { plan: Set },
    /// P5: lists the sessions, or the first page of them.
    ListSessions,
    /// P5: lists the second page.
    ListSessionsRest,
    /// P5: fences a session.
    Fence { session: usize },
    /// P6: reads all visible snapshots, or the first page of them.
    Mark,
    /// P6: reads the second page.
    MarkRest,
    /// P6: lists the packs, or the first page of them.
    ListPacks,
    /// P6: lists the second page.
    ListPacksRest,
    /// P7: creates `verdict`.
    Verdict,
    /// P8: creates `done`, all the verdict's packs being gone.
    Done,
    /// It is killed; its slot is free for another.
    Crash,
}

/// What a pruner can do next.
pub fn steps(model: &Protocol, state: &State, number: usize, mut add: impl FnMut(Step)) {
    let pruner = &state.pruners[number];
    match pruner.step {
        PrunerStep::Idle if may_start(model, state) => add(Step::ReadEpochs),
        PrunerStep::Idle => {}
        PrunerStep::Planning => plan_steps(model, state, pruner, &mut add),
        PrunerStep::Condemned if must_mark_early(model, pruner) => add(Step::Mark),
        PrunerStep::Condemned => add(Step::ListSessions),
        PrunerStep::HalfSessions => add(Step::ListSessionsRest),
        PrunerStep::Waiting => wait_steps(model, state, pruner, &mut add),
        PrunerStep::HalfMarked => add(Step::MarkRest),
        PrunerStep::Marked => add(if pruner.early { Step::Mark } else { Step::ListPacks }),
        PrunerStep::HalfListed => add(Step::ListPacksRest),
        PrunerStep::Decided if model.is_blocked(&state.epochs[pruner.epoch as usize]) => {}
        PrunerStep::Decided => add(Step::Verdict),
        PrunerStep::Deleting => {
            let epoch = &state.epochs[pruner.epoch as usize];
            if epoch.void || (epoch.verdict.unwrap_or_default() & state.present).is_empty() {
                add(Step::Done);
            }
        }
    }
    if state.pruners[number].step != PrunerStep::Idle && state.budget.prunes > 0 {
        add(Step::Crash);
    }
}

/// Whether P1 finds something to do.
fn may_start(model: &Protocol, state: &State) -> bool {
    let (epoch, open) = newest(state);
    let opens = !open || !model.keeps(Rule::OneOpenEpoch);
    let goes_on = if opens { epoch + usize::from(open) < model.sizes.epochs } else { model.keeps(Rule::TakeOver) };
    state.budget.prunes > 0 && goes_on
}

/// The epoch to work on, and whether it has begun.
fn newest(state: &State) -> (usize, bool) {
    let begun = state.epochs_begun();
    match begun.checked_sub(1) {
        Some(last) if !state.epochs[last].done => (last, true),
        _ => (begun, false),
    }
}

fn plan_steps(model: &Protocol, state: &State, pruner: &Pruner, add: &mut impl FnMut(Step)) {
    if model.is_blocked(&state.epochs[pruner.epoch as usize]) {
        return;
    }
    if !model.keeps(Rule::SessionsAfterCondemned) && !pruner.early {
        return add(Step::ListSessions);
    }
    if state.budget.repacks > 0 {
        for to in model.free_packs(state) {
            (state.sound()).members().for_each(|from| add(Step::Repack { from, to }));
        }
    }
    if pruner.epoch as usize == state.epochs_begun() || !model.keeps(Rule::LosersDropTheirPlan) {
        state.present.subsets().for_each(|plan| add(Step::Condemn { plan }));
    } else {
        // Lost: what the plan was makes no difference.
        add(Step::Condemn { plan: Set::EMPTY });
    }
}

fn must_mark_early(model: &Protocol, pruner: &Pruner) -> bool {
    !model.keeps(Rule::SnapshotsAfterSessions) && !pruner.early
}

fn wait_steps(model: &Protocol, state: &State, pruner: &Pruner, add: &mut impl FnMut(Step)) {
    let mut open = pruner.waiting & unended(model, state);
    if model.keeps(Rule::DeadSessionsAreFenced) {
        let free = open & state.sessions_that(End::Open);
        // Who looked before the manifest came may fence all the same: its writer begins again. A lost end does not come.
        let lost_its_end =
            |session: &usize| state.sessions[*session].uncommitted() && state.sessions[*session].acknowledged;
        let spares = |session: &usize| model.keeps(Rule::WholeManifestsAreNotFenced) && lost_its_end(session);
        free.members().filter(|session| !spares(session)).for_each(|session| add(Step::Fence { session }));
    }
    if !model.keeps(Rule::EndsAreExclusive) {
        let ended = pruner.waiting - open;
        ended
            .members()
            .filter(|&s| state.sessions[s].end == End::Commit)
            .for_each(|session| add(Step::Fence { session }));
    }
    if model.keeps(Rule::WholeManifestsAreNotFenced) {
        open -= uncommitted(state);
    }
    if (open - leases(state)).is_empty() || !model.keeps(Rule::SessionsAreWaitedFor) {
        let packs_first = !model.keeps(Rule::SnapshotsBeforePacks);
        if packs_first || must_skip_mark(model, pruner) {
            add(Step::ListPacks);
        } else if pages_are_readable(model, state) || !model.keeps(Rule::StopAtUnreadablePage) {
            add(Step::Mark);
        }
    }
}

/// The sessions without an end that counts.
fn unended(model: &Protocol, state: &State) -> Set {
    let void = if model.keeps(Rule::VoidObjectsEnd) { Set::EMPTY } else { state.sessions_that(End::Void) };
    state.sessions_that(End::Open) | void
}

/// The sessions whose manifest is whole and that have no end.
fn uncommitted(state: &State) -> Set {
    let those = state.sessions.iter().enumerate().filter(|(_, session)| session.uncommitted());
    those.fold(Set::EMPTY, |all, (number, _)| all | Set::one(number))
}

fn must_skip_mark(model: &Protocol, pruner: &Pruner) -> bool {
    !model.keeps(Rule::SnapshotsAfterSessions) && pruner.early
}

/// P6: whether the page of every visible snapshot can be read.
fn pages_are_readable(model: &Protocol, state: &State) -> bool {
    !model.sizes.pages || !state.used().has(1) || state.chunks_of(state.sound()).has(1)
}

/// Does a step.
pub fn apply(model: &Protocol, state: &mut State, number: usize, step: Step) {
    let mut pruner = state.pruners[number];
    match step {
        Step::ReadEpochs => {
            state.budget.prunes -= 1;
            pruner = start(model, state);
        }
        Step::Repack { from, to } => {
            state.budget.repacks -= 1;
            state.content[to] = state.content[from];
            state.present |= Set::one(to);
        }
        Step::Condemn { plan } => condemn(model, state, &mut pruner, plan),
        Step::ListSessions => {
            pruner.waiting = model.first_page(unended(model, state));
            pruner.step = match pruner.step {
                PrunerStep::Planning => {
                    pruner.early = true;
                    PrunerStep::Planning
                }
                _ if model.sizes.two_pages => PrunerStep::HalfSessions,
                _ => PrunerStep::Waiting,
            };
        }
        Step::ListSessionsRest => {
            pruner.waiting |= model.second_page(unended(model, state));
            pruner.step = PrunerStep::Waiting;
        }
        Step::Fence { session } => state.sessions[session].end = End::Fenced,
        Step::Mark => mark(model, state, &mut pruner),
        Step::MarkRest => {
            pruner.used |= used_on(model, state, 1) | leased(model, state);
            pruner.step = PrunerStep::Marked;
        }
        Step::ListPacks => {
            (pruner.waiting, pruner.packs) = (Set::EMPTY, model.first_page(state.present));
            list_on(model, state, &mut pruner);
        }
        Step::ListPacksRest => {
            pruner.packs |= model.second_page(state.present);
            decide(model, state, &mut pruner);
        }
        Step::Verdict => publish(model, state, &mut pruner),
        Step::Done => {
            finish(model, state, pruner.epoch as usize);
            pruner = Pruner::default();
        }
        Step::Crash => pruner = Pruner::default(),
    }
    state.pruners[number] = pruner;
}

/// P1.
fn start(model: &Protocol, state: &State) -> Pruner {
    let (epoch, open) = newest(state);
    let (epoch, step) = match open {
        true if !model.keeps(Rule::OneOpenEpoch) => (epoch + 1, PrunerStep::Planning),
        true if state.epochs[epoch].verdict.is_some() => (epoch, PrunerStep::Deleting),
        true => (epoch, PrunerStep::Condemned),
        false => (epoch, PrunerStep::Planning),
    };
    Pruner { step, epoch: epoch as u8, ..Pruner::default() }
}

/// P4: the first one's plan counts.
fn condemn(model: &Protocol, state: &mut State, pruner: &mut Pruner, plan: Set) {
    let epoch = &mut state.epochs[pruner.epoch as usize];
    if epoch.condemned.is_none() {
        epoch.condemned = Some(plan);
    } else if model.keeps(Rule::LosersDropTheirPlan) {
        *pruner = Pruner::default();
        return;
    } else {
        pruner.own_plan = plan;
    }
    pruner.step = if pruner.early { PrunerStep::Waiting } else { PrunerStep::Condemned };
    pruner.early = false;
}

/// P6: reads the snapshots. Where the packs were listed before, decides.
fn mark(model: &Protocol, state: &mut State, pruner: &mut Pruner) {
    if model.keeps(Rule::TombstonesAreSynced) {
        state.unsynced_tombstones = Set::EMPTY;
    }
    pruner.used = used_on(model, state, 0);
    if !model.sizes.two_pages {
        pruner.used |= leased(model, state);
    }
    pruner.blind = !pages_are_readable(model, state);
    match pruner.step {
        PrunerStep::Condemned => pruner.early = true,
        PrunerStep::Marked => decide(model, state, pruner),
        _ => {
            pruner.step = if model.sizes.two_pages { PrunerStep::HalfMarked } else { PrunerStep::Marked };
            pruner.waiting = Set::EMPTY;
        }
    }
}

/// The chunks that the snapshots on one page (0 or 1) of the list use.
fn used_on(model: &Protocol, state: &State, page: usize) -> Set {
    let keeps = |session: &Session| {
        let void = session.end == End::Void && !session.forgotten && model.keeps(Rule::VoidEndsKeepChunks);
        let uncommitted = session.uncommitted() && model.keeps(Rule::WholeManifestsAreVisible);
        session.visible() || void || uncommitted
    };
    let on_page = |number: usize| !model.sizes.two_pages || number % 2 == page;
    let sessions = state.sessions.iter().enumerate().filter(|(number, session)| on_page(*number) && keeps(session));
    sessions.fold(Set::EMPTY, |all, (_, session)| all | session.needs)
}

/// Goes on after the first page of packs.
fn list_on(model: &Protocol, state: &mut State, pruner: &mut Pruner) {
    if !model.keeps(Rule::SnapshotsBeforePacks) {
        (pruner.step, pruner.early) = (PrunerStep::Marked, true);
    } else if model.sizes.two_pages {
        pruner.step = PrunerStep::HalfListed;
    } else {
        decide(model, state, pruner);
    }
}

/// P6 and P7: who of the condemned goes.
fn decide(model: &Protocol, state: &mut State, pruner: &mut Pruner) {
    let listed = pruner.packs;
    if model.keeps(Rule::KeptPacksAreSynced) {
        state.unsynced -= listed;
    }
    // A used chunk that is nowhere: damage, unless another pruner has ended this epoch meanwhile. (A snapshot whose end
    // marker does not count may never have been committed, so what it lacks says nothing.)
    let overtaken = state.epochs[pruner.epoch as usize].verdict.is_some() && model.keeps(Rule::LookAgain);
    if !pruner.used.within(state.chunks_of(listed - state.hostile)) && !overtaken && model.sizes.budget.voids == 0 {
        state.harm.false_alarm = true;
    }
    let used = if pruner.blind { Set::one(1) } else { pruner.used };
    let published = state.epochs[pruner.epoch as usize].condemned.unwrap_or_default();
    let condemned = if pruner.own_plan.is_empty() { published } else { pruner.own_plan };
    let mut kept = listed - condemned;
    if model.keeps(Rule::DeadNamesAreNotKept) {
        kept -= state.dead_before(pruner.epoch as usize);
    }
    if model.keeps(Rule::QuarantinedNotKept) {
        kept -= state.quarantined;
    }
    let trusted = if model.keeps(Rule::TrustBeforeKept) { kept - state.hostile } else { kept };
    let is_needed = |pack: &usize| {
        let stand_ins = if state.hostile.has(*pack) { kept } else { trusted };
        !((state.content[*pack] & used) - state.chunks_of(stand_ins)).is_empty()
    };
    let rescued = condemned.members().filter(is_needed).fold(Set::EMPTY, |all, pack| all | Set::one(pack));
    let verdict = if model.keeps(Rule::Rescue) { condemned - rescued } else { condemned };
    // What was marked matters from here on only where damage is to be told from loss.
    let used = if model.sizes.budget.damages > 0 { pruner.used } else { Set::EMPTY };
    *pruner = Pruner { step: PrunerStep::Decided, epoch: pruner.epoch, used, packs: verdict, ..Pruner::default() };
}

/// P6, after the snapshots and before the packs: what the snapshots that live leases name need.
fn leased(model: &Protocol, state: &State) -> Set {
    if !model.keeps(Rule::LeasesAreVisible) {
        return Set::EMPTY;
    }
    let leases = state.sessions.iter().filter(|session| session.lease && session.end == End::Open);
    leases.fold(Set::EMPTY, |all, session| all | session.needs)
}

/// The sessions that are leases: they can be fenced, and are not waited for.
fn leases(state: &State) -> Set {
    let leases = state.sessions.iter().enumerate().filter(|(_, session)| session.lease);
    leases.fold(Set::EMPTY, |all, (number, _)| all | Set::one(number))
}

/// P7: the first one's verdict counts. From here on deletes are on their way.
fn publish(model: &Protocol, state: &mut State, pruner: &mut Pruner) {
    let epoch = &mut state.epochs[pruner.epoch as usize];
    if epoch.verdict.is_none() || !model.keeps(Rule::VerdictIsExclusive) {
        epoch.verdict = Some(pruner.packs);
        state.harm.lost |= gives_up_the_last(state, pruner);
    }
    let epoch = &state.epochs[pruner.epoch as usize];
    let deleted = if model.keeps(Rule::OnlyTheVerdictIsDeleted) { epoch.verdict } else { epoch.condemned };
    state.doomed |= deleted.unwrap_or_default();
    *pruner = Pruner { step: PrunerStep::Deleting, epoch: pruner.epoch, ..Pruner::default() };
}

/// Whether the verdict takes the only sound copy of a chunk that was in use when it was marked, and still is.
fn gives_up_the_last(state: &State, pruner: &Pruner) -> bool {
    let given_up = state.chunks_of(pruner.packs & state.sound()) & pruner.used & state.used();
    !given_up.within(state.chunks_of(state.sound() - pruner.packs))
}

/// P8: creates `done`. What was condemned says nothing any more, as a late verdict comes to nothing.
fn finish(model: &Protocol, state: &mut State, epoch: usize) {
    let epoch = &mut state.epochs[epoch];
    epoch.done = true;
    if !epoch.void && model.keeps(Rule::VerdictIsExclusive) {
        epoch.condemned = Some(Set::EMPTY);
    }
    if !model.keeps(Rule::VerdictsStay) {
        epoch.verdict = Some(Set::EMPTY);
    }
}
