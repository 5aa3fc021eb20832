//! From a text to the one snapshot that it means.

use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tintype_tin::id::Id;

use super::rules::{Question, newest, shown};
use super::wanted::{Pick, Reading, readings};
use super::{Purpose, Remark, Wishes};
use crate::error::{Error, Kind, Result};
use crate::repository::lineup::{Damaged, Fact, Lineup};
use crate::repository::time;

/// Finds the snapshot that a text means, and what there is to say of it.
pub fn choose(lineup: &Lineup, text: &str, wishes: &Wishes, purpose: Purpose) -> Result<(Id, Vec<Remark>)> {
    let choice = Choice { lineup, text, wishes, purpose, now: time::clock() };
    let readings = readings(text, &TimeZone::system());
    let is_split = |reading: &&Reading<'_>| reading.holder.is_some();
    let fits = |reading: &&Reading<'_>| choice.has_any(reading);
    let mut meant: Vec<&Reading<'_>> = readings.iter().filter(fits).collect();
    if choice.is_known_to_holder(&meant) {
        // With the key owner given, what stands before a slash is a part of the name.
        meant.retain(|reading| !is_split(reading));
    }
    if text.parse::<Id>().is_ok() && meant.iter().any(|reading| reading.name.is_none()) {
        meant.retain(|reading| reading.name.is_none());
    }
    match meant.as_slice() {
        [] => Err(choice.nothing(&readings)),
        [reading] => choice.answer(reading),
        several => {
            let answers: Vec<_> = several.iter().map(|reading| choice.answer(reading)).collect();
            let ids: Vec<Option<Id>> = answers.iter().map(|answer| answer.as_ref().ok().map(|(id, _)| *id)).collect();
            if ids.iter().all(|id| id.is_some() && *id == ids[0]) {
                return answers.into_iter().next().unwrap_or_else(|| Err(choice.nothing(&readings)));
            }
            let meanings: Vec<String> = several.iter().map(|reading| reading.to_string()).collect();
            Err(choice.question(None).several(&format!("it can mean {}", meanings.join(", or "))))
        }
    }
}

struct Choice<'a> {
    lineup: &'a Lineup,
    text: &'a str,
    wishes: &'a Wishes,
    purpose: Purpose,
    now: Timestamp,
}

impl<'a> Choice<'a> {
    fn question(&self, reading: Option<&Reading<'a>>) -> Question<'a> {
        let by = reading.and_then(|reading| match reading.pick {
            Pick::By(by) => Some(by),
            _ => None,
        });
        let holder = reading.and_then(|reading| reading.holder).or(self.wishes.holder.as_deref());
        Question { text: self.text, holder, host: self.wishes.host.as_deref(), by, now: self.now }
    }

    /// The ids of damaged and uncommitted snapshots, with what is known of them.
    fn unreadable(&self) -> impl Iterator<Item = (Id, Option<Fact>)> + '_ {
        let damaged = self.lineup.damaged.iter().map(|damaged| (damaged.id, damaged.fact.clone()));
        damaged.chain(self.lineup.uncommitted.iter().map(|snapshot| (snapshot.id, Some(Fact::of(snapshot)))))
    }

    fn has_any(&self, reading: &Reading<'_>) -> bool {
        let of_name = |fact: &Fact| {
            let holder_fits = reading.holder.is_none_or(|holder| fact.holder == holder);
            holder_fits && reading.name.is_none_or(|name| fact.name == name)
        };
        let id_fits = |id: Id| match &reading.pick {
            Pick::Id(prefix) => id.to_string().starts_with(prefix.as_str()),
            _ => true,
        };
        let visible = self.lineup.visible.iter().any(|fact| of_name(fact) && id_fits(fact.id));
        let is_id = reading.name.is_none();
        visible
            || (is_id && self.lineup.sealed.iter().any(|id| id_fits(*id)))
            || self.unreadable().any(|(id, fact)| id_fits(id) && fact.as_ref().map_or(is_id, of_name))
    }

    /// True if one of the readings without a key owner in it is a name of the key owner that is asked for.
    fn is_known_to_holder(&self, readings: &[&Reading<'_>]) -> bool {
        let Some(holder) = &self.wishes.holder else { return false };
        let is_named =
            |fact: &Fact, reading: &Reading<'_>| reading.holder.is_none() && reading.name == Some(&fact.name);
        let own = self.lineup.visible.iter().filter(|fact| fact.holder == *holder);
        own.into_iter().any(|fact| readings.iter().any(|reading| is_named(fact, reading)))
    }

    fn nothing(&self, readings: &[Reading<'_>]) -> Error {
        let has = |is: fn(&Pick) -> bool| readings.iter().any(|reading| is(&reading.pick));
        let question = self.question(None);
        match self.text.rsplit_once('@') {
            _ if has(|pick| matches!(pick, Pick::Id(_))) => question.none("there is none of that name or id"),
            Some((_, which)) if !has(|pick| *pick != Pick::Name) => {
                let why = which.strip_prefix('-').and_then(|age| time::calendar_length(age).err());
                let why = why.unwrap_or_else(|| format!("\"{}\" is no id, day, time or age", which.escape_debug()));
                question.none(&format!("there is none of that name, and {why}"))
            }
            _ => question.none("there is none of that name"),
        }
    }

    fn answer(&self, reading: &Reading<'a>) -> Result<(Id, Vec<Remark>)> {
        let question = self.question(Some(reading));
        match &reading.pick {
            Pick::Id(prefix) => self.by_id(reading, prefix, &question),
            Pick::Name | Pick::By(_) if self.purpose != Purpose::Read => {
                Err(question.none("it is a name; say which of its snapshots, as NAME@ID or NAME@latest"))
            }
            Pick::Name | Pick::Latest | Pick::By(_) => self.newest_of(reading, &question),
        }
    }

    fn newest_of(&self, reading: &Reading<'a>, question: &Question<'a>) -> Result<(Id, Vec<Remark>)> {
        let named = self.lineup.visible.iter().filter(|fact| reading.name == Some(fact.name.as_str()));
        let named: Vec<&Fact> = named.collect();
        if named.is_empty() {
            let states = self
                .unreadable()
                .filter(|(_, fact)| fact.as_ref().is_some_and(|fact| Some(fact.name.as_str()) == reading.name));
            let ids: Vec<String> = states.map(|(id, _)| id.to_string()).collect();
            return Err(damaged(
                self.text,
                &format!("all of that name are damaged or not committed: {}", ids.join(", ")),
            ));
        }
        let mut remarks = Vec::new();
        let fact = newest(named, question, &mut remarks)?;
        for damage in newer_damage(&self.lineup.damaged, fact, question) {
            if !self.wishes.ignore_damaged {
                let (id, cause) = (damage.id, &damage.cause);
                let found = format!("snapshot {id} is newer than {} and damaged: {cause}", fact.id);
                return Err(cannot_be_read(Kind::NewerDamaged, self.text, &found));
            }
            remarks.push(Remark::NewerDamaged { id: damage.id, cause: damage.cause.clone() });
        }
        let uncommitted = self.lineup.uncommitted.iter().filter(|snapshot| {
            let own = Fact::of(snapshot);
            let is_same =
                own.name == fact.name && own.holder == fact.holder && question.host.is_none_or(|host| own.host == host);
            is_same && own.age() > fact.age() && question.by.is_none_or(|by| own.at().is_some_and(|at| at <= by))
        });
        remarks.extend(uncommitted.map(|snapshot| Remark::NotCommitted { id: snapshot.id }));
        Ok((fact.id, remarks))
    }

    fn by_id(&self, reading: &Reading<'a>, prefix: &str, question: &Question<'a>) -> Result<(Id, Vec<Remark>)> {
        let of_name = |fact: &Fact| {
            let named = reading.name.is_none_or(|name| fact.name == name);
            let is_his = question.holder.is_none_or(|holder| fact.holder == holder);
            named && is_his && question.host.is_none_or(|host| fact.host == host)
        };
        let begins = |id: &Id| id.to_string().starts_with(prefix);
        let visible: Vec<&Fact> = self.lineup.visible.iter().filter(|fact| begins(&fact.id) && of_name(fact)).collect();
        let others: Vec<Id> = self
            .unreadable()
            .filter(|(id, fact)| begins(id) && fact.as_ref().is_none_or(of_name))
            .map(|(id, _)| id)
            .chain(self.lineup.sealed.iter().copied().filter(|id| begins(id) && reading.name.is_none()))
            .collect();
        match (visible.as_slice(), others.as_slice()) {
            ([], []) => Err(question.none("there is none of that name and id")),
            ([fact], []) => {
                let named = reading.name.is_some() && self.purpose == Purpose::Read;
                let newer = newer_damage(&self.lineup.damaged, fact, question).filter(|_| named);
                let remark = |damage: &Damaged| Remark::NewerDamaged { id: damage.id, cause: damage.cause.clone() };
                Ok((fact.id, newer.map(remark).collect()))
            }
            ([], [id]) => self.unreadable_one(*id),
            _ => {
                let listed = visible.iter().map(|fact| shown(fact)).chain(others.iter().map(Id::to_string));
                let listed: Vec<String> = listed.collect();
                let count = listed.len();
                Err(question.several(&format!("{count} snapshots match: {}", listed.join("; "))))
            }
        }
    }

    /// A snapshot that is not visible to these keys, named by its id.
    fn unreadable_one(&self, id: Id) -> Result<(Id, Vec<Remark>)> {
        let damage = self.lineup.damaged.iter().find(|damage| damage.id == id);
        match (self.purpose, damage) {
            (Purpose::Discard, _) => Ok((id, Vec::new())),
            (_, Some(damage)) => Err(damaged(self.text, &format!("snapshot {id} is damaged: {}", damage.cause))),
            (_, None) if self.lineup.sealed.contains(&id) => Ok((id, Vec::new())),
            (_, None) => {
                let found = format!("snapshot {id} is not committed: its backup runs, or died");
                Err(damaged(self.text, &found))
            }
        }
    }
}

/// The damaged snapshots of the same holder that are newer, and not known to be of another name.
pub fn newer_damage<'a>(
    damaged: &'a [Damaged],
    fact: &'a Fact,
    question: &Question<'a>,
) -> impl Iterator<Item = &'a Damaged> + 'a {
    let (by, host) = (question.by, question.host);
    damaged.iter().filter(move |damage| {
        let is_by = by.is_none_or(|by| damage.made().is_none_or(|at| at <= by));
        let is_same = damage.fact.as_ref().is_none_or(|own| {
            own.name == fact.name && own.holder == fact.holder && host.is_none_or(|host| own.host == host)
        });
        let is_his = damage.holder.as_ref().is_none_or(|holder| *holder == fact.holder);
        is_by && is_same && is_his && damage.is_newer_than(fact)
    })
}

impl fmt::Display for Reading<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holder = self.holder.map(|holder| format!(" of key owner {}", holder.escape_debug())).unwrap_or_default();
        let of = match self.name {
            Some(name) => format!("name \"{}\"{holder}", name.escape_debug()),
            None => String::new(),
        };
        match &self.pick {
            Pick::Name | Pick::Latest => write!(f, "the newest of {of}"),
            Pick::By(by) => write!(f, "the newest of {of} by {}", time::local(*by)),
            Pick::Id(id) if self.name.is_none() => write!(f, "the id {id}…"),
            Pick::Id(id) => write!(f, "the id {id}… of {of}"),
        }
    }
}

/// An error: the snapshot cannot be read.
pub fn damaged(text: &str, found: &str) -> Error {
    cannot_be_read(Kind::SnapshotDamaged, text, found)
}

fn cannot_be_read(kind: Kind, text: &str, found: &str) -> Error {
    Error::new(kind, format!("find the snapshot \"{}\": {found}", text.escape_debug()))
}
