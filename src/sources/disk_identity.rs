//! What a disk is known by besides its name: its partition table, and the hardware of a device.
//!
//! Nothing here fails: a fact that cannot be read is unknown. A partition has the facts of its disk, and its own GUID. The UUIDs
//! of device mapper are left out: a snapshot of a volume that is made for each backup has another one each time.

use std::path::Path;

use tintype_formats::BlockSource;
use tintype_tin::disk_identity::DiskIdentity;
use tintype_volumes::partitions::{PartitionTable, TableId, guid_text, partition_table};

use super::block_device::BlockDevice;
use super::open::{OpenOptions, open_disk};
use super::sysfs::{clean, text_of};

/// Returns what tells a disk from others. `path` is the file or device that it is read from.
pub fn identify(disk: &dyn BlockSource, path: &Path) -> DiskIdentity {
    let Some(device) = BlockDevice::at(path) else {
        return with_table(DiskIdentity::default(), partition_table(disk).ok().as_ref());
    };
    let folder = device.folder();
    let Some((whole, begin)) = device.whole_disk().zip(partition_begin(&folder)) else {
        return with_table(hardware(&folder, Path::new(UDEV)), partition_table(disk).ok().as_ref());
    };
    let opened = whole.node().and_then(|node| open_disk(&node, &OpenOptions::default(), None).ok());
    let table = opened.and_then(|opened| partition_table(opened.disk.as_ref()).ok());
    let known_to_udev = udev_fact(&folder, Path::new(UDEV), "ID_PART_ENTRY_UUID");
    let partition = table.as_ref().and_then(|table| table.part_uuid(begin)).or(known_to_udev);
    DiskIdentity { partition, ..with_table(hardware(&whole.folder(), Path::new(UDEV)), table.as_ref()) }
}

/// Returns what tells a part of a disk from others: the facts of that disk, and the part's own. Of a disk that has none nothing is
/// known: the number of a partition tells no disk from another.
pub fn identify_part(disk: &dyn BlockSource, path: &Path, begin: u64) -> DiskIdentity {
    let whole = identify(disk, path);
    if whole.is_empty() {
        return whole;
    }
    let name = partition_table(disk).ok().as_ref().and_then(|table| table.part_uuid(begin));
    DiskIdentity { partition: name.or_else(|| Some(format!("at {begin:#x}"))), ..whole }
}

/// The database of udev.
const UDEV: &str = "/run/udev/data";

fn with_table(identity: DiskIdentity, table: Option<&PartitionTable>) -> DiskIdentity {
    match table.and_then(|table| table.id) {
        Some(TableId::Gpt(guid)) => DiskIdentity { gpt_guid: Some(guid_text(&guid)), ..identity },
        Some(TableId::Mbr(id)) => DiskIdentity { mbr_id: Some(format!("{id:08x}")), ..identity },
        None => identity,
    }
}

/// Returns the first byte of a partition on its disk.
fn partition_begin(folder: &Path) -> Option<u64> {
    text_of(&folder.join("start"))?.parse::<u64>().ok()?.checked_mul(512)
}

/// Reads what the kernel and udev know of a whole disk: NVMe, SCSI and ATA, virtio and MMC put it in different files.
fn hardware(place: &Path, udev: &Path) -> DiskIdentity {
    let first = |files: &[&str], facts: &[&str]| {
        let of_files = files.iter().find_map(|file| text_of(&place.join(file)));
        of_files.or_else(|| facts.iter().find_map(|fact| udev_fact(place, udev, fact)))
    };
    let pages = || std::fs::read(place.join("device/vpd_pg80")).ok().and_then(|page| clean(page.get(4..)?));
    DiskIdentity {
        serial: first(&["serial", "device/serial"], &[]).or_else(pages).or_else(|| first(&[], &["ID_SERIAL_SHORT"])),
        wwn: first(&["wwid", "device/wwid"], &["ID_WWN_WITH_EXTENSION", "ID_WWN"]),
        ..DiskIdentity::default()
    }
}

/// Reads one fact of udev's database.
fn udev_fact(place: &Path, udev: &Path, fact: &str) -> Option<String> {
    let number = text_of(&place.join("dev"))?;
    let facts = std::fs::read_to_string(udev.join(format!("b{number}"))).ok()?;
    let find = |line: &str| line.strip_prefix("E:")?.strip_prefix(fact)?.strip_prefix('=').map(str::to_owned);
    clean(facts.lines().find_map(find)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        folder
    }

    fn found(files: &[(&str, &[u8])]) -> (Option<String>, Option<String>) {
        let folder = tree(files);
        let identity = hardware(folder.path(), &folder.path().join("udev"));
        (identity.serial, identity.wwn)
    }

    #[test]
    fn each_sort_of_disk_gives_its_numbers() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(found(&[]), (None, None));
        let nvme = found(&[("device/serial", b"S4EWNX0R  \n"), ("wwid", b"eui.0025388b91b2e2c4\n")]);
        assert_eq!(nvme, (some("S4EWNX0R"), some("eui.0025388b91b2e2c4")));
        let ata = found(&[("device/vpd_pg80", b"\0\x80\0\x08  WD-1234"), ("device/wwid", b"naa.50014ee2b1\n")]);
        assert_eq!(ata, (some("WD-1234"), some("naa.50014ee2b1")));
        assert_eq!(found(&[("serial", b"web-root")]), (some("web-root"), None));
        let usb: &[u8] = b"S:disk/by-id/usb\nE:ID_SERIAL=Dock_99\nE:ID_SERIAL_SHORT=99\nE:ID_WWN=0x5001\n";
        assert_eq!(found(&[("dev", b"8:16\n"), ("udev/b8:16", usb)]), (some("99"), some("0x5001")));
        let nothing = found(&[("serial", b""), ("device/serial", b"000000\n"), ("wwid", b"naa.0000000000000000\n")]);
        assert_eq!(nothing, (None, None));
    }
}
