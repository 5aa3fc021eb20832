//! Writes a snapshot into one `.tin` file.

use std::sync::Arc;

use crate::error::{OnPath as _, Result};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::repository::snapshots::Snapshot;
use crate::repository::transfer::Transferred;
use crate::targets::Target;

/// Writes the packs of a snapshot, as they are stored, to `target`, and commits it. After a failure the target is to be
/// [abandoned](Target::abandon).
pub fn export(
    repository: &Arc<Repository>,
    snapshot: &Snapshot,
    target: &Target,
    progress: &Progress,
) -> Result<Transferred> {
    let exported = repository.export(snapshot, target.file(), progress)?;
    progress.check_cancelled()?;
    target.commit().on_path(target.path())?;
    Ok(exported)
}
