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
    /// W1, for another manifest of a snapshot.
    BeginTag { session: usize, snapshot: usize },
    /// W2: reads all epochs, or the first page of them.
    ReadEpochs,
    /// W2: reads the second page.
    ReadEpochsRest,
    /// W3: lists the packs, or the first page of them.
    List,
    /// W3: lists the second page.
    ListRest,
    /// W4: puts chunks that are missing.
    Put { pack: usize, chunks: Set },
    /// W4: syncs the name of the pack.
    Sync,
    /// W5: the manifest (only where manifest and end are two steps).
    Manifest,
    /// W6: the end marker; with the manifest, where both are one step.
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
        WriterStep::HalfEpochs => add(Step::ReadEpochsRest),
        WriterStep::KnowsEpochs => add(Step::List),
        WriterStep::HalfListed => add(Step::ListRest),
        WriterStep::Syncing => add(Step::Sync),
        WriterStep::ListedFirst => add(Step::ReadEpochs),
        WriterStep::Putting => {
            put_steps(model, state, writer, &mut add);
            if writer.missing.is_empty() || !model.keeps(Rule::PacksBeforeManifest) {
                add(if model.sizes.manifests { Step::Manifest } else { Step::Commit });
            }
        }
        WriterStep::Manifested => add(Step::Commit),
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
        let visible = state.sessions.iter().enumerate().filter(|(_, snapshot)| snapshot.visible());
        if state.budget.tags > 0 {
            visible.for_each(|(snapshot, _)| add(Step::BeginTag { session, snapshot }));
        }
    }
}

fn put_steps(model: &Protocol, state: &State, writer: &Writer, mut add: impl FnMut(Step)) {
    if writer.missing.is_empty() || writer.tag {
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
        Step::Begin { session, needs } => begin(model, state, &mut writer, session, needs),
        Step::BeginTag { session, snapshot } => {
            state.budget.tags -= 1;
            let needs = state.sessions[snapshot].needs;
            begin(model, state, &mut writer, session, needs);
            writer.tag = true;
        }
        Step::ReadEpochs => {
            writer.excluded = excluded(model, state, 0);
            if model.sizes.two_pages {
                writer.step = WriterStep::HalfEpochs;
            } else {
                after_epochs(model, state, &mut writer);
            }
        }
        Step::ReadEpochsRest => {
            writer.excluded |= excluded(model, state, 1);
            after_epochs(model, state, &mut writer);
        }
        Step::List => {
            writer.listed = model.first_page(state.present);
            list_on(model, state, &mut writer);
        }
        Step::ListRest => {
            writer.listed |= model.second_page(state.present);
            plan(model, state, &mut writer);
        }
        Step::Put { pack, chunks } => put(model, state, &mut writer, pack, chunks),
        Step::Sync => {
            state.unsynced -= writer.listed;
            (writer.step, writer.listed) = (WriterStep::Putting, Set::EMPTY);
        }
        Step::Manifest => {
            state.sessions[writer.session as usize].manifest = true;
            writer.step = WriterStep::Manifested;
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

fn begin(model: &Protocol, state: &mut State, writer: &mut Writer, session: usize, needs: Set) {
    state.budget.writes -= 1;
    let end = if model.keeps(Rule::SessionBeforeEpochs) { End::Open } else { End::Unused };
    let fresh = model.sizes.budget.damages > 0 && state.budget.damages == 0;
    state.sessions[session] = Session { end, needs, fresh, ..Session::default() };
    let journal = writer.journal;
    *writer = Writer { step: WriterStep::Begun, session: session as u8, journal, ..Writer::default() };
}

/// Goes on after W2. Where the packs were listed before, that is W4.
fn after_epochs(model: &Protocol, state: &mut State, writer: &mut Writer) {
    if model.keeps(Rule::EpochsBeforePacks) {
        writer.step = WriterStep::KnowsEpochs;
    } else {
        plan(model, state, writer);
    }
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

/// W2: the packs that prune may take, by the epochs on one page (0 or 1) of the list.
fn excluded(model: &Protocol, state: &State, page: usize) -> Set {
    let newest = state.epochs_begun().saturating_sub(1);
    let on_page = |number: usize| !model.sizes.two_pages || number % 2 == page;
    let counts = |number: usize| model.keeps(Rule::EveryVerdictExcluded) || number == newest;
    let epochs = state.epochs.iter().enumerate().filter(|(number, _)| on_page(*number) && counts(*number));
    epochs.fold(Set::EMPTY, |all, (_, epoch)| match epoch.verdict {
        None if !model.keeps(Rule::CondemnedExcluded) => all,
        _ => all | epoch.taken().unwrap_or_default(),
    })
}

/// W3: finds out what is missing.
fn plan(model: &Protocol, state: &mut State, writer: &mut Writer) {
    if !model.keeps(Rule::SessionBeforeEpochs) {
        state.sessions[writer.session as usize].end = End::Open;
    }
    if model.keeps(Rule::ListedPacksAreSynced) {
        state.unsynced -= writer.listed;
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
    if writer.tag && !model.keeps(Rule::TagsAreWriters) {
        writer.missing = Set::EMPTY;
    }
    (writer.step, writer.excluded, writer.listed) = (WriterStep::Putting, Set::EMPTY, Set::EMPTY);
}

/// W4: puts a pack. Where there are power cuts, its name can be seen before it is synced.
fn put(model: &Protocol, state: &mut State, writer: &mut Writer, pack: usize, chunks: Set) {
    state.content[pack] = chunks;
    state.present |= Set::one(pack);
    writer.missing -= chunks;
    if !model.keeps(Rule::ResumeByListing) {
        writer.journal |= chunks;
    }
    if model.sizes.budget.cuts > 0 {
        state.unsynced |= Set::one(pack);
        (writer.step, writer.listed) = (WriterStep::Syncing, Set::one(pack));
    }
}

/// W6: creates the end marker; if another was first, what it says is obeyed.
fn commit(model: &Protocol, state: &mut State, writer: &Writer) {
    let session = &mut state.sessions[writer.session as usize];
    if session.end == End::Open || !model.keeps(Rule::EndsAreExclusive) {
        session.end = End::Commit;
        (session.acknowledged, session.manifest) = (true, true);
    }
}

/// A session that was never created leaves nothing behind.
fn abandon(state: &mut State, writer: &Writer) {
    let session = &mut state.sessions[writer.session as usize];
    if session.end == End::Unused {
        *session = Session::default();
    }
}
