//! Recognises what is on a disk by its first bytes: a partition table, or a file system or volume.

use tintype_formats::BlockSource;

use crate::partitions::{gpt_sector_bytes, has_mbr};

/// What a disk was found to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A GPT that counts sectors of this size.
    Gpt {
        /// Bytes of the sectors that the table counts.
        sector_bytes: u32,
    },
    /// An MBR, which does not say how large its sectors are.
    Mbr,
    /// A file system or volume that fills the disk.
    Volume(Volume),
}

/// A file system, or a container of file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volume {
    /// BitLocker.
    BitLocker,
    /// Btrfs.
    Btrfs,
    /// exFAT.
    Exfat,
    /// ext2, ext3 or ext4.
    Ext,
    /// F2FS.
    F2fs,
    /// FAT12, FAT16 or FAT32.
    Fat,
    /// HFS+ or HFSX.
    Hfs,
    /// ISO 9660.
    Iso9660,
    /// LUKS, of any version.
    Luks,
    /// A physical volume of LVM.
    Lvm,
    /// A member of a Linux RAID.
    Md,
    /// NTFS.
    Ntfs,
    /// ReFS.
    Refs,
    /// Swap space of Linux.
    Swap,
    /// XFS.
    Xfs,
}

/// The marks of each volume: offset from its beginning, bytes there.
const MARKS: &[(u64, &[u8], Volume)] = &[
    (3, b"-FVE-FS-", Volume::BitLocker),
    (3, b"NTFS    ", Volume::Ntfs),
    (3, b"ReFS\0\0\0\0", Volume::Refs),
    (3, b"EXFAT   ", Volume::Exfat),
    (54, b"FAT12   ", Volume::Fat),
    (54, b"FAT16   ", Volume::Fat),
    (54, b"FAT     ", Volume::Fat),
    (82, b"FAT32   ", Volume::Fat),
    (1024 + 56, &[0x53, 0xef], Volume::Ext),
    (0, b"XFSB", Volume::Xfs),
    (0x10040, b"_BHRfS_M", Volume::Btrfs),
    (0, b"LUKS\xba\xbe", Volume::Luks),
    // The label of LVM is in one of the first four sectors.
    (0, b"LABELONE", Volume::Lvm),
    (512, b"LABELONE", Volume::Lvm),
    (1024, b"LABELONE", Volume::Lvm),
    (1536, b"LABELONE", Volume::Lvm),
    // Versions 1.1 and 1.2; 1.0 and 0.90 are at the end, behind the file system of the array.
    (0, &[0xfc, 0x4e, 0x2b, 0xa9], Volume::Md),
    (4096, &[0xfc, 0x4e, 0x2b, 0xa9], Volume::Md),
    // At the end of the first page of the computer that made it: 4, 8, 16 or 64 KiB.
    (4096 - 10, b"SWAPSPACE2", Volume::Swap),
    (8192 - 10, b"SWAPSPACE2", Volume::Swap),
    (16384 - 10, b"SWAPSPACE2", Volume::Swap),
    (65536 - 10, b"SWAPSPACE2", Volume::Swap),
    (1024, &[0x10, 0x20, 0xf5, 0xf2], Volume::F2fs),
    (1024, b"H+\0\x04", Volume::Hfs),
    (1024, b"HX\0\x05", Volume::Hfs),
    (32769, b"CD001", Volume::Iso9660),
];

/// Longest mark.
const MAX_MARK_BYTES: usize = 10;

/// How much of a disk's beginning shows what most volumes are: enough for a pipe, which cannot be read again.
pub const HEAD_BYTES: u64 = 128 << 10;

impl Volume {
    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Volume::BitLocker => "BitLocker volume",
            Volume::Btrfs => "Btrfs file system",
            Volume::Exfat => "exFAT file system",
            Volume::Ext => "ext file system",
            Volume::F2fs => "F2FS file system",
            Volume::Fat => "FAT file system",
            Volume::Hfs => "HFS+ file system",
            Volume::Iso9660 => "ISO 9660 file system",
            Volume::Luks => "LUKS volume",
            Volume::Lvm => "LVM physical volume",
            Volume::Md => "part of a Linux RAID",
            Volume::Ntfs => "NTFS file system",
            Volume::Refs => "ReFS file system",
            Volume::Swap => "swap space",
            Volume::Xfs => "XFS file system",
        }
    }
}

/// Recognises what the disk holds. Unreadable places hold nothing.
pub fn content_of(disk: &dyn BlockSource) -> Option<Content> {
    if let Some(sector_bytes) = gpt_sector_bytes(disk) {
        return Some(Content::Gpt { sector_bytes });
    }
    // The first sector of some file systems looks like an MBR.
    let volume = volume_at(disk, 0).map(Content::Volume);
    volume.or_else(|| has_mbr(disk).then_some(Content::Mbr))
}

/// Recognises the volume that begins here.
pub fn volume_at(disk: &dyn BlockSource, begin: u64) -> Option<Volume> {
    MARKS.iter().find_map(|(offset, mark, volume)| {
        let mut found = [0; MAX_MARK_BYTES];
        let found = &mut found[..mark.len()];
        disk.read_at(begin.checked_add(*offset)?, found).ok()?;
        (found == *mark).then_some(*volume)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tintype_formats::testing::{MemoryDisk, ModelDisk};

    #[test]
    fn marks_fit_the_buffer_and_an_empty_disk_has_none() {
        assert!(MARKS.iter().all(|(_, mark, _)| mark.len() <= MAX_MARK_BYTES));
        assert!(MARKS.iter().all(|(offset, mark, _)| offset + mark.len() as u64 <= HEAD_BYTES));
        assert_eq!(content_of(&ModelDisk::new(4 << 20)), None);
        assert_eq!(content_of(&MemoryDisk::new(Vec::new())), None);
    }

    #[test]
    fn a_file_system_is_not_taken_for_an_mbr() {
        let mut sector = vec![0; 512];
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(content_of(&MemoryDisk::new(sector.clone())), None, "no entry is used");
        sector[446 + 4] = 7;
        sector[446 + 12] = 1;
        assert_eq!(content_of(&MemoryDisk::new(sector.clone())), Some(Content::Mbr));
        sector[82..90].copy_from_slice(b"FAT32   ");
        assert_eq!(content_of(&MemoryDisk::new(sector)), Some(Content::Volume(Volume::Fat)));
    }
}
