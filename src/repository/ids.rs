//! New ids of snapshots.

use tintype_tin::id::Id;

use super::time;
use crate::error::Result;

/// A new id. It begins with the time, so that the newest are listed last; nothing but the order of a search hangs on it.
pub fn new_id() -> Result<Id> {
    let mut id = Id::random()?;
    id.0[..6].copy_from_slice(&time::unix_ms().to_be_bytes()[2..]);
    Ok(id)
}

/// A new id that is listed where this one is: another of the same time.
pub fn id_beside(id: Id) -> Result<Id> {
    let mut new = Id::random()?;
    new.0[..6].copy_from_slice(&id.0[..6]);
    Ok(new)
}
