//! Which snapshot is meant: the one way from what a user writes to a snapshot, for all commands.
//!
//! What was chosen, and what there is to say of the choice, are values; printing them is the front end's.

mod choose;
mod rules;
mod wanted;

use std::fmt;
use std::sync::Arc;

use tintype_tin::id::Id;

use self::choose::{choose, damaged, newer_damage};
use self::rules::{Question, newest};
use super::Repository;
use super::lineup::{Damaged, Fact, Lineup};
use super::snapshots::Snapshot;
use crate::error::{Error, Kind, Result};

/// What the user says beside the snapshot's name.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// The key owner whose snapshots are meant.
    pub holder: Option<String>,
    /// The computer whose snapshots are meant.
    pub host: Option<String>,
    /// Take the newest that can be read, although a newer one is damaged.
    pub ignore_damaged: bool,
}

impl Wishes {
    /// True if a snapshot of this key owner and this host is among those that are meant.
    pub fn allow(&self, holder: &str, host: &str) -> bool {
        self.holder.as_ref().is_none_or(|wanted| wanted == holder)
            && self.host.as_ref().is_none_or(|wanted| wanted == host)
    }

    /// Fails if a snapshot that its id names is of another key owner or host than those that are meant.
    fn check(&self, id: Id, holder: &str, host: &str) -> Result<()> {
        if self.allow(holder, host) {
            return Ok(());
        }
        let (holder, host) = (holder.escape_debug(), host.escape_debug());
        let message =
            format!("snapshot {id} is of key owner {holder} and host {host}, which is not what was asked for");
        Err(Error::new(Kind::NoSnapshot, message))
    }
}

/// A chosen snapshot.
#[derive(Debug)]
pub struct Chosen {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// What there is to say of the choice.
    pub remarks: Vec<Remark>,
}

/// Something to say of a choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark {
    /// The snapshot before it came from another host.
    OtherHost {
        /// The host of the one before.
        before: String,
        /// Its own.
        now: String,
    },
    /// All snapshots of the name are dated in the future.
    AllAhead {
        /// The local time of the chosen one.
        time: String,
        /// What this computer's clock says.
        clock: String,
    },
    /// A newer one cannot be read.
    NewerDamaged {
        /// Its id.
        id: Id,
        /// What is wrong with it.
        cause: String,
    },
    /// A newer one has no end of its session.
    NotCommitted {
        /// Its id.
        id: Id,
    },
}

impl Remark {
    /// True if the choice is not what was asked for, as far as anybody can tell.
    pub fn is_loss(&self) -> bool {
        matches!(self, Remark::NewerDamaged { .. })
    }

    /// True if it is only worth knowing.
    pub fn is_note(&self) -> bool {
        matches!(self, Remark::NotCommitted { .. })
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remark::OtherHost { before, now } => {
                let (before, now) = (before.escape_debug(), now.escape_debug());
                write!(f, "the snapshot comes from host {now}; the one before it came from host {before}")
            }
            Remark::AllAhead { time, clock } => {
                write!(
                    f,
                    "all snapshots of that name are dated in the future: the newest {time}; this computer's clock says {clock}"
                )
            }
            Remark::NewerDamaged { id, cause } => write!(f, "snapshot {id} is newer and damaged: {cause}"),
            Remark::NotCommitted { id } => {
                write!(f, "snapshot {id} is newer and not committed: its backup runs, or died")
            }
        }
    }
}

/// A snapshot that is to be forgotten or changed.
#[derive(Debug)]
pub struct Target {
    /// Its id.
    pub id: Id,
    /// What there is to say of the choice.
    pub remarks: Vec<Remark>,
}

/// What the choice is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Reading a visible snapshot.
    Read,
    /// Changing one: it must be named exactly.
    Change,
    /// Discarding one, whether it can be read or not.
    Discard,
}

impl Repository {
    /// The snapshot that is meant.
    pub fn resolve(self: &Arc<Self>, text: &str, wishes: &Wishes) -> Result<Chosen> {
        self.resolve_all(&[text], wishes)?.pop().ok_or_else(nothing_named)
    }

    /// The snapshots that several texts mean; each manifest is read once for all of them.
    pub fn resolve_all(self: &Arc<Self>, texts: &[&str], wishes: &Wishes) -> Result<Vec<Chosen>> {
        self.read_chosen(texts, wishes, Purpose::Read).map_err(|cause| self.explain_missing(cause))
    }

    /// The snapshot that is meant, named by an id or as the latest of a name: it is to be changed.
    pub fn resolve_exactly(self: &Arc<Self>, text: &str, wishes: &Wishes) -> Result<Chosen> {
        self.read_chosen(&[text], wishes, Purpose::Change)?.pop().ok_or_else(nothing_named)
    }

    /// The snapshots that are to be forgotten: named by an id, also if they cannot be read, or as the latest of a name.
    pub fn resolve_to_forget(self: &Arc<Self>, texts: &[&str], wishes: &Wishes) -> Result<Vec<Target>> {
        let lineup = self.lineup(&|_| false)?;
        let ids = self.snapshot_ids()?;
        let target = |text: &&str| {
            // A whole id names also one of which nothing is known.
            match text.parse::<Id>().ok().filter(|id| ids.contains(id)) {
                Some(id) => {
                    let fact = lineup.visible.iter().find(|fact| fact.id == id);
                    fact.map_or(Ok(()), |fact| wishes.check(id, &fact.holder, &fact.host))?;
                    Ok(Target { id, remarks: Vec::new() })
                }
                None => choose(&lineup, text, wishes, Purpose::Discard).map(|(id, remarks)| Target { id, remarks }),
            }
        };
        texts.iter().map(target).collect()
    }

    fn read_chosen(self: &Arc<Self>, texts: &[&str], wishes: &Wishes, purpose: Purpose) -> Result<Vec<Chosen>> {
        if let [text] = texts
            && let Ok(id) = text.parse::<Id>()
            && !self.is_forgotten(id)?
            && let Some(found) = self.committed(id)?
        {
            match found {
                Ok(snapshot) => {
                    wishes.check(id, &snapshot.origin.name, &snapshot.manifest.host)?;
                    return Ok(vec![Chosen { snapshot, remarks: Vec::new() }]);
                }
                Err(cause) if cause.kind() == Kind::WrongKey => return Err(cause),
                Err(_) => {}
            }
        }
        let mut lineup = self.lineup(&|manifest| texts.iter().any(|text| is_named_in(&manifest.name, text)))?;
        texts.iter().map(|text| self.read_one(&mut lineup, text, wishes, purpose)).collect()
    }

    fn read_one(&self, lineup: &mut Lineup, text: &str, wishes: &Wishes, purpose: Purpose) -> Result<Chosen> {
        loop {
            let (id, remarks) = choose(lineup, text, wishes, purpose)?;
            let kept = lineup.kept.get(&id).cloned();
            let cause = match kept.map_or_else(|| self.read_visible(id), |snapshot| Ok(Ok(snapshot)))? {
                Ok(snapshot) => return Ok(Chosen { snapshot, remarks }),
                Err(cause) => cause,
            };
            // The cache knew it before it was damaged.
            if !lineup.mark_damaged(id, cause.clone()) {
                return Err(damaged(text, &format!("snapshot {id} cannot be read: {cause}")));
            }
        }
    }
}

/// The one of these snapshots of one name that the name alone means; nothing if it would be refused.
pub fn newest_of(named: Vec<&Fact>, damaged: &[Damaged], wishes: &Wishes) -> Option<Id> {
    let (holder, host) = (wishes.holder.as_deref(), wishes.host.as_deref());
    let question = Question { text: "", holder, host, by: None, now: crate::repository::time::clock() };
    let fact = newest(named, &question, &mut Vec::new()).ok()?;
    (wishes.ignore_damaged || newer_damage(damaged, fact, &question).next().is_none()).then_some(fact.id)
}

fn nothing_named() -> Error {
    Error::new(Kind::NoSnapshot, "no snapshot is named")
}

/// True if a manifest of this name may be what the text means: by an id it may be anything.
fn is_named_in(name: &str, text: &str) -> bool {
    text.contains(name)
}
