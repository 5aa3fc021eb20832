//! Frees what no visible snapshot uses, beside running backups (FORMAT.md §11, P1 to P8; the steps carry its names).
//!
//! ```text
//!   survey   what is used, found by walking the maps      plan     what goes, what is copied
//!   repack   copies used chunks out of wasteful packs     sessions who is waited for
//!   compact  few index segments of many
//! ```

mod compact;
mod plan;
mod repack;
mod sessions;
mod survey;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tintype_tin::id::Id;

pub use self::compact::Compacted;
pub use self::plan::{Amounts, Plan};
pub use self::sessions::Patience;
pub use self::survey::{Assumptions, PackUse, Standing, Survey};
use super::protocol::{Epoch, Epochs};
use super::store::StoreErrorKind;
use super::{Repository, names};
use crate::error::{Error, Kind, Result, in_words};
use crate::progress::Progress;

/// How often a prune begins again because another one was faster.
const ROUNDS: usize = 16;

/// How many epochs one prune begins. Where space is short, each frees some for the copies of the next.
const EPOCHS: usize = 8;

/// How often a deletion whose answer was lost is repeated.
const TRIES: usize = 4;

/// How to prune.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// How much may be left unused, in thousandths of what is used.
    pub max_unused_permille: u64,
    /// For whom to wait.
    pub patience: Patience,
    /// Change nothing.
    pub dry_run: bool,
    /// Snapshots that are as good as forgotten, in a dry run.
    pub without: HashSet<Id>,
}

/// What a prune came to.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Epochs of other prunes that were brought to their end.
    pub taken_over: Vec<u32>,
    /// The plan; none if a running session kept it from being made.
    pub plan: Option<Plan>,
    /// Packs that were deleted.
    pub deleted: usize,
    /// Packs that were condemned, and are needed after all.
    pub rescued: usize,
    /// The length of new packs.
    pub copied_bytes: u64,
    /// Packs that are damaged, and stay.
    pub damaged: Vec<Id>,
    /// Sessions that were fenced.
    pub fenced: Vec<Id>,
    /// Sessions that go on: the next prune goes on where this one had to stop.
    pub waiting: Vec<Id>,
    /// What there was no space for after some was freed.
    pub out_of_space: Option<String>,
    /// Index segments.
    pub index: Compacted,
}

/// Prunes the repository.
pub fn prune(repository: &Arc<Repository>, options: &PruneOptions, progress: &Progress) -> Result<Pruned> {
    repository.require_admin("prune the repository")?;
    repository.require_features()?;
    // What frees space may take a little of what is held for that.
    repository.allow_reserve(true);
    let mut prune = Prune { repository, options, progress, begun: 0, pruned: Pruned::default() };
    for _ in 0..ROUNDS {
        match prune.round() {
            Ok(true) => return prune.finish(),
            Ok(false) => {}
            // Space was freed: that is the result, and the next prune goes on.
            Err(cause) if cause.kind() == Kind::NoSpace && prune.pruned.deleted > 0 => {
                prune.pruned.out_of_space = Some(in_words(&cause));
                return prune.finish();
            }
            Err(cause) => return Err(cause),
        }
    }
    Err(Error::new(
        Kind::Io,
        format!("prune: others were faster {ROUNDS} times; is another prune running all the time?"),
    ))
}

struct Prune<'a> {
    repository: &'a Arc<Repository>,
    options: &'a PruneOptions,
    progress: &'a Progress,
    /// How many epochs this prune has begun.
    begun: usize,
    pruned: Pruned,
}

/// What an epoch is to take away.
struct Condemned {
    packs: Vec<Id>,
    /// Whether copies wait for the space that this epoch frees.
    goes_on: bool,
}

impl Prune<'_> {
    /// One epoch, another's or an own one; false if there is more to do.
    fn round(&mut self) -> Result<bool> {
        let protocol = self.repository.protocol();
        // P1
        let epochs = protocol.epochs()?;
        if let Some((number, epoch)) = epochs.open()
            && !self.options.dry_run
        {
            let ended = self.take_over(number, epoch)?;
            self.pruned.taken_over.extend(ended.then_some(number));
            return Ok(!ended);
        }
        let planned = self.pruned.plan.clone();
        match self.plan_and_copy(&epochs) {
            Ok(Some(condemned)) => {
                self.begun += 1;
                let is_over = self.run_epoch(epochs.next(), condemned.packs)?;
                if !is_over {
                    self.pruned.plan = planned;
                }
                Ok(is_over && !(condemned.goes_on && self.begun < EPOCHS && self.pruned.waiting.is_empty()))
            }
            Ok(None) => Ok(true),
            // Another prune may have taken away what this one was looking at.
            Err(cause) if cause.kind() == Kind::Cancelled || protocol.epochs()? == epochs => Err(cause),
            Err(_) => {
                self.pruned.plan = planned;
                Ok(false)
            }
        }
    }

    /// P2, P3: what is to go, when what is used of it has been copied; nothing if nothing has to.
    ///
    /// Where there is no space for the copies, what needs none goes first, in an epoch of its own.
    fn plan_and_copy(&mut self, epochs: &Epochs) -> Result<Option<Condemned>> {
        let dry_run = self.options.dry_run;
        let open = epochs.open().and_then(|(_, epoch)| epoch.condemned.clone()).unwrap_or_default();
        let assumptions = Assumptions {
            condemned: open.into_iter().collect(),
            dead: epochs.dead(),
            without: Some(&self.options.without).filter(|_| dry_run),
            publish: !dry_run,
        };
        let survey = Survey::new(self.repository, &assumptions, self.progress)?;
        let mut plan = Plan::new(&survey, self.options.max_unused_permille);
        let free_bytes = self.repository.store().free_bytes().unwrap_or(u64::MAX);
        if plan.needed_bytes(&survey.packs) > free_bytes {
            let first = if dry_run { plan.garbage_bytes(&survey.packs) } else { 0 };
            match plan.garbage.is_empty() || dry_run {
                true => plan.fit(&survey.packs, free_bytes.saturating_add(first)),
                false => plan.fit(&survey.packs, 0),
            }
        }
        let condemned = match dry_run {
            true => None,
            false => self.copy(&survey, &mut plan)?,
        };
        match &mut self.pruned.plan {
            Some(before) => before.go_on_with(plan),
            none => *none = Some(plan),
        }
        Ok(condemned)
    }

    /// P3: copies what is used of the packs that are to be copied.
    fn copy(&mut self, survey: &Survey, plan: &mut Plan) -> Result<Option<Condemned>> {
        if plan.garbage.is_empty() && plan.repack.is_empty() {
            return Ok(None);
        }
        // Copies are what the reserve is not for: they would take all of it.
        self.repository.allow_reserve(false);
        let repacked = repack::repack(self.repository, survey, &plan.repack, self.progress);
        self.repository.allow_reserve(true);
        let repacked = repacked?;
        plan.put_off_all(&survey.packs, &repacked.no_space);
        let packs = repack::condemned(&plan.garbage, &repacked);
        self.pruned.copied_bytes += repacked.new_bytes;
        self.pruned.damaged.extend(repacked.damaged);
        let goes_on = !plan.later.is_empty();
        Ok(Some(Condemned { packs, goes_on }).filter(|condemned| !condemned.packs.is_empty()))
    }

    /// P4 to P8: true when all is done, or has to wait.
    fn run_epoch(&mut self, number: u32, condemned: Vec<Id>) -> Result<bool> {
        // P4
        if !self.repository.protocol().condemn(number, &condemned)? {
            return Ok(false);
        }
        self.judge(number, condemned)?;
        Ok(true)
    }

    /// Brings another's epoch to its end; false if a running session keeps it from that.
    fn take_over(&mut self, number: u32, epoch: &Epoch) -> Result<bool> {
        match &epoch.verdict {
            Some(verdict) => self.execute(number, verdict).map(|()| true),
            None => self.judge(number, epoch.condemned.clone().unwrap_or_default()),
        }
    }

    /// P5 to P8; false if a running session keeps it from going on.
    fn judge(&mut self, number: u32, condemned: Vec<Id>) -> Result<bool> {
        // P5
        let waited = sessions::wait(self.repository, self.options.patience, self.progress)?;
        self.pruned.fenced.extend(waited.fenced);
        self.pruned.waiting = waited.open;
        if !self.pruned.waiting.is_empty() {
            return Ok(false);
        }
        let verdict = match self.verdict(number, &condemned) {
            Ok(verdict) => verdict,
            // What could not be found may be gone because another pruner has decided, and deletes.
            Err(cause) => match self.repository.protocol().epochs()?.0.remove(&number) {
                Some(Epoch { verdict: Some(verdict), .. }) => verdict,
                Some(Epoch { done: true, .. }) => return Ok(true),
                _ => return Err(cause),
            },
        };
        self.pruned.rescued += condemned.len().saturating_sub(verdict.len());
        self.execute(number, &verdict).map(|()| true)
    }

    /// P6, P7: decides who of the condemned goes.
    fn verdict(&self, number: u32, condemned: &[Id]) -> Result<Vec<Id>> {
        let protocol = self.repository.protocol();
        let assumptions = Assumptions {
            condemned: condemned.iter().copied().collect(),
            dead: protocol.epochs()?.dead(),
            without: None,
            publish: true,
        };
        let survey = Survey::new(self.repository, &assumptions, self.progress)?;
        let mut verdict = condemned.to_vec();
        verdict.retain(|id| survey.packs.get(id).is_none_or(|pack| pack.used_bytes == 0));
        self.progress.check_cancelled()?;
        // Tombstones that were obeyed must not be undone by a power cut when the verdict is not.
        self.repository.store().sync()?;
        protocol.decide(number, &verdict)
    }

    /// P8: deletes what the verdict names. From here on there is no stopping: whoever comes next would do the same.
    fn execute(&mut self, number: u32, verdict: &[Id]) -> Result<()> {
        let store = self.repository.store();
        // Perhaps another's, who died before it was durable.
        store.adopt(&names::epoch(number, "verdict"));
        store.sync()?;
        for id in verdict {
            delete(self.repository, &names::pack(*id))?;
        }
        store.sync()?;
        self.repository.protocol().finish_epoch(number)?;
        self.pruned.deleted += verdict.len();
        Ok(())
    }

    fn finish(mut self) -> Result<Pruned> {
        if !self.options.dry_run && self.pruned.waiting.is_empty() {
            match compact::compact(self.repository, self.pruned.deleted > 0, self.progress) {
                Ok(compacted) => self.pruned.index = compacted,
                // Many segments do no harm.
                Err(cause) if cause.kind() == Kind::NoSpace => {}
                Err(cause) => return Err(cause),
            }
        }
        if let Some(reserve) = self.repository.store().reserve().filter(|_| !self.options.dry_run) {
            reserve.refill();
        }
        Ok(self.pruned)
    }
}

fn delete(repository: &Repository, name: &str) -> Result<()> {
    for _ in 0..TRIES {
        match repository.store().delete(name) {
            Err(cause) if cause.kind() == StoreErrorKind::Unclear => std::thread::sleep(Duration::from_millis(20)),
            other => return Ok(other?),
        }
    }
    // It is on a verdict: if it is there again, the next prune sees to it.
    Ok(())
}
