//! Has everything that was written to a device reach it, before it is read directly.
//!
//! A direct read sees what is on the device. What a mounted file system, a partition or a volume on it still holds in
//! memory is in caches of their own.

use std::fs::File;

use super::block_device::BlockDevice;
use super::{in_use, mounts};

/// Writes back the file systems that are mounted from the device, its partitions, what is stacked on them, and other loop devices
/// over the same bytes, then the caches of all those devices.
///
/// Failures are not told: who reads the device then sees what is on it. Where something uses the device that this process
/// cannot see (a mount of another namespace, a device without a node), all caches of the machine are written back.
pub fn write_back(device: BlockDevice) {
    let mut stack = device.stack();
    stack.extend(in_use::other_ways_into(device).into_iter().flat_map(BlockDevice::stack));
    let mut all_seen = true;
    let mounts = mounts::mounts();
    let on_it = |mount: &&mounts::Mount| mount.devices.iter().any(|device| stack.contains(device));
    let mut mounted = false;
    for mount in mounts.iter().filter(on_it) {
        mounted = true;
        let synced = File::open(&mount.at).is_ok_and(|folder| rustix::fs::syncfs(&folder).is_ok());
        all_seen &= synced || mount.is_read_only;
    }
    stack.reverse();
    stack.extend(device.whole_disk());
    for part in &stack {
        let synced = part.node().and_then(|node| File::open(node).ok()).is_some_and(|node| node.sync_all().is_ok());
        all_seen &= synced || *part == device;
    }
    if !all_seen || (!mounted && device.is_claimed()) {
        rustix::fs::sync();
    }
}
