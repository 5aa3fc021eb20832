//! Bundles: storages, shots, and what a descriptor can get wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::FORMAT;
use super::*;
use crate::check::CheckReport;
use crate::error::{ErrorKind, ImageError, Result};
use crate::host_file::FileIdentity;
use crate::layer::Choice;
use crate::reference_gate::{FileReference, NoReferences, ReferenceGate, Referenced};
use crate::testing::{MemoryFile, check_disk, exercise, open_file, read_all};
use crate::{BlockSource, Disk, OpenFile};

const TOP: &str = "{5fbaabe3-6958-40ff-92a7-860e329aab41}";
const BASE: &str = "{11111111-2222-3333-4444-555555555555}";
const NIL: &str = "{00000000-0000-0000-0000-000000000000}";
const EXT: &[u8; 16] = b"WithouFreSpacExt";

/// A folder of files.
#[derive(Clone, Default)]
struct Folder(BTreeMap<String, Arc<MemoryFile>>);

impl Folder {
    fn with(mut self, name: &str, bytes: &[u8]) -> Self {
        self.0.insert(name.to_owned(), Arc::new(MemoryFile::from_bytes(bytes)));
        self
    }
}

impl ReferenceGate for Folder {
    fn open(&self, reference: &FileReference) -> Result<Referenced> {
        let found = reference.names.iter().find_map(|name| self.0.keys().position(|key| key == name));
        let found = found.and_then(|index| Some((index, self.0.iter().nth(index)?)));
        let (index, (name, file)) = found.ok_or_else(|| ImageError::reference_denied("open a file", "not found"))?;
        let identity = Some(FileIdentity { device: 1, inode: index as u64 });
        let file = OpenFile { file: file.clone(), name: name.clone(), identity, secrets: Default::default() };
        Ok(Referenced { file, gate: Arc::new(self.clone()) })
    }
}

/// A storage: begin and end in sectors, and its images as (shot, type, file).
type StorageText<'a> = (u64, u64, &'a [(&'a str, &'a str, &'a str)]);

fn descriptor(sectors: u64, storages: &[StorageText<'_>], shots: &[(&str, &str)]) -> String {
    let mut text =
        "<?xml version='1.0' encoding='UTF-8'?>\n<Parallels_disk_image Version=\"1.0\"><Disk_Parameters>".to_owned();
    text += &format!("<Disk_size>{sectors}</Disk_size><PhysicalSectorSize>4096</PhysicalSectorSize>");
    text +=
        "<LogicSectorSize>512</LogicSectorSize><Padding>0</Padding><Name>disk</Name></Disk_Parameters><StorageData>";
    for (start, end, images) in storages {
        text += &format!("<Storage><Start>{start}</Start><End>{end}</End><Blocksize>{CLUSTER_SECTORS}</Blocksize>");
        for (shot, kind, file) in *images {
            text += &format!("<Image><GUID>{shot}</GUID><Type>{kind}</Type><File>{file}</File></Image>");
        }
        text += "</Storage>";
    }
    text += "</StorageData><Snapshots>";
    for (id, parent) in shots {
        text += &format!("<Shot><GUID>{id}</GUID><ParentGUID>{parent}</ParentGUID></Shot>");
    }
    text + "</Snapshots></Parallels_disk_image>\n"
}

fn open_shot(text: &str, folder: &Folder, snapshot: Option<&str>) -> Result<Disk> {
    let file = open_file(Arc::new(MemoryFile::from_bytes(text.as_bytes())));
    Disk::open(file, Some(&FORMAT), Choice { snapshot, ..Choice::default() }, Arc::new(folder.clone()))
}

fn open_top(text: &str, folder: &Folder) -> Result<Disk> {
    open_shot(text, folder, None)
}

/// Two storages, two shots; the root of the second storage is plain.
fn split_with_snapshot() -> (String, Folder, Vec<u8>, Vec<u8>) {
    let (base, top) = (Maker::new(EXT, 40).put(0, 1).put(2, 2).put(3, 3), Maker::new(EXT, 40).put(2, 9).put(4, 8));
    let (plain, over): (Vec<u8>, _) =
        ((0..24 * 512u32).map(|at| (at / 100) as u8).collect(), Maker::new(EXT, 24).put(1, 7));
    let folder = Folder::default()
        .with("base.0.hds", &base.bytes())
        .with("top.0.hds", &top.bytes())
        .with("base.1.hds", &plain)
        .with("top.1.hds", &over.bytes());
    let text = descriptor(
        64,
        &[
            (40, 64, &[(BASE, "Plain", "base.1.hds"), (TOP, "Compressed", "top.1.hds")]),
            (0, 40, &[(TOP, "Compressed", "top.0.hds"), (BASE, "Compressed", "base.0.hds")]),
        ],
        &[(BASE, NIL), (TOP, BASE)],
    );
    let before = [base.disk(), plain.clone()].concat();
    let mut now = before.clone();
    for (start, maker) in [(0, &top), (40 * 512, &over)] {
        for (cluster, _) in maker.clusters.iter().enumerate().filter(|(_, place)| place.is_some()) {
            let range = cluster * CLUSTER..(cluster + 1) * CLUSTER;
            now[start + range.start..start + range.end].copy_from_slice(&maker.disk()[range]);
        }
    }
    (text, folder, before, now)
}

#[test]
fn storages_and_shots_make_one_disk() {
    let (text, folder, before, now) = split_with_snapshot();
    let disk = open_top(&text, &folder).unwrap();
    check_disk(&disk, 3).unwrap();
    assert_eq!(read_all(&disk).unwrap(), now);
    assert_eq!((disk.geometry().physical_sector_bytes, disk.host_files().len()), (4096, 4));
    for name in [BASE, "11111111-2222-3333-4444-555555555555"] {
        let disk = open_shot(&text, &folder, Some(name)).unwrap();
        check_disk(&disk, 4).unwrap();
        assert_eq!(read_all(&disk).unwrap(), before);
    }
    assert_eq!(read_all(&open_shot(&text, &folder, Some(TOP)).unwrap()).unwrap(), now);
    for name in ["base", NIL, "{99999999-2222-3333-4444-555555555555}"] {
        assert_eq!(open_shot(&text, &folder, Some(name)).err().unwrap().kind(), ErrorKind::NotFound, "{name}");
    }
}

#[test]
fn the_descriptor_alone_says_what_there_is() {
    let (text, _, before, _) = split_with_snapshot();
    let image = (FORMAT.open)(open_file(Arc::new(MemoryFile::from_bytes(text.as_bytes())))).unwrap();
    assert_eq!(image.info().geometry.size_bytes, before.len() as u64);
    let ids: Vec<_> = image.snapshots().iter().map(|shot| shot.id.as_str()).collect();
    assert_eq!(ids, [BASE]);
    let mut report = CheckReport::default();
    image.check(&mut report).unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(image.layer(None, &NoReferences).err().unwrap().kind(), ErrorKind::ReferenceDenied);
}

#[test]
fn the_top_can_be_another_shot() {
    let (text, folder, before, _) = split_with_snapshot();
    let text = text.replace("<Snapshots>", &format!("<Snapshots><TopGUID>{BASE}</TopGUID>"));
    assert_eq!(read_all(&open_top(&text, &folder).unwrap()).unwrap(), before);
}

/// A bundle of one plain file.
fn plain() -> (String, Folder) {
    let text = descriptor(64, &[(0, 64, &[(TOP, "Plain", "disk.hds")])], &[(TOP, NIL)]);
    (text, Folder::default().with("disk.hds", &[5; 64 * 512]))
}

#[test]
fn what_contradicts_itself_is_refused() {
    let (text, folder, ..) = split_with_snapshot();
    let refused = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let error = open_top(&text.replace(from, to), &folder).err().unwrap_or_else(|| panic!("{from} -> {to}"));
        error.kind()
    };
    let corrupt = [
        ("<Start>40<", "<Start>41<"),
        ("<Start>40<", "<Start>39<"),
        ("<End>64<", "<End>63<"),
        ("<End>40<", "<End>0<"),
        ("<Disk_size>64<", "<Disk_size>65<"),
        ("<Disk_size>64<", "<Disk_size>many<"),
        ("<Disk_size>", "<Disk_size>64</Disk_size><Disk_size>"),
        (&format!("<ParentGUID>{NIL}"), &format!("<ParentGUID>{TOP}")),
        (&format!("<Shot><GUID>{BASE}"), "<Shot><GUID>{99999999-2222-3333-4444-555555555555}"),
        (&format!("<Image><GUID>{BASE}"), "<Image><GUID>{99999999-2222-3333-4444-555555555555}"),
        (&format!("<Image><GUID>{BASE}"), &format!("<Image><GUID>{TOP}")),
        (BASE, "{short}"),
        ("<Blocksize>8<", "<Blocksize>16<"),
        ("top.1.hds", "top.0.hds"),
        ("</Storage>", ""),
        ("<Snapshots>", "<Snapshots>&bomb;"),
    ];
    for (from, to) in corrupt {
        assert_eq!(refused(from, to), ErrorKind::Corrupt, "{from} -> {to}");
    }
    assert_eq!(refused("<Disk_size>64<", "<Disk_size>18446744073709551615<"), ErrorKind::LimitExceeded);
    assert_eq!(refused("<Disk_size>64<", "<Disk_size>36028797018963968<"), ErrorKind::LimitExceeded);
    assert_eq!(refused("<Type>Plain<", "<Type>Ploop<"), ErrorKind::Unsupported);
    assert_eq!(refused("<Type>Plain<", "<Type>Compressed<"), ErrorKind::NotThisFormat);
    assert_eq!(refused("base.1.hds", "elsewhere.hds"), ErrorKind::ReferenceDenied);
    let long = "x".repeat(5000);
    assert_eq!(refused("base.1.hds", &long), ErrorKind::LimitExceeded);
}

#[test]
fn a_plain_image_over_another_is_refused() {
    let (text, folder, ..) = split_with_snapshot();
    let text = text.replace("<Type>Compressed</Type><File>top.1", "<Type>Plain</Type><File>top.1");
    assert_eq!(open_top(&text, &folder).err().unwrap().kind(), ErrorKind::Corrupt);
}

#[test]
fn files_that_are_too_short_for_their_storage_are_refused() {
    let (text, _) = plain();
    for length in [0, 63 * 512, 64 * 512 - 513] {
        let folder = Folder::default().with("disk.hds", &vec![5; length]);
        assert_eq!(open_top(&text, &folder).err().unwrap().kind(), ErrorKind::Truncated);
    }
    let folder = Folder::default().with("disk.hds", &[5; 70 * 512]);
    assert_eq!(read_all(&open_top(&text, &folder).unwrap()).unwrap(), [5; 64 * 512]);
}

#[test]
fn what_is_not_known_is_described_but_not_read() {
    let (text, folder) = plain();
    assert_eq!(read_all(&open_top(&text, &folder).unwrap()).unwrap(), [5; 64 * 512]);
    let changes = [
        ("Version=\"1.0\"", "Version=\"2.0\""),
        ("<Padding>0<", "<Padding>1<"),
        ("<LogicSectorSize>512<", "<LogicSectorSize>4096<"),
        ("<Padding>", "<Encryption><Engine>{7bb4a6d2-0000-0000-0000-000000000001}</Engine></Encryption><Padding>"),
    ];
    for (from, to) in changes {
        let changed = text.replace(from, to);
        let image = (FORMAT.open)(open_file(Arc::new(MemoryFile::from_bytes(changed.as_bytes())))).unwrap();
        assert_eq!(image.info().warnings.len(), 1, "{to}");
        assert_eq!(open_top(&changed, &folder).err().unwrap().kind(), ErrorKind::Unsupported, "{to}");
    }
    let engine = format!("<Encryption><Engine>{NIL}</Engine><Data></Data></Encryption><Padding>");
    open_top(&text.replace("<Padding>", &engine), &folder).unwrap();
}

#[test]
fn documents_that_are_meant_to_harm_give_errors() {
    let (text, _) = plain();
    let deep = "<a>".repeat(200_000);
    let wide = "<a/>".repeat(500_000);
    let entities =
        "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;\">]><Parallels_disk_image>&b;";
    for bad in [deep, wide, entities.to_owned(), "x".repeat(5 << 20)] {
        let text = text.replace("<StorageData>", &format!("{bad}<StorageData>"));
        let image = (FORMAT.open)(open_file(Arc::new(MemoryFile::from_bytes(text.as_bytes()))));
        assert!(image.is_err());
    }
    let id = |number| uuid::Uuid::from_u128(number).braced().to_string();
    let loops: Vec<_> = (0..300).map(|number| (id(number), id(number + 1))).collect();
    let shots: Vec<_> = loops.iter().map(|(id, parent)| (id.as_str(), parent.as_str())).collect();
    let text = descriptor(64, &[(0, 64, &[])], &shots[1..])
        .replace("<Snapshots>", &format!("<Snapshots><TopGUID>{}</TopGUID>", shots[1].0));
    assert_eq!(open_top(&text, &Folder::default()).err().unwrap().kind(), ErrorKind::LimitExceeded);
}

#[test]
fn changed_descriptors_never_panic() {
    let (text, ..) = split_with_snapshot();
    for place in 0..text.len() {
        for flip in [0x01, 0x80] {
            let mut bytes = text.clone().into_bytes();
            bytes[place] ^= flip;
            let _ = exercise(&FORMAT, Arc::new(MemoryFile::from_bytes(&bytes)));
        }
        let _ = exercise(&FORMAT, Arc::new(MemoryFile::from_bytes(&text.as_bytes()[..place])));
    }
}

#[test]
fn more_shots_and_storages_than_anyone_has_are_refused() {
    let ids: Vec<_> = (1..1100u128).map(|number| uuid::Uuid::from_u128(number).braced().to_string()).collect();
    let shots: Vec<_> = ids.iter().map(|id| (id.as_str(), NIL)).chain([(TOP, NIL)]).collect();
    let storages: Vec<StorageText<'_>> = (0..5).map(|number| (number * 8, number * 8 + 8, &[][..])).collect();
    for (storages, shots) in [(&storages[..1], &shots[..]), (&storages[..], &shots[200..])] {
        let error = open_top(&descriptor(8, storages, shots), &Folder::default()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
    }
}

fn check_all(text: &str, folder: &Folder) -> Result<CheckReport> {
    let image = (FORMAT.open)(open_file(Arc::new(MemoryFile::from_bytes(text.as_bytes())))).unwrap();
    let mut report = CheckReport::default();
    image.check_all_files(folder, &mut report).map(|()| report)
}

#[test]
fn a_check_looks_into_every_image_of_a_bundle() {
    let (text, folder, ..) = split_with_snapshot();
    let report = check_all(&text, &folder).unwrap();
    assert!(report.is_clean() && report.allocated_bytes > 0, "{report:?}");

    let mut bytes = Maker::new(EXT, 40).put(2, 9).put(4, 8).bytes();
    bytes[64 + 4 * 4..64 + 4 * 5].copy_from_slice(&[0xff, 0xff, 0xff, 0]);
    let damaged = folder.clone().with("top.0.hds", &bytes);
    let report = check_all(&text, &damaged).unwrap();
    assert!(report.corruptions > 0, "{report:?}");
    assert!(report.findings[0].text.starts_with("\"top.0.hds\": "), "{report:?}");

    let cut = folder.clone().with("base.1.hds", &[0; 23 * 512]);
    assert_eq!(check_all(&text, &cut).unwrap().corruptions, 1);
    let other = folder.clone().with("base.0.hds", b"no image");
    assert_eq!(check_all(&text, &other).unwrap().corruptions, 1);
    let missing = text.replace("base.1.hds", "elsewhere.hds");
    assert_eq!(check_all(&missing, &folder).unwrap_err().kind(), ErrorKind::ReferenceDenied);
}
