//! Zstandard, into and out of buffers of exactly the chunk's size, with contexts kept per thread.

use std::cell::RefCell;

use zstd::zstd_safe::{CCtx, DCtx, find_frame_compressed_size, get_error_name};

/// Compresses `plain` as one frame and appends it to `output`, if it becomes shorter than it was; says whether it did.
pub fn append(plain: &[u8], level: i32, output: &mut Vec<u8>) -> bool {
    thread_local!(static CONTEXT: RefCell<CCtx<'static>> = RefCell::new(CCtx::create()));
    let begin = output.len();
    output.resize(begin + plain.len().saturating_sub(1), 0);
    let length = CONTEXT.with_borrow_mut(|context| context.compress(&mut output[begin..], plain, level));
    output.truncate(begin + length.unwrap_or(0));
    length.is_ok()
}

/// Decodes frames until exactly `plain` is filled; what follows is ignored. Fails with the reason in words.
pub fn decode(packed: &[u8], plain: &mut [u8]) -> Result<(), String> {
    thread_local!(static CONTEXT: RefCell<DCtx<'static>> = RefCell::new(DCtx::create()));
    CONTEXT.with_borrow_mut(|context| {
        let (mut packed, mut done) = (packed, 0);
        while done < plain.len() {
            let length = find_frame_compressed_size(packed).ok().filter(|length| *length <= packed.len());
            let (frame, rest) = packed.split_at(length.ok_or("the zstd frame is damaged or cut short")?);
            done += context
                .decompress(&mut plain[done..], frame)
                .map_err(|code| format!("the zstd frame is damaged: {}", get_error_name(code)))?;
            packed = rest;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shrinks_comes_back_and_nothing_longer_or_shorter() {
        let plain: Vec<u8> = (0..65536u32).map(|i| ((i * i) >> 7) as u8 & 0x1f).collect();
        let mut packed = b"before".to_vec();
        assert!(append(&plain, 3, &mut packed));
        assert!(packed.len() < plain.len());
        let packed = packed.strip_prefix(b"before").unwrap();
        let mut found = vec![0; plain.len()];
        decode(packed, &mut found).unwrap();
        assert_eq!(found, plain);
        assert!(decode(packed, &mut vec![0; plain.len() - 1]).is_err());
        assert!(decode(packed, &mut vec![0; plain.len() + 1]).is_err());
        assert!(decode(&packed[..100], &mut found).is_err());
    }

    #[test]
    fn what_does_not_shrink_is_left_out() {
        let mut noise = [0; 65536];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let mut output = b"before".to_vec();
        assert!(!append(&noise, 3, &mut output) && !append(&[], 3, &mut output));
        assert_eq!(output, b"before");
    }

    #[test]
    fn an_empty_frame_at_the_end_is_an_error_not_a_loop() {
        let mut frame = [0; 64];
        let length = CCtx::create().compress(&mut frame[..], &[], 3).unwrap();
        assert!(decode(&frame[..length], &mut [0; 10]).is_err());
    }
}
