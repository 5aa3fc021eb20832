//! Key slots: what opens them, and what hostile ones may cost.

use proptest::prelude::*;

use super::{REPOSITORY, ROLES, admin, flipped, kind_of};
use crate::error::ErrorKind;
use crate::keys::{KeyRing, Role};
use crate::recovery::RecoveryKey;
use crate::seal::Purpose;
use crate::slot::{Cost, SlotInfo, SlotKind, SlotSecret, open_slot, seal_slot};

const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

fn secret(text: &str) -> Option<SlotSecret<'_>> {
    Some(SlotSecret::Password(text.as_bytes()))
}

#[test]
fn every_role_comes_back_from_its_slot() {
    let admin = admin();
    for role in ROLES {
        let ring = admin.issue(role, "höst").unwrap();
        let slot = seal_slot(&ring, secret("open"), "böx", CHEAP).unwrap();
        let info = SlotInfo::parse(&slot).unwrap();
        let kind = SlotKind::Argon2id(CHEAP);
        assert_eq!(info, SlotInfo { kind, role, repository: REPOSITORY, label: "böx".into() });
        let opened = open_slot(&slot, secret("open")).unwrap();
        assert!(opened.is_same(&ring) && !opened.is_public());
        assert_eq!((opened.role(), opened.can_read_data()), (role, ring.can_read_data()));
        let (record, _) = opened.new_segment(Purpose::Map).unwrap();
        admin.open_segment(Purpose::Map, &record).unwrap();
        ring.open_segment(Purpose::Map, &record).unwrap();
        assert_eq!(opened.issue(Role::Write, "new").is_ok(), role == Role::Admin);
    }
}

#[test]
fn another_secret_is_a_wrong_key() {
    let slot = seal_slot(&admin(), secret("open"), "", CHEAP).unwrap();
    for wrong in ["", "Open", "open ", "open\n"] {
        assert_eq!(kind_of(open_slot(&slot, secret(wrong))), ErrorKind::WrongKey, "{wrong:?}");
    }
    assert_eq!(kind_of(open_slot(&slot, None)), ErrorKind::WrongKey);
    open_slot(&slot, secret("open")).unwrap();
}

#[test]
fn a_public_slot_opens_without_a_secret_and_only_so() {
    let public = KeyRing::public(REPOSITORY).unwrap();
    let slot = seal_slot(&public, None, "none", Cost::default()).unwrap();
    assert_eq!(SlotInfo::parse(&slot).unwrap().kind, SlotKind::Public);
    let opened = open_slot(&slot, None).unwrap();
    assert!(opened.is_public() && opened.is_same(&public));
    assert_eq!(kind_of(open_slot(&slot, secret("open"))), ErrorKind::WrongKey);
}

#[test]
fn secret_keys_never_come_into_a_public_slot() {
    let public = KeyRing::public(REPOSITORY).unwrap();
    for (ring, secret) in [(&admin(), None), (&admin(), secret("")), (&public, secret("open"))] {
        assert_eq!(kind_of(seal_slot(ring, secret, "", CHEAP)), ErrorKind::InvalidOption);
    }
    assert_eq!(kind_of(seal_slot(&public, None, &"l".repeat(256), CHEAP)), ErrorKind::InvalidOption);
    seal_slot(&public, None, &"l".repeat(255), CHEAP).unwrap();
}

#[test]
fn a_changed_slot_is_refused() {
    let slot = seal_slot(&admin(), secret("open"), "box", CHEAP).unwrap();
    let public = seal_slot(&KeyRing::public(REPOSITORY).unwrap(), None, "box", CHEAP).unwrap();
    for (index, changed) in flipped(&slot) {
        // Larger costs than the bound's are refused at once; smaller ones are tried, and give another key.
        if (12..24).contains(&index) && SlotInfo::parse(&changed).is_ok_and(|info| is_costly(info.kind)) {
            continue;
        }
        assert!(open_slot(&changed, secret("open")).is_err(), "byte {index}");
    }
    for (index, changed) in flipped(&public) {
        assert!(open_slot(&changed, None).is_err(), "byte {index} of the public slot");
    }
    for length in 0..slot.len() {
        assert!(SlotInfo::parse(&slot[..length]).is_err(), "{length} bytes");
    }
    assert_eq!(kind_of(SlotInfo::parse(&[&slot[..], &[0]].concat())), ErrorKind::Corrupt);
}

fn is_costly(kind: SlotKind) -> bool {
    matches!(kind, SlotKind::Argon2id(cost) if u64::from(cost.memory_kib) * u64::from(cost.passes) > 10_000)
}

#[test]
fn hostile_slots_are_bounded() {
    let slot = seal_slot(&admin(), secret("open"), "box", CHEAP).unwrap();
    let cases: [(usize, u32, ErrorKind); 8] = [
        (12, (4 << 20) + 1, ErrorKind::LimitExceeded),
        (12, u32::MAX, ErrorKind::LimitExceeded),
        (16, 1001, ErrorKind::LimitExceeded),
        (20, 65, ErrorKind::LimitExceeded),
        (12, 7, ErrorKind::Corrupt),
        (16, 0, ErrorKind::Corrupt),
        (20, 0, ErrorKind::Corrupt),
        (88, 65_537, ErrorKind::LimitExceeded),
    ];
    for (at, value, kind) in cases {
        let mut hostile = slot.clone();
        hostile[at..at + 4].copy_from_slice(&value.to_le_bytes());
        assert_eq!(kind_of(open_slot(&hostile, secret("open"))), kind, "{value} at {at}");
    }
    let mut long = slot.clone();
    long[12..16].copy_from_slice(&(4u32 << 20).to_le_bytes());
    long[16..20].copy_from_slice(&17u32.to_le_bytes());
    assert_eq!(kind_of(open_slot(&long, secret("open"))), ErrorKind::LimitExceeded);
}

#[test]
fn an_unknown_version_or_kind_says_so() {
    let slot = seal_slot(&admin(), secret("open"), "box", CHEAP).unwrap();
    for (at, value, kind) in [
        (0, b'X', ErrorKind::NotThisFormat),
        (8, 2, ErrorKind::Unsupported),
        (10, 4, ErrorKind::Unsupported),
        (10, 2, ErrorKind::Corrupt),
        (11, 0, ErrorKind::Corrupt),
        (11, 6, ErrorKind::Corrupt),
    ] {
        let mut other = slot.clone();
        other[at] = value;
        assert_eq!(kind_of(SlotInfo::parse(&other)), kind, "{value} at {at}");
    }
}

#[test]
fn a_recovery_key_opens_its_own_slot_however_it_is_typed() {
    let (key, other) = (RecoveryKey::generate().unwrap(), RecoveryKey::generate().unwrap());
    let slot = seal_slot(&admin(), Some(SlotSecret::RecoveryKey(&key)), "recovery", CHEAP).unwrap();
    assert_eq!(SlotInfo::parse(&slot).unwrap().kind, SlotKind::Recovery(CHEAP));
    let shown = key.shown().to_string();
    for typed in [shown.clone(), shown.to_uppercase(), shown.replace('-', ""), format!("{shown}\n")] {
        open_slot(&slot, secret(&typed)).unwrap();
    }
    open_slot(&slot, Some(SlotSecret::RecoveryKey(&key))).unwrap();
    for wrong in [&other.shown()[..], "open", "", &shown[1..]] {
        assert_eq!(kind_of(open_slot(&slot, secret(wrong))), ErrorKind::WrongKey, "{wrong:?}");
    }
    // A password that looks like one is a password.
    let slot = seal_slot(&admin(), secret(&shown), "", CHEAP).unwrap();
    open_slot(&slot, secret(&shown)).unwrap();
    assert_eq!(kind_of(open_slot(&slot, secret(&shown.to_uppercase()))), ErrorKind::WrongKey);
}

#[test]
fn secrets_are_not_printed() {
    assert_eq!(format!("{:?}", RecoveryKey::generate().unwrap()), "RecoveryKey");
}

proptest! {
    #[test]
    fn any_bytes_are_a_slot_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let slot = [b"TINKEY1\n\x01\x00\x02\x04", &bytes[..]].concat();
        let _ = SlotInfo::parse(&slot);
        let _ = SlotInfo::parse(&bytes);
    }
}
