//! A store in memory in which everything goes wrong that can: power, requests, answers, room.
//!
//! A [`Simulation`] is the place; every process that uses it has a *client*. Driven by one thread, the same seed gives the
//! same run.

mod faults;
#[cfg(test)]
mod tests;
mod world;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use tintype_formats::locks::Unpoisoned as _;

pub use self::faults::{Count, Counts, Faults, Operation};
use self::world::{Change, Effect, World};
use super::error::doing::{CREATE, DELETE, LENGTH, LIST, READ, SYNC};
use super::name::{check_name, check_prefix};
use super::{Listed, Store, StoreError};

/// What happens while somebody lists.
type Meanwhile = Box<dyn FnOnce() + Send>;

/// A place in memory that keeps objects.
pub struct Simulation {
    shared: Arc<Shared>,
    clients: Mutex<u64>,
}

struct Shared {
    world: Mutex<World>,
    meanwhile: Mutex<Option<Meanwhile>>,
}

/// One process's way to a simulated store.
pub struct SimulatedStore {
    shared: Arc<Shared>,
    client: u64,
}

impl Simulation {
    /// An empty place in which things go wrong as the seed has it.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self::of(World::new(seed, faults))
    }

    fn of(world: World) -> Self {
        let shared = Shared { world: Mutex::new(world), meanwhile: Mutex::new(None) };
        Simulation { shared: Arc::new(shared), clients: Mutex::new(0) }
    }

    /// A store object, as another process would have.
    pub fn client(&self) -> SimulatedStore {
        let mut clients = self.clients.lock().unpoisoned();
        *clients += 1;
        SimulatedStore { shared: Arc::clone(&self.shared), client: *clients }
    }

    /// Changes how often things go wrong.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.world.lock().unpoisoned().faults = faults;
    }

    /// Cuts the power in the operation of this number; the first is 1. From then on all operations of all clients fail.
    pub fn cut_power_at(&self, operation: u64) {
        self.shared.world.lock().unpoisoned().power_cut_at = Some(operation);
    }

    /// Whether the power is gone.
    pub fn is_power_cut(&self) -> bool {
        self.shared.world.lock().unpoisoned().is_power_cut
    }

    /// What is found when the power is back; it is cut now if it was not.
    ///
    /// Of what was put or deleted and not synced by the same client afterwards, each survives or is undone at random, and
    /// requests that were on their way are lost.
    pub fn after_power_cut(&self) -> Self {
        Self::of(self.shared.world.lock().unpoisoned().after_power_cut())
    }

    /// What was asked until now.
    pub fn counts(&self) -> Counts {
        self.shared.world.lock().unpoisoned().counts
    }

    /// Runs something in the middle of the next listing, so that a test with one thread sees listings that are torn.
    pub fn during_next_list(&self, meanwhile: impl FnOnce() + Send + 'static) {
        *self.shared.meanwhile.lock().unpoisoned() = Some(Box::new(meanwhile));
    }
}

impl SimulatedStore {
    fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().unpoisoned()
    }

    /// Finds an object, as the dice have it.
    fn object(&self, operation: Operation, doing: &'static str, name: &str) -> Result<Arc<[u8]>, StoreError> {
        check_name(doing, name)?;
        let mut world = self.world();
        world.begin(operation, self.client, doing, name)?.answer?;
        let found = world.objects.get(name).map(Arc::clone);
        drop(world);
        self.give_way();
        found.ok_or_else(|| StoreError::io(doing, name, io::ErrorKind::NotFound.into()))
    }

    fn note_read(&self, operation: Operation, len_bytes: usize) {
        self.world().counts.add(operation, 0, len_bytes as u64);
    }

    fn change(&self, operation: Operation, doing: &'static str, change: Change) -> Result<(), StoreError> {
        let mut world = self.world();
        let course = world.begin(operation, self.client, doing, change.name())?;
        world.counts.add(operation, 0, change.len_bytes());
        let truth = world.change(course.effect, change);
        course.answer.and(truth)
    }

    fn give_way(&self) {
        let mut world = self.world();
        let often = world.faults.give_way;
        let gives_way = world.happens(often);
        drop(world);
        if gives_way {
            std::thread::yield_now();
        }
    }
}

impl Store for SimulatedStore {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        check_name(CREATE, name)?;
        self.change(Operation::Put, CREATE, Change::put(self.client, name, bytes))
    }

    fn get(&self, name: &str, max_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let object = self.object(Operation::Get, READ, name)?;
        if object.len() as u64 > max_bytes {
            return Err(StoreError::too_large(READ, name, object.len() as u64, max_bytes));
        }
        self.note_read(Operation::Get, object.len());
        Ok(object.to_vec())
    }

    fn get_range(&self, name: &str, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        let object = self.object(Operation::GetRange, READ, name)?;
        let end = offset.saturating_add(buffer.len() as u64);
        let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
        let Some(found) = range.and_then(|(offset, end)| object.get(offset..end)) else {
            return Err(StoreError::truncated(READ, name, object.len() as u64, end));
        };
        buffer.copy_from_slice(found);
        self.note_read(Operation::GetRange, buffer.len());
        Ok(())
    }

    fn adopt(&self, name: &str) {
        self.world().meet(name, self.client);
    }

    fn len_bytes(&self, name: &str) -> Result<u64, StoreError> {
        Ok(self.object(Operation::Length, LENGTH, name)?.len() as u64)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        check_prefix(LIST, prefix)?;
        let mut world = self.world();
        world.begin(Operation::List, self.client, LIST, prefix)?.answer?;
        let before = world.listed(prefix);
        drop(world);
        let meanwhile = self.shared.meanwhile.lock().unpoisoned().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        self.give_way();
        Ok(self.world().torn_listing(before, prefix))
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        check_name(DELETE, name)?;
        self.change(Operation::Delete, DELETE, Change::delete(self.client, name))
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut world = self.world();
        let course = world.begin(Operation::Sync, self.client, SYNC, "")?;
        if let Effect::Now = course.effect {
            world.sync(self.client);
        }
        course.answer
    }

    fn shown(&self) -> String {
        format!("simulated store, client {}", self.client)
    }
}
