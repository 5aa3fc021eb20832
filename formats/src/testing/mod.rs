//! What tests put in the place of real files and disks, and the suite that every format passes.

mod conformance;
mod counting_file;
mod crash_file;
mod damage;
mod exercise;
mod faulty_file;
mod memory_disk;
mod memory_file;
mod model_disk;

pub use conformance::{check_disk, digest, read_all};
pub use counting_file::CountingFile;
pub use crash_file::CrashFile;
pub use damage::check_damage;
pub use exercise::exercise;
pub use faulty_file::{FaultPlan, FaultyFile};
pub use memory_disk::MemoryDisk;
pub use memory_file::MemoryFile;
pub use model_disk::{ModelDisk, create_image, store_disk, store_disk_in};

use std::sync::Arc;

use crate::secrets::Secrets;
use crate::{Disk, Format, HostFile, OpenFile, Result};

/// Gives a test file a name, as if it had been opened.
pub fn open_file(file: Arc<dyn HostFile>) -> OpenFile {
    OpenFile { file, name: "test".to_owned(), identity: None, secrets: Secrets::default() }
}

/// Opens a file that needs no other file, as a whole disk.
pub fn open_disk(file: Arc<dyn HostFile>, format: Option<&'static Format>) -> Result<Disk> {
    Disk::open(open_file(file), format, crate::layer::Choice::default(), Arc::new(crate::reference_gate::NoReferences))
}

/// A small generator of pseudo-random numbers (SplitMix64): tests must repeat from their seed on every machine.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }
}
