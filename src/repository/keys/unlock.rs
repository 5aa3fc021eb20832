//! Opens a repository: from a secret to the keys of its holder.

use tintype_formats::secrets::Secret;
use tintype_tin::ErrorKind;
use tintype_tin::id::Id;
use tintype_tin::keys::KeyRing;
use tintype_tin::recovery::RecoveryKey;
use tintype_tin::signed::ObjectKind;
use tintype_tin::slot::{self, SlotInfo, SlotKind, SlotSecret};

use super::super::protocol::Protocol;
use super::super::store::{Listed, Store};
use super::super::{entrance, names};
use super::{Removals, read_slots, rotation_numbers};
use crate::error::{Error, Kind, Result, in_words};

type Slots = [(Id, SlotInfo, Vec<u8>)];

/// Opens the first key slot that the secret, or nobody's secret, opens; the ring has all keys there are for its holder.
pub(in super::super) fn unlock(
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
        let ring =
            slot::open_slot(bytes, None).map_err(|cause| entrance::damaged(&names::key(*id), in_words(&cause)))?;
        return Ok((ring, *id));
    }
    if slots.is_empty() {
        if let Some((id, detail)) = entrance::damaged_slot(store, repository)? {
            return Err(entrance::damaged(&names::key(id), detail));
        }
        return Err(Error::new(Kind::WrongKey, format!("{} has no key slots: nobody can open it", store.shown())));
    }
    let secret = secret()?;
    let (mut was_removed, mut untried) = (false, None);
    for (id, _, bytes) in &slots {
        let mut ring = match slot::open_slot(bytes, Some(SlotSecret::Password(secret.bytes()))) {
            Ok(ring) => ring,
            Err(cause) => {
                // One slot that cannot be tried must not shut out those who have another.
                let is_wrong = cause.kind() == ErrorKind::WrongKey;
                untried = untried.or((!is_wrong).then(|| (*id, in_words(&cause))));
                continue;
            }
        };
        if Removals::read(&Protocol { store, ring: &ring }, &listed)?.contain(*id, Some(ring.certificate())) {
            was_removed = true;
            continue;
        }
        take_rotations(store, &mut ring, &listed)?;
        return Ok((ring, *id));
    }
    let broken = untried.map_or_else(|| entrance::damaged_slot(store, repository), |found| Ok(Some(found)))?;
    Err(refused(&store.shown(), &slots, &secret, was_removed, broken))
}

/// What is wrong with a secret that opens nothing.
fn refused(shown: &str, slots: &Slots, secret: &Secret, was_removed: bool, broken: Option<(Id, String)>) -> Error {
    if was_removed {
        let message = format!("the password is that of a key slot of {shown} that was removed");
        return Error::new(Kind::WrongKey, message);
    }
    if let Some((id, detail)) = broken {
        let detail = format!("the password opens no other key slot, and this one is not whole: {detail}");
        return entrance::damaged(&names::key(id), detail);
    }
    let tried = format!("the password opens none of the {} key slots of {shown}", slots.len());
    let has_recovery = slots.iter().any(|(_, info, _)| matches!(info.kind, SlotKind::Recovery(_)));
    let message = if has_recovery && RecoveryKey::is_mistyped(secret.bytes()) {
        format!("{tried}; if it is the recovery key, it has a typing error: its check letter does not match")
    } else if has_recovery && RecoveryKey::read(secret.bytes()).is_some() {
        format!("{tried}; as a recovery key it is of another repository, or a newer one has replaced it")
    } else {
        tried
    };
    Error::new(Kind::WrongKey, message)
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
