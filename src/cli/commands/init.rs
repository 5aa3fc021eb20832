//! `tintype init`

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde::Serialize;
use tintype_formats::secrets::Secret;
use tintype_tin::id::Id;
use tintype_tin::recovery::RecoveryKey;
use tintype_tin::slot::Cost;

use crate::access::refuse_remote;
use crate::cli::create_args::parse_bytes;
use crate::cli::failure::Failure;
use crate::cli::repository_args::SecretArgs;
use crate::cli::secrets::typed_twice;
use crate::cli::texts::recovery_text;
use crate::cli::{Global, Outcome, output, units};
use crate::error::{Error, Kind};
use crate::repository::store::{CreateOptions, DEFAULT_RESERVE_BYTES, LocalStore};
use crate::repository::{DEFAULT_CHUNK_BYTES, InitOptions, Repository};
use crate::system;

/// Make a new backup repository
///
/// Asks for a password, and prints a recovery key that opens the repository as well: write it down, and keep it elsewhere.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The folder to make it in: a new or an empty one
    #[arg(value_name = "REPO", env = "TINTYPE_REPOSITORY")]
    repo: PathBuf,
    /// Do not encrypt: whoever has the folder can read every disk in it
    #[arg(long)]
    no_encryption: bool,
    /// Make no recovery key
    #[arg(long, conflicts_with = "no_encryption")]
    no_recovery_key: bool,
    /// How long a chunk is: a power of two from 64k to 4M
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value_t = DEFAULT_CHUNK_BYTES)]
    chunk_size: u64,
    /// Let the users of the folder's group write to the repository, whatever their umask
    #[arg(long, value_name = "WITH")]
    shared: Option<Sharing>,
    /// Disk space to hold for "forget" and "prune", which need a little to free some on a full disk; 0 for none
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value_t = DEFAULT_RESERVE_BYTES)]
    reserve: u64,
    #[command(flatten)]
    secrets: SecretArgs,
}

/// Who shares a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Sharing {
    /// The users of the folder's group: folders get mode 2770, files 0660
    Group,
}

#[derive(Serialize)]
struct Report<'a> {
    repository: String,
    id: Id,
    encryption: &'a str,
    chunk_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_key: Option<&'a str>,
}

pub fn run(args: &Args, global: Global) -> Result<Outcome, Failure> {
    refuse_remote(&args.repo)?;
    let secret = if args.no_encryption { None } else { Some(new_secret(&args.secrets)?) };
    let recovery = (!args.no_encryption && !args.no_recovery_key).then(RecoveryKey::generate).transpose()?;
    let create = CreateOptions { is_shared: args.shared == Some(Sharing::Group), reserve_bytes: args.reserve };
    let (store, folder) = LocalStore::create_with(&args.repo, create).map_err(Error::from)?;
    let options = InitOptions {
        chunk_bytes: args.chunk_size,
        secret: secret.as_ref(),
        recovery: recovery.as_ref(),
        holder: &system::host_name(),
        cost: Cost::default(),
    };
    let repository = Repository::init(Box::new(store), args.secrets.cache_folder(), &options)?;
    folder.keep();
    let shown = recovery.as_ref().map(RecoveryKey::shown);
    let printed = report(&repository, shown.as_ref().map(|shown| shown.as_str()), global);
    if recovery.is_none() {
        output::reported("the repository is made", printed, global);
        return Ok(Outcome::Done);
    }
    // Its recovery key is nowhere else.
    printed.map_err(|failure| {
        let message =
            format!("the repository is made, but its recovery key could not be written: {}", failure.message());
        Failure::from(Error::new(Kind::Io, message)).hinted("make another one: \"tintype key recovery\"")
    })?;
    Ok(Outcome::Done)
}

/// The password of a new repository: typed twice, unless it is said.
fn new_secret(secrets: &SecretArgs) -> Result<Secret, Failure> {
    const PROMPT: &str = "password of the new repository: ";
    match secrets.is_said() {
        true => Ok(secrets.secret(PROMPT)?),
        false => typed_twice(PROMPT),
    }
}

fn report(repository: &Repository, recovery: Option<&str>, global: Global) -> Result<(), Failure> {
    let config = repository.config();
    let shown = repository.store().shown();
    if global.json {
        let report = Report {
            repository: shown,
            id: config.id,
            encryption: &config.encryption,
            chunk_bytes: config.chunk_bytes,
            recovery_key: recovery,
        };
        let text = output::json_text(&report);
        return if recovery.is_some() { output::print_only_copy(&text) } else { output::print(&text) };
    }
    let chunks = units::size(config.chunk_bytes);
    output::note(&format!("made repository {} in {shown}, with chunks of {chunks}", config.id), global);
    match recovery {
        Some(key) => output::print_only_copy(&recovery_text(key))?,
        None if config.encryption == "none" => {
            output::warn("the repository is not encrypted: whoever has it can read every disk in it", global);
        }
        None => {}
    }
    Ok(())
}
