//! Facts about block devices from sysfs: partitions, what is stacked on a device, what it is stacked on.
//!
//! A device is known by its number. Every fact may be missing (no sysfs, no such attribute): then there is nothing to say.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::sysfs;

/// A block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockDevice(pub u64);

/// Longest stack of devices that is followed.
const MAX_STACKED: usize = 1024;

impl BlockDevice {
    /// Returns the device at this path, if it is one.
    pub fn at(path: &Path) -> Option<BlockDevice> {
        BlockDevice::described_by(&std::fs::metadata(path).ok()?)
    }

    /// Returns the device that a file is, if it is one.
    pub fn of(file: &File) -> Option<BlockDevice> {
        BlockDevice::described_by(&file.metadata().ok()?)
    }

    fn described_by(found: &Metadata) -> Option<BlockDevice> {
        found.file_type().is_block_device().then(|| BlockDevice(found.rdev()))
    }

    /// Parses `MAJOR:MINOR`.
    pub fn parse(text: &str) -> Option<BlockDevice> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(BlockDevice(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?)))
    }

    /// Returns the device's folder in sysfs.
    pub(super) fn folder(self) -> PathBuf {
        let (major, minor) = (rustix::fs::major(self.0), rustix::fs::minor(self.0));
        PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
    }

    fn attribute(self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.folder().join(name)).ok()
    }

    /// Returns the kernel's name of the device: `sda1`, `dm-0`.
    pub fn name(self) -> String {
        let name = self.folder().canonicalize().ok().and_then(|folder| Some(folder.file_name()?.to_owned()));
        name.map_or_else(
            || format!("{}:{}", rustix::fs::major(self.0), rustix::fs::minor(self.0)),
            |name| name.to_string_lossy().replace('!', "/"),
        )
    }

    /// Returns what the device is known by wherever it is plugged in: its WWN or serial number, and which partition of it.
    pub fn hardware_name(self) -> Option<String> {
        let disk = self.whole_disk().unwrap_or(self);
        let folder = disk.folder();
        let text = |name| sysfs::text_of(&folder.join(name));
        let name = ["wwid", "device/wwid", "serial", "device/serial"].into_iter().find_map(text)?;
        let partition = self.attribute("partition").map(|number| format!(" partition {}", number.trim()));
        Some(format!("hardware {name}{}", partition.unwrap_or_default()))
    }

    /// Returns what people call a device of the device mapper: `vg-root`.
    pub fn volume_name(self) -> Option<String> {
        self.attribute("dm/name").map(|name| name.trim().to_owned())
    }

    /// Returns the node of the device below `/dev`, if it is there and really this device.
    pub fn node(self) -> Option<PathBuf> {
        let path = Path::new("/dev").join(self.name());
        (BlockDevice::at(&path) == Some(self)).then_some(path)
    }

    /// Returns the whole disk, if this is a partition.
    pub fn whole_disk(self) -> Option<BlockDevice> {
        let folder = self.folder().canonicalize().ok()?;
        let is_partition = folder.join("partition").exists();
        is_partition.then(|| BlockDevice::parse(&std::fs::read_to_string(folder.parent()?.join("dev")).ok()?))?
    }

    /// Returns the partitions of a whole disk.
    pub fn partitions(self) -> Vec<BlockDevice> {
        devices_in(&self.folder())
            .filter(|(folder, _)| folder.join("partition").exists())
            .map(|found| found.1)
            .collect()
    }

    /// Returns the devices that are made of this one: logical volumes, RAID arrays, encrypted volumes.
    pub fn holders(self) -> Vec<BlockDevice> {
        devices_in(&self.folder().join("holders")).map(|found| found.1).collect()
    }

    /// Returns the devices that this one is made of.
    pub fn parts(self) -> Vec<BlockDevice> {
        devices_in(&self.folder().join("slaves")).map(|found| found.1).collect()
    }

    /// Returns the file or device that a loop device lies on.
    pub fn backing_file(self) -> Option<PathBuf> {
        Some(PathBuf::from(self.attribute("loop/backing_file")?.trim_end_matches('\n')))
    }

    /// Returns which bytes of its backing file a loop device, or a partition of one, has.
    pub fn range_of_file(self) -> Option<Range<u64>> {
        let number = |device: BlockDevice, name: &str| device.attribute(name)?.trim().parse::<u64>().ok();
        let disk = self.whole_disk();
        let start = disk.and_then(|_| number(self, "start")).unwrap_or(0) * 512;
        let begin = number(disk.unwrap_or(self), "loop/offset")? + start;
        Some(begin..begin + number(self, "size")? * 512)
    }

    /// Returns what the device, or the disk that it is a part of, lies on through loop devices: devices, and files with the
    /// bytes of them that it has.
    pub fn below(self) -> (BTreeSet<BlockDevice>, Vec<(PathBuf, Range<u64>)>) {
        let (mut devices, mut files, mut waiting) = (BTreeSet::new(), Vec::new(), vec![self]);
        while let Some(device) = waiting.pop()
            && devices.len() < MAX_STACKED
        {
            waiting.extend(device.parts());
            let Some(file) = device.whole_disk().unwrap_or(device).backing_file() else { continue };
            match BlockDevice::at(&file) {
                Some(below) if devices.insert(below) => waiting.push(below),
                Some(_) => {}
                None => files.push((file, device.range_of_file().unwrap_or(0..u64::MAX))),
            }
        }
        (devices, files)
    }

    /// Returns the loop devices.
    pub fn loops() -> impl Iterator<Item = BlockDevice> {
        devices_in(Path::new("/sys/block")).filter(|(folder, _)| folder.join("loop").exists()).map(|found| found.1)
    }

    /// Returns true if the kernel writes nothing to it.
    pub fn is_read_only(self) -> bool {
        self.attribute("ro").is_some_and(|text| text.trim() == "1")
    }

    /// Returns how many sectors of the device were written and discarded, if the kernel counts them.
    pub fn written_sectors(self) -> Option<u64> {
        // Documentation/admin-guide/iostats.rst: field 7 is sectors written, field 14 sectors discarded. Flushes, which a
        // reader asks for, too, count among the writes, but have no sectors.
        let text = self.attribute("stat")?;
        let fields: Vec<u64> = text.split_whitespace().map_while(|field| field.parse().ok()).collect();
        Some(fields.get(6)? + fields.get(13).copied().unwrap_or(0))
    }

    /// Returns true if the kernel refuses `O_EXCL`: it is mounted, swapped to, or a part of another device. A partition
    /// that is claimed claims its disk, too, and the other way round.
    pub fn is_claimed(self) -> bool {
        let flags = (OFlags::EXCL | OFlags::NONBLOCK).bits() as i32;
        let open = |node: PathBuf| File::options().read(true).custom_flags(flags).open(node);
        let refused = |cause: std::io::Error| cause.raw_os_error() == Some(Errno::BUSY.raw_os_error());
        self.node().is_some_and(|node| open(node).is_err_and(refused))
    }

    /// Returns this device and all that lies on it: partitions, holders, loop devices, and what lies on those, each after
    /// what it lies on.
    pub fn stack(self) -> Vec<BlockDevice> {
        let loops: Vec<_> = Self::loops().filter_map(|device| Some((device, device.backing_file()?))).collect();
        let mut stack = vec![self];
        let mut next = 0;
        while next < stack.len() && stack.len() < MAX_STACKED {
            let device = stack[next];
            next += 1;
            let over = loops.iter().filter(|(_, file)| BlockDevice::at(file) == Some(device)).map(|found| found.0);
            for found in device.partitions().into_iter().chain(device.holders()).chain(over) {
                if !stack.contains(&found) {
                    stack.push(found);
                }
            }
        }
        stack
    }
}

/// The folders in a folder of sysfs that are devices.
fn devices_in(folder: &Path) -> impl Iterator<Item = (PathBuf, BlockDevice)> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let folder = entry.path();
        let number = std::fs::read_to_string(folder.join("dev")).ok()?;
        Some((folder, BlockDevice::parse(&number)?))
    })
}
