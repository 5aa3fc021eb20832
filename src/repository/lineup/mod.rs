//! The snapshots of a repository as they stand: visible, sealed for others, damaged, or not committed.
//!
//! A choice among snapshots needs a few facts of each. Manifests and session ends never change, so that what was read once is
//! kept in a cache on this computer: a second look reads only what is new.
//!
//! *Damaged* is a snapshot that somebody committed and nobody can read: a session end that counts commits its id, and the
//! manifest is missing, has another hash, or cannot be opened for another reason than the key; or its whole manifest names a
//! session whose end is there and does not count. *Not committed* is a whole manifest without any end. All else that does not
//! count is ignored (FORMAT.md §2).

mod cache;

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tintype_tin::id::Id;
use tintype_tin::keys::Certificate;
use tintype_tin::manifest::{self, DiskRecord, Envelope, Manifest};

use super::protocol::End;
use super::snapshots::{Snapshot, is_keeper, origin_of};
use super::store::StoreErrorKind;
use super::verify::in_parallel;
use super::{Repository, names, time};
use crate::error::{Error, Kind, Result};

use self::cache::Known;

/// How many objects are read at once.
const READERS: usize = 8;

/// What a choice needs to know of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Its id.
    pub id: Id,
    /// The session that committed it.
    pub session: Id,
    /// What it is a snapshot of.
    pub name: String,
    /// When it was made, as its manifest says.
    pub time: String,
    /// The computer that made it.
    pub host: String,
    /// The name in the certificate of its key owner.
    pub holder: String,
    /// What tells its disks from others, sorted.
    pub disks: Vec<String>,
}

impl Fact {
    /// The facts of a snapshot.
    pub fn of(snapshot: &Snapshot) -> Fact {
        let manifest = &snapshot.manifest;
        let known_by = |disk: &DiskRecord| {
            let by_name = || format!("name {}, size {}", disk.name, disk.size_bytes);
            disk.identity.key().unwrap_or_else(by_name)
        };
        let mut disks: Vec<String> = manifest.disks.iter().map(known_by).collect();
        disks.sort();
        Fact {
            id: snapshot.id,
            session: snapshot.session,
            name: manifest.name.clone(),
            time: manifest.time.clone(),
            host: manifest.host.clone(),
            holder: snapshot.origin.name.clone(),
            disks,
        }
    }

    /// When it was made; nothing if what it says is no time.
    pub fn at(&self) -> Option<Timestamp> {
        time::parse(&self.time)
    }

    /// What snapshots of one holder are sorted by: those without a time are the oldest.
    pub fn age(&self) -> (Option<Timestamp>, Id) {
        (self.at(), self.id)
    }
}

/// A snapshot that was committed and cannot be read.
#[derive(Debug, Clone)]
pub struct Damaged {
    /// Its id.
    pub id: Id,
    /// The session that committed it.
    pub session: Id,
    /// The name of its key owner; nothing if that may be anybody, because an admin committed it.
    pub holder: Option<String>,
    /// What is known of it, if its manifest can be read.
    pub fact: Option<Fact>,
    /// What is wrong with it.
    pub cause: String,
}

impl Damaged {
    /// When it was made: as its manifest says, or else as its id does.
    pub fn made(&self) -> Option<Timestamp> {
        let by_id = || Timestamp::from_millisecond(began_ms(self.id)).ok();
        self.fact.as_ref().map_or_else(by_id, Fact::at)
    }

    /// True if it was made after this one, as far as can be told.
    pub fn is_newer_than(&self, other: &Fact) -> bool {
        match &self.fact {
            Some(own) => own.age() > other.age(),
            None => self.id > other.id || is_ahead_of_its_time(other) && began_ms(self.id) > unix_ms(other),
        }
    }
}

/// True if the id is of a day when the snapshot was not made: clocks were wrong, and ids say nothing of the order.
fn is_ahead_of_its_time(fact: &Fact) -> bool {
    began_ms(fact.id) > unix_ms(fact).saturating_add(24 * 60 * 60 * 1000)
}

fn unix_ms(fact: &Fact) -> i64 {
    fact.at().map_or(0, Timestamp::as_millisecond)
}

/// The time that an id begins with.
fn began_ms(id: Id) -> i64 {
    id.0[..6].iter().fold(0, |ms, byte| ms << 8 | i64::from(*byte))
}

/// The snapshots of a repository.
#[derive(Debug, Default)]
pub struct Lineup {
    /// The visible ones that these keys open, by id.
    pub visible: Vec<Fact>,
    /// The visible ones of others, which these keys do not open.
    pub sealed: Vec<Id>,
    /// Those that were committed and cannot be read.
    pub damaged: Vec<Damaged>,
    /// Whole ones without an end of their session: a backup runs, or died.
    pub uncommitted: Vec<Snapshot>,
    /// Visible ones that were read and that the caller wanted to keep.
    pub kept: HashMap<Id, Snapshot>,
}

impl Lineup {
    /// Counts a snapshot as damaged that the cache knew as visible; false if it is none of the visible ones.
    pub fn mark_damaged(&mut self, id: Id, cause: String) -> bool {
        let Some(place) = self.visible.iter().position(|fact| fact.id == id) else { return false };
        let fact = self.visible.remove(place);
        let (session, holder) = (fact.session, Some(fact.holder.clone()));
        self.damaged.push(Damaged { id, session, holder, fact: Some(fact), cause });
        true
    }
}

/// What a manifest turned out to be.
enum Seen {
    Gone,
    /// It does not count, and is nobody's damage.
    Ignored(Option<Box<Snapshot>>),
    Visible(Box<Snapshot>),
    Sealed,
    Uncommitted(Box<Snapshot>),
    Damaged(Box<Damaged>),
    /// Nobody's signature fits. It is damaged, if a session committed it.
    Unsigned(String),
}

/// An end that counts, and who signed it.
type EndSeen = Option<(End, Certificate)>;

impl Repository {
    /// Looks at the snapshots, with what the cache knows; `keep` says which of those that are read are wanted whole.
    pub fn lineup(&self, keep: &(dyn Fn(&Manifest) -> bool + Sync)) -> Result<Lineup> {
        let mut known = Known::load(self);
        let lineup = look(self, &mut known, keep)?;
        known.save(self);
        Ok(lineup)
    }

    /// Reads a snapshot that is visible to the cache, or returns why it cannot be read: it may have been damaged since.
    pub fn read_visible(&self, id: Id) -> Result<std::result::Result<Snapshot, String>> {
        match self.committed(id)? {
            Some(Err(cause)) if cause.kind() == Kind::WrongKey => Err(cause),
            Some(found) => Ok(found.map_err(|cause| cause.to_string())),
            None => Ok(Err("its manifest or the end of its session is missing or damaged".to_owned())),
        }
    }

    /// Reads every manifest again, whatever the cache knows, and keeps all.
    pub fn lineup_anew(&self) -> Result<Lineup> {
        look(self, &mut Known::default(), &|_| true)
    }
}

fn look(repository: &Repository, known: &mut Known, keep: &(dyn Fn(&Manifest) -> bool + Sync)) -> Result<Lineup> {
    let ids = repository.manifest_ids()?;
    // After the manifests: of a snapshot that was committed meanwhile, both are seen.
    let listed = repository.store().list("sessions/")?;
    let ended: HashSet<Id> = listed.iter().filter_map(|listed| names::parse_session(&listed.name, "end")).collect();
    let mut lineup = Lineup::default();
    let (mut forgotten, mut unread) = (HashSet::new(), Vec::new());
    for (id, is_marked) in ids {
        if is_marked && (known.forgotten.contains(&id) || repository.is_forgotten(id)?) {
            forgotten.insert(id);
            continue;
        }
        match known.facts.get(&id).filter(|fact| ended.contains(&fact.session)) {
            Some(fact) => lineup.visible.push(fact.clone()),
            None => unread.push(id),
        }
    }
    let of_visible: HashSet<Id> = lineup.visible.iter().map(|fact| fact.session).collect();
    let is_news = |session: &&Id| !of_visible.contains(*session) && !known.settled.contains(*session);
    let sessions: Vec<Id> = ended.iter().filter(is_news).copied().collect();
    let ends = in_parallel(READERS, &sessions, |session| repository.protocol().session_end(*session))?;
    let ends: HashMap<Id, EndSeen> = sessions.into_iter().zip(ends).collect();
    let look = Look { repository, ends, keep };
    let seen = in_parallel(READERS, &unread, |id| look.examine(*id))?;
    let seen: HashMap<Id, Seen> = unread.into_iter().zip(seen).collect();
    look.sort_in(seen, &forgotten, &mut lineup)?;
    *known = look.now_known(std::mem::take(known), &lineup, forgotten, &ended);
    Ok(lineup)
}

struct Look<'a> {
    repository: &'a Repository,
    /// The ends that were read.
    ends: HashMap<Id, EndSeen>,
    keep: &'a (dyn Fn(&Manifest) -> bool + Sync),
}

impl Look<'_> {
    /// Reads a manifest, and says what it is by its session's end.
    fn examine(&self, id: Id) -> Result<Seen> {
        let bytes = match self.repository.store().get(&names::snapshot(id), manifest::MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(cause) if cause.kind() == StoreErrorKind::NotFound => return Ok(Seen::Gone),
            Err(cause) if cause.kind() == StoreErrorKind::TooLarge => return Ok(Seen::Unsigned(cause.to_string())),
            Err(cause) => return Err(cause.into()),
        };
        let envelope = match manifest::open(self.repository.ring(), id, &bytes) {
            Ok(envelope) => envelope,
            Err(cause) => return Ok(Seen::Unsigned(Error::from(cause).to_string())),
        };
        let commit = End::Commit { snapshot: id, manifest: *blake3::hash(&bytes).as_bytes() };
        let end = match self.ends.get(&envelope.session) {
            Some(end) => Some(end.clone()),
            None => self.end_of(envelope.session)?,
        };
        Ok(self.judge(id, envelope, commit, end))
    }

    /// The end of a session: nothing if there is none, and an inner nothing if it does not count.
    fn end_of(&self, session: Id) -> Result<Option<EndSeen>> {
        let protocol = self.repository.protocol();
        match protocol.session_end(session)? {
            Some(end) => Ok(Some(Some(end))),
            None => Ok(protocol.has_ended(session)?.then_some(None)),
        }
    }

    fn judge(&self, id: Id, envelope: Envelope, commit: End, end: Option<EndSeen>) -> Seen {
        let Envelope { session, signer, manifest } = envelope;
        let manifest = manifest.map_err(Error::from);
        let is_sealed = manifest.as_ref().is_err_and(|cause| cause.kind() == Kind::WrongKey);
        let is_commit = matches!(&end, Some(Some((end, by))) if *end == commit && by.signing == signer.signing);
        match manifest {
            Err(_) if is_sealed => match end {
                _ if is_commit => Seen::Sealed,
                _ => Seen::Ignored(None),
            },
            Err(cause) => match is_commit {
                true => Seen::Damaged(Box::new(Damaged {
                    id,
                    session,
                    holder: holder_of(&signer),
                    fact: None,
                    cause: cause.to_string(),
                })),
                false => Seen::Ignored(None),
            },
            Ok(manifest) => {
                let origin = origin_of(self.repository.ring(), &signer, &manifest);
                let snapshot = Box::new(Snapshot { id, session, signer, origin, manifest });
                match end {
                    None => Seen::Uncommitted(snapshot),
                    Some(_) if is_commit => Seen::Visible(snapshot),
                    Some(None) => Seen::Damaged(Box::new(damaged_end(&snapshot))),
                    Some(Some(_)) => Seen::Ignored(Some(snapshot)),
                }
            }
        }
    }

    /// Puts everything where it belongs, and finds what was committed and is not there.
    fn sort_in(&self, seen: HashMap<Id, Seen>, forgotten: &HashSet<Id>, lineup: &mut Lineup) -> Result<()> {
        let mut oddities: HashMap<Id, Seen> = HashMap::new();
        for (id, seen) in seen {
            self.take(id, seen, lineup, &mut oddities);
        }
        let mut counted: HashSet<Id> = lineup.visible.iter().map(|fact| fact.id).collect();
        counted.extend(lineup.sealed.iter().chain(forgotten));
        counted.extend(lineup.damaged.iter().map(|damaged| damaged.id));
        for (session, end) in &self.ends {
            let Some((End::Commit { snapshot, .. }, signer)) = end else { continue };
            if counted.contains(snapshot) {
                continue;
            }
            let found = match oddities.remove(snapshot) {
                // A manifest that was not listed may have come since.
                None if !lineup.uncommitted.iter().any(|own| own.id == *snapshot) => self.examine(*snapshot)?,
                None => Seen::Ignored(lineup.uncommitted.iter().find(|own| own.id == *snapshot).cloned().map(Box::new)),
                Some(seen) => seen,
            };
            if let Some(damaged) = damage_of(*snapshot, *session, signer, &found) {
                counted.insert(*snapshot);
                // Of one whose manifest is not listed nobody has looked for a tombstone yet.
                if !self.repository.is_forgotten(*snapshot)? {
                    lineup.damaged.push(damaged);
                }
            } else {
                self.take(*snapshot, found, lineup, &mut HashMap::new());
            }
        }
        lineup.visible.sort_by_key(|fact| fact.id);
        lineup.sealed.sort_unstable();
        lineup.damaged.sort_by_key(|damaged| damaged.id);
        lineup.uncommitted.sort_by_key(|snapshot| snapshot.id);
        Ok(())
    }

    fn take(&self, id: Id, seen: Seen, lineup: &mut Lineup, oddities: &mut HashMap<Id, Seen>) {
        match seen {
            Seen::Visible(snapshot) => {
                lineup.visible.push(Fact::of(&snapshot));
                if (self.keep)(&snapshot.manifest) {
                    lineup.kept.insert(id, *snapshot);
                }
            }
            Seen::Sealed => lineup.sealed.push(id),
            Seen::Uncommitted(snapshot) => lineup.uncommitted.push(*snapshot),
            Seen::Damaged(damaged) => lineup.damaged.push(*damaged),
            odd @ (Seen::Gone | Seen::Ignored(_) | Seen::Unsigned(_)) => _ = oddities.insert(id, odd),
        }
    }

    /// What needs no second look.
    fn now_known(&self, before: Known, lineup: &Lineup, forgotten: HashSet<Id>, ended: &HashSet<Id>) -> Known {
        let facts: HashMap<Id, Fact> = lineup.visible.iter().map(|fact| (fact.id, fact.clone())).collect();
        let is_settled = |(session, end): (&Id, &EndSeen)| {
            let settled = match end {
                Some((End::Fenced | End::Ended, _)) => true,
                // One of a visible snapshot is looked at again if the manifest goes.
                Some((End::Commit { snapshot, .. }, _)) => forgotten.contains(snapshot),
                None => false,
            };
            settled.then_some(*session)
        };
        // What was visible and is forgotten now is settled, too.
        let mut settled: HashSet<Id> = before.settled.intersection(ended).copied().collect();
        settled.extend(self.ends.iter().filter_map(is_settled));
        let gone = before.facts.values().filter(|fact| forgotten.contains(&fact.id));
        settled.extend(gone.map(|fact| fact.session).filter(|session| ended.contains(session)));
        Known {
            changed: (facts != before.facts) || settled != before.settled || forgotten != before.forgotten,
            facts,
            settled,
            forgotten,
        }
    }
}

/// The damage of a snapshot whose session's end is there and does not count.
fn damaged_end(snapshot: &Snapshot) -> Damaged {
    Damaged {
        id: snapshot.id,
        session: snapshot.session,
        holder: Some(snapshot.origin.name.clone()),
        fact: Some(Fact::of(snapshot)),
        cause: "the end of its session is damaged".to_owned(),
    }
}

/// What is wrong with a snapshot that a session committed and that is not visible; nothing if that is nobody's damage.
fn damage_of(id: Id, session: Id, signer: &Certificate, seen: &Seen) -> Option<Damaged> {
    let damaged = |cause: String, fact| Damaged { id, session, holder: holder_of(signer), fact, cause };
    match seen {
        Seen::Gone => Some(damaged("its manifest is missing".to_owned(), None)),
        Seen::Unsigned(cause) => Some(damaged(cause.clone(), None)),
        Seen::Ignored(Some(snapshot)) if snapshot.signer.signing == signer.signing => {
            let cause = "its manifest is not the one that its session committed";
            Some(damaged(cause.to_owned(), Some(Fact::of(snapshot))))
        }
        // Another hand committed what it has not made.
        Seen::Ignored(_) | Seen::Visible(_) | Seen::Sealed | Seen::Uncommitted(_) | Seen::Damaged(_) => None,
    }
}

/// The key owner whose snapshot it must be: an admin's may be anybody's whose tags were changed.
fn holder_of(signer: &Certificate) -> Option<String> {
    (!is_keeper(signer)).then(|| signer.name.clone())
}
