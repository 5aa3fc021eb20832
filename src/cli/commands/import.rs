//! `tintype import`

use std::path::PathBuf;
use std::time::Instant;

use clap::Args as ClapArgs;
use serde::Serialize;
use tintype_tin::id::Id;

use crate::cli::failure::Failure;
use crate::cli::repository_args::RepositoryArgs;
use crate::cli::source_args::ThreadArgs;
use crate::cli::texts::unreadable_text;
use crate::cli::{Global, Outcome, job, output, units};
use crate::engine::import::{ImportFile, Imported, import};
use crate::sources;

/// Store the snapshot in a .tin file in a repository
///
/// A file that was exported from the same repository brings its packs as they are. Any other one is read, and its disks are stored
/// anew: only what the repository does not have.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The .tin file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// File whose first line is the password of the .tin file, if it is not that of the repository
    #[arg(long, value_name = "FILE")]
    file_password_file: Option<PathBuf>,
    #[command(flatten)]
    repository: RepositoryArgs,
    #[command(flatten)]
    threads: ThreadArgs,
}

#[derive(Serialize)]
struct Report {
    r#type: &'static str,
    snapshot: Option<Id>,
    file: String,
    copied: bool,
    stored_bytes: u64,
    elapsed_s: f64,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    let began = Instant::now();
    let repository = args.repository.open()?;
    repository.require_adds("import")?;
    let mut file = sources::open_host_file(&args.file)?;
    file.secrets = match &args.file_password_file {
        Some(path) => args.repository.secrets.with_password_file(path).for_images(),
        None => args.repository.secrets.for_images(),
    };
    let imported = ImportFile::open(&file, &args.file, &repository)?;
    let workers = args.threads.workers();
    let done = job::run(global, "importing", |progress| import(&imported, &repository, workers, progress))?;
    report(args, done, began, global)?;
    let manifest = imported.manifest();
    for disk in manifest.disks.iter().filter(|disk| disk.is_incomplete()) {
        output::warn(&format!("the snapshot is incomplete: {}", unreadable_text(disk)), global);
    }
    Ok(if manifest.is_incomplete() { Outcome::Incomplete } else { Outcome::Done })
}

fn report(args: &Args, done: Imported, began: Instant, global: Global) -> Result<(), Failure> {
    let elapsed_s = began.elapsed().as_secs_f64();
    let Imported { snapshot, copied, stored_bytes } = done;
    let file = args.file.display().to_string();
    if global.json {
        let report = Report { r#type: "import", snapshot, file, copied, stored_bytes, elapsed_s };
        output::reported("the snapshot is stored", output::print_json_line(&report), global);
    } else {
        let id = snapshot.map(|id| id.to_string()).unwrap_or_default();
        let (how, size) = (if copied { "packs copied" } else { "stored anew" }, units::size(stored_bytes));
        output::note(&format!("snapshot {id}: {size} stored ({how}), in {elapsed_s:.1} s"), global);
    }
    Ok(())
}
