//! Descriptors as other people write them.

use super::super::descriptor::{Access, ExtentKind, looks_like_descriptor, parse};
use super::*;

fn parse_text(text: &[u8]) -> super::super::descriptor::Descriptor {
    parse(text).unwrap()
}

#[test]
fn spaces_cases_line_ends_and_comments_do_not_matter() {
    let text = b"\xef\xbb\xbf# disk descriptorFILE\r\n# comment\r\n\r\n  VERSION = 1 \r\ncid = 0dc3c2a9 \r\nparentCid=FFFFFFFF\r\n\
        CreateType = \"monolithicFlat\"\r\n\trw 128\tflat  \"a b.vmdk\"  7\r\nRW 5 ZERO\rddb.uuid = \"x = y\"\n\0\0garbage \"";
    assert!(looks_like_descriptor(text));
    let found = parse_text(text);
    assert_eq!((found.cid, found.parent_cid, found.has_parent()), (Some(0x0dc3c2a9), Some(u32::MAX), false));
    assert_eq!(found.create_type, "monolithicFlat");
    assert_eq!(found.extents.len(), 2);
    let first = &found.extents[0];
    assert_eq!((first.access, first.kind, first.length_bytes), (Access::ReadWrite, ExtentKind::Flat, 65536));
    assert_eq!((first.names.as_slice(), first.host_offset), (&["a b.vmdk".to_owned()][..], 7 * 512));
    assert_eq!(found.values.get("ddb.uuid").map(String::as_str), Some("x = y"));
    assert_eq!(found.disk_bytes().unwrap(), 133 * 512);
}

#[test]
fn names_are_in_the_encoding_that_the_descriptor_says() {
    let with = |encoding: &str, name: &[u8]| {
        let mut text = format!("version=1\nencoding=\"{encoding}\"\nRW 1 FLAT \"").into_bytes();
        text.extend_from_slice(name);
        text.extend_from_slice(b"\" 0\n");
        parse_text(&text).extents[0].names.clone()
    };
    assert_eq!(with("UTF-8", "größe.vmdk".as_bytes()), ["größe.vmdk"]);
    assert_eq!(with("windows-1252", b"gr\xf6\xdfe.vmdk"), ["größe.vmdk"]);
    assert_eq!(with("GBK", b"\xd6\xd0\xce\xc4.vmdk"), ["中文.vmdk"]);
    assert_eq!(with("Shift_JIS", b"\x93\xfa\x96{.vmdk"), ["日本.vmdk"]);
    // What is not what it says: both readings, or the most likely one.
    assert_eq!(with("windows-1252", "é.vmdk".as_bytes()), ["Ã©.vmdk", "é.vmdk"]);
    assert_eq!(with("UTF-8", b"gr\xf6\xdfe.vmdk"), ["größe.vmdk"]);
    assert_eq!(with("klingon", "é.vmdk".as_bytes()), ["é.vmdk"]);
    // The name may come before the encoding.
    let text = b"version=1\nRW 1 FLAT \"\xe9.vmdk\" 0\nddb.encoding = \"windows-1252\"\n";
    assert_eq!(parse_text(text).extents[0].names, ["é.vmdk"]);
}

#[test]
fn a_line_that_is_nothing_is_an_error_rather_than_a_gap() {
    for line in [
        "RX 5 FLAT \"a\" 0",
        "RW five FLAT \"a\" 0",
        "RW 5 FLOPPY \"a\" 0",
        "RW 5 FLAT",
        "RW 5 FLAT \"a",
        "RW 5 FLAT \"a\" zero",
        "RW 5 SPARSE \"a\" 5",
        "RW 99999999999999999999 ZERO",
        "RW 36028797018963968 ZERO",
        "CID=x",
        "parentCID=123456789",
        "hello",
    ] {
        let error = parse(format!("version=1\nRW 5 ZERO\n{line}\n").as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{line}");
        assert!(error.to_string().contains("line 3"), "{error}");
    }
    assert_eq!(parse(b"version=1\nCID=1\n").unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn thousands_of_extents_are_bounded_and_so_is_the_disk() {
    let many = "RW 1 ZERO\n".repeat(4096);
    assert_eq!(parse(many.as_bytes()).unwrap().extents.len(), 4096);
    let more = "RW 1 ZERO\n".repeat(4097);
    assert_eq!(parse(more.as_bytes()).unwrap_err().kind(), ErrorKind::LimitExceeded);
    let large = parse("RW 18014398509481983 ZERO\n".repeat(2).as_bytes()).unwrap();
    assert_eq!(large.disk_bytes().unwrap_err().kind(), ErrorKind::LimitExceeded);
    let name = format!("RW 1 FLAT \"{}\" 0", "a".repeat(4097));
    assert_eq!(parse(name.as_bytes()).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn what_a_terminal_would_obey_is_escaped() {
    let error = parse(b"\x1b[2J hello\nRW 1 ZERO\n").unwrap_err().to_string();
    assert!(!error.contains('\x1b'), "{error:?}");
    let folder = Folder::with_descriptor("RW 1 FLAT \"\x1b[2J.vmdk\" 0");
    let error = folder.open(MAIN).err().unwrap().to_string();
    assert!(!error.contains('\x1b'), "{error:?}");
}

#[test]
fn descriptors_without_a_title_are_known_by_their_keys() {
    assert!(looks_like_descriptor(b"# Description file created by somebody\nversion=1\nCID=7e5b80a7\n"));
    assert!(looks_like_descriptor(b"\n\nversion=1\ncreateType=\"vmfs\"\n"));
    for other in [&b"version=1\n"[..], b"CID=1\nversion=1\n", b"# a script\nversion=\"$1\"; echo\n", b"", b"\0\0\0"] {
        assert!(!looks_like_descriptor(other), "{:?}", String::from_utf8_lossy(other));
    }
}
