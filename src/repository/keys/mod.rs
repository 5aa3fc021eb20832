//! Key slots: who can open the repository, and how that changes (FORMAT.md §4).

mod unlock;

use std::collections::HashSet;

use tintype_formats::secrets::Secret;
use tintype_tin::id::Id;
use tintype_tin::keys::{Certificate, KeyRing, Role};
use tintype_tin::recovery::RecoveryKey;
use tintype_tin::signed::ObjectKind;
use tintype_tin::slot::{self, Cost, SlotInfo, SlotKind, SlotSecret};

use super::protocol::{Protocol, put_own};
use super::store::{Listed, Store, StoreErrorKind};
use super::{MAX_SMALL_BYTES, Repository, names};
use crate::error::{Error, Kind, Result, in_words};

pub(super) use self::unlock::unlock;

/// The label of recovery keys.
pub(super) const RECOVERY_LABEL: &str = "recovery";

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

/// What a changed password came to.
pub struct ChangedSecret {
    /// The slot that the new password opens.
    pub new: KeySlot,
    /// The slot of the recovery key, if the repository was opened by it: it stays.
    pub recovery: Option<KeySlot>,
    /// The other slots of the same holder, which still open.
    pub others: Vec<KeySlot>,
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

impl KeySlot {
    /// Returns true if a recovery key opens it.
    pub fn is_recovery(&self) -> bool {
        matches!(self.info.kind, SlotKind::Recovery(_))
    }
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

    /// The slot that is meant by its id, or the beginning of it.
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
        self.add_slot(&ring, SlotSecret::Password(secret.bytes()), label, cost)
    }

    /// Makes another slot for the same holder.
    pub fn add_own_slot(&self, secret: &Secret, label: &str, cost: Cost) -> Result<Id> {
        self.require_encryption()?;
        self.add_slot(self.ring(), SlotSecret::Password(secret.bytes()), label, cost)
    }

    /// Makes another slot for the same holder, an administrator, which this recovery key opens.
    pub fn add_recovery_slot(&self, key: &RecoveryKey, cost: Cost) -> Result<Id> {
        self.require_root("make a recovery key")?;
        self.add_slot(self.ring(), SlotSecret::RecoveryKey(key), RECOVERY_LABEL, cost)
    }

    /// Takes away all recovery keys but the one that opens this slot.
    pub fn remove_recovery_slots_but(&self, kept: Id) -> Result<Vec<Id>> {
        self.require_root("remove a recovery key")?;
        let slots = self.key_slots()?;
        let (old, rest): (Vec<_>, Vec<_>) = slots.into_iter().partition(|slot| slot.is_recovery() && slot.id != kept);
        for slot in &old {
            // A holder without a slot is none any more, as with `remove_slot`.
            let host = slot.holder.as_ref().map(|holder| holder.host);
            let has_other = rest.iter().any(|other| other.holder.as_ref().map(|holder| holder.host) == host);
            self.mark_removed(slot.id, host.filter(|_| !has_other))?;
            self.delete_slot(slot.id)?;
        }
        Ok(old.iter().map(|slot| slot.id).collect())
    }

    /// The slot that a secret opens, if there is one.
    pub fn opened_by(&self, secret: SlotSecret<'_>) -> Result<Option<KeySlot>> {
        let listed = self.store().list("keys/")?;
        let own = self.key_slots()?;
        for (id, _, bytes) in read_slots(self.store(), &listed, self.config().id)? {
            // Slots that cannot be tried, or were removed, open nothing.
            if own.iter().any(|slot| slot.id == id) && slot::open_slot(&bytes, Some(secret)).is_ok() {
                return Ok(own.into_iter().find(|slot| slot.id == id));
            }
        }
        Ok(None)
    }

    /// Fails if the secret opens a slot already: of two slots with one secret only the first would ever be opened, and its
    /// holder might be another one, with a lesser role.
    fn require_unused(&self, doing: &str, secret: SlotSecret<'_>) -> Result<()> {
        let Some(slot) = self.opened_by(secret)? else { return Ok(()) };
        let (label, role) = (slot.info.label.escape_debug(), slot.info.role);
        let message = format!(
            "{doing}: this password or key file opens key {} already (\"{label}\", role {role}); choose another one",
            slot.id
        );
        Err(Error::new(Kind::Usage, message))
    }

    fn add_slot(&self, ring: &KeyRing, secret: SlotSecret<'_>, label: &str, cost: Cost) -> Result<Id> {
        self.require_unused("add a key", secret)?;
        self.make_slot(ring, secret, label, cost)
    }

    fn make_slot(&self, ring: &KeyRing, secret: SlotSecret<'_>, label: &str, cost: Cost) -> Result<Id> {
        let id = put_slot(self.store(), self.ring(), ring, Some(secret), label, cost)?;
        self.store().sync()?;
        Ok(id)
    }

    /// Changes the secret of the own slot: the new slot is durable before the old one goes.
    ///
    /// The slot of a recovery key stays, with its label: its holder has lost a password, and is to have both.
    pub fn change_secret(&self, secret: &Secret, cost: Cost) -> Result<ChangedSecret> {
        const DOING: &str = "change the password";
        self.require_encryption()?;
        let own = self.key_slots()?.into_iter().find(|slot| slot.is_own);
        let old = own.ok_or_else(|| Error::new(Kind::Usage, format!("{DOING}: the key that was used is gone")))?;
        let secret = SlotSecret::Password(secret.bytes());
        self.require_unused(DOING, secret)?;
        let label = if old.is_recovery() { &self.ring().certificate().name } else { &old.info.label };
        let new = self.make_slot(self.ring(), secret, label, cost)?;
        if !old.is_recovery() {
            self.take_old(old.id).map_err(|cause| {
                let message = format!(
                    "{DOING}: the new password opens key {new}, but key {} could not be removed, so that the old password \
                     still opens it: {}",
                    old.id,
                    in_words(&cause)
                );
                Error::new(cause.kind(), message)
            })?;
        }
        self.changed(new, old)
    }

    fn take_old(&self, old: Id) -> Result<()> {
        if self.ring().can_admin() {
            self.mark_removed(old, None)?;
        }
        self.delete_slot(old)
    }

    /// What there is after a change.
    fn changed(&self, new: Id, old: KeySlot) -> Result<ChangedSecret> {
        let mut slots = self.key_slots()?;
        let index = slots.iter().position(|slot| slot.id == new);
        let gone = || Error::new(Kind::Io, format!("change the password: key {new}, which was just made, is gone"));
        let new = slots.remove(index.ok_or_else(gone)?);
        let host = self.ring().certificate().host;
        slots.retain(|slot| slot.id != old.id && slot.holder.as_ref().is_some_and(|holder| holder.host == host));
        Ok(ChangedSecret { new, recovery: Some(old).filter(KeySlot::is_recovery), others: slots })
    }

    /// Takes a slot away, or all that its holder has; never the last one of an administrator.
    pub fn remove_slot(&self, wanted: &str, whole_holder: bool) -> Result<RemovedSlot> {
        self.require_root("remove a key")?;
        self.allow_reserve(true);
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
    secret: Option<SlotSecret<'_>>,
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

/// Whether a store says that this slot, or all that these keys' holder has, was taken away.
pub(super) fn is_removed(store: &dyn Store, ring: &KeyRing, slot: Id) -> Result<bool> {
    let removals = Removals::read(&Protocol { store, ring }, &store.list("keys/")?)?;
    Ok(removals.contain(slot, Some(ring.certificate())))
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
