//! What is in a simulated store, what of it is durable, and what is still on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use tintype_formats::testing::Random;

use super::faults::{Counts, Faults, Operation};
use crate::repository::store::error::doing::CREATE;
use crate::repository::store::{Listed, StoreError, StoreErrorKind};

/// Objects by name.
pub(super) type Objects = BTreeMap<String, Arc<[u8]>>;

/// Everything that the clients of one simulation share.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) faults: Faults,
    pub(super) counts: Counts,
    pub(super) power_cut_at: Option<u64>,
    pub(super) is_power_cut: bool,
    /// What the clients see.
    pub(super) objects: Objects,
    /// What a power cut cannot change.
    durable: Objects,
    /// What it can, in the order in which it happened.
    unsynced: Vec<Change>,
    /// Requests whose answer is lost already, and the operation before which they take effect.
    delayed: Vec<(u64, Change)>,
    /// Clients whose sync has failed.
    failed_clients: BTreeSet<u64>,
}

/// Something that a client did.
#[derive(Clone)]
pub(super) struct Change {
    /// Those whose sync makes it durable: who did it, and who met it.
    clients: BTreeSet<u64>,
    name: String,
    /// The object that was put; none if it was deleted.
    bytes: Option<Arc<[u8]>>,
}

impl Change {
    pub(super) fn put(client: u64, name: &str, bytes: &[u8]) -> Self {
        Change { clients: BTreeSet::from([client]), name: name.to_owned(), bytes: Some(bytes.into()) }
    }

    pub(super) fn delete(client: u64, name: &str) -> Self {
        Change { clients: BTreeSet::from([client]), name: name.to_owned(), bytes: None }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)
    }

    fn apply(&self, objects: &mut Objects) {
        match &self.bytes {
            Some(bytes) => _ = objects.insert(self.name.clone(), Arc::clone(bytes)),
            None => _ = objects.remove(&self.name),
        }
    }
}

/// When something that was asked takes effect.
#[derive(Clone, Copy)]
pub(super) enum Effect {
    Now,
    Never,
    /// Before the operation of this number.
    Later(u64),
}

/// How an operation goes: whether it takes effect, and what is answered instead of the truth.
pub(super) struct Course {
    pub(super) effect: Effect,
    pub(super) answer: Result<(), StoreError>,
}

impl World {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        World {
            random: Random(seed),
            faults,
            counts: Counts::default(),
            power_cut_at: None,
            is_power_cut: false,
            objects: Objects::new(),
            durable: Objects::new(),
            unsynced: Vec::new(),
            delayed: Vec::new(),
            failed_clients: BTreeSet::new(),
        }
    }

    /// What is there after the power was cut: of each change that was not synced, it is chance whether it happened.
    pub(super) fn after_power_cut(&mut self) -> Self {
        self.is_power_cut = true;
        let mut objects = self.durable.clone();
        for change in &self.unsynced {
            if self.random.below(2) == 0 {
                change.apply(&mut objects);
            }
        }
        World { objects: objects.clone(), durable: objects, ..World::new(self.random.next_u64(), self.faults) }
    }

    /// Begins an operation: counts it, lets happen what was delayed, and throws the dice.
    pub(super) fn begin(
        &mut self,
        operation: Operation,
        client: u64,
        doing: &'static str,
        name: &str,
    ) -> Result<Course, StoreError> {
        let failed = |what: &'static str| StoreError::io(doing, name, io::Error::other(what));
        if self.is_power_cut {
            return Err(failed("power cut"));
        }
        if self.failed_clients.contains(&client) {
            let detail = "not tried, because what was stored before could not be made durable";
            return Err(StoreError::new(StoreErrorKind::Io, doing, name, detail));
        }
        self.counts.add(operation, 1, 0);
        self.let_delayed_happen();
        if self.power_cut_at.is_some_and(|number| self.counts.operations() >= number) {
            self.is_power_cut = true;
            // It may have come to that before the light went out; but nobody will know, unless a put or delete is found.
            let effect = if self.happens(500) { Effect::Now } else { Effect::Never };
            return Ok(Course { effect, answer: Err(failed("power cut")) });
        }
        if self.happens(self.faults.failure) {
            if operation == Operation::Sync {
                self.failed_clients.insert(client);
            }
            return Ok(Course { effect: Effect::Never, answer: Err(failed("simulated failure")) });
        }
        Ok(self.course_of_change(operation, doing, name))
    }

    /// What can go wrong only where something changes.
    fn course_of_change(&mut self, operation: Operation, doing: &'static str, name: &str) -> Course {
        if operation == Operation::Put && self.happens(self.faults.no_space) {
            let answer = Err(StoreError::io(doing, name, io::ErrorKind::StorageFull.into()));
            return Course { effect: Effect::Never, answer };
        }
        if matches!(operation, Operation::Put | Operation::Delete) && self.happens(self.faults.unclear) {
            let effect = match self.random.below(3) {
                0 => Effect::Now,
                1 => Effect::Never,
                _ => Effect::Later(
                    self.counts.operations() + 1 + self.random.below(self.faults.max_delay_operations.max(1)),
                ),
            };
            let cause = io::Error::new(io::ErrorKind::TimedOut, "simulated loss of the answer");
            return Course { effect, answer: Err(StoreError::unclear(doing, name, cause)) };
        }
        Course { effect: Effect::Now, answer: Ok(()) }
    }

    /// Whether something happens that does so many times in a thousand.
    pub(super) fn happens(&mut self, per_thousand: u16) -> bool {
        per_thousand > 0 && self.random.below(1000) < u64::from(per_thousand)
    }

    fn let_delayed_happen(&mut self) {
        let now = self.counts.operations();
        for (_, change) in self.delayed.extract_if(.., |(when, _)| *when <= now).collect::<Vec<_>>() {
            // Nobody waits for the answer.
            _ = self.happen(change);
        }
    }

    /// Lets a change happen, now or later; fails if the name is taken.
    pub(super) fn change(&mut self, effect: Effect, change: Change) -> Result<(), StoreError> {
        match effect {
            Effect::Now => self.happen(change),
            Effect::Never => Ok(()),
            Effect::Later(when) => {
                self.delayed.push((when, change));
                Ok(())
            }
        }
    }

    fn happen(&mut self, change: Change) -> Result<(), StoreError> {
        let (is_there, is_put) = (self.objects.contains_key(&change.name), change.bytes.is_some());
        if is_there != is_put {
            change.apply(&mut self.objects);
            self.unsynced.push(change);
            return Ok(());
        }
        change.clients.iter().for_each(|client| self.meet(&change.name, *client));
        match is_put {
            true => Err(StoreError::taken(CREATE, &change.name)),
            false => Ok(()),
        }
    }

    /// Whoever finds a name taken, or nothing to delete, builds on what another did: it is to be durable with the rest.
    pub(super) fn meet(&mut self, name: &str, client: u64) {
        for earlier in self.unsynced.iter_mut().filter(|earlier| earlier.name == name) {
            earlier.clients.extend([client]);
        }
    }

    /// Makes durable what a client did and met, and what happened to the same names before.
    pub(super) fn sync(&mut self, client: u64) {
        let mut settled = BTreeSet::new();
        let mut rest = Vec::new();
        let mut synced = Vec::new();
        for change in std::mem::take(&mut self.unsynced).into_iter().rev() {
            if change.clients.contains(&client) {
                settled.insert(change.name.clone());
            }
            match settled.contains(&change.name) {
                true => synced.push(change),
                false => rest.push(change),
            }
        }
        synced.iter().rev().for_each(|change| change.apply(&mut self.durable));
        self.unsynced = rest.into_iter().rev().collect();
    }

    /// The objects in a folder, by name.
    pub(super) fn listed(&self, prefix: &str) -> BTreeMap<String, u64> {
        let below = self.objects.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        below.map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect()
    }

    /// What a listing shows that began when `before` was there: what came or went since, it shows or not.
    pub(super) fn torn_listing(&mut self, before: BTreeMap<String, u64>, prefix: &str) -> Vec<Listed> {
        let after = self.listed(prefix);
        let mut all = before.clone();
        all.extend(after.clone());
        let is_steady = |name: &String| before.contains_key(name) && after.contains_key(name);
        all.into_iter()
            .filter(|(name, _)| is_steady(name) || self.happens(500))
            .map(|(name, len_bytes)| Listed { name, len_bytes })
            .collect()
    }
}
