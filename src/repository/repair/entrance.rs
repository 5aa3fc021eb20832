//! The objects that open a repository, taken from a copy of it.
//!
//! A copy may be anybody's. What it can do is bounded by what is checked: it was opened by the same secret, so its root key is
//! the one that the owner of the secret was given; the damaged store must hold something that this root key vouches for; the
//! object "repository" is taken only if it is signed, and a slot only if it is the one that the secret has opened and nobody
//! has removed.

use super::Mended;
use crate::error::Result;
use crate::repository::names::{self, Named};
use crate::repository::protocol::put_own;
use crate::repository::store::{Store, StoreErrorKind};
use crate::repository::{MAX_INDEX_BYTES, MAX_SMALL_BYTES, Repository, keys};
use tintype_tin::id::Id;
use tintype_tin::signed::ObjectKind;

/// Restores the object "repository", and the key slot that the copy was opened with, where they are damaged or lost; nothing if
/// the other repository is no copy of this one.
pub fn mend_entrance(store: &dyn Store, copy: &Repository, dry_run: bool) -> Result<Vec<(String, Mended)>> {
    if !is_same(store, copy)? {
        return Ok(Vec::new());
    }
    let mut mended = Vec::new();
    if let Some(bytes) = better_description(store, copy)? {
        replace(store, names::REPOSITORY, &bytes, dry_run)?;
        mended.push((names::REPOSITORY.to_owned(), Mended::Copied));
    }
    if let Some((name, bytes)) = better_slot(store, copy)? {
        replace(store, &name, &bytes, dry_run)?;
        mended.push((name, Mended::Copied));
    }
    if !dry_run {
        store.sync()?;
    }
    Ok(mended)
}

/// Whether something in the store is signed under the copy's root key for the copy's repository.
fn is_same(store: &dyn Store, copy: &Repository) -> Result<bool> {
    for listed in store.list("")? {
        let Some(kind) = Named::parse(&listed.name).and_then(Named::kind) else { continue };
        let Ok(bytes) = store.get(&listed.name, MAX_INDEX_BYTES) else { continue };
        if copy.ring().verify(kind, &listed.name, &bytes).is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn get(store: &dyn Store, name: &str) -> Result<Option<Vec<u8>>> {
    match store.get(name, MAX_SMALL_BYTES) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(cause) if matches!(cause.kind(), StoreErrorKind::NotFound | StoreErrorKind::TooLarge) => Ok(None),
        Err(cause) => Err(cause.into()),
    }
}

/// The copy's object "repository", if the store's does not count.
fn better_description(store: &dyn Store, copy: &Repository) -> Result<Option<Vec<u8>>> {
    let counts = |bytes: &Vec<u8>| copy.ring().verify(ObjectKind::Repository, names::REPOSITORY, bytes).is_ok();
    if get(store, names::REPOSITORY)?.as_ref().is_some_and(counts) {
        return Ok(None);
    }
    Ok(get(copy.store(), names::REPOSITORY)?.filter(counts))
}

/// The slot that the copy was opened with, if the store's is another.
fn better_slot(store: &dyn Store, copy: &Repository) -> Result<Option<(String, Vec<u8>)>> {
    let Some(slot) = copy.slot else { return Ok(None) };
    let name = names::key(slot);
    let Some(bytes) = get(copy.store(), &name)? else { return Ok(None) };
    let found = store.get(&name, MAX_SMALL_BYTES);
    let is_gone = found.as_ref().is_err_and(|cause| cause.kind() == StoreErrorKind::NotFound);
    let is_same = found.is_ok_and(|found| found == bytes);
    // A slot that was taken away must not come back: its holder's object went with it.
    let is_wanted = !is_gone || holder_is_there(store, copy, slot)? || copy.ring().is_public();
    match is_same || !is_wanted || keys::is_removed(store, copy.ring(), slot)? {
        true => Ok(None),
        false => Ok(Some((name, bytes))),
    }
}

fn holder_is_there(store: &dyn Store, copy: &Repository, slot: Id) -> Result<bool> {
    let name = names::key_holder(slot);
    let found = get(store, &name)?;
    Ok(found.is_some_and(|bytes| copy.ring().verify(ObjectKind::Holder, &name, &bytes).is_ok()))
}

fn replace(store: &dyn Store, name: &str, bytes: &[u8], dry_run: bool) -> Result<()> {
    if dry_run {
        return Ok(());
    }
    store.delete(name)?;
    put_own(store, name, bytes)
}
