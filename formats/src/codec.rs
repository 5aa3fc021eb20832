//! Compression as the formats use it: whole units in, whole units out, contexts kept per thread.
//!
//! Decoders write into a buffer of exactly the unit's size, so that no stream can expand further.

use std::cell::RefCell;

use flate2::{Compress, FlushCompress, Status};
use libdeflater::{CompressionLvl, Compressor, DecompressionError, Decompressor};

/// Why a unit could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodecError(pub String);

impl std::fmt::Display for CodecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CodecError {}

fn error<T>(text: impl Into<String>) -> Result<T, CodecError> {
    Err(CodecError(text.into()))
}

/// Window of the deflate streams that this crate writes for QCOW2, as a power of two: 4 KiB. QEMU inflates any window in
/// one call, but streaming readers that follow its `windowBits = -12` fail on larger ones.
const QCOW2_WINDOW_BITS: u8 = 12;

/// Inflates one raw deflate stream (RFC 1951) of any window into exactly `output`; what follows the stream is ignored.
pub fn inflate_raw(input: &[u8], output: &mut [u8]) -> Result<(), CodecError> {
    thread_local!(static CONTEXT: RefCell<Decompressor> = RefCell::new(Decompressor::new()));
    CONTEXT.with_borrow_mut(|context| match context.deflate_decompress(input, output) {
        Ok(length) if length == output.len() => Ok(()),
        Ok(length) => error(format!("the deflate stream expands to {length} bytes, expected {}", output.len())),
        Err(DecompressionError::InsufficientSpace) => {
            error(format!("the deflate stream expands to more than {} bytes", output.len()))
        }
        Err(DecompressionError::BadData) => error("the deflate stream is damaged or cut short"),
    })
}

/// Inflates one zlib stream (RFC 1950) into the beginning of `output`, and returns its length; what follows is ignored.
pub fn inflate_zlib(input: &[u8], output: &mut [u8]) -> Result<usize, CodecError> {
    thread_local!(static CONTEXT: RefCell<Decompressor> = RefCell::new(Decompressor::new()));
    CONTEXT.with_borrow_mut(|context| match context.zlib_decompress(input, output) {
        Ok(length) => Ok(length),
        Err(DecompressionError::InsufficientSpace) => {
            error(format!("the zlib stream expands to more than {} bytes", output.len()))
        }
        Err(DecompressionError::BadData) => error("the zlib stream is damaged or cut short"),
    })
}

/// Compresses `input` as one zlib stream at a level from 1 to 9, and appends it to `output`.
pub fn deflate_zlib(input: &[u8], level: u32, output: &mut Vec<u8>) -> Result<(), CodecError> {
    thread_local!(static CONTEXT: RefCell<Option<(u32, Compressor)>> = const { RefCell::new(None) });
    CONTEXT.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(kept, _)| *kept != level) {
            let level_setting = CompressionLvl::new(level as i32).unwrap_or_default();
            *slot = Some((level, Compressor::new(level_setting)));
        }
        let Some((_, context)) = slot.as_mut() else { return error("there is no encoder") };
        let begin = output.len();
        output.resize(begin + context.zlib_compress_bound(input.len()), 0);
        match context.zlib_compress(input, &mut output[begin..]) {
            Ok(length) => {
                output.truncate(begin + length);
                Ok(())
            }
            Err(cause) => error(format!("the zlib stream cannot be made: {cause}")),
        }
    })
}

/// Decodes Zstandard frames (RFC 8878) until exactly `output` is filled; what follows is ignored.
pub fn decode_zstd(input: &[u8], output: &mut [u8]) -> Result<(), CodecError> {
    thread_local!(static CONTEXT: RefCell<zstd::zstd_safe::DCtx<'static>> = RefCell::new(zstd::zstd_safe::DCtx::create()));
    CONTEXT.with_borrow_mut(|context| {
        let (mut input, mut done) = (input, 0);
        while done < output.len() {
            let frame = match zstd::zstd_safe::find_frame_compressed_size(input) {
                Ok(length) => &input[..length.min(input.len())],
                Err(_) => return error("the zstd frame is damaged or cut short"),
            };
            let length = context.decompress(&mut output[done..], frame).map_err(|code| {
                CodecError(format!("the zstd frame is damaged: {}", zstd::zstd_safe::get_error_name(code)))
            })?;
            done += length;
            input = &input[frame.len()..];
        }
        Ok(())
    })
}

/// Compresses `input` as one raw deflate stream with a 4 KiB window; `None` unless it becomes shorter than `limit` bytes.
pub fn deflate_raw_small_window(input: &[u8], level: u32, limit: usize) -> Option<Vec<u8>> {
    thread_local!(static CONTEXT: RefCell<Option<(u32, Compress)>> = const { RefCell::new(None) });
    CONTEXT.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(kept, _)| *kept != level) {
            let level_setting = flate2::Compression::new(level);
            *slot = Some((level, Compress::new_with_window_bits(level_setting, false, QCOW2_WINDOW_BITS)));
        }
        let (_, context) = slot.as_mut()?;
        context.reset();
        // Room for the longest stream, even if it is of no use: a stream that was given up costs zlib-rs 0.6 a part of its
        // buffer, in spite of the reset, and after some of them it panics.
        let mut output = vec![0; input.len() + input.len() / 8 + 64];
        if !matches!(context.compress(input, &mut output, FlushCompress::Finish), Ok(Status::StreamEnd)) {
            *slot = None;
            return None;
        }
        output.truncate(context.total_out() as usize);
        (output.len() < limit).then_some(output)
    })
}

/// Compresses `input` as a part of a raw deflate stream: whole blocks that refer to nothing before them and end with a byte,
/// so that parts can follow each other (zlib's Z_SYNC_FLUSH).
pub fn deflate_part(input: &[u8], level: u32) -> Result<Vec<u8>, CodecError> {
    thread_local!(static CONTEXT: RefCell<Option<(u32, Compress)>> = const { RefCell::new(None) });
    CONTEXT.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(kept, _)| *kept != level) {
            *slot = Some((level, Compress::new(flate2::Compression::new(level), false)));
        }
        let Some((_, context)) = slot.as_mut() else { return error("there is no encoder") };
        context.reset();
        let mut output = vec![0; input.len() + input.len() / 8 + 64];
        let status = context.compress(input, &mut output, FlushCompress::Sync);
        let (read, written) = (context.total_in(), context.total_out() as usize);
        if !matches!(status, Ok(Status::Ok))
            || read != input.len() as u64
            || !output[..written].ends_with(&[0, 0, 255, 255])
        {
            *slot = None;
            return error("the encoder did not take all of its input");
        }
        output.truncate(written);
        Ok(output)
    })
}

/// Compresses `input` as one Zstandard frame; `None` unless it becomes shorter than `limit` bytes.
pub fn encode_zstd(input: &[u8], level: i32, limit: usize) -> Option<Vec<u8>> {
    thread_local!(static CONTEXT: RefCell<zstd::zstd_safe::CCtx<'static>> = RefCell::new(zstd::zstd_safe::CCtx::create()));
    let mut output = vec![0; limit.saturating_sub(1)];
    let length = CONTEXT.with_borrow_mut(|context| context.compress(&mut output[..], input, level)).ok()?;
    output.truncate(length);
    Some(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Vec<u8> {
        (0..65536u32).map(|i| ((i * i) >> 7) as u8 & 0x1f).collect()
    }

    #[test]
    fn deflate_round_trips_and_ignores_what_follows() {
        let input = text();
        let mut packed = deflate_raw_small_window(&input, 6, input.len()).unwrap();
        packed.extend_from_slice(&[0xff; 300]);
        let mut output = vec![0; input.len()];
        inflate_raw(&packed, &mut output).unwrap();
        assert_eq!(input, output);
        assert!(inflate_raw(&packed, &mut vec![0; input.len() - 1]).is_err());
        assert!(inflate_raw(&packed, &mut vec![0; input.len() + 1]).is_err());
        assert!(inflate_raw(&packed[..100], &mut output).is_err());
    }

    #[test]
    fn deflated_parts_follow_each_other() {
        let input = text();
        let noise: Vec<u8> = blake3::Hasher::new().finalize_xof().then_fill(70_000);
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for part in [&input[..], &[], &noise, &input[..1], &input[..40_000]] {
            stream.extend(deflate_part(part, 6).unwrap());
            expected.extend_from_slice(part);
        }
        // An empty last block.
        stream.extend([1, 0, 0, 0xff, 0xff]);
        let mut output = vec![0; expected.len()];
        inflate_raw(&stream, &mut output).unwrap();
        assert!(output == expected);
    }

    #[test]
    fn zlib_round_trips_into_the_begin_of_a_buffer() {
        let input = text();
        let mut packed = vec![7; 12];
        deflate_zlib(&input, 6, &mut packed).unwrap();
        packed.extend_from_slice(&[0xff; 300]);
        let mut output = vec![0; input.len() + 100];
        assert_eq!(inflate_zlib(&packed[12..], &mut output), Ok(input.len()));
        assert_eq!(input, output[..input.len()]);
        assert!(inflate_zlib(&packed[12..], &mut vec![0; input.len() - 1]).is_err());
        packed[40] ^= 1;
        assert!(inflate_zlib(&packed[12..], &mut output).is_err());
    }

    #[test]
    fn zstd_round_trips_over_several_frames_and_ignores_what_follows() {
        let input = text();
        let mut packed = encode_zstd(&input[..30000], 3, input.len()).unwrap();
        packed.extend(encode_zstd(&input[30000..], 3, input.len()).unwrap());
        packed.extend_from_slice(&[0xff; 300]);
        let mut output = vec![0; input.len()];
        decode_zstd(&packed, &mut output).unwrap();
        assert_eq!(input, output);
        assert!(decode_zstd(&packed, &mut vec![0; input.len() - 1]).is_err());
        assert!(decode_zstd(&packed, &mut vec![0; input.len() + 1]).is_err());
    }

    #[test]
    fn an_empty_zstd_frame_at_the_end_is_an_error_not_a_loop() {
        let empty = zstd::zstd_safe::compress_bound(0);
        let frame = encode_zstd(&[], 3, empty + 1).unwrap();
        assert!(decode_zstd(&frame, &mut [0; 10]).is_err());
    }

    #[test]
    fn what_does_not_shrink_is_not_compressed() {
        let noise: Vec<u8> = blake3::Hasher::new().finalize_xof().then_fill(65536);
        assert_eq!(deflate_raw_small_window(&noise, 6, noise.len()), None);
        assert_eq!(encode_zstd(&noise, 3, noise.len()), None);
    }

    #[test]
    fn many_pieces_that_do_not_shrink_leave_the_encoder_whole() {
        for length in [512, 4096, 16384] {
            for seed in 0..200u64 {
                let noise: Vec<u8> = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().then_fill(length);
                assert_eq!(deflate_raw_small_window(&noise, 6, noise.len()), None);
            }
        }
        let packed = deflate_raw_small_window(&text(), 6, 65536).unwrap();
        let mut output = vec![0; 65536];
        inflate_raw(&packed, &mut output).unwrap();
        assert_eq!(output, text());
    }

    trait ThenFill {
        fn then_fill(self, length: usize) -> Vec<u8>;
    }

    impl ThenFill for blake3::OutputReader {
        fn then_fill(mut self, length: usize) -> Vec<u8> {
            let mut bytes = vec![0; length];
            self.fill(&mut bytes);
            bytes
        }
    }
}
