//! `tintype prune`

use std::collections::HashSet;

use clap::Args as ClapArgs;

use crate::cli::failure::Failure;
use crate::cli::pruning::{PruneArgs, run_prune};
use crate::cli::repository_args::RepositoryArgs;
use crate::cli::{Global, Outcome, output};

/// Free what no snapshot uses
///
/// Runs beside backups. Packs of which only a part is used are copied if that pays; a prune that was stopped is finished by
/// the next one.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    repository: RepositoryArgs,
    #[command(flatten)]
    how: PruneArgs,
    /// Change nothing; say what would be done
    #[arg(long)]
    dry_run: bool,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let repository = args.repository.open()?;
    let (report, outcome) = run_prune(&repository, &args.how, args.dry_run, HashSet::new(), global)?;
    if global.json {
        output::reported(&report.summary(), output::print_json_line(&report), global);
    }
    Ok(outcome)
}
