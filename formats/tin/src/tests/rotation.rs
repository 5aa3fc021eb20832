//! Rotations: who gets which keys, and what is sealed to them.

use super::{ROLES, admin, flipped, kind_of};
use crate::error::ErrorKind;
use crate::id::Id;
use crate::keys::{KeyRing, Role};
use crate::seal::Purpose;
use crate::slot::{Cost, SlotSecret, open_slot, seal_slot};

/// The same ring again, as a slot gives it.
fn copy(ring: &KeyRing) -> KeyRing {
    let secret = Some(SlotSecret::Password(b"p"));
    let cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
    open_slot(&seal_slot(ring, secret, "", cost).unwrap(), secret).unwrap()
}

#[test]
fn every_role_gets_the_new_keys_that_it_has() {
    let mut admin = admin();
    let mut rings: Vec<_> = ROLES.map(|role| admin.issue(role, "holder").unwrap()).into();
    let mut holders: Vec<_> = rings.iter().map(|ring| ring.certificate().clone()).collect();
    holders.push(admin.certificate().clone());
    let (before, _) = admin.new_segment(Purpose::Data).unwrap();
    let body = admin.rotation(1, &holders).unwrap();
    assert!(admin.rotate(1, &body).unwrap());
    assert!(!admin.rotate(1, &body).unwrap(), "again");
    let (after, _) = admin.new_segment(Purpose::Data).unwrap();
    let (map, _) = admin.new_segment(Purpose::Map).unwrap();
    for ring in &mut rings {
        let role = ring.role();
        assert!(ring.rotate(1, &body).unwrap(), "{role}");
        assert_eq!(ring.generations(), 2);
        for record in [&before, &after] {
            assert_eq!(ring.open_segment(Purpose::Data, record).is_ok(), role.reads_data(), "{role}");
        }
        assert_eq!(ring.open_segment(Purpose::Map, &map).is_ok(), role.reads_maps(), "{role}");
        let (theirs, _) = ring.new_segment(Purpose::Data).unwrap();
        admin.open_segment(Purpose::Data, &theirs).unwrap();
        assert!(copy(ring).is_same(ring), "{role}: a slot holds all keys");
    }
}

#[test]
fn who_is_left_out_cannot_read_what_comes() {
    let mut admin = admin();
    let mut gone = admin.issue(Role::Read, "gone").unwrap();
    let body = admin.rotation(1, &[admin.certificate().clone()]).unwrap();
    admin.rotate(1, &body).unwrap();
    assert!(!gone.rotate(1, &body).unwrap());
    let (after, _) = admin.new_segment(Purpose::Data).unwrap();
    assert_eq!(kind_of(gone.open_segment(Purpose::Data, &after)), ErrorKind::WrongKey);
    let issued = admin.issue(Role::Read, "new").unwrap();
    issued.open_segment(Purpose::Data, &after).unwrap();
}

#[test]
fn a_rotation_is_of_its_number_and_repository() {
    let mut admin = admin();
    let body = admin.rotation(1, &[admin.certificate().clone()]).unwrap();
    assert_eq!(kind_of(admin.rotate(2, &body)), ErrorKind::Corrupt);
    for (index, changed) in flipped(&body) {
        assert!(!matches!(admin.rotate(1, &changed), Ok(true)), "byte {index}");
    }
    for length in 0..body.len() {
        assert!(admin.rotate(1, &body[..length]).is_err(), "{length} bytes");
    }
    assert_eq!(admin.generations(), 1);
    let public = KeyRing::public(Id([7; 16])).unwrap();
    assert_eq!(kind_of(public.rotation(1, &[])), ErrorKind::InvalidOption);
}

#[test]
fn there_is_an_end_of_rotations() {
    let mut admin = admin();
    let holders = [admin.certificate().clone()];
    for number in 1..64 {
        let body = admin.rotation(number, &holders).unwrap();
        admin.rotate(number, &body).unwrap();
    }
    assert_eq!(admin.generations(), 64);
    assert_eq!(kind_of(admin.rotation(64, &holders)), ErrorKind::LimitExceeded);
    assert!(copy(&admin).is_same(&admin), "64 keys fit into a slot");
}
