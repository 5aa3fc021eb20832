//! The MBR: four entries in the first sector, and logical partitions in a chain of sectors like it.

use tintype_formats::BlockSource;

use super::{Partition, PartitionKind, PartitionTable, Result, TableId, partition, read, u32_at, unreadable};

/// Most logical partitions that are followed: each names the next one, and a loop would never end.
const MAX_LOGICAL: usize = 256;

/// Type of the one entry of an MBR that protects a GPT from programs that know none.
const GPT_PROTECTIVE: u8 = 0xee;

/// Types of the entry that leads to logical partitions, and to the next of them.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// Reads a sector that ends as an MBR does.
pub(super) fn sector_at(disk: &dyn BlockSource, offset: u64) -> Result<Option<[u8; 512]>> {
    Ok(read(disk, offset)?.filter(|sector: &[u8; 512]| sector[510..] == [0x55, 0xaa]))
}

/// Returns true if an entry of the MBR says that the table is a GPT.
pub(super) fn is_protective(sector: &[u8; 512]) -> bool {
    MbrEntry::all(sector).any(|entry| entry.kind == GPT_PROTECTIVE)
}

/// Reads the partitions of an MBR.
pub(super) fn table(disk: &dyn BlockSource, mbr: &[u8; 512], sector_bytes: u64) -> Result<PartitionTable> {
    let mut found = Vec::new();
    let mut extended = None;
    for (number, entry) in (1..).zip(MbrEntry::all(mbr)) {
        if EXTENDED.contains(&entry.kind) {
            extended.get_or_insert(entry.begin);
        } else if entry.is_used() {
            found.push(partition(disk, number, entry.kind(), entry.begin..entry.end(), sector_bytes)?);
        }
    }
    if let Some(extended) = extended {
        logical(disk, extended, sector_bytes, &mut found)?;
    }
    // A boot sector of a file system ends as an MBR does, and has code in the place of the identifier.
    let is_table = mbr[446..510].chunks_exact(16).all(|entry| matches!(entry[0], 0 | 0x80)) && !found.is_empty();
    let id = Some(u32_at(mbr, 440)).filter(|id| is_table && *id != 0);
    Ok(PartitionTable { id: id.map(TableId::Mbr), partitions: found })
}

/// An entry of an MBR, in sectors.
struct MbrEntry {
    kind: u8,
    begin: u64,
    sectors: u64,
}

impl MbrEntry {
    fn all(sector: &[u8; 512]) -> impl Iterator<Item = MbrEntry> {
        let (entries, _) = sector[446..510].as_chunks::<16>();
        entries.iter().map(|entry| {
            let [.., b0, b1, b2, b3, s0, s1, s2, s3] = *entry;
            let begin = u32::from_le_bytes([b0, b1, b2, b3]).into();
            MbrEntry { kind: entry[4], begin, sectors: u32::from_le_bytes([s0, s1, s2, s3]).into() }
        })
    }

    fn is_used(&self) -> bool {
        self.kind != 0 && self.sectors != 0
    }

    fn kind(&self) -> PartitionKind {
        PartitionKind::Mbr(self.kind)
    }

    fn end(&self) -> u64 {
        self.begin + self.sectors
    }
}

/// Follows the chain of logical partitions: each sector describes one, and where the next sector is.
fn logical(disk: &dyn BlockSource, extended: u64, sector_bytes: u64, found: &mut Vec<Partition>) -> Result<()> {
    let mut at = extended;
    for number in (5..).take(MAX_LOGICAL) {
        let Some(sector) = sector_at(disk, at.saturating_mul(sector_bytes))? else {
            return Err(unreadable(&format!("the chain of logical partitions breaks at sector {at}")));
        };
        let mut entries = MbrEntry::all(&sector);
        let (own, next) = (entries.next(), entries.next());
        if let Some(own) = own.filter(MbrEntry::is_used) {
            let begin = at.saturating_add(own.begin);
            found.push(partition(disk, number, own.kind(), begin..begin.saturating_add(own.sectors), sector_bytes)?);
        }
        match next.filter(|next| EXTENDED.contains(&next.kind) && next.is_used()) {
            Some(next) => at = extended.saturating_add(next.begin),
            None => return Ok(()),
        }
    }
    Err(unreadable(&format!("the chain of logical partitions has more than {MAX_LOGICAL}, or is a loop")))
}

/// Returns true if the first sector is an MBR with an entry in use, whatever it says of where partitions are.
pub fn has_mbr(disk: &dyn BlockSource) -> bool {
    sector_at(disk, 0).ok().flatten().is_some_and(|sector| {
        // The first byte of an entry only says which partition is started.
        let are_entries = sector[446..510].chunks_exact(16).all(|entry| entry[0] & 0x7f == 0);
        are_entries && MbrEntry::all(&sector).any(|entry| entry.is_used())
    })
}
