//! Key slots: who can open the repository, and how that changes (FORMAT.md §4).

use std::collections::HashSet;

use tintype_formats::ErrorKind;
use tintype_formats::tin::id::Id;
use tintype_formats::tin::keys::{Certificate, KeyRing, Role};
use tintype_formats::tin::signed::ObjectKind;
use tintype_formats::tin::slot::{self, Cost, Secret, SlotInfo, SlotKind};

use super::protocol::{Protocol, put_own};
use super::store::{Listed, Store, StoreErrorKind};
use super::{MAX_SMALL_BYTES, Repository, names};
use crate::error::{Error, Kind, Result};

/// The shortest begin of a slot's id that names it.
const MIN_PREFIX: usize = 4;

/// A key slot.
pub struct KeySlot {
    /// Its id.
    pub id: Id,
    /// What it says of itself.
    pub info: SlotInfo,
    /// Whose it is, if somebody who may say so has said it.
    pub holder: Option<Certificate>,
    /// Whether the repository was opened with it.
    pub is_own: bool,
}

/// What became of a slot that was taken away.
pub struct RemovedSlot {
    /// Its id.
    pub id: Id,
    /// Its label.
    pub label: String,
    /// How many other slots its holder has, by which it still gets in.
    pub others: usize,
}

/// What a rotation came to.
pub struct Rotated {
    /// Its number, from 1.
    pub number: u32,
    /// Who gets the new keys.
    pub holders: Vec<Certificate>,
    /// Slots of which nobody says whose they are: their holders do not get the new keys.
    pub unknown: Vec<Id>,
}

impl Repository {
    /// The slots that there are.
    pub fn key_slots(&self) -> Result<Vec<KeySlot>> {
        let listed = self.store().list("keys/")?;
        let removals = Removals::read(&self.protocol(), &listed)?;
        let mut slots = Vec::new();
        for (id, info, _) in read_slots(self.store(), &listed, self.config().id)? {
            let holder = self.holder_of(id)?;
            if !removals.contain(id, holder.as_ref()) {
                slots.push(KeySlot { id, info, holder, is_own: self.slot == Some(id) });
            }
        }
        Ok(slots)
    }

    /// The slot that is meant by its id, or the begin of it.
    pub fn key_slot(&self, wanted: &str) -> Result<KeySlot> {
        let wanted = wanted.to_lowercase();
        let shown = wanted.escape_debug();
        let digits = wanted.len() >= MIN_PREFIX && wanted.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut slots = self.key_slots()?;
        slots.retain(|slot| digits && slot.id.to_string().starts_with(&wanted));
        match slots.len() {
            1 => Ok(slots.remove(0)),
            0 => Err(Error::new(Kind::Usage, format!("find the key slot \"{shown}\": there is none with that id"))),
            several => Err(Error::new(Kind::Usage, format!("find the key slot \"{shown}\": {several} ids begin so"))),
        }
    }

    /// Makes keys for a new holder, in a slot that this secret opens.
    pub fn add_holder(&self, role: Role, name: &str, secret: &Secret, label: &str, cost: Cost) -> Result<Id> {
        self.require_root("add a key")?;
        let ring = self.ring().issue(role, name)?;
        self.add_slot(&ring, secret, label, cost)
    }

    /// Makes another slot for the same holder.
    pub fn add_own_slot(&self, secret: &Secret, label: &str, cost: Cost) -> Result<Id> {
        self.require_encryption()?;
        self.add_slot(self.ring(), secret, label, cost)
    }

    fn add_slot(&self, ring: &KeyRing, secret: &Secret, label: &str, cost: Cost) -> Result<Id> {
        let id = put_slot(self.store(), self.ring(), ring, Some(secret), label, cost)?;
        self.store().sync()?;
        Ok(id)
    }

    /// Changes the secret of the own slot: the new slot is durable before the old one goes.
    pub fn change_secret(&self, secret: &Secret, cost: Cost) -> Result<Id> {
        self.require_encryption()?;
        let old = self.slot.ok_or_else(|| Error::new(Kind::Usage, "the repository was not opened by a key slot"))?;
        let label = self.key_slots()?.into_iter().find(|slot| slot.is_own).map(|slot| slot.info.label);
        let new = self.add_own_slot(secret, &label.unwrap_or_default(), cost)?;
        if self.ring().can_admin() {
            self.mark_removed(old, None)?;
        }
        self.delete_slot(old)?;
        Ok(new)
    }

    /// Takes a slot away, or all that its holder has; never the last one of an administrator.
    pub fn remove_slot(&self, wanted: &str, whole_holder: bool) -> Result<RemovedSlot> {
        self.require_root("remove a key")?;
        let slot = self.key_slot(wanted)?;
        let host = slot.holder.as_ref().map(|holder| holder.host);
        let is_of_holder = |other: &KeySlot| host.is_some() && other.holder.as_ref().map(|holder| holder.host) == host;
        let rest = self.key_slots()?.into_iter().filter(|other| other.id != slot.id);
        let (same, others): (Vec<_>, Vec<_>) = rest.partition(is_of_holder);
        let is_admin =
            |slot: &KeySlot| slot.is_own || slot.holder.as_ref().is_some_and(|holder| holder.role == Role::Admin);
        if !others.iter().any(is_admin) && (whole_holder || !same.iter().any(is_admin)) {
            let message = format!(
                "remove the key slot {}: it is the last of an administrator, and without one nobody could make keys, \
                 forget or prune; add another first",
                slot.id
            );
            return Err(Error::new(Kind::Io, message));
        }
        // A holder without a slot is none any more, and cannot make itself a new one.
        let ends = whole_holder || same.is_empty();
        self.mark_removed(slot.id, host.filter(|_| ends))?;
        let goes = std::iter::once(&slot).chain(same.iter().filter(|_| whole_holder));
        goes.map(|slot| slot.id).try_for_each(|id| self.delete_slot(id))?;
        Ok(RemovedSlot { id: slot.id, others: if whole_holder { 0 } else { same.len() }, label: slot.info.label })
    }

    /// From here on the slot does not count, and neither does the holder of this host key, also if somebody puts them back.
    fn mark_removed(&self, slot: Id, host: Option<[u8; 32]>) -> Result<()> {
        let name = names::key_removed(slot);
        let body = host.as_ref().map_or(&[][..], |host| host);
        let object = self.ring().sign(ObjectKind::Removed, &name, body)?;
        if !self.protocol().exclusive(&name, &object)? && self.protocol().read(ObjectKind::Removed, &name)?.is_none() {
            // Somebody who wants to keep the slot has put something else there.
            self.store().delete(&name)?;
            put_own(self.store(), &name, &object)?;
        }
        Ok(self.store().sync()?)
    }

    fn delete_slot(&self, slot: Id) -> Result<()> {
        self.store().delete(&names::key(slot))?;
        self.store().delete(&names::key_holder(slot))?;
        Ok(self.store().sync()?)
    }

    /// Makes new data and map keys, which everything is sealed to from now on, and hands them to every holder.
    pub fn rotate_keys(&self) -> Result<Rotated> {
        self.require_root("rotate the keys")?;
        let mut holders = vec![self.ring().certificate().clone()];
        let mut unknown = Vec::new();
        for slot in self.key_slots()? {
            match slot.holder {
                Some(holder) if holders.iter().any(|known| known.host == holder.host) => {}
                Some(holder) => holders.push(holder),
                None if slot.is_own => {}
                None => unknown.push(slot.id),
            }
        }
        let number = self.next_rotation()?;
        let name = names::rotation(number);
        let body = self.ring().rotation(number, &holders)?;
        let object = self.ring().sign(ObjectKind::Rotation, &name, &body)?;
        if !self.protocol().exclusive(&name, &object)? {
            let message = "rotate the keys: another administrator was first; look at the keys, and run it again";
            return Err(Error::new(Kind::Io, message));
        }
        Ok(Rotated { number, holders, unknown })
    }

    /// The first number after all rotations that count, and that nobody has taken with something else.
    fn next_rotation(&self) -> Result<u32> {
        let taken: Vec<u32> = rotation_numbers(&self.store().list("keys/")?);
        let mut newest = 0;
        for number in &taken {
            if self.protocol().read(ObjectKind::Rotation, &names::rotation(*number))?.is_some() {
                newest = newest.max(*number);
            }
        }
        let free = (newest.saturating_add(1)..100_000_000).find(|number| !taken.contains(number));
        free.ok_or_else(|| Error::new(Kind::Io, "rotate the keys: there is no number left"))
    }

    fn holder_of(&self, slot: Id) -> Result<Option<Certificate>> {
        let Some((body, signer)) = self.protocol().read(ObjectKind::Holder, &names::key_holder(slot))? else {
            return Ok(None);
        };
        // Of a certificate, only an administrator and the holder may say that it is in use.
        let counts = signer.role == Role::Admin || signer.as_bytes() == body;
        Ok(self.ring().certified(&body).ok().filter(|_| counts))
    }

    fn require_encryption(&self) -> Result<()> {
        match self.ring().is_public() {
            false => Ok(()),
            true => Err(Error::new(Kind::Usage, "the repository is not encrypted, and has no keys to change")),
        }
    }

    /// Fails unless the holder may make and take away keys.
    pub fn require_root(&self, doing: &str) -> Result<()> {
        self.require_encryption()?;
        self.require(self.ring().can_admin(), doing, "admin")
    }
}

/// Stores a slot for a ring, and before it whose it is: a slot without that would miss a rotation.
pub(super) fn put_slot(
    store: &dyn Store,
    signer: &KeyRing,
    ring: &KeyRing,
    secret: Option<&Secret>,
    label: &str,
    cost: Cost,
) -> Result<Id> {
    let id = Id::random()?;
    let bytes = slot::seal_slot(ring, secret, label, cost)?;
    if !ring.is_public() {
        let name = names::key_holder(id);
        put_own(store, &name, &signer.sign(ObjectKind::Holder, &name, ring.certificate().as_bytes())?)?;
        store.sync()?;
    }
    put_own(store, &names::key(id), &bytes)?;
    Ok(id)
}

/// Opens the first key slot that the secret, or nobody's secret, opens; the ring has all keys there are for its holder.
pub(super) fn unlock(
    store: &dyn Store,
    repository: Id,
    secret_is_said: bool,
    secret: &mut dyn FnMut() -> Result<Secret>,
) -> Result<(KeyRing, Id)> {
    let listed = store.list("keys/")?;
    let slots = read_slots(store, &listed, repository)?;
    if let Some((id, _, bytes)) = slots.iter().find(|(_, info, _)| info.kind == SlotKind::Public) {
        // Or whoever can write to the store could turn encryption off, and nobody would see.
        if secret_is_said {
            let message = "a password was given, and the repository is not encrypted; leave it out if that is meant";
            return Err(Error::new(Kind::WrongKey, message));
        }
        return Ok((slot::open_slot(bytes, None)?, *id));
    }
    if slots.is_empty() {
        return Err(Error::new(Kind::WrongKey, format!("{} has no key slots: nobody can open it", store.shown())));
    }
    let secret = secret()?;
    let mut was_removed = false;
    for (id, _, bytes) in &slots {
        let mut ring = match slot::open_slot(bytes, Some(&secret)) {
            Err(cause) if cause.kind() == ErrorKind::WrongKey => continue,
            other => other?,
        };
        if Removals::read(&Protocol { store, ring: &ring }, &listed)?.contain(*id, Some(ring.certificate())) {
            was_removed = true;
            continue;
        }
        take_rotations(store, &mut ring, &listed)?;
        return Ok((ring, *id));
    }
    let message = match was_removed {
        true => format!("the password is that of a key slot of {} that was removed", store.shown()),
        false => format!("the password opens none of the {} key slots of {}", slots.len(), store.shown()),
    };
    Err(Error::new(Kind::WrongKey, message))
}

/// The slots of this repository that can be read, with their bytes.
fn read_slots(store: &dyn Store, listed: &[Listed], repository: Id) -> Result<Vec<(Id, SlotInfo, Vec<u8>)>> {
    let mut slots = Vec::new();
    for id in listed.iter().filter_map(|listed| names::parse_flat("keys", &listed.name)) {
        let bytes = match store.get(&names::key(id), MAX_SMALL_BYTES) {
            Ok(bytes) => bytes,
            // Removed meanwhile, or too long to be a slot.
            Err(cause) if matches!(cause.kind(), StoreErrorKind::NotFound | StoreErrorKind::TooLarge) => continue,
            Err(cause) => return Err(cause.into()),
        };
        if let Ok(info) = SlotInfo::parse(&bytes)
            && info.repository == repository
        {
            slots.push((id, info, bytes));
        }
    }
    Ok(slots)
}

/// What administrators have said is taken away: slots, and holders by their host keys.
#[derive(Default)]
struct Removals {
    slots: HashSet<Id>,
    hosts: HashSet<[u8; 32]>,
}

impl Removals {
    fn read(protocol: &Protocol<'_>, listed: &[Listed]) -> Result<Self> {
        let mut removals = Removals::default();
        for listed in listed {
            let slot = listed.name.strip_suffix(".removed").and_then(|name| names::parse_flat("keys", name));
            if let Some(slot) = slot
                && let Some((body, _)) = protocol.read(ObjectKind::Removed, &listed.name)?
            {
                removals.slots.insert(slot);
                removals.hosts.extend(<[u8; 32]>::try_from(body));
            }
        }
        Ok(removals)
    }

    fn contain(&self, slot: Id, holder: Option<&Certificate>) -> bool {
        self.slots.contains(&slot) || holder.is_some_and(|holder| self.hosts.contains(&holder.host))
    }
}

fn rotation_numbers(listed: &[Listed]) -> Vec<u32> {
    let mut numbers: Vec<u32> = listed.iter().filter_map(|listed| names::parse_rotation(&listed.name)).collect();
    numbers.sort_unstable();
    numbers
}

/// Takes the keys of every rotation since the slot was made, in their order.
fn take_rotations(store: &dyn Store, ring: &mut KeyRing, listed: &[Listed]) -> Result<()> {
    for number in rotation_numbers(listed) {
        let found = Protocol { store, ring }.read(ObjectKind::Rotation, &names::rotation(number))?;
        if let Some((body, _)) = found {
            ring.rotate(number, &body)?;
        }
    }
    Ok(())
}
