//! A repository as a folder of its names, each with its snapshots.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value, json};
use tintype_formats::locks::Unpoisoned as _;
use tintype_formats::tin::read::ChunkReader;
use tintype_tin::id::Id;
use tintype_tin::manifest::{DiskRecord, Manifest};

use crate::cli::output;
use crate::error::Result;
use crate::repository::disk::SnapshotDisk;
use crate::repository::lease::Lease;
use crate::repository::lineup::{Damaged, Fact, Lineup};
use crate::repository::resolve::{Wishes, newest_of};
use crate::repository::snapshots::Snapshot;
use crate::repository::{Repository, time};
use crate::serve::fuse::{DiskEntry, Entry, Folder, LazyDisk, OpenDisk, OpenDisks, file_name, folder_of};
use crate::sources::{CachedDisk, DiskCache};

/// For how long what was listed is good: who looks sooner sees the same.
const FRESH: Duration = Duration::from_secs(3);

/// How many digits of an id are in the name of a folder.
const SHOWN_DIGITS: usize = 16;

/// The link to the newest snapshot of a name.
const LATEST: &str = "latest";

/// Pool and cache shared by the disks of a mount.
pub struct Shared {
    /// Keeps disks open.
    pub pool: Arc<OpenDisks>,
    /// Keeps what was decoded.
    pub cache: Arc<DiskCache>,
}

/// Takes a lease when it is called first, and keeps it: for who only lists, a prune need not care.
fn hold(repository: &Arc<Repository>, snapshot: &Arc<Snapshot>) -> Arc<dyn Fn() + Send + Sync> {
    let (repository, snapshot) = (Arc::clone(repository), Arc::clone(snapshot));
    let lease: OnceLock<Option<Lease>> = OnceLock::new();
    Arc::new(move || {
        // Where nothing can be written, nothing is pruned from here either.
        let _held = lease.get_or_init(|| repository.lease("mount", &snapshot).ok());
    })
}

/// The disks of a snapshot; nothing is read.
pub fn disks_of(
    repository: &Arc<Repository>,
    reader: &Arc<ChunkReader>,
    snapshot: &Snapshot,
    cache: &Arc<DiskCache>,
) -> Vec<DiskEntry> {
    let changed = time_of(&snapshot.manifest);
    let shared = Arc::new(snapshot.clone());
    let disks = snapshot.manifest.disks.iter().map(|record| {
        let (repository, reader, snapshot) = (Arc::clone(repository), Arc::clone(reader), Arc::clone(&shared));
        let (cache, own) = (Arc::clone(cache), record.clone());
        let opener = move || {
            let disk = SnapshotDisk::of(repository.mapped(&reader, &own), &own);
            let source = Arc::new(CachedDisk::new(disk, &cache));
            Ok(OpenDisk { source, writable: None, hold: Some(hold(&repository, &snapshot)) })
        };
        DiskEntry {
            name: record.name.clone(),
            size_bytes: record.size_bytes,
            data_bytes: Some(record.statistics.data_bytes),
            changed,
            is_writable: false,
            description: description(&shared, record),
            opener: Box::new(opener),
        }
    });
    disks.collect()
}

fn description(snapshot: &Snapshot, record: &DiskRecord) -> Map<String, Value> {
    let manifest = &snapshot.manifest;
    let about = json!({
        "id": snapshot.id,
        "name": manifest.name,
        "time": manifest.time,
        "host": manifest.host,
        "consistency": manifest.consistency,
        "tags": manifest.tags,
    });
    let unreadable = record.unreadable.iter();
    let unreadable = unreadable.map(|(offset, length)| json!({ "offset_bytes": offset, "length_bytes": length }));
    let mut description = Map::new();
    description.insert("snapshot".to_owned(), about);
    description.insert("source".to_owned(), json!({ "path": record.source.path, "format": record.source.format }));
    description.insert("unreadable".to_owned(), unreadable.collect());
    description
}

/// When a snapshot was begun, as far as it says.
fn time_of(manifest: &Manifest) -> SystemTime {
    let time = time::parse(&manifest.time).and_then(|time| SystemTime::try_from(time).ok());
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The snapshots of a repository, listed when somebody looks.
pub struct Catalog {
    repository: Arc<Repository>,
    reader: Arc<ChunkReader>,
    shared: Shared,
    /// Key owner and host of the snapshots that are shown.
    wishes: Wishes,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    listed: Option<Instant>,
    /// The manifests that were there; nothing while one of them may yet be committed or mended.
    ids: HashSet<Id>,
    /// Manifests never change: each is read once.
    snapshots: HashMap<Id, Stored>,
    /// Those that a warning was given of.
    damaged: HashSet<Id>,
    names: Arc<BTreeMap<String, Arc<Name>>>,
}

#[derive(Clone)]
struct Stored {
    name: String,
    entry: Entry,
    changed: SystemTime,
    time: String,
    fact: Fact,
}

/// The snapshots of one name, by the names of their folders.
#[derive(Default)]
struct Name {
    snapshots: BTreeMap<String, Entry>,
    folders: BTreeMap<Id, String>,
    /// None, if a command that reads the newest of the name would refuse: of several key owners, with a wrong clock, or with a
    /// newer one that is damaged.
    newest: Option<(Id, String, SystemTime)>,
}

impl Catalog {
    /// Lists the snapshots for the first time.
    pub fn open(repository: Arc<Repository>, shared: Shared, wishes: Wishes) -> Result<Arc<dyn Folder>> {
        let reader = repository.chunk_reader();
        let catalog = Catalog { repository, reader, shared, wishes, known: Mutex::default() };
        catalog.list_again()?;
        Ok(Arc::new(Names(Arc::new(catalog))))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unpoisoned()
    }

    /// What there is, listed not long ago. While it cannot be listed, what was there is shown: nobody has forgotten it.
    fn names(&self) -> Arc<BTreeMap<String, Arc<Name>>> {
        let is_due = {
            let known = &mut *self.lock();
            let is_due = known.listed.is_none_or(|listed| listed.elapsed() >= FRESH);
            if is_due {
                // Others who look meanwhile do not list as well.
                known.listed = Some(Instant::now());
            }
            is_due
        };
        if is_due {
            let _ = self.list_again();
        }
        Arc::clone(&self.lock().names)
    }

    fn list_again(&self) -> Result<()> {
        let ids: HashSet<Id> = self.repository.snapshot_ids()?.into_iter().collect();
        if !ids.is_empty() && self.lock().ids == ids {
            return Ok(());
        }
        let mut lineup = self.repository.lineup(&|_| true)?;
        let before = self.lock().snapshots.clone();
        let mut snapshots = HashMap::new();
        for Fact { id, holder, host, .. } in lineup.visible.clone() {
            if !self.wishes.allow(&holder, &host) {
                continue;
            }
            let kept = lineup.kept.remove(&id);
            let stored = match before.get(&id) {
                Some(stored) => Some(stored.clone()),
                None => self.read(id, kept, &mut lineup)?.map(|snapshot| self.stored(&snapshot)),
            };
            snapshots.extend(stored.map(|stored| (id, stored)));
        }
        let mut names: BTreeMap<String, Name> = BTreeMap::new();
        for (id, stored) in &snapshots {
            names.entry(stored.name.clone()).or_default().add(*id, stored);
        }
        for name in names.values_mut() {
            name.find_newest(&snapshots, &lineup.damaged, &self.wishes);
        }
        let names = names.into_iter().map(|(name, all)| (name, Arc::new(all))).collect();
        self.warn_of(&lineup.damaged);
        let known = &mut *self.lock();
        known.ids = if lineup.uncommitted.is_empty() && lineup.damaged.is_empty() { ids } else { HashSet::new() };
        (known.listed, known.snapshots, known.names) = (Some(Instant::now()), snapshots, Arc::new(names));
        Ok(())
    }

    /// Reads a visible snapshot that was not read just now; `None`, and counted as damaged, if it cannot be read.
    fn read(&self, id: Id, kept: Option<Snapshot>, lineup: &mut Lineup) -> Result<Option<Snapshot>> {
        match kept.map_or_else(|| self.repository.read_visible(id), |snapshot| Ok(Ok(snapshot)))? {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(cause) => {
                lineup.mark_damaged(id, cause);
                Ok(None)
            }
        }
    }

    /// Says once which snapshots are not shown, although somebody committed them.
    fn warn_of(&self, damaged: &[Damaged]) {
        for Damaged { id, cause, .. } in damaged {
            if self.lock().damaged.insert(*id) {
                output::warn_always(&format!("snapshot {id} is damaged and not shown: {cause}"));
            }
        }
    }

    fn stored(&self, snapshot: &Snapshot) -> Stored {
        let entries = disks_of(&self.repository, &self.reader, snapshot, &self.shared.cache);
        let disks = entries.into_iter().map(|entry| LazyDisk::new(entry, &self.shared.pool)).collect();
        let manifest = &snapshot.manifest;
        // Colons would make it hard to name in lists of paths and to other systems.
        let format = |time: jiff::Timestamp| time.strftime("%Y-%m-%dT%H-%M-%SZ").to_string();
        let time = time::parse(&manifest.time).map_or_else(|| "unknown".to_owned(), format);
        let entry = Entry::Folder(folder_of(disks));
        let fact = Fact::of(snapshot);
        Stored { name: file_name(&manifest.name), entry, changed: time_of(manifest), time, fact }
    }
}

impl Name {
    fn add(&mut self, id: Id, stored: &Stored) {
        let digits = id.to_string();
        let short = format!("{}_{}", stored.time, &digits[..SHOWN_DIGITS]);
        let name = match self.snapshots.contains_key(&short) {
            true => format!("{}_{digits}", stored.time),
            false => short,
        };
        self.snapshots.insert(name.clone(), stored.entry.clone());
        self.folders.insert(id, name);
    }

    /// Finds the snapshot that the name alone means.
    fn find_newest(&mut self, snapshots: &HashMap<Id, Stored>, damaged: &[Damaged], wishes: &Wishes) {
        let stored = self.folders.keys().filter_map(|id| snapshots.get(id));
        let newest = newest_of(stored.map(|stored| &stored.fact).collect(), damaged, wishes);
        self.newest = newest.and_then(|id| Some((id, self.folders.get(&id)?.clone(), snapshots.get(&id)?.changed)));
    }
}

/// The topmost folder: one for each name.
struct Names(Arc<Catalog>);

impl Names {
    fn folder(&self, name: &str) -> Entry {
        Entry::Folder(Arc::new(Snapshots { catalog: Arc::clone(&self.0), name: name.to_owned() }))
    }
}

impl Folder for Names {
    fn entries(&self) -> Result<Vec<(String, Entry)>> {
        Ok(self.0.names().keys().map(|name| (name.clone(), self.folder(name))).collect())
    }

    fn entry(&self, name: &str) -> Result<Option<Entry>> {
        Ok(self.0.names().contains_key(name).then(|| self.folder(name)))
    }

    fn changed(&self) -> SystemTime {
        let names = self.0.names();
        let newest = names.values().filter_map(|name| name.newest.as_ref());
        newest.map(|(_, _, changed)| *changed).max().unwrap_or(SystemTime::UNIX_EPOCH)
    }

    fn changes(&self) -> bool {
        true
    }
}

/// The folder of one name.
struct Snapshots {
    catalog: Arc<Catalog>,
    name: String,
}

impl Snapshots {
    fn name(&self) -> Arc<Name> {
        self.catalog.names().get(&self.name).cloned().unwrap_or_default()
    }
}

impl Folder for Snapshots {
    fn entries(&self) -> Result<Vec<(String, Entry)>> {
        let name = self.name();
        let latest = name.newest.iter().map(|(_, newest, _)| (LATEST.to_owned(), Entry::Link(newest.clone())));
        let snapshots = name.snapshots.iter().map(|(name, entry)| (name.clone(), entry.clone()));
        Ok(latest.chain(snapshots).collect())
    }

    fn entry(&self, wanted: &str) -> Result<Option<Entry>> {
        let name = self.name();
        if wanted == LATEST {
            return Ok(name.newest.as_ref().map(|(_, newest, _)| Entry::Link(newest.clone())));
        }
        Ok(name.snapshots.get(wanted).cloned())
    }

    fn changed(&self) -> SystemTime {
        self.name().newest.as_ref().map_or(SystemTime::UNIX_EPOCH, |(_, _, changed)| *changed)
    }

    fn changes(&self) -> bool {
        true
    }
}
