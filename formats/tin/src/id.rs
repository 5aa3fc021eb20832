//! Names: random ones of objects, and keyed hashes of chunks; in text both are lower-case hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use ring::rand::{SecureRandom, SystemRandom};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

use crate::error::{ErrorKind, Result, TinError};

/// Makes a type of so many bytes that is hexadecimal in text and JSON.
macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Length in bytes.
            pub const BYTES: usize = $bytes;
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = TinError;

            fn from_str(text: &str) -> Result<Self> {
                unhex(text).map($name).ok_or_else(|| {
                    let expected = 2 * $bytes;
                    let detail = format!("\"{}\" is not {expected} lower-case hexadecimal digits", text.escape_debug());
                    TinError::corrupt("read an id", detail)
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                deserializer.deserialize_str(HexVisitor).map($name)
            }
        }
    };
}

identifier! {
    /// The random name of a repository, an object, a pack or a segment.
    Id, 16
}

identifier! {
    /// The keyed hash of a chunk's or a map page's content.
    ChunkId, 32
}

impl Id {
    /// Draws a new one from the operating system's randomness.
    pub fn random() -> Result<Self> {
        random().map(Id)
    }
}

/// Takes bytes from the operating system's randomness.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| {
        TinError::new(ErrorKind::NoRandomness, "draw random bytes", "the operating system's generator gives none")
    })?;
    Ok(bytes)
}

/// Fills `bytes` from lower-case hexadecimal digits; false if `text` is anything but exactly these.
pub(crate) fn unhex_into(text: &str, bytes: &mut [u8]) -> bool {
    let digit = |letter: u8| match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() || pairs.len() != bytes.len() {
        return false;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (Some(high), Some(low)) = (digit(*high), digit(*low)) else { return false };
        *byte = high << 4 | low;
    }
    true
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    unhex_into(text, &mut bytes).then_some(bytes)
}

/// Reads a string of lower-case hexadecimal digits without a copy of it.
pub(crate) struct HexVisitor<const N: usize>;

impl<const N: usize> Visitor<'_> for HexVisitor<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lower-case hexadecimal digits", 2 * N)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Self::Value, E> {
        // Not with the text in the message: it may be a secret.
        unhex(text).ok_or_else(|| E::custom(format!("a string is not {} lower-case hexadecimal digits", 2 * N)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_are_the_same_lower_case_digits() {
        let id = Id(std::array::from_fn(|index| index as u8));
        assert_eq!(id.to_string(), "000102030405060708090a0b0c0d0e0f");
        assert_eq!(id.to_string().parse::<Id>().unwrap(), id);
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<Id>(&format!("\"{id}\"")).unwrap(), id);
        let chunk = ChunkId([0xab; 32]);
        assert_eq!(chunk.to_string().parse::<ChunkId>().unwrap(), chunk);
        assert_eq!(serde_json::from_str::<ChunkId>(&format!("\"{chunk}\"")).unwrap(), chunk);
    }

    #[test]
    fn other_text_is_refused() {
        let long = "0".repeat(33);
        for text in ["", "00", &long[..31], &long, "000102030405060708090A0B0C0D0E0F", "+0010203040506070809ä0b0c0d0e"]
        {
            assert_eq!(text.parse::<Id>().unwrap_err().kind(), ErrorKind::Corrupt, "{text}");
            assert!(serde_json::from_str::<Id>(&format!("\"{text}\"")).is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Id>("7").is_err());
    }

    #[test]
    fn random_ids_differ() {
        assert_ne!(Id::random().unwrap(), Id::random().unwrap());
    }
}
