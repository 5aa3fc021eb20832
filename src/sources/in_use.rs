//! What else uses a disk while it is read: mounts, swap, volumes, loop devices, other machines.
//!
//! A disk that is written while it is copied gives a torn copy: parts of it from different moments, a state that it never
//! had. Who asks decides what to do about that.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::Metadata;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use tintype_formats::OpenFile;
use tintype_formats::host_file::FileIdentity;
use tintype_formats::local::{identity_of, identity_of_device, is_device_identity};

use super::block_device::BlockDevice;
use super::mounts::{self, Mount};
use super::qemu_lock;

/// How often a claim that nothing explains is looked at again: another program may have asked the same at this moment.
const LOOKS: usize = 5;

/// Time between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(30);

/// Something that may write to a disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// A file system on the device is mounted here, and not read-only.
    Mount(BlockDevice, PathBuf),
    /// The device is swapped to.
    Swap(BlockDevice),
    /// The first device is made of the second.
    Holder(BlockDevice, BlockDevice),
    /// The kernel refuses to give the device away, and this process does not see why.
    Unseen(BlockDevice),
    /// A lock folder of VMware.
    VmwareLock(PathBuf),
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            User::Mount(device, at) => write!(f, "/dev/{} is mounted at {}", device.name(), at.display()),
            User::Swap(device) => write!(f, "/dev/{} is swapped to", device.name()),
            User::Holder(device, of) => {
                let volume = device.volume_name().map(|name| format!(" ({name})")).unwrap_or_default();
                write!(f, "/dev/{}{volume} uses /dev/{}", device.name(), of.name())
            }
            User::Unseen(device) => {
                write!(f, "the kernel says that /dev/{} is in use, perhaps in another mount namespace", device.name())
            }
            User::VmwareLock(folder) => write!(f, "VMware's lock folder {} exists", folder.display()),
        }
    }
}

/// What a disk is made of, as it was when it was opened.
#[derive(Default)]
pub struct Watch {
    devices: Vec<(BlockDevice, Option<u64>)>,
    files: Vec<(OpenFile, Stamp)>,
    /// The files that loop devices among the devices show as a whole: who writes to such a file writes to the disk.
    below: Vec<(PathBuf, Stamp)>,
    paths: BTreeSet<PathBuf>,
    force_share: bool,
}

/// What changes when a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    length_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(found: &Metadata) -> Stamp {
        Stamp {
            length_bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    fn at(path: &Path) -> Option<Stamp> {
        std::fs::metadata(path).ok().as_ref().map(Stamp::of)
    }

    fn of_file(file: &OpenFile) -> Option<Stamp> {
        file.file.as_file()?.metadata().ok().as_ref().map(Stamp::of)
    }
}

impl Watch {
    /// Remembers the files that a disk at `path` is made of.
    pub fn begin(path: &Path, files: &[OpenFile]) -> Watch {
        let stamped = |file: &OpenFile| Some((file.clone(), Stamp::of_file(file)?));
        let of_file = |file: &OpenFile| file.identity.filter(is_device_identity).map(|found| BlockDevice(found.device));
        let devices: BTreeSet<_> = files.iter().filter_map(of_file).collect();
        let below = devices.iter().flat_map(|device| files_shown_by(*device)).collect();
        Watch {
            devices: devices.into_iter().map(|device| (device, device.written_sectors())).collect(),
            files: files.iter().filter_map(stamped).collect(),
            below,
            paths: files.iter().map(|file| PathBuf::from(&file.name)).chain([path.to_owned()]).collect(),
            force_share: false,
        }
    }

    /// Says that images are read although a machine may have them open.
    pub fn sharing(self, force_share: bool) -> Watch {
        Watch { force_share, ..self }
    }

    /// Returns who may write to the disk now; nobody if every mount on it is read-only.
    pub fn writers(&self) -> Vec<User> {
        let mut found = BTreeSet::new();
        for (device, _) in &self.devices {
            found.extend(writers_of(*device));
        }
        let files = self.files.iter().filter_map(|(file, _)| Some((file.identity?, 0..u64::MAX)));
        let mut others: BTreeSet<_> = loops_over(&files.collect::<Vec<_>>()).into_iter().collect();
        others.extend(self.devices.iter().flat_map(|(device, _)| other_ways_into(*device)));
        for device in others {
            found.extend(writers_of(device));
        }
        let locks = self.paths.iter().map(|path| with_suffix(path, ".lck")).filter(|folder| folder.is_dir());
        found.extend(locks.map(User::VmwareLock));
        found.into_iter().collect()
    }

    /// Returns true if the disk is read although a running machine has it open for writing.
    pub fn is_shared_with_machine(&self) -> bool {
        let open = |(file, _): &(OpenFile, Stamp)| file.file.as_file().is_some_and(qemu_lock::is_held_for_writing);
        self.force_share && self.files.iter().any(open)
    }

    /// Returns what was written since the disk was opened, and who may write to it now.
    pub fn changes(&self) -> Vec<String> {
        let mut found: Vec<String> = self.writers().iter().map(User::to_string).collect();
        for (device, before) in &self.devices {
            if before.is_some_and(|before| device.written_sectors().is_some_and(|now| now != before)) {
                found.push(format!("/dev/{} was written to", device.name()));
            }
        }
        for (file, before) in &self.files {
            let Some(now) = Stamp::of_file(file) else { continue };
            if now.length_bytes != before.length_bytes {
                let (before, now) = (before.length_bytes, now.length_bytes);
                found.push(format!("{} had {before} bytes and has {now} now", file.name));
            } else if now != *before {
                found.push(format!("{} was changed", file.name));
            }
        }
        // What was written to the device was written to its file.
        if found.is_empty() {
            let changed = |(path, before): &&(PathBuf, Stamp)| Stamp::at(path).is_some_and(|now| now != *before);
            let below = self.below.iter().filter(changed);
            found.extend(below.map(|(path, _)| format!("{} was changed", path.display())));
        }
        found
    }

    /// Returns true if `path`, or the folder that it is to be made in, lies on the disk.
    pub fn holds(&self, path: &Path) -> bool {
        let devices = self.devices.iter().map(|(device, _)| identity_of_device(device.0));
        let own: Vec<FileIdentity> = devices.chain(self.files.iter().filter_map(|(file, _)| file.identity)).collect();
        !own.is_empty() && storage_under(path).iter().any(|part| own.contains(part))
    }
}

/// Returns who may write to what is at `path` by another way than its own name: through loop devices over the file, or over the
/// same file as the device.
pub fn writers_at(path: &Path) -> Vec<User> {
    let Ok(found) = std::fs::metadata(path) else { return Vec::new() };
    let devices: BTreeSet<BlockDevice> = match BlockDevice::at(path) {
        Some(device) => other_ways_into(device),
        None => loops_over(&[(identity_of(&found), 0..u64::MAX)]).into_iter().collect(),
    };
    devices.into_iter().flat_map(writers_of).collect()
}

/// The files that a device shows from their begin to their end.
fn files_shown_by(device: BlockDevice) -> Vec<(PathBuf, Stamp)> {
    let stamped = |(path, range): (PathBuf, Range<u64>)| {
        let stamp = Stamp::at(&path)?;
        (range.start == 0 && range.end.saturating_add(512) > stamp.length_bytes).then_some((path, stamp))
    };
    device.below().1.into_iter().filter_map(stamped).collect()
}

/// Returns the devices by which somebody else can write to what a device lies on: other loop devices over the same bytes, and
/// what its own loop device lies on.
pub fn other_ways_into(device: BlockDevice) -> BTreeSet<BlockDevice> {
    let (mut found, files) = device.below();
    let identity = |path: &Path| std::fs::metadata(path).ok().as_ref().map(identity_of);
    let parts: Vec<_> = files.into_iter().filter_map(|(path, range)| Some((identity(&path)?, range))).collect();
    found.extend(loops_over(&parts));
    let own = [Some(device), device.whole_disk()];
    found.retain(|device| !own.contains(&Some(*device)));
    found
}

/// Returns the loop devices that have any of these bytes of files.
fn loops_over(parts: &[(FileIdentity, Range<u64>)]) -> Vec<BlockDevice> {
    let has_any = |device: &BlockDevice| {
        let Some(over) = device.backing_file().and_then(|file| std::fs::metadata(file).ok()) else { return false };
        let (over, range) = (identity_of(&over), device.range_of_file().unwrap_or(0..u64::MAX));
        parts.iter().any(|(file, part)| *file == over && part.start < range.end && range.start < part.end)
    };
    BlockDevice::loops().filter(has_any).collect()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Who may write to the device, or to a part of it.
fn writers_of(device: BlockDevice) -> Vec<User> {
    let mut found = seen_writers(device);
    for _ in 1..LOOKS {
        if !matches!(found.as_slice(), [User::Unseen(_)]) {
            break;
        }
        thread::sleep(BETWEEN_LOOKS);
        found = seen_writers(device);
    }
    found
}

fn seen_writers(device: BlockDevice) -> Vec<User> {
    let (stack, all_mounts) = (device.stack(), mounts::mounts());
    // What claims a disk as a whole claims its partitions.
    let related: Vec<_> = stack.iter().copied().chain(device.whole_disk()).collect();
    let mut found = BTreeSet::new();
    for mount in all_mounts.iter().filter(|mount| !mount.is_read_only) {
        if let Some(device) = mount.devices.iter().find(|device| related.contains(device)) {
            found.insert(User::Mount(*device, mount.at.clone()));
        }
    }
    found.extend(mounts::swap_devices().into_iter().filter(|device| related.contains(device)).map(User::Swap));
    // A device may be set read-only while it is mounted: the file system goes on writing. Nobody can begin to.
    if found.is_empty() && !device.is_read_only() && !is_explained(device, &all_mounts) {
        let holders = related.iter().flat_map(|of| of.holders().into_iter().map(|device| (device, *of)));
        found.extend(holders.map(|(device, of)| User::Holder(device, of)));
        if found.is_empty() {
            found.insert(User::Unseen(device));
        }
    }
    found.into_iter().collect()
}

/// Returns true if the device is not claimed, or read-only mounts are all that claims it and its parts.
fn is_explained(device: BlockDevice, mounts: &[Mount]) -> bool {
    if !device.is_claimed() || mounts.iter().any(|mount| mount.devices.contains(&device)) {
        return true;
    }
    let mut users = device.partitions().into_iter().chain(device.holders()).filter(|user| user.is_claimed()).peekable();
    users.peek().is_some() && users.all(|user| is_explained(user, mounts))
}

/// Most devices and files that a path is followed through.
const MAX_LEVELS: usize = 64;

/// The devices and files that what is written at `path` ends up on.
fn storage_under(path: &Path) -> Vec<FileIdentity> {
    let mounts = mounts::mounts();
    let mut found = Vec::new();
    let mut waiting = vec![path.to_owned()];
    let mut devices = Vec::new();
    while let Some(path) = waiting.pop()
        && found.len() < MAX_LEVELS
    {
        let existing = path.ancestors().find(|part| part.exists()).map_or_else(|| PathBuf::from("."), Path::to_owned);
        found.extend(std::fs::metadata(&existing).ok().as_ref().map(identity_of));
        match BlockDevice::at(&existing) {
            Some(device) => devices.push(device),
            None => devices.extend(devices_of_mount(&existing, &mounts)),
        }
        while let Some(device) = devices.pop() {
            let identity = identity_of_device(device.0);
            if !found.contains(&identity) {
                found.push(identity);
                devices.extend(device.whole_disk().into_iter().chain(device.parts()));
                waiting.extend(device.backing_file());
            }
        }
    }
    found
}

/// The devices of the file system that a path lies on.
fn devices_of_mount(path: &Path, mounts: &[Mount]) -> Vec<BlockDevice> {
    let Ok(path) = path.canonicalize() else { return Vec::new() };
    // Of mounts over each other the last one counts.
    let mount =
        mounts.iter().filter(|mount| path.starts_with(&mount.at)).max_by_key(|mount| mount.at.as_os_str().len());
    mount.map(|mount| mount.devices.clone()).unwrap_or_default()
}
