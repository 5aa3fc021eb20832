//! The test vectors of the specification, §14, and a slot that another program wrote by it.

use crate::id::{Id, unhex_into};
use crate::keys::{KeyRing, Role, key_id};
use crate::seal::Purpose;
use crate::signed::ObjectKind;
use crate::slot::{SlotSecret, open_slot};

const SPECIFICATION: &str = include_str!("../../../../src/repository/FORMAT.md");

fn public() -> KeyRing {
    KeyRing::public(Id(std::array::from_fn(|index| index as u8))).unwrap()
}

/// Fails unless the specification has this vector in its table.
fn stands(what: &str, bytes: &[u8]) {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let line = format!("| {what} | `{digits}` |\n");
    assert!(SPECIFICATION.contains(&line), "{line}");
}

#[test]
fn the_specification_has_the_public_keys() {
    let ring = public();
    stands("id key", &*ring.id_key);
    stands("root, public", &ring.root);
    stands("data, public", &ring.data[0].public);
    stands("key id of data", &key_id(&ring.data[0].public));
    stands("map, public", &ring.map[0].public);
    stands("host, public", &ring.host.public);
    stands("certificate", ring.certificate().as_bytes());
    stands("id of the chunk `abc`", &ring.chunk_id(b"abc").0);
    stands("id of the page with core `abc`", &ring.page_id(b"abc").0);
    let salt: [u8; 32] = std::array::from_fn(|index| 0x20 + index as u8);
    let material = [&ring.repository().0[..], &salt].concat();
    stands("key of a public slot with salt 20 … 3f", &blake3::derive_key("tintype no encryption 1", &material));
}

#[test]
fn the_specification_has_a_segment_and_a_signature() {
    let ring = public();
    let (record, key) = ring.derived_segment(Purpose::Data, b"seed").unwrap();
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    stands("data segment derived from `seed`: record", &bytes);
    let mut sealed = b"abc".to_vec();
    key.seal(1, b"header", &mut sealed).unwrap();
    stands("its part 1, `abc` with associated data `header`", &sealed);
    let object = ring.sign(ObjectKind::Done, "epochs/00000001/done", b"").unwrap();
    stands("signature of `epochs/00000001/done`", &object[object.len() - 64..]);
}

/// By another implementation (Python, from the specification alone): a write key in the repository of the vectors, under "passphrase",
/// with a field that this version does not know.
#[test]
fn a_slot_of_another_program_opens() {
    let digits = include_str!("slot.hex").trim_end();
    let mut slot = vec![0; digits.len() / 2];
    assert!(unhex_into(digits, &mut slot));
    let ring = open_slot(&slot, Some(SlotSecret::Password(b"passphrase"))).unwrap();
    assert_eq!((ring.role(), ring.certificate().name.as_str()), (Role::Write, "host"));
    assert_eq!(ring.chunk_id(b"abc"), public().chunk_id(b"abc"));
    let (record, _) = ring.new_segment(Purpose::Data).unwrap();
    public().open_segment(Purpose::Data, &record).unwrap();
}
