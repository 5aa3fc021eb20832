//! The partition that a user names by its number.

use tintype_formats::BlockSource;
use tintype_volumes::partitions::{Partition, partitions};

use crate::error::{Error, Kind, Result};

/// Returns the partition of this number; fails if the disk does not have it.
pub fn partition_of(disk: &dyn BlockSource, number: u32) -> Result<Partition> {
    let all = partitions(disk)?;
    let known: Vec<_> = all.iter().map(|partition| partition.number.to_string()).collect();
    all.into_iter().find(|partition| partition.number == number).ok_or_else(|| {
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Error::new(Kind::Usage, format!("the disk has no partition {number}; it has {known}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tintype_formats::testing::MemoryDisk;

    #[test]
    fn a_partition_that_is_not_there_is_an_error_of_the_user() {
        let mut disk = MemoryDisk::new(vec![0; 64 * 512]);
        disk.write(446 + 16, &[0, 0, 0, 0, 0x83, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0, 0]);
        disk.write(510, &[0x55, 0xaa]);
        assert_eq!(partition_of(&disk, 2).unwrap().size_bytes, 16 * 512);
        let error = partition_of(&disk, 1).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Usage, "the disk has no partition 1; it has 2"));
        let error = partition_of(&MemoryDisk::new(Vec::new()), 1).unwrap_err();
        assert_eq!(error.kind(), Kind::Io);
        assert_eq!(error.to_string(), "read the partition table of the disk: it has no MBR and no GPT");
    }
}
