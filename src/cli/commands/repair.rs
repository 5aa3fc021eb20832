//! `tintype repair`

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args as ClapArgs;
use serde::Serialize;
use tintype_tin::id::Id;

use crate::access::{self, Address, open_store};
use crate::cli::escape::printable;
use crate::cli::failure::Failure;
use crate::cli::findings::{DepthChoice, HitRow, findings_text, hit_text};
use crate::cli::source_args::{SourceArgs, ThreadArgs, address_parser};
use crate::cli::{Global, Outcome, job, output, units};
use crate::engine::repair::{RepairOptions, Repaired, repair};
use crate::error::Kind;
use crate::repository::Repository;
use crate::repository::repair::{Mended, mend_entrance};
use crate::repository::verify::Finding;

/// Mend what can be mended of a damaged repository
///
/// Damaged packs are marked, so that the next backup stores their chunks again, and what is whole in them is copied. Indexes
/// are made again from the packs. What is lost is taken from another repository or from the disks themselves, if its bytes are
/// still there. Nothing that is whole is deleted. Exit code 0 if all is well then, 3 if something stays lost.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The repository
    #[arg(long, short, value_name = "REPO", env = access::REPOSITORY_VARIABLE)]
    repo: PathBuf,
    /// Change nothing; say what would be done
    #[arg(long)]
    dry_run: bool,
    /// How deeply to look for damage; plain if the key opens the disks, stored if not
    #[arg(long, value_name = "DEPTH")]
    depth: Option<DepthChoice>,
    /// Take what is lost from this repository, which the same password opens: a copy, or one with snapshots of the same name
    #[arg(long, value_name = "REPO")]
    from: Option<PathBuf>,
    /// Take what is lost from this disk, if it is still there at its place (can be repeated)
    #[arg(long, value_name = "DISK", value_parser = address_parser())]
    from_disk: Vec<Address>,
    #[command(flatten)]
    input: SourceArgs,
    #[command(flatten)]
    threads: ThreadArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    r#type: &'static str,
    clean: bool,
    dry_run: bool,
    found: &'a [Finding],
    mended: Vec<MendedRow<'a>>,
    quarantined: &'a [Id],
    indexed_packs: usize,
    salvaged_chunks: u64,
    salvaged_bytes: u64,
    fetched_chunks: u64,
    committed: &'a [Id],
    left: &'a [Finding],
    hit: Vec<HitRow>,
}

#[derive(Serialize)]
struct MendedRow<'a> {
    object: &'a str,
    how: Mended,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let (repository, from, entrance) = match open(args)? {
        Opened::Both(repository, from) => (repository, from, Vec::new()),
        Opened::Mended(repository, from, entrance) => (repository, Some(from), entrance),
        Opened::Mendable(entrance) => return would_mend(&entrance, global),
    };
    let opened =
        args.from_disk.iter().map(|address| args.input.open(address, None, global)).collect::<Result<Vec<_>, _>>()?;
    let options = RepairOptions {
        dry_run: args.dry_run,
        depth: DepthChoice::or_deepest(args.depth, repository.ring().can_read_data()),
        from: from.as_ref(),
        disks: opened.iter().map(|opened| opened.disk.as_ref()).collect(),
        workers: args.threads.workers(),
    };
    let mut done = job::run(global, "repairing", |progress| repair(&repository, &options, progress))?;
    done.mended.splice(0..0, entrance);
    if global.json {
        output::reported("the repair is over", output::print_json_line(&report(&done, args.dry_run)), global);
    } else if !global.quiet {
        output::reported("the repair is over", output::print(&text(&done, args.dry_run)), global);
    }
    Ok(if done.after.is_clean() { Outcome::Done } else { Outcome::Incomplete })
}

/// What there is to work with.
enum Opened {
    /// The repository opens.
    Both(Arc<Repository>, Option<Arc<Repository>>),
    /// It opens after these objects were taken from the copy.
    Mended(Arc<Repository>, Arc<Repository>, Vec<(String, Mended)>),
    /// It would, if this were no dry run.
    Mendable(Vec<(String, Mended)>),
}

/// Opens the repository and the other one; where the first does not open, what opens it is taken from the other.
fn open(args: &Args) -> Result<Opened, Failure> {
    let secrets = &args.input.secrets;
    let from = || args.from.as_ref().map(|path| secrets.open(path)).transpose();
    let failure = match secrets.open(&args.repo) {
        Ok(repository) => return Ok(Opened::Both(repository, from()?)),
        Err(failure) if matches!(failure.kind(), Kind::RepositoryDamaged | Kind::WrongKey | Kind::NoRepository) => {
            failure
        }
        Err(failure) => return Err(failure),
    };
    let Some(from) = from()? else { return Err(failure) };
    let entrance = mend_entrance(open_store(&args.repo)?.as_ref(), &from, args.dry_run)?;
    match (entrance.is_empty(), args.dry_run) {
        (true, _) => Err(failure),
        (false, true) => Ok(Opened::Mendable(entrance)),
        (false, false) => Ok(Opened::Mended(secrets.open(&args.repo)?, from, entrance)),
    }
}

/// Says what a dry run cannot look behind.
fn would_mend(entrance: &[(String, Mended)], global: Global) -> Result<Outcome, Failure> {
    let done = Repaired { mended: entrance.to_vec(), ..Repaired::default() };
    if global.json {
        output::print_json_line(&Report { clean: false, ..report(&done, true) })?;
    } else if !global.quiet {
        let objects =
            entrance.iter().map(|(object, _)| format!("would be taken from the copy: {}\n", printable(object)));
        output::print(&(objects.collect::<String>() + "What else is damaged is not known before that.\n"))?;
    }
    Ok(Outcome::Incomplete)
}

fn report(done: &Repaired, dry_run: bool) -> Report<'_> {
    Report {
        r#type: "repair",
        clean: done.after.is_clean(),
        dry_run,
        found: &done.before.findings,
        mended: done.mended.iter().map(|(object, how)| MendedRow { object, how: *how }).collect(),
        quarantined: &done.quarantined,
        indexed_packs: done.indexed,
        salvaged_chunks: done.salvaged.chunks,
        salvaged_bytes: done.salvaged.bytes,
        fetched_chunks: done.fetched,
        committed: &done.committed,
        left: &done.after.findings,
        hit: done.after.hit.iter().map(HitRow::from).collect(),
    }
}

fn text(done: &Repaired, dry_run: bool) -> String {
    let mut text = String::new();
    for (object, how) in &done.mended {
        let how = match how {
            Mended::Copied => "taken from the copy",
            Mended::Remade => "made again",
            Mended::Removed => "removed",
        };
        text += &format!("{how}: {}\n", printable(object));
    }
    done.quarantined.iter().for_each(|pack| text += &format!("marked as damaged: pack {pack}\n"));
    done.committed.iter().for_each(|id| text += &format!("finished: snapshot {id}\n"));
    if done.indexed > 0 {
        text += &format!("added to the index: {}\n", units::count(done.indexed as u64, "pack", "packs"));
    }
    if done.salvaged.chunks > 0 {
        let (chunks, size) = (units::count(done.salvaged.chunks, "chunk", "chunks"), units::size(done.salvaged.bytes));
        text += &format!("copied out of damaged packs: {chunks}, {size}\n");
    }
    if done.fetched > 0 {
        text += &format!("found elsewhere and stored again: {}\n", units::count(done.fetched, "chunk", "chunks"));
    }
    if dry_run {
        text += "This was a dry run: nothing was changed. What is there now:\n";
    }
    text += &findings_text(&done.after.findings);
    text += &hit_text(&done.after.hit);
    text + match done.after.is_clean() {
        true => "All snapshots are whole.\n",
        false => {
            "This cannot be mended with what is there. Other snapshots, and other places of these disks, are whole.\n"
        }
    }
}
