//! What is known of snapshots on this computer.
//!
//! One file for each key: `magic 8 ‖ keyed hash of all that follows 32 ‖ JSON`. It is written whole and renamed into place.
//! A file that is torn, foreign or too long says nothing, and what cannot be written is read again next time. It has only
//! what is in the repository, so that it is as large as the list of its snapshots and sessions.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tintype_tin::id::Id;

use super::Fact;
use crate::repository::Repository;
use crate::repository::index::{is_trusted, private_folder};

const MAGIC: &[u8; 8] = b"TINFAC1\n";
const HASH_BYTES: usize = 32;

/// The longest file that is read or written: a hundred thousand snapshots.
const MAX_BYTES: u64 = 64 << 20;

/// What needs no second look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Visible snapshots.
    pub facts: HashMap<Id, Fact>,
    /// Sessions whose ends say nothing more: fenced, given up, or of forgotten snapshots.
    pub settled: HashSet<Id>,
    /// Snapshots with a tombstone that counts.
    pub forgotten: HashSet<Id>,
    /// True if the file does not say the same.
    pub changed: bool,
}

/// The content of the file.
#[derive(Serialize, Deserialize)]
struct Content {
    facts: Vec<Fact>,
    settled: Vec<Id>,
    forgotten: Vec<Id>,
}

impl Known {
    /// Reads what is known to this key; nothing if the file is not whole.
    pub fn load(repository: &Repository) -> Known {
        let content = path_of(repository).and_then(|path| read(repository, &path));
        let Some(content) = content else { return Known::default() };
        Known {
            facts: content.facts.into_iter().map(|fact| (fact.id, fact)).collect(),
            settled: content.settled.into_iter().collect(),
            forgotten: content.forgotten.into_iter().collect(),
            changed: false,
        }
    }

    /// Writes what is known, if that is news.
    pub fn save(self, repository: &Repository) {
        let Some(path) = path_of(repository).filter(|_| self.changed) else { return };
        let sorted = |ids: HashSet<Id>| {
            let mut ids: Vec<Id> = ids.into_iter().collect();
            ids.sort_unstable();
            ids
        };
        let mut facts: Vec<Fact> = self.facts.into_values().collect();
        facts.sort_by_key(|fact| fact.id);
        let content = Content { facts, settled: sorted(self.settled), forgotten: sorted(self.forgotten) };
        // Without a cache, everything is read again next time.
        let _ = write(repository, &path, &content);
    }
}

/// The file of this key.
fn path_of(repository: &Repository) -> Option<PathBuf> {
    let own = repository.ring().certificate().signing;
    let key = Id(std::array::from_fn(|index| own[index]));
    Some(repository.cache().kept_folder()?.join("snapshots").join(key.to_string()))
}

fn hash(repository: &Repository, json: &[u8]) -> [u8; HASH_BYTES] {
    // Keyed by the id key, so that only those who open the repository can write it.
    repository.ring().chunk_id(&[MAGIC, json].concat()).0
}

fn read(repository: &Repository, path: &Path) -> Option<Content> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.metadata().ok().filter(is_trusted)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).ok()?;
    let rest = bytes.strip_prefix(MAGIC).filter(|_| bytes.len() as u64 <= MAX_BYTES)?;
    let (found, json) = rest.split_first_chunk::<HASH_BYTES>()?;
    (*found == hash(repository, json)).then(|| serde_json::from_slice(json).ok()).flatten()
}

fn write(repository: &Repository, path: &Path, content: &Content) -> std::io::Result<()> {
    let json = serde_json::to_vec(content)?;
    if json.len() as u64 + 40 > MAX_BYTES {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(path);
    private_folder(folder)?;
    let mut file = NamedTempFile::with_prefix_in(".new-", folder)?;
    file.write_all(&[MAGIC.as_slice(), &hash(repository, &json), &json].concat())?;
    file.persist(path)?;
    Ok(())
}
