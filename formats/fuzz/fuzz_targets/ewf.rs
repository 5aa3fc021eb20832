//! An EWF segment: the input is a list of sections, whose checksums are made right.
//!
//! A section is a byte for its type, two for its length, and its content. Sections of types that have a checksum in their
//! content get it there; an odd first byte leaves all of that alone, and takes the input as a file.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tintype_formats::testing::{MemoryFile, exercise};

const KINDS: [&str; 8] = ["volume", "sectors", "table", "table2", "header", "hash", "digest", "data"];

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    let file = if mode & 1 != 0 { rest.to_vec() } else { segment(rest) };
    let _ = exercise(&tintype_formats::ewf::FORMAT, Arc::new(MemoryFile::from_bytes(&file)));
});

fn segment(mut input: &[u8]) -> Vec<u8> {
    let mut file = b"EVF\x09\x0d\x0a\xff\x00\x01\x01\x00\x00\x00".to_vec();
    while let [kind, low, high, rest @ ..] = input {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let kind = KINDS[usize::from(*kind) % KINDS.len()];
        let mut content = rest[..length].to_vec();
        match kind {
            "volume" | "data" => {
                content.resize(1052, 0);
                seal(&mut content, 0, 1048);
            }
            "table" | "table2" => {
                content.resize(content.len().max(28), 0);
                seal(&mut content, 0, 20);
                let end = content.len() - 4;
                seal(&mut content, 24, end);
            }
            _ => {}
        }
        section(&mut file, kind, &content);
        input = &rest[length..];
    }
    section(&mut file, "done", &[]);
    file
}

fn section(file: &mut Vec<u8>, kind: &str, content: &[u8]) {
    let mut header = vec![0; 76];
    header[..kind.len()].copy_from_slice(kind.as_bytes());
    let next = (file.len() + 76 + content.len()) as u64;
    header[16..24].copy_from_slice(&next.to_le_bytes());
    seal(&mut header, 0, 72);
    file.extend(header);
    file.extend_from_slice(content);
}

/// Puts the Adler-32 of a range behind it.
fn seal(bytes: &mut [u8], begin: usize, end: usize) {
    let (mut a, mut b) = (1, 0);
    for byte in &bytes[begin..end] {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    bytes[end..end + 4].copy_from_slice(&(b << 16 | a).to_le_bytes());
}
