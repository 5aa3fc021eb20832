//! Tests of the Parallels adapter that need no other program, and what they share.

mod bundles;
mod expanding;

use std::sync::Arc;

use zerocopy::IntoBytes;

use super::on_disk::*;

const CLUSTER_SECTORS: u32 = 8;
const CLUSTER: usize = CLUSTER_SECTORS as usize * SECTOR_BYTES as usize;

/// An expanding image in the making: clusters of 4 KiB.
struct Maker {
    header: Header,
    /// Cluster numbers, counted from the beginning of the data; `None` for nowhere.
    clusters: Vec<Option<u32>>,
    data: Vec<u8>,
}

impl Maker {
    fn new(magic: &[u8; 16], disk_sectors: u64) -> Self {
        let entries = disk_sectors.div_ceil(CLUSTER_SECTORS.into());
        Maker {
            header: Header {
                magic: *magic,
                version: VERSION.into(),
                heads: 16.into(),
                cylinders: 1.into(),
                cluster_sectors: CLUSTER_SECTORS.into(),
                bat_entries: (entries as u32).into(),
                disk_sectors: disk_sectors.into(),
                in_use: 0x312e_3276.into(),
                data_sector: CLUSTER_SECTORS.into(),
                flags: 0.into(),
                extension_sector: 0.into(),
            },
            clusters: vec![None; entries as usize],
            data: Vec::new(),
        }
    }

    /// Stores a cluster behind the others.
    fn put(mut self, cluster: usize, byte: u8) -> Self {
        self.clusters[cluster] = Some((self.data.len() / CLUSTER) as u32);
        self.data.extend((0..CLUSTER).map(|at| byte.wrapping_add((at / 512) as u8)));
        self
    }

    fn data_start(&self) -> usize {
        match self.header.data_sector.get() {
            0 => (64 + 4 * self.clusters.len()).next_multiple_of(512),
            sector => sector as usize * 512,
        }
    }

    fn entry(&self, place: u32) -> u32 {
        match magic_of(&self.header.magic) {
            Some(Magic::Clusters) => self.header.data_sector.get() / CLUSTER_SECTORS + place,
            _ => (self.data_start() / 512) as u32 + place * CLUSTER_SECTORS,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header.as_bytes().to_vec();
        for cluster in &self.clusters {
            bytes.extend(cluster.map_or(0, |place| self.entry(place)).to_le_bytes());
        }
        bytes.resize(bytes.len().max(self.data_start()), 0);
        bytes.extend(&self.data);
        bytes
    }

    fn file(&self) -> Arc<crate::testing::MemoryFile> {
        Arc::new(crate::testing::MemoryFile::from_bytes(&self.bytes()))
    }

    /// What the guest sees.
    fn disk(&self) -> Vec<u8> {
        let mut disk = vec![0; self.clusters.len() * CLUSTER];
        for (cluster, place) in self.clusters.iter().enumerate() {
            if let Some(place) = place {
                let stored = &self.data[*place as usize * CLUSTER..][..CLUSTER];
                disk[cluster * CLUSTER..][..CLUSTER].copy_from_slice(stored);
            }
        }
        disk.truncate(self.header.disk_sectors.get() as usize * 512);
        disk
    }
}

/// Ten clusters and a half, some of them stored, not in order.
fn some_image(magic: &[u8; 16]) -> Maker {
    Maker::new(magic, 84).put(3, 0x10).put(4, 0x20).put(0, 0x30).put(10, 0x40).put(9, 0x50)
}
