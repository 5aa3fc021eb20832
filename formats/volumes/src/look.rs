//! What is on a disk, as far as starting it goes: for which firmware, and which system.

use tintype_formats::BlockSource;

use crate::content::{Volume, volume_at};
use crate::fat::FileSystem;
use crate::partitions::{Partition, PartitionKind, partitions};

/// The system on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// Windows.
    Windows,
    /// Linux.
    Linux,
    /// Something else, or nothing.
    Unknown,
}

/// What a disk shows of how it is to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Whether a BIOS would run its first sector, and there is something to run.
    pub has_boot_code: bool,
    /// Whether it has an EFI system partition with a FAT file system.
    pub has_efi_partition: bool,
    /// The boot loader on that, if one is known: where firmware looks that was never told of another, or else elsewhere.
    pub efi_loader: Option<String>,
    /// Which system it is.
    pub system: System,
}

/// Where firmware looks that was never told of another boot loader.
pub const FALLBACK_LOADER: &str = r"\EFI\BOOT\BOOTX64.EFI";

/// What systems call their boot loaders in their folders on an EFI system partition, in the order in which they are tried. The
/// first starts the second where it is; the last is that of Windows, which is the only one in a folder below.
const LOADERS: [&[&str]; 3] = [&["SHIMX64.EFI"], &["GRUBX64.EFI"], &["BOOT", "BOOTMGFW.EFI"]];

impl Look {
    /// Whether a firmware could start it.
    pub fn is_bootable(&self) -> bool {
        self.has_boot_code || self.has_efi_partition
    }
}

/// Where the boot code of a first sector ends and the partition table begins.
const BOOT_CODE_BYTES: usize = 440;

/// Most EFI system partitions that are searched. A disk has one or two, and a hostile table a thousand in the same place.
const MAX_EFI_PARTITIONS: usize = 8;

const EFI_SYSTEM: PartitionKind =
    PartitionKind::Gpt(*b"\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b");
const EFI_SYSTEM_MBR: PartitionKind = PartitionKind::Mbr(0xef);

/// Types of partitions that only Windows makes: reserved for it, its recovery tools, its dynamic disks.
const OF_WINDOWS: [PartitionKind; 4] = [
    PartitionKind::Gpt(*b"\x16\xe3\xc9\xe3\x5c\x0b\xb8\x4d\x81\x7d\xf9\x2d\xf0\x02\x15\xae"),
    PartitionKind::Gpt(*b"\xa4\xbb\x94\xde\xd1\x06\x40\x4d\xa1\x6a\xbf\xd5\x01\x79\xd6\xac"),
    PartitionKind::Gpt(*b"\xaa\xc8\x08\x58\x8f\x7e\xe0\x42\x85\xd2\xe1\xe9\x04\x34\xcf\xb3"),
    PartitionKind::Mbr(0x27),
];

/// Types of partitions that only Linux makes: data, LVM, RAID, swap, and the root of an x86-64 system.
const OF_LINUX: [PartitionKind; 8] = [
    PartitionKind::Gpt(*b"\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4"),
    PartitionKind::Gpt(*b"\x79\xd3\xd6\xe6\x07\xf5\xc2\x44\xa2\x3c\x23\x8f\x2a\x3d\xf9\x28"),
    PartitionKind::Gpt(*b"\x0f\x88\x9d\xa1\xfc\x05\x3b\x4d\xa0\x06\x74\x3f\x0f\x84\x91\x1e"),
    PartitionKind::Gpt(*b"\x6d\xfd\x57\x06\xab\xa4\xc4\x43\x84\xe5\x09\x33\xc8\x4b\x4f\x4f"),
    PartitionKind::Gpt(*b"\xe3\xbc\x68\x4f\xcd\xe8\xb1\x4d\x96\xe7\xfb\xca\xf9\x84\xb7\x09"),
    PartitionKind::Mbr(0x83),
    PartitionKind::Mbr(0x8e),
    PartitionKind::Mbr(0xfd),
];

/// Looks at a disk. What cannot be read shows nothing.
pub fn look_at(disk: &dyn BlockSource) -> Look {
    let parts = partitions(disk).unwrap_or_default();
    let mut first = [0; 512];
    let has_first = disk.read_at(0, &mut first).is_ok() && first[510..] == [0x55, 0xaa];
    let is_efi = |part: &&Partition| [EFI_SYSTEM, EFI_SYSTEM_MBR].contains(&part.kind);
    let efi = parts.iter().filter(is_efi).filter_map(|part| FileSystem::open(disk, part));
    let efi: Vec<_> = efi.take(MAX_EFI_PARTITIONS).collect();
    Look {
        has_boot_code: has_first && first[..BOOT_CODE_BYTES].iter().any(|byte| *byte != 0),
        has_efi_partition: !efi.is_empty(),
        efi_loader: loader_on(&efi),
        system: system_of(disk, &parts),
    }
}

/// The boot loader on one of these EFI system partitions.
fn loader_on(volumes: &[FileSystem<'_>]) -> Option<String> {
    if volumes.iter().any(|volume| volume.has_file(&["EFI", "BOOT", "BOOTX64.EFI"])) {
        return Some(FALLBACK_LOADER.to_owned());
    }
    let in_folders = |names: &[&str]| {
        volumes.iter().find_map(|volume| {
            let folders = volume.folders_in("EFI");
            let mut paths = folders.iter().map(|folder| [&["EFI", folder.as_str()], names].concat());
            paths.find(|path| volume.has_file(path)).map(|path| format!(r"\{}", path.join(r"\")))
        })
    };
    LOADERS.iter().find_map(|names| in_folders(names))
}

/// Windows wins where both are: Linux has drivers for what Windows has drivers for.
fn system_of(disk: &dyn BlockSource, parts: &[Partition]) -> System {
    let by_type = parts.iter().filter_map(|part| match part.kind {
        kind if OF_WINDOWS.contains(&kind) => Some(System::Windows),
        kind if OF_LINUX.contains(&kind) => Some(System::Linux),
        _ => None,
    });
    let begins = parts.iter().map(|part| part.begin).chain(parts.is_empty().then_some(0));
    let by_content = begins.filter_map(|begin| system_at(disk, begin));
    let mut found = System::Unknown;
    for system in by_type.chain(by_content) {
        match system {
            System::Windows => return System::Windows,
            other => found = other,
        }
    }
    found
}

/// Whose file system or volume begins here.
fn system_at(disk: &dyn BlockSource, begin: u64) -> Option<System> {
    match volume_at(disk, begin)? {
        Volume::Ntfs | Volume::BitLocker | Volume::Refs => Some(System::Windows),
        Volume::Ext | Volume::Xfs | Volume::Btrfs | Volume::F2fs => Some(System::Linux),
        Volume::Lvm | Volume::Luks | Volume::Md | Volume::Swap => Some(System::Linux),
        Volume::Fat | Volume::Exfat | Volume::Hfs | Volume::Iso9660 => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tintype_formats::testing::MemoryDisk;

    fn disk_with(places: &[(usize, &[u8])]) -> MemoryDisk {
        let mut bytes = vec![0; 1 << 20];
        places.iter().for_each(|(at, content)| bytes[*at..at + content.len()].copy_from_slice(content));
        MemoryDisk::new(bytes)
    }

    #[test]
    fn a_boot_sector_is_boot_code_and_its_mark() {
        assert!(look_at(&disk_with(&[(0, b"\xfa"), (510, &[0x55, 0xaa])])).has_boot_code);
        assert!(!look_at(&disk_with(&[(0, b"\xfa")])).has_boot_code);
        assert!(!look_at(&disk_with(&[(510, &[0x55, 0xaa])])).is_bootable());
    }

    #[test]
    fn systems_show_by_what_their_file_systems_begin_with() {
        assert_eq!(look_at(&disk_with(&[])).system, System::Unknown);
        assert_eq!(look_at(&disk_with(&[(1024 + 56, &[0x53, 0xef])])).system, System::Linux);
        // A partition of type 7 from sector 8 on with NTFS, and one of type 0x83.
        let entry = |kind: u8, begin: u8| [0, 0, 0, 0, kind, 0, 0, 0, begin, 0, 0, 0, 8, 0, 0, 0];
        let (windows, linux) = (entry(7, 8), entry(0x83, 16));
        let table: [(usize, &[u8]); 3] = [(446, &linux), (462, &windows), (510, &[0x55, 0xaa])];
        assert_eq!(look_at(&disk_with(&table)).system, System::Linux);
        let with_ntfs = [&table[..], &[(8 * 512 + 3, b"NTFS    ".as_slice())]].concat();
        assert_eq!(look_at(&disk_with(&with_ntfs)).system, System::Windows);
    }

    /// A disk with logical partitions of the type of EFI system partitions; all but the last are the same one, without a loader.
    fn disk_with_efi_partitions(count: u8) -> MemoryDisk {
        let seed = include_bytes!("../../../fixtures/fuzz/volumes/good-mbr-fat32-linux");
        let system = &seed[2 * 512..];
        let sectors = (system.len() / 512) as u8;
        let entry = |kind: u8, begin: u8, sectors: u8| [0, 0, 0, 0, kind, 0, 0, 0, begin, 0, 0, 0, sectors, 0, 0, 0];
        let mut disk = MemoryDisk::new(vec![0; 256 * 512]);
        disk.write(446, &entry(0x05, 1, 255));
        disk.write(510, &[0x55, 0xaa]);
        for at in 1..=count {
            let place = if at < count { 100 } else { 150 };
            disk.write(usize::from(at) * 512 + 446, &entry(0xef, place - at, sectors));
            let next = if at < count { entry(0x05, at, 1) } else { [0; 16] };
            disk.write(usize::from(at) * 512 + 462, &next);
            disk.write(usize::from(at) * 512 + 510, &[0x55, 0xaa]);
        }
        disk.write(150 * 512, system);
        let loader = system.windows(11).position(|name| name == b"SHIMX64 EFI").unwrap();
        disk.write(100 * 512, system);
        disk.write(100 * 512 + loader, b"OTHER   EFI");
        disk
    }

    #[test]
    fn a_boot_loader_is_looked_for_on_some_efi_partitions_only() {
        let look = look_at(&disk_with_efi_partitions(MAX_EFI_PARTITIONS as u8));
        assert_eq!(look.efi_loader.as_deref(), Some(r"\EFI\DEBIAN\SHIMX64.EFI"));
        let look = look_at(&disk_with_efi_partitions(MAX_EFI_PARTITIONS as u8 + 1));
        assert!(look.has_efi_partition && look.efi_loader.is_none());
    }
}
