//! L2 entries: 64 bits that say what a guest cluster is, and 64 more for its subclusters if entries are extended.
//!
//! ```text
//!  63 62 61      56 55                                      9 8      1  0
//!  C  0  reserved   host offset of the cluster                reserved  Z     standard; C = COPIED, Z = reads as zeros
//!  0  1  sectors   x              host offset, any byte                 0     compressed; x = 62 - (cluster bits - 8)
//! ```

use super::on_disk::{ENTRY_COPIED, ENTRY_OFFSET_MASK, L2_COMPRESSED, L2_RESERVED_MASK, L2_ZERO};

const SECTOR_BYTES: u64 = 512;

/// What [`L2Entry::decode`] needs to know of the image.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryRules {
    pub cluster_bits: u32,
    pub extended_l2: bool,
    /// Version 2 has no zero flag.
    pub zero_flag: bool,
    /// Clusters lie in an external data file, each at its guest offset.
    pub data_file: bool,
}

/// An L2 entry, with its subcluster bitmap (0 if entries are not extended).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct L2Entry {
    pub descriptor: u64,
    pub bitmap: u64,
}

/// What an entry says, once it is known to be well formed. Whether offsets lie in the file is not looked at here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cluster {
    /// The parent decides.
    Absent,
    /// Reads as zeros; may have a host cluster reserved.
    Zero { reserved_offset: Option<u64> },
    /// Stored as it is.
    Data { host_offset: u64 },
    /// Stored compressed, in whole sectors' reach of `host_offset`.
    Compressed { host_offset: u64, length_bytes: u64 },
    /// Each subcluster for itself; `stored` and `zero` have one bit for each, never both.
    Subclusters { host_offset: Option<u64>, stored: u32, zero: u32 },
}

impl L2Entry {
    pub fn is_compressed(self) -> bool {
        self.descriptor & L2_COMPRESSED != 0
    }

    pub fn is_copied(self) -> bool {
        self.descriptor & ENTRY_COPIED != 0
    }

    /// The reserved bits that are set, of a standard entry.
    pub fn reserved_bits(self) -> u64 {
        if self.is_compressed() { 0 } else { self.descriptor & L2_RESERVED_MASK }
    }

    /// Where the host cluster of a standard entry begins.
    ///
    /// Offset 0 means that there is none, except in an external data file, where COPIED makes the difference.
    pub fn host_offset(self, data_file: bool) -> Option<u64> {
        let offset = self.descriptor & ENTRY_OFFSET_MASK;
        (offset != 0 || (data_file && self.is_copied())).then_some(offset)
    }

    /// Which subclusters are stored, and which read as zeros: bits 0 to 31 and 32 to 63.
    pub fn subclusters(self) -> (u32, u32) {
        (self.bitmap as u32, (self.bitmap >> 32) as u32)
    }

    /// The bytes that a compressed cluster may occupy: from any byte to the end of its last sector.
    pub fn compressed_range(self, cluster_bits: u32) -> (u64, u64) {
        let offset_bits = 62 - (cluster_bits - 8);
        let host_offset = self.descriptor & ((1 << offset_bits) - 1);
        let further_sectors = (self.descriptor & (L2_COMPRESSED - 1)) >> offset_bits;
        (host_offset, (further_sectors + 1) * SECTOR_BYTES - host_offset % SECTOR_BYTES)
    }

    /// Reads the entry of the cluster at `guest_offset`; the error says what is wrong with it.
    pub fn decode(self, rules: EntryRules, guest_offset: u64) -> Result<Cluster, String> {
        if self.is_compressed() {
            return self.decode_compressed(rules);
        }
        if self.reserved_bits() != 0 {
            return Err(format!("has reserved bits set ({:#x})", self.reserved_bits()));
        }
        let host_offset = self.host_offset(rules.data_file);
        if let Some(offset) = host_offset {
            check_place(offset, rules, guest_offset)?;
        }
        if rules.extended_l2 {
            return self.decode_subclusters(host_offset);
        }
        match (self.descriptor & L2_ZERO != 0, host_offset) {
            (true, _) if !rules.zero_flag => Err("has the zero flag, which version 2 does not have".to_owned()),
            (true, reserved_offset) => Ok(Cluster::Zero { reserved_offset }),
            (false, Some(host_offset)) => Ok(Cluster::Data { host_offset }),
            (false, None) => Ok(Cluster::Absent),
        }
    }

    fn decode_compressed(self, rules: EntryRules) -> Result<Cluster, String> {
        if rules.data_file {
            return Err("is compressed, which an image with an external data file cannot have".to_owned());
        }
        if self.bitmap != 0 {
            return Err(format!("is compressed and has a subcluster bitmap ({:#x})", self.bitmap));
        }
        let (host_offset, length_bytes) = self.compressed_range(rules.cluster_bits);
        Ok(Cluster::Compressed { host_offset, length_bytes })
    }

    fn decode_subclusters(self, host_offset: Option<u64>) -> Result<Cluster, String> {
        let (stored, zero) = self.subclusters();
        if self.descriptor & L2_ZERO != 0 {
            return Err("has bit 0 set, which is reserved in extended entries".to_owned());
        }
        if stored & zero != 0 {
            return Err(format!("has subclusters that are both stored and zero (bitmap {:#x})", self.bitmap));
        }
        if stored != 0 && host_offset.is_none() {
            return Err(format!("has stored subclusters (bitmap {:#x}), but no host cluster", self.bitmap));
        }
        Ok(Cluster::Subclusters { host_offset, stored, zero })
    }
}

fn check_place(host_offset: u64, rules: EntryRules, guest_offset: u64) -> Result<(), String> {
    let cluster_bytes = 1u64 << rules.cluster_bits;
    if !host_offset.is_multiple_of(cluster_bytes) {
        return Err(format!(
            "points to {host_offset:#x}, which is not a multiple of the cluster size {cluster_bytes:#x}"
        ));
    }
    if rules.data_file && host_offset != guest_offset {
        return Err(format!("points to {host_offset:#x} in the data file, where only {guest_offset:#x} can be"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: EntryRules = EntryRules { cluster_bits: 16, extended_l2: false, zero_flag: true, data_file: false };

    fn decode(descriptor: u64, bitmap: u64, rules: EntryRules) -> Result<Cluster, String> {
        L2Entry { descriptor, bitmap }.decode(rules, 0x20000)
    }

    #[test]
    fn standard_entries() {
        assert_eq!(decode(0, 0, RULES), Ok(Cluster::Absent));
        assert_eq!(decode(ENTRY_COPIED, 0, RULES), Ok(Cluster::Absent));
        assert_eq!(decode(ENTRY_COPIED | 0x50000, 0, RULES), Ok(Cluster::Data { host_offset: 0x50000 }));
        assert_eq!(decode(1, 0, RULES), Ok(Cluster::Zero { reserved_offset: None }));
        assert_eq!(decode(0x50001, 0, RULES), Ok(Cluster::Zero { reserved_offset: Some(0x50000) }));
        for bad in [0x50200, 0x50002, 1 << 56, (1 << 61) | 0x50000] {
            assert!(decode(bad, 0, RULES).is_err(), "{bad:#x}");
        }
        assert!(decode(1, 0, EntryRules { zero_flag: false, ..RULES }).is_err());
    }

    #[test]
    fn in_a_data_file_offset_0_is_a_place_and_guest_and_host_are_the_same() {
        let rules = EntryRules { data_file: true, ..RULES };
        let entry = L2Entry { descriptor: ENTRY_COPIED, bitmap: 0 };
        assert_eq!(entry.decode(rules, 0), Ok(Cluster::Data { host_offset: 0 }));
        assert!(entry.decode(rules, 0x10000).is_err());
        assert_eq!(decode(0, 0, rules), Ok(Cluster::Absent));
        assert!(decode(L2_COMPRESSED, 0, rules).is_err());
    }

    #[test]
    fn compressed_entries_reach_to_the_end_of_their_last_sector() {
        let entry = |cluster_bits, host_offset: u64, sectors: u64| {
            let descriptor = L2_COMPRESSED | (sectors << (62 - (cluster_bits - 8))) | host_offset;
            L2Entry { descriptor, bitmap: 0 }.compressed_range(cluster_bits)
        };
        assert_eq!(entry(16, 0x12345, 3), (0x12345, 4 * 512 - 0x145));
        assert_eq!(entry(9, 0x12345, 1), (0x12345, 2 * 512 - 0x145));
        assert_eq!(entry(21, (1 << 49) - 1, (1 << 13) - 1), ((1 << 49) - 1, (8191 * 512) + 1));
    }

    #[test]
    fn subclusters_are_stored_or_zero_but_not_both() {
        let rules = EntryRules { extended_l2: true, ..RULES };
        let host_offset = Some(0x50000);
        assert_eq!(decode(0x50000, 5 << 32 | 2, rules), Ok(Cluster::Subclusters { host_offset, stored: 2, zero: 5 }));
        let host_offset = None;
        assert_eq!(decode(0, 5 << 32, rules), Ok(Cluster::Subclusters { host_offset, stored: 0, zero: 5 }));
        assert!(decode(0x50000, 1 << 32 | 1, rules).is_err());
        assert!(decode(0x50001, 0, rules).is_err());
        assert!(decode(0, 1, rules).is_err());
        assert!(decode(L2_COMPRESSED | 0x50000, 1, rules).is_err());
    }
}
