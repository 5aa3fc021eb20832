//! `tintype tag`

use std::collections::BTreeMap;

use clap::Args as ClapArgs;
use serde::Serialize;
use tintype_tin::id::Id;

use crate::access::SnapshotName;
use crate::cli::choice::ChoiceArgs;
use crate::cli::failure::Failure;
use crate::cli::repository_args::RepositoryArgs;
use crate::cli::tag_arg::parse_tag;
use crate::cli::{Global, Outcome, output};
use crate::repository::names;

/// Change what is written on a snapshot
///
/// The snapshot gets a new id; its disks stay where they are.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The snapshot: NAME@ID, NAME@latest or an id; ids may be cut short
    #[arg(value_name = "SNAPSHOT")]
    snapshot: SnapshotName,
    /// Write this on it (can be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_tag, required_unless_present = "remove")]
    set: Vec<(String, String)>,
    /// Take the tag of this name off it (can be repeated)
    #[arg(long, value_name = "KEY")]
    remove: Vec<String>,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[command(flatten)]
    repository: RepositoryArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    snapshot: Id,
    replaces: Id,
    name: &'a str,
    tags: &'a BTreeMap<String, String>,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    names::check_tags(&args.set.iter().cloned().collect())?;
    let repository = args.repository.open_of([&args.snapshot])?;
    repository.require_admin("change the tags of a snapshot")?;
    let before = args.choice.choose_exactly(&repository, args.snapshot.one()?, global)?;
    let mut tags = before.manifest.tags.clone();
    for key in &args.remove {
        if tags.remove(key).is_none() {
            let key = key.escape_debug();
            return Err(Failure::usage(format!("the snapshot {} has no tag \"{key}\" to remove", before.id)));
        }
    }
    tags.extend(args.set.iter().cloned());
    if tags == before.manifest.tags {
        output::note("the tags are so already", global);
        return report(
            args,
            &Report { snapshot: before.id, replaces: before.id, name: &before.manifest.name, tags: &tags },
            global,
        );
    }
    let snapshot = repository.retag(&before, tags.clone())?;
    report(args, &Report { snapshot, replaces: before.id, name: &before.manifest.name, tags: &tags }, global)
}

fn report(args: &Args, report: &Report<'_>, global: Global) -> Result<Outcome, Failure> {
    if global.json {
        let done = format!("snapshot {} is stored", report.snapshot);
        output::reported(&done, output::print_json(report), global);
    } else if report.snapshot != report.replaces {
        let (new, old) = (report.snapshot, report.replaces);
        output::note(&format!("{}: snapshot {new} takes the place of {old}", args.snapshot), global);
    }
    Ok(Outcome::Done)
}
