//! `tintype key`

use std::sync::Arc;

use clap::{Args, Subcommand};
use serde::Serialize;
use tintype_formats::secrets::Secret;
use tintype_tin::id::Id;
use tintype_tin::keys::Role;
use tintype_tin::recovery::RecoveryKey;
use tintype_tin::slot::{Cost, SlotKind, SlotSecret};

use crate::cli::escape::printable;
use crate::cli::failure::Failure;
use crate::cli::repository_args::RepositoryArgs;
use crate::cli::secrets::NewSecretArgs;
use crate::cli::texts::table;
use crate::cli::{Global, Outcome, output, units};
use crate::error::{Error, Kind};
use crate::repository::Repository;
use crate::repository::keys::{ChangedSecret, KeySlot};
use crate::system;

/// How many digits of a key's id are shown.
const SHOWN_DIGITS: usize = 16;

/// Say who can open a repository, and what they may do
#[derive(Debug, Subcommand)]
pub enum Command {
    List(ListArgs),
    Add(AddArgs),
    Remove(RemoveArgs),
    Passwd(PasswdArgs),
    Recovery(RecoveryArgs),
    Rotate(RotateArgs),
}

/// List the keys
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    repository: RepositoryArgs,
}

/// Make a key for somebody else, or another password for oneself
#[derive(Debug, Args)]
pub struct AddArgs {
    /// What the new holder may do
    #[arg(long, value_name = "ROLE", required_unless_present = "same")]
    role: Option<RoleChoice>,
    /// Who the new holder is: a computer or a person
    #[arg(long, value_name = "HOST", required_unless_present = "same")]
    name: Option<String>,
    /// Make another password for the same holder, who is who runs this
    #[arg(long, conflicts_with_all = ["role", "name"])]
    same: bool,
    /// What to call the key in lists; the holder's name if not given
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    #[command(flatten)]
    new: NewSecretArgs,
    #[command(flatten)]
    repository: RepositoryArgs,
}

/// Remove a key
///
/// Who had it may have kept a copy of what it opened: rotate the keys after it.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The key's id, or the beginning of it
    #[arg(value_name = "ID")]
    id: String,
    /// Remove every other key of the same holder, too
    #[arg(long)]
    holder: bool,
    #[command(flatten)]
    repository: RepositoryArgs,
}

/// Change the password of the key that is used
///
/// With the recovery key, make a new password for its owner. The recovery key stays as it is.
#[derive(Debug, Args)]
pub struct PasswdArgs {
    #[command(flatten)]
    new: NewSecretArgs,
    #[command(flatten)]
    repository: RepositoryArgs,
}

/// Make a new recovery key, which replaces the one there was
///
/// Prints the new key: write it down, and keep it elsewhere. It needs a key with the role admin.
#[derive(Debug, Args)]
pub struct RecoveryArgs {
    #[command(flatten)]
    repository: RepositoryArgs,
}

/// Encrypt everything from now on so that those who were removed cannot read it
///
/// What was stored before stays as it is. Every holder that is left gets the new keys when it opens the repository.
#[derive(Debug, Args)]
pub struct RotateArgs {
    #[command(flatten)]
    repository: RepositoryArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum RoleChoice {
    /// Backs up, and cannot read disks
    Write,
    /// Restores and verifies, and adds nothing
    Read,
    /// Backs up and restores, and cannot forget
    Use,
    /// Forgets, prunes, verifies and backs up, and cannot read disks
    Maintain,
    /// Does everything, and makes keys for others
    Admin,
}

impl From<RoleChoice> for Role {
    fn from(choice: RoleChoice) -> Self {
        match choice {
            RoleChoice::Write => Role::Write,
            RoleChoice::Read => Role::Read,
            RoleChoice::Use => Role::Use,
            RoleChoice::Maintain => Role::Maintain,
            RoleChoice::Admin => Role::Admin,
        }
    }
}

pub fn run(command: &Command, global: Global) -> Result<Outcome, Failure> {
    match command {
        Command::List(args) => list(args, global),
        Command::Add(args) => add(args, global),
        Command::Remove(args) => remove(args, global),
        Command::Passwd(args) => change(args, global),
        Command::Recovery(args) => renew_recovery(args, global),
        Command::Rotate(args) => rotate(args, global),
    }
}

/// Opens the repository, which has to have keys.
fn open(args: &RepositoryArgs) -> Result<Arc<Repository>, Failure> {
    open_and_keep(args).map(|(repository, _)| repository)
}

/// The same, and the secret that opened it.
fn open_and_keep(args: &RepositoryArgs) -> Result<(Arc<Repository>, Option<Secret>), Failure> {
    let (repository, secret) = args.secrets.open_and_keep(args.path()?)?;
    if repository.ring().is_public() {
        let shown = repository.store().shown();
        return Err(Failure::usage(format!("the repository {shown} is not encrypted: it has no keys to change")));
    }
    Ok((repository, secret))
}

#[derive(Serialize)]
struct ListReport<'a> {
    keys: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    id: Id,
    role: Role,
    label: &'a str,
    holder: Option<&'a str>,
    kind: &'static str,
    memory_kib: u32,
    passes: u32,
    own: bool,
}

fn list(args: &ListArgs, global: Global) -> Result<Outcome, Failure> {
    let slots = open(&args.repository)?.key_slots()?;
    if global.json {
        output::print_json(&ListReport { keys: slots.iter().map(row).collect() })?;
        return Ok(Outcome::Done);
    }
    let mut rows = vec![["", "id", "role", "holder", "label", "kind"].map(str::to_owned)];
    for slot in &slots {
        let row = row(slot);
        rows.push([
            if row.own { "*" } else { "" }.to_owned(),
            row.id.to_string()[..SHOWN_DIGITS].to_owned(),
            row.role.to_string(),
            row.holder.map_or_else(|| "unknown".to_owned(), printable),
            printable(row.label),
            format!("{} ({}, {} passes)", row.kind, units::size(u64::from(row.memory_kib) << 10), row.passes),
        ]);
    }
    output::print(&table(&rows))?;
    Ok(Outcome::Done)
}

fn row(slot: &KeySlot) -> Row<'_> {
    let kind = match slot.info.kind {
        SlotKind::Argon2id(_) => "argon2id",
        SlotKind::Public => "public",
        SlotKind::Recovery(_) => "recovery",
    };
    let cost = slot.info.kind.cost().unwrap_or(Cost { memory_kib: 0, passes: 0, lanes: 0 });
    Row {
        id: slot.id,
        role: slot.info.role,
        label: &slot.info.label,
        holder: slot.holder.as_ref().map(|holder| holder.name.as_str()),
        kind,
        memory_kib: cost.memory_kib,
        passes: cost.passes,
        own: slot.is_own,
    }
}

#[derive(Serialize)]
struct SlotReport {
    key: Id,
}

fn add(args: &AddArgs, global: Global) -> Result<Outcome, Failure> {
    let repository = open(&args.repository)?;
    let role = args.role.map(Role::from);
    let name = args.name.as_deref().unwrap_or(&repository.ring().certificate().name);
    let label = args.label.as_deref().unwrap_or(name);
    check_name("--name", name)?;
    check_name("--label", label)?;
    let id = match role {
        Some(role) => {
            repository.require_root("add a key")?;
            repository.add_holder(role, name, &args.new.secret()?, label, Cost::default())?
        }
        None => {
            repository.require_adds("add a key")?;
            repository.add_own_slot(&args.new.secret()?, label, Cost::default())?
        }
    };
    let role = role.unwrap_or_else(|| repository.ring().role());
    report_slot(id, &format!("made key {id} with the role {role} for {name}"), global)
}

fn check_name(option: &str, name: &str) -> Result<(), Failure> {
    match (1..=255).contains(&name.len()) {
        true => Ok(()),
        false => Err(Failure::usage(format!("{option} has {} bytes; expected 1 to 255", name.len()))),
    }
}

fn report_slot(key: Id, text: &str, global: Global) -> Result<Outcome, Failure> {
    if global.json {
        output::print_json(&SlotReport { key })?;
    }
    output::note(text, global);
    Ok(Outcome::Done)
}

fn change(args: &PasswdArgs, global: Global) -> Result<Outcome, Failure> {
    let (repository, old) = open_and_keep(&args.repository)?;
    let changed = repository.change_secret(&args.new.secret()?, Cost::default())?;
    let id = changed.new.id;
    let opens = |old: Secret| repository.opened_by(SlotSecret::Password(old.bytes()));
    let text = match (&changed.recovery, old.map(opens).transpose()?.flatten()) {
        (Some(recovery), _) => {
            format!("the new password opens key {id}; the recovery key still opens key {}", recovery.id)
        }
        (None, Some(slot)) => {
            format!("the new password opens key {id}; the old one still opens key {}", described(&slot))
        }
        (None, None) => format!("the new password opens key {id}; the old one opens nothing any more"),
    };
    report_slot(id, &text, global)?;
    note_others(&changed, global);
    Ok(Outcome::Done)
}

/// Whoever changes a password because somebody else knows it wants to know what else opens the repository.
fn note_others(changed: &ChangedSecret, global: Global) {
    let others: Vec<_> = changed.others.iter().map(described).collect();
    if !others.is_empty() {
        let (keys, verb) = if others.len() == 1 { ("key", "opens") } else { ("keys", "open") };
        let text = format!("other {keys} of the same owner still {verb} the repository: {}", others.join(", "));
        output::note(&text, global);
    }
}

fn described(slot: &KeySlot) -> String {
    format!("{} ({})", slot.id, slot.info.label)
}

#[derive(Serialize)]
struct RecoveryReport<'a> {
    recovery_key: &'a str,
    key: Id,
    replaces: Vec<Id>,
}

fn renew_recovery(args: &RecoveryArgs, global: Global) -> Result<Outcome, Failure> {
    let repository = open(&args.repository)?;
    repository.require_root("make a recovery key")?;
    if system::standard_output() != system::StandardOutput::Open {
        let message = "the new recovery key would be shown to nobody: standard output is closed, or the null device";
        return Err(Failure::usage(message));
    }
    let recovery = RecoveryKey::generate()?;
    let shown = recovery.shown();
    let old = repository.key_slots()?.into_iter().filter(KeySlot::is_recovery).map(|slot| slot.id).collect();
    let key = repository.add_recovery_slot(&recovery, Cost::default())?;
    let text = match global.json {
        true => output::json_text(&RecoveryReport { recovery_key: &shown, key, replaces: old }),
        false => crate::cli::texts::recovery_text(&shown),
    };
    // Before the old one goes: a key that nobody has read is none.
    if let Err(failure) = output::print_only_copy(&text) {
        let left = match repository.remove_slot(&key.to_string(), false) {
            Ok(_) => "the old recovery key is as it was".to_owned(),
            Err(_) => format!("the old recovery key is as it was; key {key} is one that nobody has read"),
        };
        let message = format!("the new recovery key could not be shown: {}; {left}", failure.message());
        return Err(Error::new(Kind::Io, message).into());
    }
    let replaces = repository.remove_recovery_slots_but(key)?;
    if global.json {
        return Ok(Outcome::Done);
    }
    let old: Vec<_> = replaces.iter().map(Id::to_string).collect();
    output::note(
        &match old.as_slice() {
            [] => format!("made recovery key {key}; there was none before"),
            old => format!("made recovery key {key}; the old one opens nothing any more (key {})", old.join(", ")),
        },
        global,
    );
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct RemoveReport {
    removed: Id,
    other_keys_of_holder: usize,
}

fn remove(args: &RemoveArgs, global: Global) -> Result<Outcome, Failure> {
    let repository = open(&args.repository)?;
    let removed = repository.remove_slot(&args.id, args.holder)?;
    if global.json {
        output::print_json(&RemoveReport { removed: removed.id, other_keys_of_holder: removed.others })?;
    }
    output::note(&format!("removed key {} ({})", removed.id, removed.label), global);
    if removed.others > 0 {
        let others = units::count(removed.others as u64, "other key", "other keys");
        output::warn(&format!("the same holder has {others}, and still gets in; --holder removes them too"), global);
    } else {
        output::note("who had it may have kept a copy: \"tintype key rotate\" keeps new backups from it", global);
    }
    Ok(Outcome::Done)
}

#[derive(Serialize)]
struct RotateReport {
    rotation: u32,
    holders: Vec<Holder>,
    keys_of_unknown_holders: Vec<Id>,
}

#[derive(Serialize)]
struct Holder {
    name: String,
    role: Role,
}

fn rotate(args: &RotateArgs, global: Global) -> Result<Outcome, Failure> {
    let rotated = open(&args.repository)?.rotate_keys()?;
    for id in &rotated.unknown {
        let text = format!("nobody says whose key {id} is: it does not get the new keys; remove it, and add it again");
        output::warn(&text, global);
    }
    let holders: Vec<_> =
        rotated.holders.into_iter().map(|holder| Holder { name: holder.name, role: holder.role }).collect();
    if !global.json {
        let names: Vec<_> = holders.iter().map(|holder| format!("{} ({})", holder.name, holder.role)).collect();
        let number = rotated.number;
        output::note(&format!("rotation {number}: from now on, backups are sealed for {}", names.join(", ")), global);
    }
    let incomplete = !rotated.unknown.is_empty();
    if global.json {
        let keys_of_unknown_holders = rotated.unknown;
        output::print_json(&RotateReport { rotation: rotated.number, holders, keys_of_unknown_holders })?;
    }
    Ok(if incomplete { Outcome::Incomplete } else { Outcome::Done })
}
