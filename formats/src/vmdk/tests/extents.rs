//! Disks of several extents: each in its place, whatever its type and access; and chains of them.

use super::*;
use crate::extent::DiskKind;
use crate::testing::ModelDisk;

fn sectors(byte: u8, count: usize) -> Vec<u8> {
    vec![byte; count * 512]
}

#[test]
fn every_type_and_access_keeps_its_place() {
    let extents = "RW 2 FLAT \"a-flat.vmdk\" 1\nRDONLY 3 ZERO\nNOACCESS 1 FLAT \"secret\" 0\nNOACCESS 2 ZERO\n\
                   RDONLY 1 VMFS \"b-flat.vmdk\"\nRW 1 VMFS \"b-flat.vmdk\" 1\nRW 2 FLAT \"a-flat.vmdk\" 4";
    let folder = Folder::with_descriptor(extents);
    folder.put("a-flat.vmdk", &[sectors(9, 1), sectors(1, 2), sectors(9, 1), sectors(2, 2)].concat());
    folder.put("b-flat.vmdk", &[sectors(3, 1), sectors(4, 1)].concat());
    let expected = [sectors(1, 2), sectors(0, 6), sectors(3, 1), sectors(4, 1), sectors(2, 2)].concat();
    let disk = folder.open(MAIN).unwrap();
    check_disk(&disk, 1).unwrap();
    assert!(folder.read(MAIN).unwrap() == expected);
    assert_eq!(disk.host_files().len(), 2);
    assert_eq!(disk.extent_at(1024, 1 << 20).unwrap().kind, DiskKind::Zero);
    assert!(warnings(folder.file(MAIN))[0].contains("NOACCESS"));
}

#[test]
fn sparse_and_flat_extents_stand_side_by_side() {
    let disk = ModelDisk::random(3, 5 << 20, 6, 40);
    let folder = Folder::with_descriptor("RW 1 FLAT \"f\" 0\nRW 10240 SPARSE \"disk-s001.vmdk\"\nRW 1 FLAT \"f\" 1");
    let split = image_of(&disk, "twoGbMaxExtentSparse");
    folder.put("disk-s001.vmdk", &split.file("disk-s001.vmdk").to_bytes());
    folder.put("f", &[sectors(1, 1), sectors(2, 1)].concat());
    let image = folder.open(MAIN).unwrap();
    check_disk(&image, 4).unwrap();
    let bytes = folder.read(MAIN).unwrap();
    assert_eq!((bytes[0], bytes[511], bytes[bytes.len() - 1]), (1, 1, 2));
    assert!(bytes[512..bytes.len() - 512] == crate::testing::read_all(&disk).unwrap());
}

#[test]
fn devices_are_refused_by_name() {
    for kind in ["VMFSRDM", "VMFSRAW"] {
        let folder = Folder::with_descriptor(&format!("RW 1 {kind} \"x-rdm.vmdk\""));
        let error = folder.open(MAIN).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(format!("{:?}", error).contains(kind));
    }
    for create_type in ["fullDevice", "partitionedDevice", "vmfsRawDeviceMap", "vmfsPassthroughRawDeviceMap"] {
        let folder = Folder::default();
        let text = format!("version=1\nCID=1\ncreateType=\"{create_type}\"\nRW 1 FLAT \"/dev/sda\" 0\n");
        folder.put(MAIN, text.as_bytes());
        folder.put("/dev/sda", &sectors(1, 1));
        let error = folder.open(MAIN).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{create_type}");
        assert!(error.to_string().contains(create_type));
    }
}

#[test]
fn extents_that_are_something_else_or_shorter_are_refused() {
    let folder = Folder::with_descriptor("RW 1 SPARSE \"f\"");
    folder.put("f", &sectors(1, 10));
    assert_eq!(folder.open(MAIN).err().unwrap().kind(), ErrorKind::Corrupt);
    let folder = Folder::with_descriptor("RW 10242 SPARSE \"f\"");
    folder.put("f", &image_of(&ModelDisk::new(5 << 20), "monolithicSparse").file(MAIN).to_bytes());
    assert_eq!(folder.open(MAIN).err().unwrap().kind(), ErrorKind::Corrupt);
    // What there is of a short flat file can be read.
    let folder = Folder::with_descriptor("RW 10 FLAT \"f\" 2");
    folder.put("f", &sectors(7, 5));
    let disk = folder.open(MAIN).unwrap();
    let mut bytes = sectors(0, 3);
    disk.read_at(0, &mut bytes).unwrap();
    assert!(bytes == sectors(7, 3));
    assert_eq!(disk.read_at(512, &mut bytes).unwrap_err().kind(), ErrorKind::Truncated);
    let missing = Folder::with_descriptor("RW 10 FLAT \"f\" 2");
    assert_eq!(missing.open(MAIN).err().unwrap().kind(), ErrorKind::ReferenceDenied);
}

#[test]
fn a_part_of_a_file_that_is_two_parts_of_the_disk_is_corruption() {
    let folder = Folder::default();
    folder.put("f", &sectors(7, 5));
    folder.put("s", &image_of(&ModelDisk::new(1 << 20), "monolithicSparse").file(MAIN).to_bytes());
    for lines in [
        "RW 3 FLAT \"f\" 2\nRW 2 FLAT \"f\" 1",
        "RW 1 FLAT \"f\" 4\nRW 1 FLAT \"f\" 4",
        "RW 2048 SPARSE \"s\"\nRW 2048 SPARSE \"s\"",
    ] {
        folder.put(MAIN, descriptor_text(lines).as_bytes());
        assert_eq!(folder.open(MAIN).err().unwrap().kind(), ErrorKind::Corrupt, "{lines}");
    }
    folder.put(MAIN, descriptor_text("RW 3 FLAT \"f\" 2\nRW 2 FLAT \"f\" 0").as_bytes());
    assert!(folder.read(MAIN).unwrap() == sectors(7, 5));
}

fn child_of(parent_cid: &str, hint: &str) -> Folder {
    let folder = Folder::default();
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=00000002\nparentCID={parent_cid}\ncreateType=\"vmfsSparse\"\n{hint}\n\
         RW 64 SPARSE \"child-s001.vmdk\"\n"
    );
    folder.put("child.vmdk", text.as_bytes());
    let mut disk = ModelDisk::new(32768);
    disk.write(2, 7);
    let child = image_of(&disk, "twoGbMaxExtentSparse");
    folder.put("child-s001.vmdk", &child.file("disk-s001.vmdk").to_bytes());
    folder.put(MAIN, descriptor_text("RW 64 FLAT \"base-flat.vmdk\" 0").as_bytes());
    folder.put("base-flat.vmdk", &sectors(5, 64));
    folder
}

#[test]
fn what_a_delta_lacks_its_parent_has() {
    let folder = child_of("12345678", "parentFileNameHint=\"disk.vmdk\"");
    // A grain of 64 KiB covers the whole disk here.
    let bytes = folder.read("child.vmdk").unwrap();
    assert!(bytes[..8192].iter().all(|byte| *byte == 0));
    let empty = image_of(&ModelDisk::new(32768), "twoGbMaxExtentSparse");
    folder.put("child-s001.vmdk", &empty.file("disk-s001.vmdk").to_bytes());
    assert!(folder.read("child.vmdk").unwrap() == sectors(5, 64));
    check_disk(&folder.open("child.vmdk").unwrap(), 9).unwrap();
}

#[test]
fn a_parent_that_is_somebody_else_is_refused() {
    let changed = child_of("12345679", "parentFileNameHint=\"disk.vmdk\"");
    assert_eq!(changed.open("child.vmdk").err().unwrap().kind(), ErrorKind::Corrupt);
    let unnamed = child_of("12345678", "");
    assert_eq!(unnamed.open("child.vmdk").err().unwrap().kind(), ErrorKind::Corrupt);
    let missing = child_of("12345678", "parentFileNameHint=\"elsewhere.vmdk\"");
    assert_eq!(missing.open("child.vmdk").err().unwrap().kind(), ErrorKind::ReferenceDenied);
}

fn check_all(folder: &Folder) -> Result<CheckReport> {
    let image = (FORMAT.open)(open_file(folder.file(MAIN))).unwrap();
    let mut report = CheckReport::default();
    image.check_all_files(folder, &mut report).map(|()| report)
}

#[test]
fn a_check_looks_into_every_part_of_a_split_disk() {
    let mut disk = ModelDisk::new(5 << 30);
    (0..40).for_each(|block| disk.write(block, 7));
    disk.write((3 << 30) / 4096, 9);
    let folder = image_of(&disk, "twoGbMaxExtentSparse");
    let report = check_all(&folder).unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.allocated_bytes, (3 << 16) + (1 << 16));

    // An entry of the second part that points past the end of its file: the first table's, which is the only one with any.
    let part = folder.file("disk-s002.vmdk");
    let directory = u64::from(read_u32(&part, 56)) * 512;
    let tables = (0..64).map(|number| u64::from(read_u32(&part, directory + 4 * number)) * 512);
    let entries = tables.flat_map(|table| (0..512).map(move |entry| table + 4 * entry));
    let used = entries.into_iter().find(|place| read_u32(&part, *place) != 0).unwrap();
    write_u32(&part, used, 0x00ff_ffff);
    let report = check_all(&folder).unwrap();
    assert_eq!(report.corruptions, 1, "{report:?}");
    assert!(report.findings[0].text.starts_with("\"disk-s002.vmdk\": grain "), "{report:?}");
    assert!(check_file(folder.file(MAIN)).is_clean());

    // What cannot be opened cannot be called good; what is no extent is damage.
    part.set_len_bytes(0).unwrap();
    assert!(check_all(&folder).unwrap().findings[0].text.contains("disk-s002.vmdk"));
    folder.0.lock().unwrap().remove("disk-s003.vmdk");
    assert_eq!(check_all(&folder).unwrap_err().kind(), ErrorKind::ReferenceDenied);
}

#[test]
fn a_check_finds_flat_extents_that_were_cut_or_are_in_use_twice() {
    let folder = Folder::with_descriptor("RW 10 FLAT \"f\" 2\nRW 3 ZERO\nNOACCESS 2 FLAT \"secret\" 0");
    folder.put("f", &sectors(7, 12));
    let report = check_all(&folder).unwrap();
    assert!(report.is_clean() && report.allocated_bytes == 10 * 512, "{report:?}");
    folder.put("f", &sectors(7, 11));
    assert_eq!(check_all(&folder).unwrap().corruptions, 1);
    folder.put(MAIN, descriptor_text("RW 3 FLAT \"f\" 2\nRW 2 FLAT \"f\" 1").as_bytes());
    assert_eq!(check_all(&folder).unwrap().corruptions, 1);
}
