//! Looks for files in a FAT file system, as a firmware does. Nothing that it says of itself is believed.

use std::cell::Cell;

use tintype_formats::BlockSource;

use crate::partitions::Partition;

/// Most clusters of a folder that are looked at: a chain may be a loop.
const MAX_FOLDER_CLUSTERS: usize = 256;

/// The largest cluster there is, in bytes.
const MAX_CLUSTER_BYTES: u64 = 128 << 10;

/// Most bytes that are read of one file system. Each search alone has a bound, but a search begins at the root again, and a hostile
/// disk makes all of them long.
const MAX_READ_BYTES: u64 = 16 << 20;

/// Least that a read counts as, in bytes: each costs as much as a sector.
const MIN_READ_BYTES: u64 = 512;

/// Bytes of a folder that are read at once: nearly all folders end within them, whatever the size of their clusters.
const PIECE_BYTES: usize = 4096;

/// Most folders that are told of one folder.
const MAX_FOLDERS: usize = 64;

const ENTRY_BYTES: usize = 32;
const ATTRIBUTE_VOLUME: u8 = 0x08;
const ATTRIBUTE_FOLDER: u8 = 0x10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Fat12,
    Fat16,
    Fat32,
}

/// What is wanted of an entry, if anything.
type Want<'a, T> = dyn FnMut(&[u8; ENTRY_BYTES]) -> Option<T> + 'a;

/// A FAT file system in a partition.
pub struct FileSystem<'a> {
    disk: &'a dyn BlockSource,
    begin: u64,
    size_bytes: u64,
    width: Width,
    fat_offset: u64,
    root: Folder,
    data_offset: u64,
    cluster_bytes: u64,
    left_bytes: Cell<u64>,
}

/// Where a folder lies.
#[derive(Debug, Clone, Copy)]
enum Folder {
    /// At a fixed place: the root of FAT12 and FAT16.
    Fixed { offset: u64, length_bytes: u64 },
    /// In a chain of clusters.
    Chain(u32),
}

impl<'a> FileSystem<'a> {
    /// Reads the boot sector of a partition; none if this is no FAT file system.
    pub fn open(disk: &'a dyn BlockSource, part: &Partition) -> Option<FileSystem<'a>> {
        let mut head = [0; 512];
        disk.read_at(part.begin, &mut head).ok()?;
        let u16_at = |at: usize| u64::from(u16::from_le_bytes([head[at], head[at + 1]]));
        let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (sector_bytes, cluster_sectors) = (u16_at(11), u64::from(head[13]));
        let cluster_bytes = sector_bytes * cluster_sectors;
        let is_fat = head[510..] == [0x55, 0xaa]
            && sector_bytes.is_power_of_two()
            && (512..=4096).contains(&sector_bytes)
            && cluster_sectors.is_power_of_two()
            && cluster_bytes <= MAX_CLUSTER_BYTES
            && (1..=2).contains(&head[16])
            && u16_at(14) > 0;
        if !is_fat {
            return None;
        }
        let or_large = |small: u64, large: u32| if small == 0 { u64::from(large) } else { small };
        let fat_sectors = or_large(u16_at(22), u32_at(36));
        let fat_offset = u16_at(14) * sector_bytes;
        let root_offset = fat_offset + u64::from(head[16]) * fat_sectors * sector_bytes;
        let root_bytes = u16_at(17) * ENTRY_BYTES as u64;
        let data_offset = root_offset + root_bytes.next_multiple_of(sector_bytes);
        let size_bytes = (or_large(u16_at(19), u32_at(32)) * sector_bytes).min(part.size_bytes);
        let clusters = size_bytes.checked_sub(data_offset)? / cluster_bytes;
        let width = match clusters {
            _ if root_bytes == 0 => Width::Fat32,
            ..4085 => Width::Fat12,
            _ => Width::Fat16,
        };
        let root = match width {
            Width::Fat32 => Folder::Chain(u32_at(44)),
            _ => Folder::Fixed { offset: root_offset, length_bytes: root_bytes },
        };
        let (begin, left_bytes) = (part.begin, Cell::new(MAX_READ_BYTES));
        Some(FileSystem { disk, begin, size_bytes, width, fat_offset, root, data_offset, cluster_bytes, left_bytes })
    }

    /// Returns true if there is a file of this path; its names have at most eight letters and three.
    pub fn has_file(&self, path: &[&str]) -> bool {
        let mut folder = self.root;
        for (index, name) in path.iter().enumerate() {
            let is_last = index + 1 == path.len();
            match self.find(folder, &short_name(name)) {
                Some((attributes, _)) if is_last => return attributes & ATTRIBUTE_FOLDER == 0,
                Some((attributes, cluster)) if attributes & ATTRIBUTE_FOLDER != 0 => folder = Folder::Chain(cluster),
                _ => return false,
            }
        }
        false
    }

    /// The short names of the folders in a folder of the root.
    pub fn folders_in(&self, name: &str) -> Vec<String> {
        let mut names = Vec::new();
        if let Some((ATTRIBUTE_FOLDER, cluster)) = self.find(self.root, &short_name(name)) {
            self.look_through::<()>(Folder::Chain(cluster), &mut |entry| {
                let is_folder = entry[11] & (ATTRIBUTE_FOLDER | ATTRIBUTE_VOLUME) == ATTRIBUTE_FOLDER;
                names.extend(shown_name(entry).filter(|_| is_folder && names.len() < MAX_FOLDERS));
                None
            });
        }
        names
    }

    /// The attributes and the first cluster of what has this name.
    fn find(&self, folder: Folder, name: &[u8; 11]) -> Option<(u8, u32)> {
        self.look_through(folder, &mut |entry| {
            let is_it = entry[..11] == *name && entry[11] & ATTRIBUTE_VOLUME == 0;
            is_it.then(|| (entry[11], u32::from_le_bytes([entry[26], entry[27], entry[20], entry[21]])))
        })
    }

    /// What the first entry gives of which something is wanted.
    fn look_through<T>(&self, folder: Folder, want: &mut Want<'_, T>) -> Option<T> {
        match folder {
            Folder::Fixed { offset, length_bytes } => self.look_in(offset, length_bytes, want).ok()?,
            Folder::Chain(mut cluster) => {
                for _ in 0..MAX_FOLDER_CLUSTERS {
                    let offset = self.cluster_offset(cluster)?;
                    if let Some(found) = self.look_in(offset, self.cluster_bytes, want).ok()? {
                        return Some(found);
                    }
                    cluster = self.next(cluster)?;
                }
                None
            }
        }
    }

    /// Looks through entries; an error where the folder ends or cannot be read.
    fn look_in<T>(&self, offset: u64, length_bytes: u64, want: &mut Want<'_, T>) -> Result<Option<T>, ()> {
        let mut piece = [0; PIECE_BYTES];
        for at in (0..length_bytes).step_by(PIECE_BYTES) {
            let piece = &mut piece[..(length_bytes - at).min(PIECE_BYTES as u64) as usize];
            self.read(offset + at, piece).ok_or(())?;
            for entry in piece.as_chunks::<ENTRY_BYTES>().0 {
                if entry[0] == 0 {
                    return Err(());
                }
                if let Some(found) = want(entry) {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    fn cluster_offset(&self, cluster: u32) -> Option<u64> {
        let index = u64::from(cluster.checked_sub(2)?);
        let offset = index.checked_mul(self.cluster_bytes)?.checked_add(self.data_offset)?;
        (offset < self.size_bytes).then_some(offset)
    }

    /// The next cluster of a chain; none at its end.
    fn next(&self, cluster: u32) -> Option<u32> {
        let index = u64::from(cluster);
        match self.width {
            Width::Fat32 => {
                let mut entry = [0; 4];
                self.read(self.fat_offset + index * 4, &mut entry)?;
                Some(u32::from_le_bytes(entry) & 0x0fff_ffff).filter(|next| *next < 0x0fff_fff7)
            }
            Width::Fat16 => {
                let mut entry = [0; 2];
                self.read(self.fat_offset + index * 2, &mut entry)?;
                Some(u32::from(u16::from_le_bytes(entry))).filter(|next| *next < 0xfff7)
            }
            Width::Fat12 => {
                let mut entry = [0; 2];
                self.read(self.fat_offset + index * 3 / 2, &mut entry)?;
                let pair = u16::from_le_bytes(entry);
                let next = if index % 2 == 0 { pair & 0xfff } else { pair >> 4 };
                Some(u32::from(next)).filter(|next| *next < 0xff7)
            }
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Option<()> {
        let length_bytes = buffer.len() as u64;
        if offset.checked_add(length_bytes)? > self.size_bytes {
            return None;
        }
        self.left_bytes.set(self.left_bytes.get().checked_sub(length_bytes.max(MIN_READ_BYTES))?);
        self.disk.read_at(self.begin.checked_add(offset)?, buffer).ok()
    }
}

/// The name of a folder, if it is one that can be said again: not deleted, and neither the folder itself nor the one above.
fn shown_name(entry: &[u8; ENTRY_BYTES]) -> Option<String> {
    let stem = entry[..8].trim_ascii_end();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"~_-".contains(byte);
    let is_name = !stem.is_empty() && stem.iter().all(is_plain) && entry[8..11] == *b"   ";
    is_name.then(|| String::from_utf8_lossy(stem).into_owned())
}

/// `BOOTX64.EFI` as folders have it: `BOOTX64 EFI`.
fn short_name(name: &str) -> [u8; 11] {
    let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
    let mut short = [b' '; 11];
    short[..8].iter_mut().zip(stem.bytes()).for_each(|(to, from)| *to = from);
    short[8..].iter_mut().zip(extension.bytes()).for_each(|(to, from)| *to = from);
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partitions::PartitionKind;
    use tintype_formats::testing::{MemoryDisk, Random};

    /// A FAT16 file system of 16 MiB with one file, /EFI/BOOT/BOOTX64.EFI, and the partition that it is.
    fn disk() -> (MemoryDisk, Partition) {
        let mut bytes = vec![0; 16 << 20];
        bytes[11..13].copy_from_slice(&512u16.to_le_bytes());
        bytes[13] = 4;
        bytes[14..16].copy_from_slice(&1u16.to_le_bytes());
        bytes[16] = 1;
        bytes[17..19].copy_from_slice(&512u16.to_le_bytes());
        bytes[19..21].copy_from_slice(&32767u16.to_le_bytes());
        bytes[22..24].copy_from_slice(&32u16.to_le_bytes());
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        let (root, data) = (33 * 512, 65 * 512);
        let mut entry = |at: usize, name: &[u8; 11], attributes: u8, cluster: u16| {
            bytes[at..at + 11].copy_from_slice(name);
            bytes[at + 11] = attributes;
            bytes[at + 26..at + 28].copy_from_slice(&cluster.to_le_bytes());
        };
        entry(root, b"EFI        ", ATTRIBUTE_FOLDER, 2);
        entry(data, b"BOOT       ", ATTRIBUTE_FOLDER, 3);
        entry(data + 2048, b"BOOTX64 EFI", 0, 4);
        let part = Partition { number: 1, begin: 0, size_bytes: 16 << 20, kind: PartitionKind::Mbr(0xef), guid: None };
        (MemoryDisk::new(bytes), part)
    }

    const LOADER: [&str; 3] = ["EFI", "BOOT", "BOOTX64.EFI"];

    #[test]
    fn a_file_is_found_where_it_is() {
        let (disk, part) = disk();
        let system = FileSystem::open(&disk, &part).unwrap();
        assert_eq!(system.width, Width::Fat16);
        assert!(system.has_file(&LOADER));
        assert_eq!(system.folders_in("EFI"), ["BOOT"]);
        assert!(system.folders_in("BOOT").is_empty());
        assert!(!system.has_file(&["EFI", "BOOT"]) && !system.has_file(&["EFI", "OTHER", "BOOTX64.EFI"]));
    }

    #[test]
    fn no_file_system_makes_it_panic_or_run_for_ever() {
        let mut random = Random(5);
        for _ in 0..500 {
            let (mut disk, part) = disk();
            for _ in 0..random.below(12) {
                let at = [
                    random.below(64),
                    512 + random.below(64),
                    33 * 512 + random.below(64),
                    65 * 512 + random.below(64),
                ];
                disk.bytes[at[random.below(4) as usize] as usize] = random.next_u64() as u8;
            }
            if let Some(system) = FileSystem::open(&disk, &part) {
                system.has_file(&LOADER);
                assert!(system.folders_in("EFI").len() <= MAX_FOLDERS);
            }
        }
    }

    /// As many folders in /EFI as are told, each of them as long as a chain is followed, of entries that are nothing.
    #[test]
    fn a_search_without_an_end_stops() {
        let (mut disk, part) = disk();
        disk.write(512 + 2 * 2, &[2, 0]);
        let entries: Vec<u8> = (0..64).flat_map(|number| folder_entry(&format!("F{number}"), 2)).collect();
        disk.write(65 * 512, &entries);
        let system = FileSystem::open(&disk, &part).unwrap();
        assert_eq!(system.folders_in("EFI").len(), 64);
        for number in (0..64).cycle().take(1000) {
            assert!(!system.has_file(&["EFI", &format!("F{number}"), "BOOT", "BOOTMGFW.EFI"]));
        }
        assert!(disk.reads() <= MAX_READ_BYTES / MIN_READ_BYTES, "{} reads", disk.reads());
        let reads = disk.reads();
        assert!(!system.has_file(&["EFI", "F0"]));
        assert_eq!(disk.reads(), reads, "nothing is read any more");
    }

    fn folder_entry(name: &str, cluster: u16) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        entry[..11].copy_from_slice(&short_name(name));
        entry[11] = ATTRIBUTE_FOLDER;
        entry[26..28].copy_from_slice(&cluster.to_le_bytes());
        entry
    }
}
