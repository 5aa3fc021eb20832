//! Rings and certificates.

use super::{REPOSITORY, ROLES, admin, flipped, kind_of};
use crate::error::ErrorKind;
use crate::id::Id;
use crate::keys::{Certificate, KeyRing, Role};

#[test]
fn a_role_has_what_it_may_use() {
    let admin = admin();
    for role in ROLES {
        let ring = admin.issue(role, "host").unwrap();
        assert_eq!((ring.role(), ring.repository()), (role, REPOSITORY));
        assert_eq!(ring.certificate().name, "host");
        assert_eq!(ring.can_read_data(), [Role::Read, Role::Use, Role::Admin].contains(&role), "{role}");
        assert_eq!(ring.can_read_maps(), role != Role::Write, "{role}");
        assert_eq!(ring.can_admin(), role == Role::Admin, "{role}");
        assert_eq!(ring.data.iter().all(|key| key.private.is_some()), ring.can_read_data(), "{role}");
        assert_eq!(ring.map.iter().all(|key| key.private.is_some()), ring.can_read_maps(), "{role}");
        ring.certificate().check(&admin.root, REPOSITORY).unwrap();
    }
}

#[test]
fn only_an_administrator_makes_keys() {
    let admin = admin();
    for role in [Role::Write, Role::Read, Role::Use, Role::Maintain] {
        let ring = admin.issue(role, "host").unwrap();
        assert_eq!(kind_of(ring.issue(Role::Write, "other")), ErrorKind::WrongKey, "{role}");
    }
    let second = admin.issue(Role::Admin, "ben").unwrap();
    second.issue(Role::Read, "host").unwrap().certificate().check(&admin.root, REPOSITORY).unwrap();
    let public = KeyRing::public(REPOSITORY).unwrap();
    assert_eq!(kind_of(public.issue(Role::Write, "other")), ErrorKind::InvalidOption);
    for name in [String::new(), "n".repeat(256)] {
        assert_eq!(kind_of(admin.issue(Role::Write, &name)), ErrorKind::InvalidOption);
    }
    admin.issue(Role::Write, &"n".repeat(255)).unwrap();
}

#[test]
fn holders_of_one_repository_name_chunks_alike() {
    let admin = admin();
    let host = admin.issue(Role::Write, "host").unwrap();
    assert_eq!(host.chunk_id(b"abc"), admin.chunk_id(b"abc"));
    assert_eq!(host.page_id(b"abc"), admin.page_id(b"abc"));
    assert_ne!(host.page_id(b"abc"), admin.chunk_id(b"abc"));
    let other = KeyRing::generate(REPOSITORY, "anna").unwrap();
    assert_ne!(other.chunk_id(b"abc"), admin.chunk_id(b"abc"));
}

#[test]
fn public_rings_follow_from_the_repository() {
    let ring = KeyRing::public(REPOSITORY).unwrap();
    assert!(ring.is_public() && ring.can_read_data() && ring.can_admin());
    assert!(ring.is_same(&KeyRing::public(REPOSITORY).unwrap()));
    assert!(!ring.is_same(&KeyRing::public(Id([8; 16])).unwrap()));
    assert!(!admin().is_public());
}

#[test]
fn a_changed_certificate_is_refused() {
    let admin = admin();
    let host = admin.issue(Role::Write, "host").unwrap();
    let bytes = host.certificate().as_bytes();
    assert_eq!(&admin.certified(bytes).unwrap(), host.certificate());
    for (index, changed) in flipped(bytes) {
        assert!(admin.certified(&changed).is_err(), "byte {index}");
    }
    for length in 0..bytes.len() {
        assert!(Certificate::parse(&bytes[..length]).is_err(), "{length} bytes");
    }
    assert_eq!(kind_of(Certificate::parse(&[bytes, &[0]].concat())), ErrorKind::Corrupt);
}

#[test]
fn a_certificate_of_another_root_or_repository_is_refused() {
    let (ours, theirs) = (admin(), admin());
    assert_eq!(kind_of(ours.certified(theirs.certificate().as_bytes())), ErrorKind::Corrupt);
    assert_eq!(kind_of(ours.certificate().check(&ours.root, Id([8; 16]))), ErrorKind::Corrupt);
}

#[test]
fn secrets_are_not_printed() {
    let ring = admin();
    let text = format!("{ring:?} {:?}", ring.certificate());
    assert!(text.contains("anna") && text.contains(&REPOSITORY.to_string()));
    assert!(text.len() < 300, "{text}");
}
