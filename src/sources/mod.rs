//! Where disks come from: image files with their chains, devices, NBD servers, pipes, and slices of them.

mod aligned;
mod block_device;
mod cached;
mod device_cache;
mod device_file;
mod disk_identity;
mod extended;
mod head;
mod identity;
mod in_use;
mod local;
mod mounts;
mod nbd_client;
mod open;
mod overlay;
mod partition;
mod physical_disk;
mod qemu_lock;
mod sectors;
mod slice;
mod standard_input;
mod sysfs;
mod write_back;

pub use aligned::AlignedBuffer;
pub use block_device::BlockDevice;
pub use cached::{CachedDisk, DiskCache};
pub use device_file::DeviceFile;
pub use disk_identity::{identify, identify_part};
pub use extended::Extended;
pub use head::Head;
pub use identity::{aliases, is_same_file, looks_remote};
pub use in_use::{User, Watch, writers_at};
pub use local::ReferencePolicy;
pub use nbd_client::{NbdAddress, NbdFile, NbdOptions, is_nbd, nbd_uri_part};
pub use open::{
    OpenOptions, OpenedDisk, OpenedImage, failed_to_follow, format_named, guess_note, is_device_or_export, open_disk,
    open_host_file, open_image, open_raw,
};
pub use overlay::{Overlay, OverlayReader, WritableDisk};
pub use partition::partition_of;
pub use physical_disk::{device_sector_bytes, is_device, sector_bytes};
pub use qemu_lock::is_held_for_writing;
pub use sectors::{WithSectors, recognised_sector_bytes, with_recognised_sectors};
pub use slice::Slice;
pub use standard_input::{StandardInput, open_standard_input};
pub use write_back::write_back;
