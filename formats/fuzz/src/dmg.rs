//! A DMG, or a chunk table and the data that it points into.
//!
//! ```text
//!   length of the table, 16 bits, the higher byte first | table, "mish" | data fork
//! ```
//!
//! The table goes into a resource fork: the base64 of a property list would hide it.

const TRAILER_BYTES: usize = 512;

/// The file that an input stands for.
pub fn image(input: &[u8]) -> Vec<u8> {
    let trailer = input.len().checked_sub(TRAILER_BYTES).and_then(|begin| input.get(begin..));
    match input {
        _ if trailer.is_some_and(|trailer| trailer.starts_with(b"koly")) => input.to_vec(),
        [high, low, rest @ ..] => {
            let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
            let (table, stored) = rest.split_at(length);
            assembled(table, stored)
        }
        _ => input.to_vec(),
    }
}

/// A file with one chunk table, a data fork, and a trailer that finds both.
fn assembled(table: &[u8], stored: &[u8]) -> Vec<u8> {
    let mut fork = Vec::new();
    let numbers = [16, 20 + table.len(), 4 + table.len(), 50, table.len()];
    numbers.iter().for_each(|number| fork.extend_from_slice(&(*number as u32).to_be_bytes()));
    fork.extend_from_slice(table);
    fork.extend_from_slice(&[0; 24]);
    fork.extend_from_slice(&[0, 28, 0, 28, 0, 0]);
    fork.extend_from_slice(b"blkx\0\0\0\x0a");
    fork.extend_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut trailer = [0; TRAILER_BYTES];
    trailer[..4].copy_from_slice(b"koly");
    trailer[7] = 4;
    trailer[10] = 2;
    trailer[32..40].copy_from_slice(&(stored.len() as u64).to_be_bytes());
    trailer[40..48].copy_from_slice(&(stored.len() as u64).to_be_bytes());
    trailer[48..56].copy_from_slice(&(fork.len() as u64).to_be_bytes());
    let mut file = stored.to_vec();
    file.extend(fork);
    file.extend_from_slice(&trailer);
    file
}
