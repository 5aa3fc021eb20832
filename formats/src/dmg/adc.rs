//! Apple Data Compression: literals and copies of what was written before, by whole bytes.
//!
//! ```text
//!   1nnnnnnn                      n + 1 literal bytes follow
//!   01nnnnnn dddddddd dddddddd    copy n + 4 bytes from d + 1 back
//!   00nnnndd dddddddd             copy n + 3 bytes from d + 1 back
//! ```

use crate::codec::CodecError;

/// Decodes into exactly `output`; what follows is ignored.
pub(super) fn decode(input: &[u8], output: &mut [u8]) -> Result<(), CodecError> {
    let cut_short = || CodecError("the ADC stream is cut short".to_owned());
    let (mut input, mut done) = (input, 0);
    while done < output.len() {
        let (&code, rest) = input.split_first().ok_or_else(cut_short)?;
        if code & 0x80 != 0 {
            let (literals, rest) = rest.split_at_checked(usize::from(code & 0x7f) + 1).ok_or_else(cut_short)?;
            room(output, done, literals.len())?.copy_from_slice(literals);
            (input, done) = (rest, done + literals.len());
            continue;
        }
        let (length, distance, rest) = match (code & 0x40 != 0, rest) {
            (true, [high, low, rest @ ..]) => {
                (usize::from(code & 0x3f) + 4, usize::from(u16::from_be_bytes([*high, *low])), rest)
            }
            (false, [low, rest @ ..]) => {
                (usize::from(code >> 2) + 3, usize::from(u16::from_be_bytes([code & 3, *low])), rest)
            }
            _ => return Err(cut_short()),
        };
        let from = done.checked_sub(distance + 1).ok_or_else(|| {
            CodecError(format!("the ADC stream copies from {} bytes back, but has only {done}", distance + 1))
        })?;
        room(output, done, length)?;
        // The copy may reach into itself.
        (0..length).for_each(|index| output[done + index] = output[from + index]);
        (input, done) = (rest, done + length);
    }
    Ok(())
}

fn room(output: &mut [u8], done: usize, length: usize) -> Result<&mut [u8], CodecError> {
    let all = output.len();
    let too_long = || CodecError(format!("the ADC stream expands to more than {all} bytes"));
    output.get_mut(done..done + length).ok_or_else(too_long)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_short_and_long_copies() {
        // Three literals, three bytes from three back, one more literal, five from one back; the rest is ignored.
        let input = [0x82, b'a', b'b', b'c', 0x00, 0x02, 0x80, b'd', 0x41, 0x00, 0x00, 0xff];
        let mut output = [0; 12];
        decode(&input, &mut output).unwrap();
        assert_eq!(&output, b"abcabcdddddd");
    }

    #[test]
    fn what_is_cut_or_reaches_out_is_an_error() {
        assert!(decode(&[0x82, b'a', b'b'], &mut [0; 3]).is_err());
        assert!(decode(&[0x82, b'a', b'b', b'c'], &mut [0; 2]).is_err());
        assert!(decode(&[0x82, b'a', b'b', b'c'], &mut [0; 4]).is_err());
        assert!(decode(&[0x80, b'a', 0x00, 0x01], &mut [0; 4]).is_err());
        assert!(decode(&[0x80, b'a', 0x40, 0x00], &mut [0; 5]).is_err());
        assert!(decode(&[0x80, b'a', 0x00, 0x00], &mut [0; 3]).is_err());
    }
}
