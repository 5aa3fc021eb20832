//! An EWF segment, or a list of sections, whose checksums are made right.
//!
//! ```text
//!   kind | length, 16 bits, the lower byte first | content      again and again
//! ```
//!
//! The lowest four bits of the kind choose one of [`KINDS`]; the next bit says that the content is taken as it is.

const SIGNATURE: [u8; 8] = *b"EVF\x09\x0d\x0a\xff\x00";

const SECTION_HEADER_BYTES: usize = 76;

const KINDS: [&str; 16] = [
    "volume", "sectors", "table", "table2", "header", "header2", "hash", "digest", "data", "disk", "error2", SEALED,
    ANY, "next", "done", "session",
];

/// A `sectors` section with a checksum at its end: a chunk that is not compressed.
const SEALED: &str = "sealed";

/// Kind (16 bytes) and place of the next section (8 bytes) are the first bytes of the content.
const ANY: &str = "any";

/// The file that an input stands for.
pub fn image(input: &[u8]) -> Vec<u8> {
    if input.starts_with(&SIGNATURE) { input.to_vec() } else { segment(input) }
}

fn segment(mut input: &[u8]) -> Vec<u8> {
    let mut file = [&SIGNATURE[..], &[1, 1, 0, 0, 0]].concat();
    let mut sectors_begin = None;
    while let [code, low, high, rest @ ..] = input {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (content, after) = rest.split_at(length);
        let (kind, as_it_is) = (KINDS[usize::from(*code & 15)], code & 16 != 0);
        let begin = file.len() + SECTION_HEADER_BYTES;
        let mended = if as_it_is { content.to_vec() } else { mended(kind, content, sectors_begin.unwrap_or(begin)) };
        match kind {
            ANY => any_section(&mut file, content),
            SEALED => section(&mut file, "sectors", &mended),
            _ => section(&mut file, kind, &mended),
        }
        sectors_begin = if matches!(kind, "sectors" | SEALED) { Some(begin) } else { sectors_begin };
        input = after;
    }
    section(&mut file, "done", &[]);
    file
}

/// With the length and the checksums that the kind asks for.
fn mended(kind: &str, content: &[u8], chunks_begin: usize) -> Vec<u8> {
    let mut content = content.to_vec();
    let sealed_bytes = match kind {
        // SMART's short form has another length.
        "volume" | "disk" | "data" => Some(if content.len() <= 94 { 90 } else { 1048 }),
        "hash" => Some(32),
        "digest" => Some(76),
        SEALED => Some(content.len()),
        _ => None,
    };
    if let Some(sealed_bytes) = sealed_bytes {
        content.resize(sealed_bytes + 4, 0);
        seal(&mut content, 0, sealed_bytes);
    }
    if matches!(kind, "table" | "table2") {
        mend_table(&mut content, chunks_begin);
    }
    content
}

/// Offsets are from the beginning of the chunks, so that sections may come and go before them.
fn mend_table(content: &mut Vec<u8>, chunks_begin: usize) {
    content.resize(content.len().max(28), 0);
    let base = u64::from_le_bytes(content[8..16].try_into().expect("eight bytes"));
    content[8..16].copy_from_slice(&base.wrapping_add(chunks_begin as u64).to_le_bytes());
    seal(content, 0, 20);
    let entries = u32::from_le_bytes(content[..4].try_into().expect("four bytes"));
    let end = (entries as usize).saturating_mul(4).saturating_add(24);
    if end <= content.len() - 4 {
        seal(content, 24, end);
    }
}

fn section(file: &mut Vec<u8>, kind: &str, content: &[u8]) {
    let next = file.len() + SECTION_HEADER_BYTES + content.len();
    section_header(file, kind.as_bytes(), &(next as u64).to_le_bytes());
    file.extend_from_slice(content);
}

fn any_section(file: &mut Vec<u8>, content: &[u8]) {
    let (kind, rest) = content.split_at(content.len().min(16));
    let (next, rest) = rest.split_at(rest.len().min(8));
    section_header(file, kind, next);
    file.extend_from_slice(rest);
}

fn section_header(file: &mut Vec<u8>, kind: &[u8], next: &[u8]) {
    let mut header = [0; SECTION_HEADER_BYTES];
    header[..kind.len()].copy_from_slice(kind);
    header[16..16 + next.len()].copy_from_slice(next);
    seal(&mut header, 0, SECTION_HEADER_BYTES - 4);
    file.extend_from_slice(&header);
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
