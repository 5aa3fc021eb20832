//! Segments: who opens them, and that their parts cannot be changed or moved.

use proptest::prelude::*;

use super::{REPOSITORY, admin, flipped, kind_of};
use crate::error::ErrorKind;
use crate::keys::{KeyRing, Role};
use crate::seal::{MAX_RECIPIENTS, Purpose, SegmentRecord, TAG_BYTES};

const PURPOSES: [Purpose; 3] = [Purpose::Data, Purpose::Map, Purpose::Manifest];

fn encoded(record: &SegmentRecord) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    bytes
}

/// Whether `reader` reads what `writer` sealed.
fn reads(reader: &KeyRing, writer: &KeyRing, purpose: Purpose) -> bool {
    let (record, key) = writer.new_segment(purpose).unwrap();
    let mut sealed = b"content".to_vec();
    key.seal(3, b"header", &mut sealed).unwrap();
    match reader.open_segment(purpose, &record) {
        Ok(key) => key.open(3, b"header", &mut sealed).unwrap() == b"content",
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
            false
        }
    }
}

#[test]
fn a_role_opens_what_it_may_read() {
    let admin = admin();
    let ring = |role, name| admin.issue(role, name).unwrap();
    let (host, other) = (ring(Role::Write, "host"), ring(Role::Write, "other"));
    let (reader, keeper) = (ring(Role::Read, "reader"), ring(Role::Maintain, "keeper"));
    for purpose in PURPOSES {
        let maps = purpose != Purpose::Data;
        assert!(reads(&admin, &host, purpose) && reads(&reader, &host, purpose), "{purpose:?}");
        assert_eq!(reads(&keeper, &host, purpose), maps, "{purpose:?}");
        assert_eq!(reads(&host, &host, purpose), maps, "{purpose:?}");
        assert!(!reads(&other, &host, purpose), "{purpose:?}");
        assert!(!reads(&super::admin(), &host, purpose), "{purpose:?}");
    }
}

#[test]
fn a_segment_is_for_one_purpose_and_repository() {
    let admin = admin();
    let (record, _) = admin.new_segment(Purpose::Map).unwrap();
    assert_eq!(kind_of(admin.open_segment(Purpose::Manifest, &record)), ErrorKind::Corrupt);
    let mut elsewhere = admin;
    elsewhere.repository = crate::id::Id([9; 16]);
    assert_eq!(kind_of(elsewhere.open_segment(Purpose::Map, &record)), ErrorKind::Corrupt);
}

#[test]
fn segments_never_share_a_key() {
    let admin = admin();
    let ((one, first), (two, second)) =
        (admin.new_segment(Purpose::Data).unwrap(), admin.new_segment(Purpose::Data).unwrap());
    assert_ne!(one.id(), two.id());
    assert_eq!(one.id(), first.id());
    let sealed = [first, second].map(|key| {
        let mut bytes = vec![0; 64];
        key.seal(0, &[], &mut bytes).unwrap();
        bytes
    });
    assert_ne!(sealed[0], sealed[1]);
}

#[test]
fn derived_segments_follow_from_their_seed() {
    let public = KeyRing::public(REPOSITORY).unwrap();
    let (record, key) = public.derived_segment(Purpose::Data, b"seed").unwrap();
    let (again, _) = public.derived_segment(Purpose::Data, b"seed").unwrap();
    assert_eq!(encoded(&record), encoded(&again));
    let mut sealed = vec![1; 100];
    key.seal(0, &[], &mut sealed).unwrap();
    public.open_segment(Purpose::Data, &record).unwrap().open(0, &[], &mut sealed).unwrap();
    assert_ne!(public.derived_segment(Purpose::Data, b"other").unwrap().0.id(), record.id());
    assert_ne!(public.derived_segment(Purpose::Map, b"seed").unwrap().0.id(), record.id());
    assert_eq!(kind_of(admin().derived_segment(Purpose::Data, b"seed")), ErrorKind::InvalidOption);
}

#[test]
fn a_changed_record_opens_nothing() {
    let public = KeyRing::public(REPOSITORY).unwrap();
    let (record, key) = public.new_segment(Purpose::Data).unwrap();
    let mut sealed = b"content".to_vec();
    key.seal(0, &[], &mut sealed).unwrap();
    for (index, changed) in flipped(&encoded(&record)) {
        let opened = SegmentRecord::parse(&changed).and_then(|(record, _)| public.open_segment(Purpose::Data, &record));
        // A Curve25519 point has 255 bits. HPKE hashes all 256, so that the highest one counts nevertheless.
        assert!(opened.is_err(), "byte {index}");
    }
}

#[test]
fn records_are_read_one_after_another() {
    let admin = admin();
    let (one, _) = admin.new_segment(Purpose::Map).unwrap();
    let (two, _) = admin.new_segment(Purpose::Data).unwrap();
    let bytes = [encoded(&one), encoded(&two), b"rest".to_vec()].concat();
    let (first, rest) = SegmentRecord::parse(&bytes).unwrap();
    let (second, rest) = SegmentRecord::parse(rest).unwrap();
    assert_eq!((first, second, rest), (one, two, &b"rest"[..]));
    for length in 0..20 + 2 * 96 {
        assert_eq!(kind_of(SegmentRecord::parse(&bytes[..length])), ErrorKind::Truncated, "{length} bytes");
    }
}

#[test]
fn the_number_of_recipients_is_bounded() {
    let mut bytes = vec![0; 20 + 96 * (MAX_RECIPIENTS + 1)];
    for (count, kind) in [(0, ErrorKind::Corrupt), (65, ErrorKind::LimitExceeded), (0xffff, ErrorKind::LimitExceeded)] {
        bytes[16..18].copy_from_slice(&u16::to_le_bytes(count));
        assert_eq!(kind_of(SegmentRecord::parse(&bytes)), kind, "{count}");
    }
    bytes[16..18].copy_from_slice(&64u16.to_le_bytes());
    assert_eq!(SegmentRecord::parse(&bytes).unwrap().1.len(), 96);
    bytes[18] = 1;
    assert_eq!(kind_of(SegmentRecord::parse(&bytes)), ErrorKind::Corrupt);
}

#[test]
fn a_part_is_bound_to_its_number_and_header() {
    let (_, key) = admin().new_segment(Purpose::Data).unwrap();
    let mut sealed = b"content".to_vec();
    key.seal(u32::MAX, b"header", &mut sealed).unwrap();
    assert_eq!(sealed.len(), 7 + TAG_BYTES);
    let open = |number, associated: &[u8], bytes: &[u8]| {
        key.open(number, associated, &mut bytes.to_vec()).map(|plain| plain.to_vec())
    };
    assert_eq!(open(u32::MAX, b"header", &sealed).unwrap(), b"content");
    assert_eq!(kind_of(open(0, b"header", &sealed)), ErrorKind::Corrupt);
    assert_eq!(kind_of(open(u32::MAX, b"Header", &sealed)), ErrorKind::Corrupt);
    for length in 0..sealed.len() {
        assert_eq!(kind_of(open(u32::MAX, b"header", &sealed[..length])), ErrorKind::Corrupt, "{length} bytes");
    }
    for (index, changed) in flipped(&sealed) {
        assert_eq!(kind_of(open(u32::MAX, b"header", &changed)), ErrorKind::Corrupt, "byte {index}");
    }
}

proptest! {
    #[test]
    fn any_part_comes_back(
        plain in proptest::collection::vec(any::<u8>(), 0..2000),
        header in proptest::collection::vec(any::<u8>(), 0..100),
        number: u32,
    ) {
        let public = KeyRing::public(REPOSITORY).unwrap();
        let (record, key) = public.derived_segment(Purpose::Map, &header).unwrap();
        let mut sealed = plain.clone();
        key.seal(number, &header, &mut sealed).unwrap();
        let key = public.open_segment(Purpose::Map, &record).unwrap();
        prop_assert_eq!(&*key.open(number, &header, &mut sealed).unwrap(), &plain[..]);
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        let _ = SegmentRecord::parse(&bytes);
    }
}
