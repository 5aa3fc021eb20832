//! Prunes, for every command that does.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use clap::Args as ClapArgs;
use serde::Serialize;
use tintype_tin::id::Id;

use super::failure::Failure;
use super::units::parse_duration;
use super::{Global, Outcome, job, output, units};
use crate::repository::Repository;
use crate::repository::lease::LEAST_LIFE;
use crate::repository::prune::{Amounts, Compacted, Patience, Plan, PruneOptions, Pruned, prune};

/// How to prune.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Freeing space")]
pub struct PruneArgs {
    /// How much may stay unused, in percent of what is used: less takes more copying
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = parse_permille)]
    max_unused: u64,
    /// How long to wait for backups that run; those that outlast it keep their packs until the next prune
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    wait: Duration,
    /// Do not wait for backups that began longer ago than this: if one still runs, it has to begin again
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    fence_after: Duration,
}

/// A number of percent as thousandths.
fn parse_permille(text: &str) -> Result<u64, String> {
    let number: f64 = text.strip_suffix('%').unwrap_or(text).trim().parse().unwrap_or(-1.0);
    match (0.0..=100_000.0).contains(&number) {
        true => Ok((number * 10.0).round() as u64),
        false => Err("expected a number of percent, like 5%".to_owned()),
    }
}

#[derive(Serialize)]
pub struct Report {
    r#type: &'static str,
    dry_run: bool,
    before: Option<Amounts>,
    after: Option<Amounts>,
    garbage_packs: usize,
    repacked_packs: usize,
    /// Packs that would have been copied if there had been space.
    postponed_packs: usize,
    copied_bytes: u64,
    deleted_packs: usize,
    rescued_packs: usize,
    unreadable_packs: usize,
    damaged_packs: Vec<Id>,
    epochs_taken_over: Vec<u32>,
    sessions_fenced: Vec<Id>,
    sessions_waited_for: Vec<Id>,
    index: Compacted,
}

impl Report {
    /// What was done, in a few words.
    pub fn summary(&self) -> String {
        what(self.deleted_packs)
    }
}

fn what(deleted: usize) -> String {
    format!("deleted {}", units::count(deleted as u64, "pack", "packs"))
}

/// Prunes, and says to people what came of it.
pub fn run_prune(
    repository: &Arc<Repository>,
    args: &PruneArgs,
    dry_run: bool,
    without: HashSet<Id>,
    global: Global,
) -> Result<(Report, Outcome), Failure> {
    let options = PruneOptions {
        max_unused_permille: args.max_unused,
        patience: Patience {
            wait: args.wait,
            fence_after: args.fence_after,
            lease_life: args.fence_after.max(LEAST_LIFE),
        },
        dry_run,
        without,
    };
    let pruned = job::run(global, "pruning", |progress| prune(repository, &options, progress))?;
    let outcome = warn(&pruned, global);
    if !global.json && !global.quiet {
        output::reported(&what(pruned.deleted), output::print(&text(&pruned, dry_run)), global);
    }
    Ok((report(pruned, dry_run), outcome))
}

/// Says what is not as it should be.
fn warn(pruned: &Pruned, global: Global) -> Outcome {
    let unknown = pruned.plan.as_ref().map_or(0, |plan| plan.unknown);
    for id in &pruned.damaged {
        output::warn(&format!("pack {id} is damaged, and was left as it is; \"tintype verify\" says more"), global);
    }
    if unknown > 0 {
        let packs = units::count(unknown as u64, "pack", "packs");
        output::warn(
            &format!("{packs} cannot be read, and were left as they are; \"tintype verify\" says more"),
            global,
        );
    }
    for id in &pruned.fenced {
        output::note(&format!("session {id} was given up: its backup, if it still runs, has to begin again"), global);
    }
    if !pruned.waiting.is_empty() {
        let sessions = units::count(pruned.waiting.len() as u64, "backup or reader", "backups or readers");
        output::warn(
            &format!(
                "{sessions} did not end in time: what they may use was not deleted; the next prune goes on here, and \
                 --fence-after 0 does not wait for them"
            ),
            global,
        );
    }
    let later = pruned.plan.as_ref().map_or(0, |plan| plan.later.len());
    if later > 0 {
        let packs = units::count(later as u64, "pack is", "packs are");
        output::warn(
            &format!(
                "{packs} used in part and left for later: there is no space for the copies; \"tintype prune\" goes on when \
                 there is more"
            ),
            global,
        );
    }
    if let Some(cause) = &pruned.out_of_space {
        output::warn(&format!("stopped after some space was freed: {cause}; run it again"), global);
    }
    let has_space = later == 0 && pruned.out_of_space.is_none();
    let fine = pruned.damaged.is_empty() && unknown == 0 && pruned.waiting.is_empty() && has_space;
    if fine { Outcome::Done } else { Outcome::Incomplete }
}

fn report(pruned: Pruned, dry_run: bool) -> Report {
    let plan = pruned.plan;
    let of = |number: fn(&Plan) -> usize| plan.as_ref().map_or(0, number);
    Report {
        r#type: "prune",
        dry_run,
        before: plan.as_ref().map(|plan| plan.before),
        after: plan.as_ref().map(|plan| plan.after),
        garbage_packs: of(|plan| plan.garbage.len()),
        repacked_packs: of(|plan| plan.repack.len()),
        postponed_packs: of(|plan| plan.later.len()),
        unreadable_packs: of(|plan| plan.unknown),
        copied_bytes: pruned.copied_bytes,
        deleted_packs: pruned.deleted,
        rescued_packs: pruned.rescued,
        damaged_packs: pruned.damaged,
        epochs_taken_over: pruned.taken_over,
        sessions_fenced: pruned.fenced,
        sessions_waited_for: pruned.waiting,
        index: pruned.index,
    }
}

fn text(pruned: &Pruned, dry_run: bool) -> String {
    let mut lines = Vec::new();
    for number in &pruned.taken_over {
        lines.push(format!("finished what an earlier prune had begun (epoch {number})"));
    }
    if let Some(plan) = &pruned.plan {
        let (before, after) = (plan.before, plan.after);
        let packs = |number: usize| units::count(number as u64, "pack", "packs");
        lines.push(format!(
            "stored: {} in {}; used: {}; unused: {}",
            units::size(before.bytes),
            packs(before.packs),
            units::size(before.used_bytes),
            units::size(before.unused_bytes),
        ));
        if plan.garbage.is_empty() && plan.repack.is_empty() {
            lines.push("nothing to delete".to_owned());
        } else {
            let (deletes, copies) = if dry_run { ("would delete", "would copy") } else { ("to delete", "copied") };
            lines.push(format!("{deletes}: {} without anything used", packs(plan.garbage.len())));
            lines.push(format!("{copies}: what is used of {}", packs(plan.repack.len())));
            let freed = before.bytes.saturating_sub(after.bytes);
            let frees = if dry_run { "would free" } else { "frees" };
            lines.push(format!("{frees} about {}", units::size(freed)));
        }
        if !plan.later.is_empty() {
            lines.push(format!("no space to copy: what is used of {}", packs(plan.later.len())));
        }
    }
    if !dry_run {
        lines.push(format!("deleted: {}", units::count(pruned.deleted as u64, "pack", "packs")));
        if pruned.rescued > 0 {
            let packs = units::count(pruned.rescued as u64, "pack", "packs");
            lines.push(format!("kept after all: {packs}, which a backup used meanwhile"));
        }
    }
    lines.join("\n") + "\n"
}
