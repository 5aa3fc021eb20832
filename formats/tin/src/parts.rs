//! Takes the fields of a structure from bytes that may end too early.

use crate::error::{Result, TinError};

/// What is left of a structure's bytes.
pub struct Parts<'a> {
    rest: &'a [u8],
    length_bytes: usize,
    doing: &'static str,
}

impl<'a> Parts<'a> {
    /// Begins at the first of `bytes`; errors say that they came from `doing`.
    pub fn new(doing: &'static str, bytes: &'a [u8]) -> Self {
        Parts { rest: bytes, length_bytes: bytes.len(), doing }
    }

    /// The next `length_bytes` bytes.
    pub fn slice(&mut self, length_bytes: usize) -> Result<&'a [u8]> {
        let Some((part, rest)) = self.rest.split_at_checked(length_bytes) else {
            return Err(self.too_short(length_bytes));
        };
        self.rest = rest;
        Ok(part)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some((part, rest)) = self.rest.split_first_chunk::<N>() else { return Err(self.too_short(N)) };
        self.rest = rest;
        Ok(*part)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8> {
        self.array().map(u8::from_le_bytes)
    }

    /// The next two bytes as a number.
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next four bytes as a number.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next eight bytes as a number.
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A name of a length that stands in the byte before it.
    pub fn name(&mut self, what: &str) -> Result<&'a str> {
        let length_bytes = self.u8()?.into();
        let at = self.position();
        std::str::from_utf8(self.slice(length_bytes)?)
            .map_err(|_| TinError::corrupt(self.doing, format!("the {what} at byte {at} is not UTF-8")))
    }

    /// How many bytes were taken.
    pub fn position(&self) -> usize {
        self.length_bytes - self.rest.len()
    }

    /// The bytes that are left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Fails if bytes are left.
    pub fn end(self) -> Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        let (expected, found) = (self.position(), self.length_bytes);
        Err(TinError::corrupt(self.doing, format!("it has {found} bytes, {expected} were expected")))
    }

    fn too_short(&self, wanted_bytes: usize) -> TinError {
        let (at, length) = (self.position(), self.length_bytes);
        TinError::truncated(self.doing, format!("it has {length} bytes, and {wanted_bytes} were expected at byte {at}"))
    }
}
