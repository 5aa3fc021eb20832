//! Signed objects: whose count, and for what.

use proptest::prelude::*;

use super::{REPOSITORY, ROLES, admin, flipped, kind_of};
use crate::error::ErrorKind;
use crate::keys::{KeyRing, Role};
use crate::signed::{ObjectKind, SignedObject};

const NAME: &str = "snapshots/000102030405060708090a0b0c0d0e0f";

#[test]
fn an_object_comes_back_with_its_signer() {
    let admin = admin();
    let host = admin.issue(Role::Write, "host").unwrap();
    for body in [&b""[..], b"body", &[7; 100_000]] {
        let object = host.sign(ObjectKind::Manifest, NAME, body).unwrap();
        let read = admin.verify(ObjectKind::Manifest, NAME, &object).unwrap();
        assert_eq!((read.body, &read.signer), (body, host.certificate()));
        assert_eq!(SignedObject::sniff(&object), Some((ObjectKind::Manifest, REPOSITORY)));
        assert_eq!(host.verify(ObjectKind::Manifest, NAME, &object).unwrap().body, body);
    }
}

#[test]
fn a_changed_object_is_refused() {
    let admin = admin();
    let object = admin.issue(Role::Write, "host").unwrap().sign(ObjectKind::Index, NAME, b"body").unwrap();
    for (index, changed) in flipped(&object) {
        assert!(admin.verify(ObjectKind::Index, NAME, &changed).is_err(), "byte {index}");
    }
    for length in 0..object.len() {
        assert!(admin.verify(ObjectKind::Index, NAME, &object[..length]).is_err(), "{length} bytes");
    }
    let longer = [&object[..], &[0]].concat();
    assert_eq!(kind_of(admin.verify(ObjectKind::Index, NAME, &longer)), ErrorKind::Corrupt);
}

#[test]
fn another_name_kind_or_repository_is_refused() {
    let admin = admin();
    let object = admin.sign(ObjectKind::Verdict, "epochs/00000001/verdict", b"body").unwrap();
    let refused = |ring: &KeyRing, kind, name| kind_of(ring.verify(kind, name, &object));
    assert_eq!(refused(&admin, ObjectKind::Verdict, "epochs/00000002/verdict"), ErrorKind::Corrupt);
    assert_eq!(refused(&admin, ObjectKind::Condemned, "epochs/00000001/verdict"), ErrorKind::Corrupt);
    assert_eq!(refused(&super::admin(), ObjectKind::Verdict, "epochs/00000001/verdict"), ErrorKind::Corrupt);
    let elsewhere = KeyRing::generate(crate::id::Id([8; 16]), "anna").unwrap();
    assert_eq!(refused(&elsewhere, ObjectKind::Verdict, "epochs/00000001/verdict"), ErrorKind::Corrupt);
}

#[test]
fn only_keepers_sign_what_takes_away() {
    use ObjectKind::*;
    let admin = admin();
    let keepers = [Repository, Tombstone, Condemned, Verdict, Done, Quarantine];
    let everybody = [SessionBegin, SessionEnd, Ledger, Holder, Directory];
    let writers = [PackTable, Index, Manifest];
    let admins = [Removed, Rotation];
    for role in ROLES {
        let ring = admin.issue(role, "holder").unwrap();
        for kind in everybody {
            admin.verify(kind, NAME, &ring.sign(kind, NAME, b"body").unwrap()).unwrap();
        }
        for kind in writers {
            assert_eq!(ring.sign(kind, NAME, b"body").is_ok(), role != Role::Read, "{role} {kind:?}");
        }
        for kind in admins {
            assert_eq!(ring.sign(kind, NAME, b"body").is_ok(), role == Role::Admin, "{role} {kind:?}");
        }
        for kind in keepers {
            let signed = ring.sign(kind, NAME, b"body");
            if matches!(role, Role::Maintain | Role::Admin) {
                admin.verify(kind, NAME, &signed.unwrap()).unwrap();
            } else {
                assert_eq!(kind_of(signed), ErrorKind::WrongKey, "{role} {kind:?}");
            }
        }
    }
}

/// A holder who does not ask its own program what it may sign.
#[test]
fn a_forged_verdict_is_refused() {
    let admin = admin();
    let host = admin.issue(Role::Write, "host").unwrap();
    let mut object = host.sign(ObjectKind::Index, NAME, b"body").unwrap();
    object[10] = ObjectKind::Verdict as u8;
    let signed = object.len() - 64;
    let hash = blake3::hash(&object[..signed]);
    let message = [b"tintype object 1\0", NAME.as_bytes(), &[0], hash.as_bytes()].concat();
    let signature = host.sign_message(&message).unwrap();
    object[signed..].copy_from_slice(&signature);
    let error = admin.verify(ObjectKind::Verdict, NAME, &object).unwrap_err();
    assert!(error.to_string().contains("whose write key cannot make a Verdict"), "{error}");
}

#[test]
fn sniffing_needs_the_beginning_only() {
    let object = admin().sign(ObjectKind::Done, "epochs/00000001/done", b"").unwrap();
    assert_eq!(SignedObject::sniff(&object[..32]), Some((ObjectKind::Done, REPOSITORY)));
    assert_eq!(SignedObject::sniff(&object[..31]), None);
    for (at, value) in [(0, b'X'), (8, 2), (10, 0), (10, 17), (11, 1)] {
        let mut other = object.clone();
        other[at] = value;
        assert_eq!(SignedObject::sniff(&other), None, "{value} at {at}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let public = KeyRing::public(REPOSITORY).unwrap();
        let object = [b"TINOBJ1\n\x01\x00\x04\x00", &bytes[..]].concat();
        prop_assert!(public.verify(ObjectKind::Manifest, NAME, &object).is_err());
        prop_assert!(public.verify(ObjectKind::Manifest, NAME, &bytes).is_err());
    }
}
