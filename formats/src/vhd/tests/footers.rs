//! Which footer counts, what it says about the size, and when a file is a fixed disk at all.

use super::*;

/// A fixed image of a small disk.
fn fixed(size_bytes: u64) -> (ModelDisk, Arc<MemoryFile>) {
    let disk = ModelDisk::random(5, size_bytes, 4, 20);
    let file = image_of(&disk, "fixed", &[]);
    (disk, file)
}

#[test]
fn a_fixed_disk_is_found_by_a_footer_that_fits_and_says_so() {
    let (disk, file) = fixed(MIB);
    assert_eq!(probed(&file), "vhd");
    let found = warnings(file.clone());
    assert!(found.len() == 1 && found[0].contains("-f raw"), "{found:?}");
    // Something in front of it, or a damaged footer: the file is not known to be one.
    for (damage, kind) in
        [(footer_offset(&file) + 30, ErrorKind::Corrupt), (footer_offset(&file), ErrorKind::NotThisFormat)]
    {
        let damaged = Arc::new(file.duplicate());
        flip(&damaged, damage);
        assert_eq!(probed(&damaged), "raw");
        assert_eq!(open_error(damaged).kind(), kind);
    }
    let longer = Arc::new(MemoryFile::new());
    longer.write_all_at(512, &file.to_bytes()).unwrap();
    assert_eq!(probed(&longer), "raw");
    assert!(warnings(longer).iter().any(|text| text.contains("the disk has 1048576 only")));
    let shorter = Arc::new(MemoryFile::from_bytes(&file.to_bytes()[512..]));
    assert_eq!((probed(&shorter), open_error(shorter.clone()).kind()), ("raw", ErrorKind::Truncated));
    assert_same(file, &disk, 1);
}

#[test]
fn footers_of_511_bytes_are_found() {
    let (disk, file) = fixed(MIB);
    let bytes = file.to_bytes();
    let short = Arc::new(MemoryFile::from_bytes(&bytes[..bytes.len() - 1]));
    assert_eq!(probed(&short), "vhd");
    assert_same(short, &disk, 1);
    let (disk, file) = example();
    file.set_len_bytes(file.len_bytes().unwrap() - 1).unwrap();
    assert_same(file.clone(), &disk, 1);
    assert_eq!(warnings(file.clone()), Vec::<String>::new());
    assert!(check_file(file).unwrap().is_clean());
}

#[test]
fn the_footer_and_its_copy_stand_in_for_each_other() {
    let (disk, file) = example();
    let end = footer_offset(&file);
    for (damaged, words, finding) in [
        (0, "copy of the footer at the beginning is damaged", 0),
        (end, "the copy at the beginning is used", end + 512),
    ] {
        for byte in [0, 17, 50, 70, 300] {
            let copy = Arc::new(file.duplicate());
            flip(&copy, damaged + byte);
            assert_eq!(probed(&copy), "vhd");
            let found = warnings(copy.clone());
            assert!(found.len() == 1 && found[0].contains(words), "{found:?}");
            assert_same(copy.clone(), &disk, 2);
            let report = check_file(copy).unwrap();
            assert_eq!((report.corruptions, report.findings[0].host_offset), (1, Some(finding)), "{report:?}");
        }
    }
    flip(&file, 20);
    flip(&file, end + 20);
    let error = open_error(file);
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("checksums are wrong"), "{error}");
}

#[test]
fn a_copy_that_says_something_else_is_believed_in_harmless_things_only() {
    let (disk, file) = example();
    change_footer_at(&file, 0, &|footer| footer.saved_state = 1);
    assert_eq!(warnings(file.clone()).len(), 1);
    assert_eq!(check_file(file.clone()).unwrap().corruptions, 1);
    assert_same(file.clone(), &disk, 1);
    change_footer_at(&file, 0, &|footer| footer.current_bytes.set(MIB));
    assert_eq!(open_error(file).kind(), ErrorKind::Corrupt);
}

/// The guest of a fixed disk writes a footer into its first sector that names a parent.
#[test]
fn what_the_guest_of_a_fixed_disk_writes_is_not_believed() {
    let (_, file) = fixed(MIB);
    let mut footer = footer_at(&file, footer_offset(&file));
    file.write_all_at(0, footer.as_bytes()).unwrap();
    assert_eq!(open_disk(file.clone(), Some(&FORMAT)).unwrap().geometry().size_bytes, MIB);
    footer.disk_type.set(DIFFERENCING);
    footer.header_offset.set(512);
    footer.checksum.set(footer.right_checksum());
    file.write_all_at(0, footer.as_bytes()).unwrap();
    let error = open_error(file);
    assert!(error.to_string().contains("the one at the end says type 2"), "{error}");
}

#[test]
fn the_creator_says_what_the_size_is() {
    let geometry_bytes = 7 * 4 * 17 * 512;
    for (creator, by_geometry) in [
        (b"vpc ", true),
        (b"qemu", true),
        (b"qem2", false),
        (b"win ", false),
        (b"d2v ", false),
        (b"tap\0", false),
        (b"vbox", false),
    ] {
        let file = small_blocks(&ModelDisk::new(MIB));
        let size_of = |cylinders: u16, heads: u8, sectors: u8| {
            change_footers(&file, &|footer| {
                footer.creator = *creator;
                footer.cylinders.set(cylinders);
                (footer.heads, footer.sectors_per_track) = (heads, sectors);
            });
            let image = (FORMAT.open)(open_file(file.clone())).unwrap();
            (image.info().geometry.size_bytes, image.info().warnings.len())
        };
        let expected = if by_geometry { (geometry_bytes, 1) } else { (MIB, 0) };
        assert_eq!(size_of(7, 4, 17), expected, "{}", creator.escape_ascii());
        assert_eq!(size_of(65535, 16, 255), (MIB, 0), "the greatest geometry");
        assert_eq!(size_of(0, 4, 17), (MIB, 0), "no geometry");
    }
}

#[test]
fn impossible_footers_are_refused() {
    let refused = |change: &dyn Fn(&mut Footer)| {
        let (_, file) = example();
        change_footers(&file, change);
        open_error(file).kind()
    };
    assert_eq!(refused(&|footer| footer.disk_type.set(6)), ErrorKind::Unsupported);
    assert_eq!(refused(&|footer| footer.version.set(0x0002_0000)), ErrorKind::Unsupported);
    assert_eq!(refused(&|footer| footer.current_bytes.set(MIB + 1)), ErrorKind::Corrupt);
    assert_eq!(refused(&|footer| footer.current_bytes.set(MAX_DISK_BYTES + 512)), ErrorKind::LimitExceeded);
    assert_eq!(refused(&|footer| footer.current_bytes.set(!511)), ErrorKind::LimitExceeded);
    for header_offset in [0, 511, 1 << 40, u64::MAX - 1023, NO_OFFSET] {
        assert_eq!(
            refused(&|footer| footer.header_offset.set(header_offset)),
            ErrorKind::Corrupt,
            "{header_offset:#x}"
        );
    }
    // A dynamic disk turned into a fixed one: its copy contradicts it.
    let (_, file) = example();
    change_footer_at(&file, footer_offset(&file), &|footer| footer.disk_type.set(FIXED));
    assert_eq!(open_error(file).kind(), ErrorKind::Corrupt);
}

#[test]
fn small_files_of_anything_are_errors() {
    for length in [0, 1, 8, 510, 511, 512, 513, 1022, 1023, 1024, 1536] {
        let empty = Arc::new(MemoryFile::with_len(length));
        assert_eq!(open_error(empty).kind(), ErrorKind::NotThisFormat, "{length}");
        let mut named = FOOTER_COOKIE.repeat(200);
        named.truncate(length as usize);
        assert!(open_disk(Arc::new(MemoryFile::from_bytes(&named)), Some(&FORMAT)).is_err());
    }
}
