use super::*;
use crate::ImageError;
use crate::codec;
use crate::error::ErrorKind;
use crate::extent::{DiskExtent, DiskKind, HostFileId, HostRange};
use crate::layer::Choice;
use crate::layer::Detail;
use crate::source::BlockSource;
use crate::testing::{CountingFile, check_disk, read_all};

fn data(host_offset: u64) -> DiskKind {
    DiskKind::Data(Some(HostRange { file: HostFileId(0), host_offset }))
}

fn error_of<T>(result: Result<T>) -> ImageError {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error,
    }
}

/// The whole disk's kind of failure: of opening it, or of reading it from end to end.
fn failure(image: &Handmade) -> ErrorKind {
    error_of(image.disk().and_then(|disk| read_all(&disk))).kind()
}

#[test]
fn entries_of_all_kinds() {
    let packed = codec::deflate_raw_small_window(&[0x77; 512], 6, 512).unwrap();
    let compressed = L2_COMPRESSED | (8 * CLUSTER + 100);
    let entries = [ENTRY_COPIED | (4 * CLUSTER), 5 * CLUSTER, 0, 1, (6 * CLUSTER) | 1, compressed];
    let mut image = Handmade::new(3, 7 * CLUSTER, &entries);
    image.put(8 * CLUSTER + 100, &packed);
    let disk = image.disk().unwrap();
    let bytes = read_all(&disk).unwrap();
    let clusters: Vec<_> = bytes.chunks(CLUSTER as usize).map(|cluster| (cluster[0], cluster[511])).collect();
    assert_eq!(clusters, [(4, 4), (5, 5), (0, 0), (0, 0), (0, 0), (0x77, 0x77), (0, 0)]);
    let extent = |offset, length_bytes, kind| {
        assert_eq!(disk.extent_at(offset, u64::MAX).unwrap(), DiskExtent { length_bytes, kind }, "{offset}");
    };
    extent(0, 1024, data(4 * CLUSTER));
    extent(1000, 24, data(4 * CLUSTER + 1000));
    extent(1024, 512, DiskKind::Hole);
    extent(1536, 1024, DiskKind::Zero);
    extent(2560, 512, DiskKind::Encoded);
    check_disk(&disk, 1).unwrap();
}

#[test]
fn version_2_has_no_zero_flag() {
    assert_eq!(failure(&Handmade::new(2, 1024, &[1])), ErrorKind::Corrupt);
    assert_eq!(Handmade::new(2, 1024, &[4 * CLUSTER]).disk().map(|disk| read_all(&disk).unwrap()[511]).unwrap(), 4);
}

#[test]
fn a_cluster_that_the_file_ends_in_is_filled_with_zeros_and_one_past_it_is_damage() {
    let mut image = Handmade::new(3, 1024, &[5 * CLUSTER, 4 * CLUSTER]);
    let disk = image.cut(5 * CLUSTER + 100).disk().unwrap();
    let bytes = read_all(&disk).unwrap();
    assert_eq!((bytes[99], bytes[100], bytes[511], bytes[512]), (5, 0, 0, 4));
    assert_eq!(disk.extent_at(10, 4096).unwrap(), DiskExtent { length_bytes: 502, kind: DiskKind::Encoded });
    check_disk(&disk, 2).unwrap();
    assert_eq!(failure(image.cut(5 * CLUSTER)), ErrorKind::Corrupt);
    // The disk ends before the file does: nothing is missing.
    let disk = Handmade::new(3, 512 + 512, &[4 * CLUSTER, 11 * CLUSTER]).disk().unwrap();
    assert_eq!(disk.extent_at(512, 512).unwrap().kind, data(11 * CLUSTER));
}

#[test]
fn damaged_tables_are_errors_that_say_where() {
    let with_l2 = |entry| failure(&Handmade::new(3, 1024, &[0, entry]));
    for entry in [4 * CLUSTER + 2, 1 << 60, 100 * CLUSTER, L2_COMPRESSED | (100 * CLUSTER), CLUSTER, ENTRY_OFFSET_MASK]
    {
        assert_eq!(with_l2(entry), ErrorKind::Corrupt, "{entry:#x}");
    }
    for l1_entry in [1 << 58, (1 << 63) | (3 * CLUSTER + 1), 100 * CLUSTER, CLUSTER] {
        assert_eq!(
            failure(Handmade::new(3, 1024, &[]).put_u64(CLUSTER, l1_entry)),
            ErrorKind::Corrupt,
            "{l1_entry:#x}"
        );
    }
    assert_eq!(failure(Handmade::new(3, 33000, &[]).put_u32(36, 1)), ErrorKind::Corrupt, "the L1 table is too small");
    assert_eq!(failure(Handmade::new(3, 33000, &[]).put_u32(36, u32::MAX)), ErrorKind::LimitExceeded);
    assert_eq!(failure(Handmade::new(3, 1024, &[0]).put_u64(40, 100 * CLUSTER)), ErrorKind::Corrupt);
    // Of an L2 table that the file ends in, what is there is used.
    let mut cut = Handmade::new(3, 8192, &[4 * CLUSTER]);
    let disk =
        cut.put_u64(CLUSTER, 11 * CLUSTER).put_u64(11 * CLUSTER, 4 * CLUSTER).cut(11 * CLUSTER + 8).disk().unwrap();
    let mut buffer = [0; 512];
    disk.read_at(0, &mut buffer).unwrap();
    assert_eq!(buffer[0], 4);
    assert_eq!(error_of(disk.read_at(512, &mut buffer)).kind(), ErrorKind::Truncated);

    let disk = Handmade::new(3, 1024, &[4 * CLUSTER, 100 * CLUSTER]).disk().unwrap();
    let error = error_of(disk.read_at(0, &mut [0; 1024]));
    assert_eq!(
        error.to_string(),
        "read L2 table at host offset 0x400 for guest offset 0x200: entry 1 points to 0xc800, past the end of the file (0x1800)"
    );
    // The cluster before it is as good as ever.
    assert_eq!(disk.extent_at(0, 1024).unwrap(), DiskExtent { length_bytes: 512, kind: data(4 * CLUSTER) });
}

#[test]
fn damaged_compressed_clusters_are_errors() {
    let image = Handmade::new(3, 512, &[L2_COMPRESSED | (5 * CLUSTER)]);
    assert_eq!(failure(&image), ErrorKind::Corrupt);
}

#[test]
fn headers_that_are_refused() {
    type Damage = fn(&mut Handmade) -> &mut Handmade;
    let cases: [(&str, Damage, ErrorKind); 15] = [
        ("version 1", |image| image.put_u32(4, 1), ErrorKind::NotThisFormat),
        ("version 4", |image| image.put_u32(4, 4), ErrorKind::NotThisFormat),
        ("magic", |image| image.put_u32(0, 0), ErrorKind::NotThisFormat),
        ("cluster bits 8", |image| image.put_u32(20, 8), ErrorKind::Corrupt),
        ("cluster bits 22", |image| image.put_u32(20, 22), ErrorKind::LimitExceeded),
        ("size", |image| image.put_u64(24, u64::MAX), ErrorKind::LimitExceeded),
        ("encryption", |image| image.put_u32(32, 3), ErrorKind::Unsupported),
        ("refcount order", |image| image.put_u32(96, 7), ErrorKind::Corrupt),
        ("header length", |image| image.put_u32(100, 107), ErrorKind::Corrupt),
        ("short header", |image| image.put_u32(100, 96), ErrorKind::Corrupt),
        ("compression type without its bit", |image| image.put_u32(100, 112).put(104, &[1]), ErrorKind::Corrupt),
        ("compression bit without a type", |image| image.put_u64(72, 8), ErrorKind::Corrupt),
        ("extended L2 in small clusters", |image| image.put_u64(72, 16), ErrorKind::Corrupt),
        ("backing name outside", |image| image.put_u64(8, 500).put_u32(16, 100), ErrorKind::Corrupt),
        ("cut", |image| image.cut(100), ErrorKind::Truncated),
    ];
    for (name, damage, kind) in cases {
        let mut image = Handmade::new(3, 1024, &[]);
        assert_eq!(error_of(damage(&mut image).open()).kind(), kind, "{name}");
    }
}

#[test]
fn unknown_features_are_refused_by_the_name_that_the_image_gives_them() {
    let mut image = Handmade::new(3, 1024, &[]);
    image.put_u64(72, 1 << 7 | 1 << 9);
    image.put_u32(104, EXTENSION_FEATURE_NAMES).put_u32(108, 48).put(112, &[0, 7]).put(114, b"time \x1b[31mtravel");
    let error = error_of(image.open());
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().ends_with("\"time \\u{1b}[31mtravel\" (bit 7), bit 9"), "{error}");
}

#[test]
fn encrypted_images_show_their_header_and_refuse_their_data() {
    for (method, name) in [(1, "AES"), (2, "LUKS")] {
        let mut image = Handmade::new(3, 1024, &[]);
        let image = image.put_u32(32, method).open().unwrap();
        assert!(image.info().details.contains(&("encryption", Detail::from(name))));
        let error = error_of(image.layer(None, &NoReferences));
        assert_eq!((error.kind(), error.to_string().contains(name)), (ErrorKind::Unsupported, true));
    }
}

#[test]
fn backing_names_and_formats() {
    let mut image = Handmade::new(3, 1024, &[]);
    image.put_u64(8, 400).put_u32(16, 13).put(400, b"file:base.vhd");
    assert_eq!(image.open().unwrap().info().warnings.len(), 2);
    image.put_u32(104, EXTENSION_BACKING_FORMAT).put_u32(108, 3).put(112, b"vpc");
    let opened = image.open().unwrap();
    let parent = opened.parent().unwrap();
    assert_eq!(
        (parent.names.as_slice(), parent.format.as_deref()),
        (["file:base.vhd", "base.vhd"].map(String::from).as_slice(), Some("vhd"))
    );
    assert_eq!(opened.info().warnings.len(), 1);
    assert_eq!(failure(&image), ErrorKind::ReferenceDenied);
}

#[test]
fn the_parent_shows_where_nothing_is_stored() {
    let mut image = Handmade::new(3, 2048, &[4 * CLUSTER, 0, 1, 0]);
    image
        .put_u64(8, 400)
        .put_u32(16, 4)
        .put(400, b"base")
        .put_u32(104, EXTENSION_BACKING_FORMAT)
        .put_u32(108, 3)
        .put(112, b"raw");
    let base = Arc::new(MemoryFile::from_bytes(&[0xbb; 1600]));
    let disk = Disk::open(open_file(image.file()), Some(&FORMAT), Choice::default(), Arc::new(OneFile(base))).unwrap();
    let bytes = read_all(&disk).unwrap();
    assert_eq!([0, 512, 1024, 1536, 1599, 1600].map(|at| bytes[at]), [4, 0xbb, 0, 0xbb, 0xbb, 0]);
    check_disk(&disk, 3).unwrap();
}

/// The table of one snapshot, or several: id, name, L1 offset, disk size.
fn snapshots(image: &mut Handmade, snapshots: &[(&str, &str, u64, u64)]) {
    let mut table = Vec::new();
    for (id, name, l1_offset, size_bytes) in snapshots {
        table.extend_from_slice(&l1_offset.to_be_bytes());
        table.extend_from_slice(&1u32.to_be_bytes());
        table.extend_from_slice(&(id.len() as u16).to_be_bytes());
        table.extend_from_slice(&(name.len() as u16).to_be_bytes());
        table.extend_from_slice(&[0; 20]);
        table.extend_from_slice(&16u32.to_be_bytes());
        table.extend_from_slice(&77u64.to_be_bytes());
        table.extend_from_slice(&size_bytes.to_be_bytes());
        table.extend_from_slice(id.as_bytes());
        table.extend_from_slice(name.as_bytes());
        table.resize(table.len().next_multiple_of(8), 0);
    }
    image.put_u32(60, snapshots.len() as u32).put_u64(64, 3 * CLUSTER).put(3 * CLUSTER, &table);
}

#[test]
fn snapshots_have_their_own_table_and_size() {
    let mut image = Handmade::new(3, 1024, &[4 * CLUSTER, 5 * CLUSTER]);
    snapshots(&mut image, &[("1", "before", 8 * CLUSTER, 1536), ("2", "1", 9 * CLUSTER, 512)]);
    image.put(8 * CLUSTER, &[0; 1024]).put_u64(8 * CLUSTER, 10 * CLUSTER).put(10 * CLUSTER, &[0; 512]);
    image.put_u64(10 * CLUSTER + 16, 7 * CLUSTER);
    let opened = image.open().unwrap();
    let infos: Vec<_> =
        opened.snapshots().iter().map(|one| (one.name.as_str(), one.size_bytes, one.machine_state_bytes)).collect();
    assert_eq!(infos, [("before", 1536, 77), ("1", 512, 77)]);
    let read = |snapshot| {
        let disk = Disk::open(
            open_file(image.file()),
            None,
            Choice { snapshot: Some(snapshot), disk: None },
            Arc::new(NoReferences),
        )
        .unwrap();
        check_disk(&disk, 4).unwrap();
        read_all(&disk).unwrap()
    };
    let before = read("before");
    assert_eq!((before.len(), before[0], before[1024]), (1536, 0, 7));
    assert_eq!(read("1"), before, "an id goes before a name");
    assert_eq!(read("2"), vec![0; 512]);
    assert_eq!(error_of(opened.layer(Some("none"), &NoReferences)).kind(), ErrorKind::NotFound);
}

#[test]
fn a_damaged_snapshot_table_leaves_the_active_disk_readable() {
    let mut image = Handmade::new(3, 1024, &[4 * CLUSTER]);
    image.put_u32(60, 3).put_u64(64, 100 * CLUSTER);
    let opened = image.open().unwrap();
    assert!(opened.info().warnings.iter().any(|warning| warning.contains("snapshots cannot be read")));
    assert_eq!(error_of(opened.layer(Some("1"), &NoReferences)).kind(), ErrorKind::Truncated);
    assert_eq!(read_all(&image.disk().unwrap()).unwrap()[0], 4);
}

#[test]
fn an_external_data_file_holds_clusters_at_their_guest_offset() {
    let entries = [ENTRY_COPIED, 0, ENTRY_COPIED | (2 * CLUSTER), 1];
    let mut image = Handmade::new(3, 4 * CLUSTER, &entries);
    image.put_u64(72, INCOMPATIBLE_DATA_FILE);
    assert_eq!(failure(&image), ErrorKind::Unsupported, "it is not named");
    image.put_u32(104, EXTENSION_DATA_FILE).put_u32(108, 4).put(112, b"data");
    assert_eq!(failure(&image), ErrorKind::ReferenceDenied);
    let data_file = Arc::new(MemoryFile::from_bytes(&[0xdd; 1300]));
    let open = |image: &Handmade| {
        Disk::open(open_file(image.file()), Some(&FORMAT), Choice::default(), Arc::new(OneFile(data_file.clone())))
    };
    let disk = open(&image).unwrap();
    let bytes = read_all(&disk).unwrap();
    assert_eq!([0, 512, 1024, 1299, 1300, 1536].map(|at| bytes[at]), [0xdd, 0, 0xdd, 0xdd, 0, 0]);
    let place = HostRange { file: HostFileId(1), host_offset: 0 };
    assert_eq!(disk.extent_at(0, 512).unwrap().kind, DiskKind::Data(Some(place)));
    check_disk(&disk, 5).unwrap();
    image.put_u64(2 * CLUSTER, ENTRY_COPIED | (2 * CLUSTER));
    assert_eq!(error_of(read_all(&open(&image).unwrap())).kind(), ErrorKind::Corrupt);
}

#[test]
fn an_empty_disk_of_any_size_is_one_lookup() {
    let file = Arc::new(CountingFile::new(nearly_empty(16 << 40, None).duplicate()));
    let disk = Disk::open(open_file(file.clone()), None, Choice::default(), Arc::new(NoReferences)).unwrap();
    let reads = file.reads();
    assert!(reads <= 4, "opening takes {reads} reads");
    let extent = disk.extent_at(0, u64::MAX).unwrap();
    assert_eq!(extent, DiskExtent { length_bytes: 16 << 40, kind: DiskKind::Hole });
    assert_eq!(file.read_bytes() / (1 << 20), 0);
}
