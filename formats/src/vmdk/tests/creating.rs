//! What is created: every variant gives back the disk, in the files and with the text that VMware's programs expect.

use super::*;
use crate::sink::{Compression, IdentitySeed};
use crate::testing::{CrashFile, ModelDisk, create_image};

const VARIANTS: [&str; 4] = ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "streamOptimized"];

#[test]
fn every_variant_gives_back_the_disk_and_is_clean() {
    for (seed, size) in [0, 512, 65536, (3 << 20) + 512 * 5, (70 << 20) + 4096].into_iter().enumerate() {
        let disk = ModelDisk::random(seed as u64, size, 9, 300);
        for variant in VARIANTS {
            let folder = image_of(&disk, variant);
            assert_same(&folder.open(MAIN).unwrap(), &disk, seed as u64);
            for name in folder.names().iter().filter(|name| !name.ends_with("-flat.vmdk")) {
                let report = check_file(folder.file(name));
                assert!(report.is_clean(), "{variant} {name}: {:?}", report.findings);
            }
            assert_eq!(warnings(folder.file(MAIN)), Vec::<String>::new(), "{variant} of {size} bytes");
        }
    }
}

#[test]
fn split_disks_go_on_in_the_next_file() {
    const PART: u64 = 2047 << 20;
    let mut disk = ModelDisk::new(2 * PART + (5 << 20) + 512);
    for place in [0, PART / 4096 - 1, PART / 4096, 2 * PART / 4096 - 1, 2 * PART / 4096, 2 * PART / 4096 + 1280] {
        disk.write(place, place | 1);
    }
    let folder = image_of(&disk, "twoGbMaxExtentSparse");
    assert_eq!(folder.names(), ["disk-s001.vmdk", "disk-s002.vmdk", "disk-s003.vmdk", "disk.vmdk"]);
    assert_same(&folder.open(MAIN).unwrap(), &disk, 3);
    let text = String::from_utf8(folder.file(MAIN).to_bytes()).unwrap();
    assert!(text.contains("RW 4192256 SPARSE \"disk-s001.vmdk\"\nRW 4192256 SPARSE \"disk-s002.vmdk\"\n"), "{text}");
    assert!(text.contains("RW 10241 SPARSE \"disk-s003.vmdk\"\n"), "{text}");

    // Each part can be read for itself, with a warning.
    let part = folder.open("disk-s003.vmdk").unwrap();
    assert_eq!(part.geometry().size_bytes, (5 << 20) + 512);
    assert!(warnings(folder.file("disk-s003.vmdk"))[0].contains("without its descriptor"));
}

#[test]
fn descriptors_say_what_was_asked_for() {
    let disk = ModelDisk::new(8 << 30);
    let folder = Folder::default();
    let own = [("adapter_type", "IDE"), ("hwversion", "13")];
    store_disk_in(&FORMAT, &options(&disk, "monolithicFlat", &own), &disk, None, &folder).unwrap();
    let text = String::from_utf8(folder.file(MAIN).to_bytes()).unwrap();
    for line in [
        "createType=\"monolithicFlat\"",
        "RW 16777216 FLAT \"disk-flat.vmdk\" 0",
        "ddb.adapterType = \"ide\"",
        "ddb.virtualHWVersion = \"13\"",
        "ddb.geometry.cylinders = \"16383\"",
        "parentCID=ffffffff",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    for (name, value) in [("adapter_type", "nvme"), ("hwversion", "x"), ("hwversion", "0")] {
        let refused = options(&disk, "monolithicSparse", &[(name, value)]);
        let error = FORMAT.begin(&Folder::default(), &refused).err().expect("it is refused");
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{name}={value}");
    }
}

#[test]
fn content_ids_come_from_the_seed() {
    let disk = ModelDisk::new(1 << 20);
    let id = |seed| {
        let folder = Folder::default();
        let writer = FORMAT.begin(&folder, &options(&disk, "monolithicSparse", &[])).unwrap();
        writer.finish(&IdentitySeed([seed; 32])).unwrap();
        (FORMAT.open)(open_file(folder.file(MAIN))).unwrap().info().identity.clone().unwrap()
    };
    assert_eq!(id(1), id(1));
    assert_ne!(id(1), id(2));
}

#[test]
fn compression_alone_makes_a_stream_and_goes_with_nothing_else() {
    let disk = ModelDisk::random(1, 1 << 20, 4, 60);
    let mut wanted = CreateOptions::new(disk.geometry());
    wanted.compression = Compression::Zlib(9);
    let image = (FORMAT.open)(open_file(create_image(&FORMAT, &wanted, &disk, None).unwrap())).unwrap();
    assert!(image.info().details.contains(&("type", "streamOptimized".into())));
    wanted.subformat = Some("monolithicSparse".to_owned());
    assert_eq!(create_image(&FORMAT, &wanted, &disk, None).err().unwrap().kind(), ErrorKind::InvalidOption);
}

#[test]
fn odd_sizes_and_old_data_are_refused() {
    let mut geometry = ModelDisk::new(512).geometry();
    geometry.size_bytes = 1000;
    let error = FORMAT.begin(&Folder::default(), &CreateOptions::new(geometry)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    let mut over = CreateOptions::new(ModelDisk::new(512).geometry());
    over.target_holds_old_data = true;
    assert_eq!(FORMAT.begin(&Folder::default(), &over).err().unwrap().kind(), ErrorKind::Unsupported);
    let huge = ModelDisk::new(1 << 60);
    let error = FORMAT.begin(&Folder::default(), &CreateOptions::new(huge.geometry())).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
}

/// Where the data is in one file and the descriptor in another, the descriptor comes last.
#[test]
fn a_power_cut_leaves_no_descriptor_without_its_data() {
    struct Crashing {
        main: Arc<CrashFile>,
        data: Arc<CrashFile>,
    }
    impl TargetFiles for Crashing {
        fn main(&self) -> Arc<dyn HostFileMut> {
            self.main.clone()
        }
        fn main_name(&self) -> &str {
            MAIN
        }
        fn create(&self, _: &str) -> Result<Arc<dyn HostFileMut>> {
            Ok(self.data.clone())
        }
    }
    let disk = ModelDisk::random(4, 2 << 20, 5, 40);
    let files = Crashing { main: Arc::new(CrashFile::new()), data: Arc::new(CrashFile::new()) };
    store_disk_in(&FORMAT, &options(&disk, "twoGbMaxExtentSparse", &[]), &disk, None, &files).unwrap();
    assert_eq!((files.data.syncs(), files.main.syncs()), (1, 1));
    for seed in 0..20 {
        // Before the descriptor was synced, the data was.
        let folder = Folder::default();
        folder.put(MAIN, &files.main.after_power_cut(0, seed).to_bytes());
        folder.put("disk-s001.vmdk", &files.data.after_power_cut(1, seed).to_bytes());
        if let Ok(image) = folder.open(MAIN) {
            assert_eq!(digest(&image).unwrap(), digest(&disk).unwrap(), "seed {seed}");
        }
    }
}

#[test]
fn measure_is_no_less_than_what_it_becomes() {
    let disk = ModelDisk::random(4, 60 << 20, 8, 400);
    for variant in ["monolithicSparse", "streamOptimized"] {
        let wanted = options(&disk, variant, &[]);
        let touched = |unit: u64| Ok((disk.data_bytes() * 16).next_multiple_of(unit));
        let measure = FORMAT.measure(&wanted, &touched).unwrap();
        let len_bytes = image_of(&disk, variant).file(MAIN).len_bytes().unwrap();
        assert!(len_bytes <= measure.required_bytes, "{variant}: {len_bytes} of {measure:?}");
        assert!(measure.required_bytes <= measure.fully_allocated_bytes);
    }
}
