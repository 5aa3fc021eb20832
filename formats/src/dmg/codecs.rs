//! The compressions of chunks.

use std::cell::RefCell;
use std::io::Read;

use lzfse_rust::LzfseRingDecoder;

use super::adc;
use crate::codec::{self, CodecError};

/// How a chunk is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Adc,
    Zlib,
    Bzip2,
    Lzfse,
    /// LZMA2 in the container of xz.
    Lzma,
}

/// Memory for the dictionary of an LZMA chunk, in KiB: enough for the largest preset of xz (64 MiB).
const MAX_LZMA_KIB: u32 = 66 << 10;

impl Codec {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Codec::Adc => "ADC",
            Codec::Zlib => "zlib",
            Codec::Bzip2 => "bzip2",
            Codec::Lzfse => "LZFSE",
            Codec::Lzma => "LZMA",
        }
    }

    /// Decodes a chunk into exactly `output`.
    pub fn decode(self, input: &[u8], output: &mut [u8]) -> Result<(), CodecError> {
        match self {
            Codec::Adc => adc::decode(input, output),
            Codec::Zlib => match codec::inflate_zlib(input, output)? {
                length if length == output.len() => Ok(()),
                length => Err(CodecError(format!("the zlib stream expands to {length} bytes"))),
            },
            Codec::Bzip2 => self.fill(bzip2::bufread::BzDecoder::new(input), output),
            Codec::Lzfse => {
                thread_local!(static CONTEXT: RefCell<LzfseRingDecoder> = RefCell::default());
                CONTEXT.with_borrow_mut(|context| self.fill(context.reader_bytes(input), output))
            }
            Codec::Lzma => self.fill(lzma_rust2::XzReader::new_mem_limit(input, false, MAX_LZMA_KIB), output),
        }
    }

    /// Fills `output`, and goes on to the end of the stream, where its checksum is.
    fn fill(self, mut stream: impl Read, output: &mut [u8]) -> Result<(), CodecError> {
        let damaged = |cause: std::io::Error| CodecError(format!("the {} stream is damaged: {cause}", self.name()));
        let length = output.len();
        stream.read_exact(output).map_err(damaged)?;
        match stream.read(&mut [0]).map_err(damaged)? {
            0 => Ok(()),
            _ => Err(CodecError(format!("the {} stream expands to more than {length} bytes", self.name()))),
        }
    }
}
