//! The parts of a repository that are read before anybody vouches for them, and those that a holder of keys may have made bad.
//!
//! The first byte chooses: a pack's header, its table, damaged packs, a page of a map, a manifest, a key slot, the header of a
//! `.tin` file.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tintype_formats::tin::file::Header;
use tintype_tin::chunk::{ChunkHeader, HEADER_BYTES};
use tintype_tin::id::Id;
use tintype_tin::keys::KeyRing;
use tintype_tin::manifest;
use tintype_tin::map::Page;
use tintype_tin::pack::{self, PackHeader, PackTable};
use tintype_tin::seal::SegmentRecord;
use tintype_tin::signed::{ObjectKind, SignedObject};
use tintype_tin::slot::{self, SlotInfo};

const PACK: Id = Id([2; 16]);

static RING: LazyLock<KeyRing> = LazyLock::new(|| KeyRing::public(Id([1; 16])).expect("the public keys"));

/// With the hash at its end that every reader asks for.
fn hashed(data: &[u8]) -> Vec<u8> {
    [data, blake3::hash(data).as_bytes()].concat()
}

fn page(data: &[u8]) {
    let Ok((page, core_bytes)) = Page::parse(data) else { return };
    let (again, core) = page.encode();
    assert_eq!(core, core_bytes);
    // The packs may be listed in another order, or twice.
    assert!(again[..core] == data[..core], "a page of the same entries has another core");
    assert_eq!(Page::parse(&again).map(|(page, _)| page).ok(), Some(page));
}

fn table(data: &[u8]) {
    let ring = &*RING;
    let certificate = ring.certificate().as_bytes();
    let body = [&(certificate.len() as u16).to_le_bytes(), certificate, data].concat();
    for body in [data, &body] {
        let object = ring.sign(ObjectKind::PackTable, &pack::name(PACK), body).expect("a signed object");
        if let Ok(table) = PackTable::parse(ring, PACK, &object, 1 << 20) {
            assert!(table.chunks.is_sorted_by_key(|(offset, _)| *offset));
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    let ring = &*RING;
    match mode % 8 {
        0 => _ = PackHeader::parse(rest, ring.repository(), PACK),
        1 => _ = PackHeader::parse(&hashed(rest), ring.repository(), PACK),
        2 => table(rest),
        3 => {
            for (offset, header) in pack::scan(rest) {
                assert!(offset as usize + header.chunk_bytes() <= rest.len());
            }
            if let Ok(header) = ChunkHeader::parse(rest) {
                let _ = header.check_matches(&rest[HEADER_BYTES.min(rest.len())..]);
            }
        }
        4 => page(rest),
        5 => {
            let _ = manifest::open(ring, PACK, rest);
            let object = ring.sign(ObjectKind::Manifest, &manifest::name(PACK), rest).expect("a signed object");
            let _ = manifest::open(ring, PACK, &object);
        }
        6 => {
            let _ = SegmentRecord::parse(rest);
            let _ = SignedObject::sniff(rest);
            let _ = SlotInfo::parse(rest);
            let _ = slot::open_slot(rest, None);
        }
        _ => {
            let _ = Header::parse(rest);
            if let Ok(header) = Header::parse(&hashed(rest)) {
                assert_eq!(header.encode(), hashed(rest));
            }
        }
    }
});
