//! The arguments of every command that reads stored snapshots: which one is meant, where a name alone does not tell.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use tintype_tin::id::Id;

use super::escape::printable;
use super::failure::Failure;
use super::{Global, output};
use crate::repository::resolve::{Chosen, Remark, Wishes};
use crate::repository::snapshots::Snapshot;
use crate::repository::{Repository, time};

/// Which snapshots a name means.
#[derive(Debug, Clone, Default, Args)]
pub struct ChoiceArgs {
    /// Take snapshots of this key owner only, where several have snapshots of one name
    #[arg(help_heading = "Choosing a snapshot", long, value_name = "NAME", env = "TINTYPE_HOLDER")]
    holder: Option<String>,
    /// Take snapshots of this host only
    #[arg(help_heading = "Choosing a snapshot", id = "snapshot_host", long = "host", value_name = "HOST")]
    host: Option<String>,
    /// Take the newest snapshot that can be read, although a newer one is damaged
    #[arg(help_heading = "Choosing a snapshot", long)]
    ignore_damaged: bool,
}

#[derive(Serialize)]
struct SnapshotEvent<'a> {
    r#type: &'static str,
    id: Id,
    name: &'a str,
    time: &'a str,
    host: &'a str,
    holder: &'a str,
}

impl ChoiceArgs {
    /// As the repository understands it.
    pub fn wishes(&self) -> Wishes {
        Wishes { holder: self.holder.clone(), host: self.host.clone(), ignore_damaged: self.ignore_damaged }
    }

    /// Says that nothing is chosen, where no snapshot is named.
    pub fn note_if_unused(&self, instead: &str, global: Global) {
        if self.holder.is_some() || self.host.is_some() {
            output::note(&format!("--holder and --host choose among snapshots that are named: {instead}"), global);
        }
    }

    /// Finds the snapshot that a text means, and says which one it is.
    pub fn choose(&self, repository: &Arc<Repository>, text: &str, global: Global) -> Result<Snapshot, Failure> {
        Ok(told(repository.resolve(text, &self.wishes())?, global))
    }

    /// The same for several texts; each manifest is read once for all of them.
    pub fn choose_all(
        &self,
        repository: &Arc<Repository>,
        texts: &[&str],
        global: Global,
    ) -> Result<Vec<Snapshot>, Failure> {
        let chosen = repository.resolve_all(texts, &self.wishes())?;
        Ok(chosen.into_iter().map(|chosen| told(chosen, global)).collect())
    }

    /// The same for a snapshot that is to be changed: an id, or the latest of a name.
    pub fn choose_exactly(
        &self,
        repository: &Arc<Repository>,
        text: &str,
        global: Global,
    ) -> Result<Snapshot, Failure> {
        Ok(told(repository.resolve_exactly(text, &self.wishes())?, global))
    }
}

/// The snapshot that was chosen, after it was said.
fn told(chosen: Chosen, global: Global) -> Snapshot {
    tell(&chosen, global);
    chosen.snapshot
}

/// Says what was chosen.
pub fn tell(chosen: &Chosen, global: Global) {
    let Chosen { snapshot, remarks } = chosen;
    let manifest = &snapshot.manifest;
    if global.json && !global.quiet {
        output::say_json(&SnapshotEvent {
            r#type: "snapshot",
            id: snapshot.id,
            name: &manifest.name,
            time: &manifest.time,
            host: &manifest.host,
            holder: &snapshot.origin.name,
        });
    }
    let (name, holder) = (printable(&manifest.name), printable(&snapshot.origin.name));
    let time = time::local_text(&manifest.time);
    output::note(&format!("snapshot {} of {name}, {time}, key owner {holder}", snapshot.id), global);
    tell_remarks(remarks, global);
}

/// Says what there is to say of a choice; after a loss the command ends as incomplete.
pub fn tell_remarks(remarks: &[Remark], global: Global) {
    for remark in remarks {
        match remark.is_note() {
            true => output::note(&remark.to_string(), global),
            false => output::warn(&remark.to_string(), global),
        }
        if remark.is_loss() {
            output::mark_incomplete();
        }
    }
}
