//! Archives in the tar format.

const BLOCK_BYTES: usize = 512;

/// More members than that are mended by nobody.
const MAX_MEMBERS: usize = 64;

/// Whether an input is an archive.
pub fn is_archive(input: &[u8]) -> bool {
    input.get(257..262) == Some(b"ustar")
}

/// Makes the checksums of the members' headers right; a right one stays what it is.
pub fn mend(archive: &mut [u8]) {
    let mut rest = archive;
    for _ in 0..MAX_MEMBERS {
        let Some((header, after)) = rest.split_first_chunk_mut::<BLOCK_BYTES>() else { return };
        if header.iter().all(|byte| *byte == 0) {
            return;
        }
        sign(header);
        let mut length = blocks(header);
        if header[156] == b'S' && header[482] != 0 {
            length +=
                after.chunks(BLOCK_BYTES).take_while(|block| block.get(504).is_some_and(|more| *more != 0)).count();
            length += 1;
        }
        let Some((_, next)) = after.split_at_mut_checked(length * BLOCK_BYTES) else { return };
        rest = next;
    }
}

/// An archive of these files.
pub fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in members {
        let mut header = [0; BLOCK_BYTES];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = b'0';
        header[257..263].copy_from_slice(b"ustar\0");
        sign(&mut header);
        bytes.extend(header);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    }
    bytes
}

fn sign(header: &mut [u8; BLOCK_BYTES]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

/// How many blocks a member has, if its size is written in octal digits.
fn blocks(header: &[u8; BLOCK_BYTES]) -> usize {
    let digits = header[124..136].iter().filter(|byte| (b'0'..=b'7').contains(byte));
    let size = digits.fold(0usize, |size, digit| size.wrapping_mul(8).wrapping_add(usize::from(digit - b'0')));
    size.div_ceil(BLOCK_BYTES).min(usize::MAX / BLOCK_BYTES / 2)
}
