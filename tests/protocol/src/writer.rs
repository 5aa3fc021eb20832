//! The writer: W1 to W6.

use crate::protocol::Protocol;
use crate::rules::Rule;
use crate::set::Set;
use crate::state::{End, Session, State, Writer, WriterStep};

/// A step of a writer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// W1: creates a session, for a snapshot that needs these chunks.
    Begin { session: usize, needs: Set },
    /// W2: reads all epochs.
    ReadEpochs,
    /// W3: lists the packs, or the first page of them.
    List,
    /// W3: lists the second page.
    ListRest,
    /// W4: puts chunks that are missing.
    Put { pack: usize, chunks: Set },
    /// W5 and W6: manifest and end marker.
    Commit,
    /// It is killed; its slot is free for another.
    Crash,
}

/// What a writer can do next.
pub fn steps(model: &Protocol, state: &State, number: usize, mut add: impl FnMut(Step)) {
    let writer = &state.writers[number];
    match writer.step {
        WriterStep::Idle => begin_steps(model, state, &mut add),
        WriterStep::Begun if model.keeps(Rule::EpochsBeforePacks) => add(Step::ReadEpochs),
        WriterStep::Begun => add(Step::List),
        WriterStep::KnowsEpochs => add(Step::List),
        WriterStep::HalfListed => add(Step::ListRest),
        WriterStep::ListedFirst => add(Step::ReadEpochs),
        WriterStep::Putting => {
            put_steps(model, state, writer, &mut add);
            if writer.missing.is_empty() || !model.keeps(Rule::PacksBeforeManifest) {
                add(Step::Commit);
            }
        }
    }
    // A writer that is never heard of again is a crash too: only a slot that somebody else can use makes a difference.
    if state.writers[number].step != WriterStep::Idle && state.budget.writes > 0 {
        add(Step::Crash);
    }
}

fn begin_steps(model: &Protocol, state: &State, mut add: impl FnMut(Step)) {
    if state.budget.writes == 0 {
        return;
    }
    for session in model.free_sessions(state) {
        for &needs in model.sizes.needs {
            add(Step::Begin { session, needs });
        }
    }
}

fn put_steps(model: &Protocol, state: &State, writer: &Writer, mut add: impl FnMut(Step)) {
    if writer.missing.is_empty() {
        return;
    }
    // Pages and data do not share a pack.
    let chunks = if model.sizes.pages {
        writer.missing.members().map(Set::one).next().unwrap_or_default()
    } else {
        writer.missing
    };
    for pack in model.free_packs(state) {
        add(Step::Put { pack, chunks });
    }
    if !model.keeps(Rule::PackNamesAreNew) {
        let again = state.doomed - state.present;
        again.members().filter(|&pack| state.content[pack] == chunks).for_each(|pack| add(Step::Put { pack, chunks }));
    }
}

/// Does a step.
pub fn apply(model: &Protocol, state: &mut State, number: usize, step: Step) {
    let mut writer = state.writers[number];
    match step {
        Step::Begin { session, needs } => {
            state.budget.writes -= 1;
            let end = if model.keeps(Rule::SessionBeforeEpochs) { End::Open } else { End::Unused };
            state.sessions[session] = Session { end, needs, ..Session::default() };
            let journal = writer.journal;
            writer = Writer { step: WriterStep::Begun, session: session as u8, journal, ..Writer::default() };
        }
        Step::ReadEpochs => {
            writer.excluded = excluded(model, state);
            if writer.step == WriterStep::ListedFirst {
                plan(model, state, &mut writer);
            } else {
                writer.step = WriterStep::KnowsEpochs;
            }
        }
        Step::List => {
            writer.listed = model.first_page(state.present);
            list_on(model, state, &mut writer);
        }
        Step::ListRest => {
            writer.listed |= model.second_page(state.present);
            plan(model, state, &mut writer);
        }
        Step::Put { pack, chunks } => {
            state.content[pack] = chunks;
            state.present |= Set::one(pack);
            writer.missing -= chunks;
            if !model.keeps(Rule::ResumeByListing) {
                writer.journal |= chunks;
            }
        }
        Step::Commit => {
            commit(model, state, &writer);
            writer = Writer { journal: writer.journal, ..Writer::default() };
        }
        Step::Crash => {
            abandon(state, &writer);
            writer = Writer { journal: writer.journal, ..Writer::default() };
        }
    }
    state.writers[number] = writer;
}

/// Goes on after the first page: to the second one, or to what follows the list.
fn list_on(model: &Protocol, state: &mut State, writer: &mut Writer) {
    if !model.keeps(Rule::EpochsBeforePacks) {
        writer.step = WriterStep::ListedFirst;
    } else if model.sizes.two_pages {
        writer.step = WriterStep::HalfListed;
    } else {
        plan(model, state, writer);
    }
}

/// W2: the packs that prune may take.
fn excluded(model: &Protocol, state: &State) -> Set {
    let newest = state.epochs_begun().saturating_sub(1);
    let begun = state.epochs.iter().enumerate().filter(|(_, epoch)| epoch.condemned.is_some());
    let counted = begun.filter(|(number, _)| model.keeps(Rule::EveryVerdictExcluded) || *number == newest);
    counted.fold(Set::EMPTY, |all, (_, epoch)| match (epoch.verdict, epoch.condemned) {
        (Some(verdict), _) => all | verdict,
        (None, Some(condemned)) if model.keeps(Rule::CondemnedExcluded) => all | condemned,
        _ => all,
    })
}

/// W3: finds out what is missing.
fn plan(model: &Protocol, state: &mut State, writer: &mut Writer) {
    if !model.keeps(Rule::SessionBeforeEpochs) {
        state.sessions[writer.session as usize].end = End::Open;
    }
    let mut usable = writer.listed;
    if !model.keeps(Rule::EntriesNeedListedPacks) {
        usable = Set(u8::MAX);
    }
    usable -= writer.excluded;
    if model.keeps(Rule::QuarantinedNotUsable) {
        usable -= state.quarantined;
    }
    if model.keeps(Rule::TrustBeforeUse) {
        usable -= state.hostile;
    }
    let stored = state.chunks_of(usable) | writer.journal;
    let needs = state.sessions[writer.session as usize].needs;
    let page_is_enough = model.sizes.pages && !model.keeps(Rule::PagesNeedTheirChunks) && stored.has(1);
    writer.missing = if page_is_enough { Set::EMPTY } else { needs - stored };
    (writer.step, writer.excluded, writer.listed) = (WriterStep::Putting, Set::EMPTY, Set::EMPTY);
}

/// W6: creates the end marker; if another was first, what it says is obeyed.
fn commit(model: &Protocol, state: &mut State, writer: &Writer) {
    let session = &mut state.sessions[writer.session as usize];
    if session.end == End::Open || !model.keeps(Rule::EndsAreExclusive) {
        session.end = End::Commit;
        session.acknowledged = true;
    }
}

/// A session that was never created leaves nothing behind.
fn abandon(state: &mut State, writer: &Writer) {
    let session = &mut state.sessions[writer.session as usize];
    if session.end == End::Unused {
        *session = Session::default();
    }
}
