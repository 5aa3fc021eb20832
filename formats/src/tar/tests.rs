//! Archives whole, sparse and damaged.

use super::*;
use crate::testing::MemoryFile;

fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in members {
        bytes.extend(file_header(Flavour::Ustar, name, content.len() as u64).unwrap());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.extend([0; 1024]);
    bytes
}

/// Changes a header and mends its checksum.
fn changed(mut block: [u8; 512], change: impl FnOnce(&mut [u8; 512])) -> [u8; 512] {
    change(&mut block);
    let mut header = Header::read_from_bytes(&block).unwrap();
    header.set_sum();
    zerocopy::transmute!(header)
}

fn list(bytes: &[u8]) -> Result<Vec<Member>> {
    let file = MemoryFile::from_bytes(bytes);
    let (mut members, mut position) = (Vec::new(), 0);
    while let Some(member) = member_at(&file, position, Some(bytes.len() as u64))? {
        position = member.end().unwrap();
        members.push(member);
    }
    Ok(members)
}

#[test]
fn members_are_found_with_their_places() {
    let members = list(&archive(&[("a", b"x"), ("folder/b", &[7; 512]), ("empty", b""), ("c", &[1; 513])])).unwrap();
    let found: Vec<_> = members.iter().map(|one| (one.name.as_str(), one.host_offset, one.stored_bytes)).collect();
    assert_eq!(found, [("a", 512, 1), ("folder/b", 1536, 512), ("empty", 2560, 0), ("c", 3072, 513)]);
}

#[test]
fn long_names_and_large_sizes_come_from_headers_before() {
    let name = "n".repeat(300);
    let mut gnu = Vec::new();
    gnu.extend(changed(file_header(Flavour::OldGnu, "././@LongLink", 301).unwrap(), |block| block[156] = b'L'));
    gnu.extend(format!("{name:\0<512}").as_bytes());
    gnu.extend(file_header(Flavour::OldGnu, "nnn", 1 << 40).unwrap());
    let found = member_at(&MemoryFile::from_bytes(&gnu), 0, None).unwrap().unwrap();
    assert_eq!((found.name.as_str(), found.stored_bytes, found.host_offset), (name.as_str(), 1 << 40, 1536));

    let records = format!("310 path={name}\n22 size=1099511627776\n");
    let mut pax = Vec::new();
    pax.extend(changed(file_header(Flavour::Ustar, "x", records.len() as u64).unwrap(), |block| block[156] = b'x'));
    pax.extend(format!("{records:\0<512}").as_bytes());
    pax.extend(file_header(Flavour::Ustar, "nnn", 0).unwrap());
    let found = member_at(&MemoryFile::from_bytes(&pax), 0, None).unwrap().unwrap();
    assert_eq!((found.name.as_str(), found.stored_bytes, found.host_offset), (name.as_str(), 1 << 40, 1536));
}

#[test]
fn sparse_members_have_holes() {
    let map = |block: &mut [u8], parts: &[(u64, u64)]| {
        for (entry, (offset, length)) in block.chunks_exact_mut(24).zip(parts) {
            entry.copy_from_slice(format!("{offset:011o}\0{length:011o}\0").as_bytes());
        }
    };
    let parts = [(512, 1), (1024, 2), (2000, 0), (3000, 3), (4000, 4), (5000, 0)];
    let sparse = |parts: &[(u64, u64)], len: u64, stored: u64| {
        let header = file_header(Flavour::OldGnu, "disk.raw", stored).unwrap();
        let mut bytes = Vec::from(changed(header, |block| {
            block[156] = b'S';
            map(&mut block[386..482], &parts[..parts.len().min(4)]);
            block[482] = u8::from(parts.len() > 4);
            block[483..495].copy_from_slice(format!("{len:011o}\0").as_bytes());
        }));
        if parts.len() > 4 {
            bytes.extend([0; 512]);
            map(&mut bytes[512..1016], &parts[4..]);
        }
        bytes.extend(*b"abbcccdddd");
        bytes
    };
    let file: Arc<dyn HostFile> = Arc::new(MemoryFile::from_bytes(&sparse(&parts, 6000, 10)));
    let member = member_at(file.as_ref(), 0, None).unwrap().unwrap();
    let found = member.open(&file).unwrap();
    let mut bytes = vec![9; 6000];
    found.read_exact_at(0, &mut bytes).unwrap();
    let mut expected = vec![0; 6000];
    for (place, content) in [(512, &b"a"[..]), (1024, b"bb"), (3000, b"ccc"), (4000, b"dddd")] {
        expected[place..place + content.len()].copy_from_slice(content);
    }
    assert!(bytes == expected);
    assert_eq!(found.stored_end(), 4004);

    for bad in [
        sparse(&parts, 4999, 10),
        sparse(&parts, 6000, 11),
        sparse(&[(10, 5), (12, 5)], 6000, 10),
        sparse(&[(0, 10)], 9, 10),
    ] {
        let error = member_at(&MemoryFile::from_bytes(&bad), 0, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

#[test]
fn damage_gives_errors() {
    let good = archive(&[("a", b"x"), ("b", b"y")]);
    for place in [0, 100, 130, 150, 156, 257, 500, 1024 + 3] {
        let mut bytes = good.clone();
        bytes[place] ^= 0x15;
        assert_eq!(list(&bytes).unwrap_err().kind(), ErrorKind::Corrupt, "{place}");
    }
    for cut in [1, 511, 512, 513 + 512] {
        assert!(list(&good[..cut]).is_err_and(|error| error.kind() == ErrorKind::Truncated), "{cut}");
    }
    // Without its end, or without the padding of its last file, an archive is still whole.
    assert_eq!(list(&good[..1536 + 1]).unwrap().len(), 2);
    let endless: Vec<u8> = changed(file_header(Flavour::Ustar, "x", 0).unwrap(), |block| block[156] = b'x')
        .into_iter()
        .cycle()
        .take(512 * 100)
        .collect();
    assert_eq!(list(&endless).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn numbers_are_octal_or_binary() {
    assert_eq!(number(b"0000644\0"), Some(0o644));
    assert_eq!(number(b"   17 \0"), Some(15));
    assert_eq!(number(b"\0\0\0\0"), Some(0));
    assert_eq!(number(b"\x80\0\0\0\0\0\0\0\0\0\x01\0"), Some(256));
    assert_eq!(number(b"\x80\x01\0\0\0\0\0\0\0\0\0\0"), None);
    assert_eq!(number(b"0008"), None);
    assert_eq!(number(b"\xff\xff\xff\xff"), None);
}
