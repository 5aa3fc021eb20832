//! Packages made by hand for each clause, packages made here, and hostile ones.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use super::*;
use crate::check::CheckReport;
use crate::error::{ErrorKind, ImageError, Result};
use crate::host_file::{FileIdentity, OpenFile};
use crate::layer::Choice;
use crate::reference_gate::{FileReference, NoReferences, ReferenceGate, Referenced};
use crate::registry::OVA;
use crate::sink::{CreateOptions, SingleFile};
use crate::tar::{Flavour, file_header, member_at};
use crate::testing::{
    MemoryFile, ModelDisk, Random, check_disk, create_image, digest, exercise, open_disk, open_file, read_all,
};
use crate::{BlockSource, Disk, HostFile, Image};

const RAW: &str = "http://en.wikipedia.org/wiki/Byte";
const VMDK: &str = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";

/// A descriptor of disks, each of them with the attributes of its file and its own.
fn descriptor(disks: &[(&str, &str)]) -> String {
    let files: String =
        disks.iter().enumerate().map(|(i, (file, _))| format!("<File ovf:id=\"f{i}\" {file}/>")).collect();
    let disks = disks.iter().enumerate();
    let disks: String =
        disks.map(|(i, (_, disk))| format!("<Disk ovf:diskId=\"d{i}\" ovf:fileRef=\"f{i}\" {disk}/>")).collect();
    format!(
        "<?xml version=\"1.0\"?><Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\"><References>{files}</References>\
         <DiskSection><Info/>{disks}</DiskSection></Envelope>"
    )
}

fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in members {
        bytes.extend(file_header(Flavour::Ustar, name, content.len() as u64).unwrap());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// An archive of a descriptor and files.
fn package(disks: &[(&str, &str)], files: &[(&str, &[u8])]) -> Arc<MemoryFile> {
    let descriptor = descriptor(disks);
    let members: Vec<_> = std::iter::once(("m.ovf", descriptor.as_bytes())).chain(files.iter().copied()).collect();
    Arc::new(MemoryFile::from_bytes(&archive(&members)))
}

fn open(file: Arc<MemoryFile>) -> Box<dyn Image> {
    (OVA.open)(open_file(file)).unwrap()
}

/// Why the only disk of a package cannot be read.
fn refusal(disk: (&str, &str), files: &[(&str, &[u8])]) -> (ErrorKind, String) {
    let error = open(package(&[disk], files)).open_disk(0, &NoReferences).err().expect("it is refused");
    let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
    (error.kind(), format!("{error}{cause}"))
}

fn format_is(uri: &str) -> String {
    format!("ovf:format=\"{uri}\"")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn content() -> Vec<u8> {
    read_all(&ModelDisk::random(4, 1 << 20, 6, 30)).unwrap()
}

#[test]
fn disks_are_read_in_place_compressed_and_in_chunks() {
    let (bytes, packed) = (content(), gzip(&content()));
    let third = packed.len() / 3 + 1;
    let chunk = |index: usize| &packed[(index * third).min(packed.len())..((index + 1) * third).min(packed.len())];
    let file = package(
        &[
            ("ovf:href=\"plain%20disk.raw\"", &format_is(RAW)),
            ("ovf:href=\"packed.gz\" ovf:compression=\"gzip\"", &format_is(RAW)),
            (&format!("ovf:href=\"cut\" ovf:chunkSize=\"{third}\" ovf:compression=\"gzip\""), &format_is(RAW)),
            (
                &format!(
                    "ovf:href=\"cut\" ovf:chunkSize=\"{third}\" ovf:compression=\"gzip\" ovf:size=\"{}\"",
                    packed.len()
                ),
                &format_is(RAW),
            ),
        ],
        &[
            ("./plain disk.raw", &bytes),
            ("packed.gz", &packed),
            ("cut.000000000", chunk(0)),
            ("cut.000000001", chunk(1)),
            ("cut.000000002", chunk(2)),
        ],
    );
    for disk in 1..=4 {
        let disk = disk.to_string();
        let choice = Choice { disk: Some(&disk), snapshot: None };
        let disk = Disk::open(open_file(file.clone()), None, choice, Arc::new(NoReferences)).unwrap();
        assert!(read_all(&disk).unwrap() == bytes);
        check_disk(&disk, 1).unwrap();
    }
    assert!(open_disk(file, None).err().unwrap().to_string().contains("several disks"));
}

#[test]
fn disks_are_chosen_by_name_or_number_and_empty_ones_are_left_out() {
    let mut text = descriptor(&[("ovf:href=\"a.raw\"", &format_is(RAW)), ("ovf:href=\"b.raw\"", &format_is(RAW))]);
    text = text.replace("<Info/>", "<Disk ovf:diskId=\"blank\" ovf:capacity=\"5\"/>");
    let file = Arc::new(MemoryFile::from_bytes(&archive(&[
        ("m.ovf", text.as_bytes()),
        ("a.raw", &[1; 512]),
        ("b.raw", &[2; 512]),
    ])));
    let image = open(file.clone());
    assert_eq!(image.disks().iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(), ["a.raw", "b.raw"]);
    assert!(image.info().warnings[0].contains("\"blank\" is empty"), "{:?}", image.info().warnings);
    for (name, value) in [("a.raw", 1), ("2", 2)] {
        let choice = Choice { disk: Some(name), snapshot: None };
        let disk = Disk::open(open_file(file.clone()), None, choice, Arc::new(NoReferences)).unwrap();
        assert_eq!(read_all(&disk).unwrap(), [value; 512]);
    }
    assert!(image.open_disk(2, &NoReferences).is_err());
}

/// A guest could write a header of any format into its disk, with a parent of its choice.
#[test]
fn a_disk_is_never_probed_into_being_raw_nor_raw_into_anything_else() {
    let disk = ModelDisk::random(2, 1 << 20, 5, 20);
    let qcow2 =
        create_image(&crate::qcow2::FORMAT, &CreateOptions::new(disk.geometry()), &disk, None).unwrap().to_bytes();
    let href = "ovf:href=\"d\"";
    let as_raw = open_disk(package(&[(href, &format_is(RAW))], &[("d", &qcow2)]), None).unwrap();
    assert_eq!(as_raw.geometry().size_bytes, qcow2.len() as u64);
    for uri in ["", "ovf:format=\"urn:unheard-of\"", &format_is("http://www.gnome.org/~markmc/qcow-image-format.html")]
    {
        let found = open_disk(package(&[(href, uri)], &[("d", &qcow2)]), None).unwrap();
        assert_eq!(digest(&found).unwrap(), digest(&disk).unwrap());
    }
    assert_eq!(refusal((href, ""), &[("d", &[5; 4096])]).0, ErrorKind::Unsupported);
    assert_eq!(refusal((href, &format_is(VMDK)), &[("d", &qcow2)]).0, ErrorKind::Corrupt);
    let inner = package(&[(href, &format_is(RAW))], &[("d", &[5; 512])]).to_bytes();
    assert!(refusal((href, ""), &[("d", &inner)]).1.contains("package of disks itself"));
}

#[test]
fn names_lead_to_members_of_the_archive_only() {
    for href in ["../d", "/etc/passwd", "file:///etc/passwd", "http://example.org/d", "d/../d", "%2e%2e/d", "missing"] {
        let (kind, text) = refusal((&format!("ovf:href=\"{href}\""), &format_is(RAW)), &[("d", &[5; 512])]);
        assert_eq!(kind, ErrorKind::Corrupt, "{text}");
        assert!(text.contains("is not in the archive"), "{text}");
    }
    let twice = refusal(("ovf:href=\"d\"", &format_is(RAW)), &[("d", &[5; 512]), ("./d", &[6; 512])]);
    assert_eq!(twice.0, ErrorKind::Corrupt);
    for kind in [b'1', b'2', b'3', b'4', b'5', b'6'] {
        let mut bytes = package(&[("ovf:href=\"d\"", &format_is(RAW))], &[("d", &[])]).to_bytes();
        let header = member_at(&MemoryFile::from_bytes(&bytes), 0, None).unwrap().unwrap().end().unwrap() as usize;
        bytes[header + 156] = kind;
        let sum: u32 = (0..512).map(|i| if (148..156).contains(&i) { 32 } else { u32::from(bytes[header + i]) }).sum();
        bytes[header + 148..header + 155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let found = open(Arc::new(MemoryFile::from_bytes(&bytes))).open_disk(0, &NoReferences).err().unwrap();
        assert_eq!(found.kind(), ErrorKind::Corrupt, "{found}");
    }
}

#[test]
fn what_does_not_fit_the_descriptor_is_refused_or_said() {
    let raw = format_is(RAW);
    let href = |rest: &str| format!("ovf:href=\"d\" {rest}");
    assert_eq!(refusal((&href("ovf:size=\"513\""), &raw), &[("d", &[5; 512])]).0, ErrorKind::Truncated);
    assert_eq!(refusal((&href("ovf:compression=\"xz\""), &raw), &[("d", &[5; 512])]).0, ErrorKind::Unsupported);
    assert_eq!(refusal((&href("ovf:compression=\"gzip\""), &raw), &[("d", &[5; 512])]).0, ErrorKind::Corrupt);
    assert_eq!(
        refusal((&href(""), &format!("{raw} ovf:parentRef=\"x\"")), &[("d", &[5; 512])]).0,
        ErrorKind::Unsupported
    );
    let chunks = |attributes: &str, sizes: &[usize]| {
        let names: Vec<_> = (0..sizes.len()).map(|number| format!("d.{number:09}")).collect();
        let zeros = [5; 2048];
        let files: Vec<_> = names.iter().zip(sizes).map(|(name, size)| (name.as_str(), &zeros[..*size])).collect();
        refusal((&href(attributes), &raw), &files).0
    };
    assert_eq!(chunks("ovf:chunkSize=\"0\"", &[512]), ErrorKind::Corrupt);
    assert_eq!(chunks("ovf:chunkSize=\"512\"", &[]), ErrorKind::Corrupt);
    assert_eq!(chunks("ovf:chunkSize=\"512\"", &[512, 100, 512]), ErrorKind::Corrupt);
    assert_eq!(chunks("ovf:chunkSize=\"512\"", &[1024]), ErrorKind::Corrupt);
    assert_eq!(chunks("ovf:chunkSize=\"512\" ovf:size=\"1536\"", &[512, 512]), ErrorKind::Corrupt);
    assert_eq!(chunks("ovf:chunkSize=\"512\" ovf:size=\"1024\"", &[512, 100]), ErrorKind::Truncated);

    let said = format!("{raw} ovf:capacity=\"1\" ovf:capacityAllocationUnits=\"byte * 2^20\"");
    let image = open(package(&[(&href("ovf:size=\"100\""), &said)], &[("d", &[5; 512])]));
    let disk = image.open_disk(0, &NoReferences).unwrap();
    let warnings = disk.info().warnings.join("; ");
    assert!(
        warnings.contains("has 1048576 bytes, it has 512") && warnings.contains("has 100 bytes, it has 512"),
        "{warnings}"
    );
}

#[test]
fn manifests_are_checked() {
    let text = descriptor(&[("ovf:href=\"d\"", &format_is(RAW))]);
    let (ovf, disk) = (text.as_bytes(), &[5; 512][..]);
    let line = |name: &str, bytes: &[u8]| format!("SHA256({name})= {}\n", manifest::Algorithm::Sha256.of_bytes(bytes));
    let with = |manifest: String, name: &str| {
        Arc::new(MemoryFile::from_bytes(&archive(&[("m.ovf", ovf), (name, manifest.as_bytes()), ("d", disk)])))
    };
    let findings = |file: &Arc<MemoryFile>| {
        let mut report = CheckReport::default();
        open(file.clone()).check(&mut report).unwrap();
        report.findings.into_iter().map(|finding| finding.text).collect::<Vec<_>>()
    };
    let good = with(line("m.ovf", ovf) + &line("d", disk), "m.mf");
    assert!(findings(&good).is_empty());
    assert!(open(good.clone()).info().details.iter().any(|(name, _)| *name == "manifest"));
    open_disk(good, None).unwrap();

    let wrong_disk = with(line("m.ovf", ovf) + &line("d", b"other"), "m.mf");
    open_disk(wrong_disk.clone(), None).unwrap();
    assert!(matches!(findings(&wrong_disk).as_slice(), [one] if one.contains("digest of \"d\"")));

    let wrong_descriptor = with(line("m.ovf", b"other") + &line("gone", disk), "other.mf");
    assert_eq!(open_disk(wrong_descriptor.clone(), None).err().unwrap().kind(), ErrorKind::Corrupt);
    assert_eq!(open(wrong_descriptor.clone()).info().warnings.len(), 1);
    assert_eq!(findings(&wrong_descriptor).len(), 3);

    let no_manifest = (OVA.open)(open_file(with("what is this".to_owned(), "m.mf")));
    assert_eq!(no_manifest.err().unwrap().kind(), ErrorKind::Corrupt);
}

/// Gives files by name.
struct Folder(BTreeMap<String, Vec<u8>>);

impl ReferenceGate for Folder {
    fn open(&self, reference: &FileReference) -> Result<Referenced> {
        let found = reference.names.iter().find_map(|name| self.0.get(name));
        let bytes = found.ok_or_else(|| ImageError::reference_denied("open", "it is not there"))?;
        let identity = Some(FileIdentity { device: 1, inode: bytes.len() as u64 });
        let file = OpenFile { identity, ..open_file(Arc::new(MemoryFile::from_bytes(bytes))) };
        Ok(Referenced { file, gate: Arc::new(NoReferences) })
    }
}

#[test]
fn a_descriptor_finds_its_files_through_the_gate() {
    let text = descriptor(&[("ovf:href=\"d%201\"", &format_is(RAW))]);
    let file = Arc::new(MemoryFile::from_bytes(text.as_bytes()));
    assert_eq!(crate::registry::probe(file.as_ref()).unwrap().name, "ova");
    let read = |folder: Folder| Disk::open(open_file(file.clone()), Some(&OVA), Choice::default(), Arc::new(folder));
    let disk = ("d 1".to_owned(), vec![5; 512]);
    assert_eq!(read_all(&read(Folder(BTreeMap::from([disk.clone()]))).unwrap()).unwrap(), [5; 512]);
    // Whoever asks which files must not be written over finds the descriptor and the disk.
    let files = read(Folder(BTreeMap::from([disk.clone()]))).unwrap().host_files().to_vec();
    assert!(files.iter().any(|file| file.name == "test" && file.identity.is_none()));
    assert!(files.iter().any(|file| file.identity == Some(FileIdentity { device: 1, inode: 512 })));
    assert_eq!(read(Folder(BTreeMap::new())).err().unwrap().kind(), ErrorKind::ReferenceDenied);
    // The test's file has the name "test": that is what the manifest is called after, and what it calls the descriptor.
    let manifest = |bytes: &[u8]| format!("SHA1(test)= {}", manifest::Algorithm::Sha1.of_bytes(bytes)).into_bytes();
    let good = Folder(BTreeMap::from([disk.clone(), ("test.mf".to_owned(), manifest(text.as_bytes()))]));
    assert!(read(good).is_ok());
    let changed = Folder(BTreeMap::from([disk, ("test.mf".to_owned(), manifest(b"other"))]));
    assert_eq!(read(changed).err().unwrap().kind(), ErrorKind::Corrupt);
}

fn create(options: &[(&str, &str)]) -> Result<Arc<MemoryFile>> {
    let disk = ModelDisk::random(6, 3 << 20, 6, 60);
    let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    create_image(&OVA, &CreateOptions { options, ..CreateOptions::new(disk.geometry()) }, &disk, None)
}

#[test]
fn new_packages_are_whole_and_say_what_was_asked_for() {
    let asked = [
        ("controller", "pvscsi"),
        ("firmware", "efi"),
        ("os", "debian64"),
        ("cpus", "3"),
        ("memory", "1536M"),
        ("name", "a <b> & \"c\""),
    ];
    let file = create(&asked).unwrap();
    let (mut names, mut position) = (Vec::new(), 0);
    while let Some(member) = member_at(file.as_ref(), position, Some(file.len_bytes().unwrap())).unwrap() {
        position = member.end().unwrap();
        names.push(member.name);
    }
    assert_eq!(names, ["disk.ovf", "disk-disk1.vmdk", "disk.mf"]);
    assert!(file.len_bytes().unwrap().is_multiple_of(10240));
    let image = open(file.clone());
    assert_eq!(image.disks()[0].size_bytes, Some(3 << 20));
    assert_eq!(image.disks()[0].format, Some("vmdk"));
    assert!(image.info().warnings.is_empty(), "{:?}", image.info().warnings);
    assert!(image.info().details.contains(&("machine", "a <b> & \"c\"".into())));
    let mut report = CheckReport::default();
    image.check(&mut report).unwrap();
    assert!(report.is_clean(), "{report:?}");
    let text = String::from_utf8_lossy(&file.to_bytes()[512..8192]).into_owned();
    for part in ["VirtualSCSI", "vmw:value=\"efi\"", "ovf:id=\"96\"", ">3</rasd:VirtualQuantity>", ">1536</rasd:Virt"] {
        assert!(text.contains(part), "{part}");
    }
    let plain = create(&[]).unwrap();
    assert!(plain.to_bytes() == create(&[]).unwrap().to_bytes());
    assert_eq!(read_all(&open_disk(plain, None).unwrap()).unwrap(), read_all(&open_disk(file, None).unwrap()).unwrap());
}

#[test]
fn options_without_sense_are_refused() {
    for (name, value) in [
        ("controller", "nvme"),
        ("firmware", "uefi"),
        ("os", "dos"),
        ("cpus", "0"),
        ("cpus", "many"),
        ("memory", "1k"),
        ("memory", "x"),
        ("name", ""),
        ("name", "a\nb"),
    ] {
        assert_eq!(create(&[(name, value)]).err().unwrap().kind(), ErrorKind::InvalidOption, "{name}={value}");
    }
    let options = CreateOptions { target_holds_old_data: true, ..CreateOptions::new(ModelDisk::new(512).geometry()) };
    let begun = OVA.begin(&SingleFile(Arc::new(MemoryFile::new())), &options);
    assert_eq!(begun.err().unwrap().kind(), ErrorKind::Unsupported);
}

#[test]
fn hostile_packages_give_errors_at_once() {
    let began = std::time::Instant::now();
    let many: Vec<u8> = file_header(Flavour::Ustar, "m.ovf", 0).unwrap().repeat(5000);
    let many = (OVA.open)(open_file(Arc::new(MemoryFile::from_bytes(&many))));
    assert_eq!(many.err().unwrap().kind(), ErrorKind::LimitExceeded);
    let mut huge = file_header(Flavour::Ustar, "m.ovf", u64::MAX).unwrap().to_vec();
    huge.extend([0; 512]);
    let huge = (OVA.open)(open_file(Arc::new(MemoryFile::from_bytes(&huge))));
    assert_eq!(huge.err().unwrap().kind(), ErrorKind::Corrupt);
    let long = vec![b' '; 5 << 20];
    let long = (OVA.open)(open_file(Arc::new(MemoryFile::from_bytes(&archive(&[("m.ovf", &long)])))));
    assert_eq!(long.err().unwrap().kind(), ErrorKind::LimitExceeded);
    for none in [&b""[..], b"<", b"hello", &[0; 1024], &archive(&[("a.vmdk", b"x")])] {
        assert!((OVA.open)(open_file(Arc::new(MemoryFile::from_bytes(none)))).is_err());
    }
    assert!(began.elapsed().as_secs() < 2);

    let good = create(&[]).unwrap().to_bytes();
    let expected = digest(&open_disk(Arc::new(MemoryFile::from_bytes(&good)), None).unwrap()).unwrap();
    let mut random = Random(9);
    let places: Vec<_> = (0..1500).map(|_| 512 + random.below(5000) as usize).collect();
    for place in (0..512).chain(places) {
        let mut bytes = good.clone();
        bytes[place] ^= 1 << random.below(8);
        let file = Arc::new(MemoryFile::from_bytes(&bytes));
        let _ = exercise(&OVA, file.clone());
        // The descriptor's digest is in the manifest; a name without an owner, or a time, changes nothing.
        let found = open_disk(file, Some(&OVA)).and_then(|disk| digest(&disk));
        assert!(found.map_or(true, |found| found == expected), "{place}");
    }
}
