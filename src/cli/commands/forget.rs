//! `tintype forget`

use std::collections::HashSet;
use std::sync::Arc;

use clap::Args as ClapArgs;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tintype_tin::id::Id;

use crate::access::SnapshotName;
use crate::cli::choice::{ChoiceArgs, tell_remarks};
use crate::cli::escape::printable;
use crate::cli::failure::Failure;
use crate::cli::pruning::{PruneArgs, Report as PruneReport, run_prune};
use crate::cli::repository_args::RepositoryArgs;
use crate::cli::short_ids::ShortIds;
use crate::cli::tag_arg::parse_tag;
use crate::cli::texts::table;
use crate::cli::{Global, Outcome, output, units};
use crate::repository::policy::{self, Candidate, Count, GroupBy, GroupKey, Policy, Reason, Times, Within};
use crate::repository::snapshots::Snapshot;
use crate::repository::{Repository, time};

/// Forget snapshots: those named, or those that no rule keeps
///
/// Rules are applied to each group of snapshots of the same name, key owner, host and disks (--group-by); to complete and
/// incomplete snapshots separately. The newest complete one and the newest incomplete one of a group always stay. A group whose
/// times look wrong is left as it is, and the exit code is 3. Forgotten snapshots cannot be recovered; their space is freed by
/// "tintype prune", or by --prune.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The snapshots: NAME@ID, NAME@latest or ID; ids may be cut short
    #[arg(value_name = "SNAPSHOT", conflicts_with_all = ["name", "tag", "policy"])]
    snapshots: Vec<SnapshotName>,
    /// Look only at snapshots of this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Look only at snapshots with this tag (can be repeated: with all of them)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_tag)]
    tag: Vec<(String, String)>,
    #[command(flatten)]
    policy: PolicyArgs,
    /// What the snapshots of a group have in common: some of name,holder,host,disks. A disk is known by its serial number, world
    /// wide name and partition table; by its name only if it has none of them
    #[arg(long, value_name = "LIST", default_value = "name,holder,host,disks", conflicts_with = "snapshots")]
    group_by: GroupBy,
    /// Forget also where times look wrong: a backup is older than its parent, or only --keep-within keeps any and a gap longer
    /// than that separates them from the rest
    #[arg(long, conflicts_with = "snapshots")]
    force: bool,
    /// Change nothing; say what would be forgotten
    #[arg(long)]
    dry_run: bool,
    /// Print the whole table: groups, and why each snapshot is kept. A dry run always does
    #[arg(long, short)]
    verbose: bool,
    /// Free the space, too
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    how: PruneArgs,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[command(flatten)]
    repository: RepositoryArgs,
}

/// What to keep; days, weeks, months and years are those of the computer's time zone (TZ).
#[derive(Debug, Clone, ClapArgs)]
#[group(id = "policy", multiple = true)]
#[command(next_help_heading = "What to keep (all that any rule keeps)")]
struct PolicyArgs {
    /// The newest N
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    keep_last: Count,
    /// The newest of each of the newest N hours that have one ("unlimited" for all, here and below)
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    keep_hourly: Count,
    /// The newest of each of the newest N days that have one
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    keep_daily: Count,
    /// The newest of each of the newest N weeks that have one
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    keep_weekly: Count,
    /// The newest of each of the newest N months that have one
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    keep_monthly: Count,
    /// The newest of each of the newest N years that have one
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    keep_yearly: Count,
    /// All that are at most so much older than the newest: 30d, 12h, 8w, 1y6mo
    #[arg(long, value_name = "TIME")]
    keep_within: Option<Within>,
    /// All with this tag (can be repeated: with any of them)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_tag)]
    keep_tag: Vec<(String, String)>,
}

impl PolicyArgs {
    fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            within: self.keep_within,
            tags: self.keep_tag.clone(),
        }
    }
}

#[derive(Serialize)]
struct Report {
    r#type: &'static str,
    dry_run: bool,
    groups: Vec<Group>,
    forgotten: Vec<Id>,
    prune: Option<PruneReport>,
}

/// Snapshots that were judged together.
#[derive(Serialize)]
struct Group {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    disks: Vec<String>,
    /// Why the group is left as it is, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<String>,
    keep: Vec<Row>,
    forget: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    id: Id,
    /// The id, cut short for people.
    #[serde(skip)]
    shown: String,
    /// What it is a snapshot of; for programs its group's name says that.
    #[serde(skip)]
    name: String,
    time: String,
    incomplete: bool,
    reasons: Vec<Reason>,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let repository = args.repository.open_of(&args.snapshots)?;
    repository.require_admin("forget snapshots")?;
    let policy = args.policy.policy();
    let (groups, doomed) = match args.snapshots.as_slice() {
        [] if policy.is_empty() => {
            return Err(Failure::usage(
                "say which snapshots to forget, or which to keep (--keep-last, --keep-daily, …)",
            ));
        }
        [] => by_policy(args, &policy, &repository, global)?,
        _ => (Vec::new(), named(args, &repository, global)?),
    };
    if !args.dry_run {
        doomed.iter().try_for_each(|id| repository.forget(*id))?;
    }
    if !global.json && !global.quiet {
        let whole = args.verbose || args.dry_run;
        let lines = if whole { groups.iter().map(whole_table).collect() } else { lines(&groups) };
        let printed = output::print(&format!("{lines}{}\n", what(doomed.len(), args.dry_run)));
        output::reported(&what(doomed.len(), args.dry_run), printed, global);
    }
    let mut report = Report { r#type: "forget", dry_run: args.dry_run, groups, forgotten: doomed, prune: None };
    let is_any_left = report.groups.iter().any(|group| group.left.is_some());
    let mut outcome = if is_any_left { Outcome::Incomplete } else { Outcome::Done };
    if args.prune {
        let without: HashSet<Id> = report.forgotten.iter().copied().collect();
        let (pruned, how) = run_prune(&repository, &args.how, args.dry_run, without, global)?;
        report.prune = Some(pruned);
        outcome = if how == Outcome::Done { outcome } else { how };
    }
    if global.json {
        let what = what(report.forgotten.len(), args.dry_run);
        output::reported(&what, output::print_json_line(&report), global);
    }
    Ok(outcome)
}

fn what(forgotten: usize, dry_run: bool) -> String {
    let forgot = if dry_run { "would forget" } else { "forgot" };
    format!("{forgot} {}", units::count(forgotten as u64, "snapshot", "snapshots"))
}

/// What the policy keeps and does not.
fn by_policy(
    args: &Args,
    policy: &Policy,
    repository: &Repository,
    global: Global,
) -> Result<(Vec<Group>, Vec<Id>), Failure> {
    let mut listing = repository.snapshots()?;
    let ids = ShortIds::of_listing(&listing);
    for damage in &listing.damaged {
        output::warn(&format!("snapshot {} is left as it is: {}", damage.id, damage.cause), global);
    }
    if let Some(name) = &args.name
        && listing.snapshots.iter().chain(&listing.uncommitted).all(|snapshot| snapshot.manifest.name != *name)
    {
        return Err(crate::cli::texts::no_such_name(name));
    }
    let times = Times::of(&listing.snapshots);
    let wishes = args.choice.wishes();
    let wanted = |snapshot: &Snapshot| {
        let tags = &snapshot.manifest.tags;
        let named = args.name.as_ref().is_none_or(|name| snapshot.manifest.name == *name);
        let is_his = wishes.allow(&snapshot.origin.name, &snapshot.manifest.host);
        named && is_his && args.tag.iter().all(|(key, value)| tags.get(key) == Some(value))
    };
    // Whole snapshots without an end are judged like those that miss a part of their disks, once their backup must be over.
    let now = time::clock();
    listing.uncommitted.retain(|snapshot| is_of_old(snapshot, now));
    let uncommitted: HashSet<Id> = listing.uncommitted.iter().map(|snapshot| snapshot.id).collect();
    listing.snapshots.append(&mut listing.uncommitted);
    listing.snapshots.retain(wanted);
    let clock = Clock { zone: TimeZone::system(), now, times, uncommitted, ids };
    let found = policy::groups(&listing.snapshots, args.group_by);
    say_what_joins(&found, args.group_by, global);
    let groups = found.iter().map(|group| judge(args, policy, group, &clock)).collect::<Result<Vec<_>, _>>()?;
    for group in &groups {
        if let Some(left) = &group.left {
            output::warn(&format!("{} is left as it is: {left}; check, then pass --force", title(group)), global);
        }
    }
    let doomed = groups.iter().flat_map(|group| group.forget.iter().map(|row| row.id)).collect();
    Ok((groups, doomed))
}

/// A backup writes its manifest, and at once the end of its session. For so long nobody takes one without an end for dead.
const COMMIT_TIME: SignedDuration = SignedDuration::from_hours(24);

fn is_of_old(snapshot: &Snapshot, now: Timestamp) -> bool {
    time::parse(&snapshot.manifest.time).is_none_or(|made| now.duration_since(made).abs() > COMMIT_TIME)
}

/// What snapshots are judged by.
struct Clock {
    zone: TimeZone,
    now: Timestamp,
    times: Times,
    /// Those without an end of their session.
    uncommitted: HashSet<Id>,
    /// All ids, cut short.
    ids: ShortIds,
}

fn judge(args: &Args, policy: &Policy, group: &policy::Group<'_>, clock: &Clock) -> Result<Group, Failure> {
    let is_incomplete = |snapshot: &Snapshot| snapshot.is_incomplete() || clock.uncommitted.contains(&snapshot.id);
    let candidates: Vec<Candidate<'_>> = group
        .snapshots
        .iter()
        .map(|snapshot| Candidate { is_incomplete: is_incomplete(snapshot), ..Candidate::of(snapshot) })
        .collect();
    let judged = policy::judge(policy, &candidates, &clock.zone, clock.now);
    let left = match args.force {
        true => None,
        false => policy::doubt(policy, &group.snapshots, &judged, &clock.times, &clock.zone),
    };
    let row = |(id, reasons): &(Id, Vec<Reason>)| {
        let snapshot = group.snapshots.iter().find(|snapshot| snapshot.id == *id);
        let time = snapshot.map_or_else(String::new, |snapshot| snapshot.manifest.time.clone());
        let name = snapshot.map_or_else(String::new, |snapshot| snapshot.manifest.name.clone());
        let incomplete = snapshot.is_some_and(|snapshot| is_incomplete(snapshot));
        Row { id: *id, shown: clock.ids.show(*id), name, time, incomplete, reasons: reasons.clone() }
    };
    let (keep, forget) = judged.rows().map(row).partition(|row| left.is_some() || !row.reasons.is_empty());
    let GroupKey { name, holder, host } = group.key.clone();
    let left = left.map(|doubt| doubt.to_string());
    let group = Group { name, holder, host, disks: group.disk_names(), left, keep, forget };
    if group.left.is_none() && group.keep.iter().all(|row| row.reasons == [Reason::Newest]) {
        return Err(Failure::usage(format!(
            "the rules keep none of the {} of {}",
            units::count(candidates.len() as u64, "snapshot", "snapshots"),
            title(&group)
        ))
        .hinted("name the snapshots if that is meant"));
    }
    Ok(group)
}

/// Says how groups can be joined that may be one disk under several names.
fn say_what_joins(groups: &[policy::Group<'_>], by: GroupBy, global: Global) {
    let mut said = Vec::new();
    for (place, group) in groups.iter().enumerate() {
        let is_like = |other: &&policy::Group<'_>| group.differs_only_in_names(other);
        let alike = groups[place + 1..].iter().filter(is_like).count();
        if alike == 0 || said.contains(&&group.key) {
            continue;
        }
        said.push(&group.key);
        let name = group.key.name.as_deref().unwrap_or("all names");
        let by = GroupBy { disks: false, ..by };
        let count = units::count(alike as u64 + 1, "group", "groups");
        let text = format!(
            "{count} of \"{}\" differ only in the names of disks; if they are the same disks, judge them together with \
             --group-by {by}",
            name.escape_debug()
        );
        output::note(&text, global);
    }
}

/// `vm (sda, sdb; host web; key of admin)`
fn title(group: &Group) -> String {
    let disks = Some(group.disks.join(", ")).filter(|disks| !disks.is_empty());
    let host = group.host.as_ref().map(|host| format!("host {host}"));
    let holder = group.holder.as_ref().map(|holder| format!("key of {holder}"));
    let facts: Vec<_> = [disks, host, holder].into_iter().flatten().collect();
    printable(&format!("{} ({})", group.name.as_deref().unwrap_or("all names"), facts.join("; ")))
}

/// The snapshots that are named, each of which must be exactly one. An id names also one that cannot be read.
fn named(args: &Args, repository: &Arc<Repository>, global: Global) -> Result<Vec<Id>, Failure> {
    let texts: Vec<&str> = args.snapshots.iter().map(SnapshotName::one).collect::<Result<_, _>>()?;
    let mut doomed = Vec::new();
    for target in repository.resolve_to_forget(&texts, &args.choice.wishes())? {
        tell_remarks(&target.remarks, global);
        if !doomed.contains(&target.id) {
            doomed.push(target.id);
        }
    }
    Ok(doomed)
}

/// A line for each snapshot that was kept or forgotten by a rule, for those who read it every morning.
fn lines(groups: &[Group]) -> String {
    let line = |what: &str, row: &Row| {
        [what.to_owned(), row.shown.clone(), printable(&time::local_text(&row.time)), printable(&row.name)]
    };
    let kept = groups.iter().flat_map(|group| &group.keep).map(|row| line("kept", row));
    let forgot = groups.iter().flat_map(|group| &group.forget).map(|row| line("forgot", row));
    table(&kept.chain(forgot).collect::<Vec<_>>())
}

/// The snapshots of a group, the newest first, and why each is kept.
fn whole_table(group: &Group) -> String {
    let mut text = format!("{}:\n", title(group));
    if let Some(left) = &group.left {
        text += &format!("left as it is: {}\n", printable(left));
    }
    let mut rows = vec![["", "id", "time", "because"].map(str::to_owned)];
    let mut all: Vec<(&Row, &str)> = group.keep.iter().map(|row| (row, "keep")).collect();
    all.extend(group.forget.iter().map(|row| (row, "forget")));
    all.sort_by(|(one, _), (other, _)| (&other.time, other.id).cmp(&(&one.time, one.id)));
    for (row, what) in all {
        let mut reasons: Vec<String> = row.reasons.iter().map(Reason::to_string).collect();
        reasons.extend(row.incomplete.then(|| "incomplete".to_owned()));
        let time = printable(&time::local_text(&row.time));
        rows.push([what.to_owned(), row.shown.clone(), time, reasons.join(", ")]);
    }
    text + &table(&rows)
}
