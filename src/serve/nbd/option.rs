//! Options of the handshake, as a client sends them. Pure functions: any bytes give a value or a [`Malformed`].

use zerocopy::FromBytes;

use crate::nbd_protocol::{MAX_STRING_BYTES, OPTION_MAGIC, OptionHeader};

/// Longest data of an option, in bytes; who sends more is no client.
pub const MAX_OPTION_BYTES: u32 = 64 << 10;

/// What makes no sense, in words for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub String);

/// Which option comes, and how many bytes of data follow.
pub fn parse_header(bytes: &[u8; size_of::<OptionHeader>()]) -> Result<(u32, u32), Malformed> {
    let OptionHeader { magic, option, length_bytes } = zerocopy::transmute!(*bytes);
    if magic.get() != OPTION_MAGIC {
        return Err(Malformed(format!("an option begins with {magic:#x}, expected {OPTION_MAGIC:#x}")));
    }
    let (option, length_bytes) = (option.get(), length_bytes.get());
    if length_bytes > MAX_OPTION_BYTES {
        let text = format!("option {option} has {length_bytes} bytes, expected at most {MAX_OPTION_BYTES}");
        return Err(Malformed(text));
    }
    Ok((option, length_bytes))
}

/// The data of `INFO` and `GO`.
#[derive(Debug, PartialEq, Eq)]
pub struct InfoQuery {
    /// Of which export.
    pub name: String,
    /// What the client wants to know.
    pub wanted: Vec<u16>,
}

impl InfoQuery {
    /// Reads the data of the option.
    pub fn parse(data: &[u8]) -> Result<InfoQuery, Malformed> {
        let mut data = Data(data);
        let name = data.string()?;
        let count = data.u16()?;
        let wanted = (0..count).map(|_| data.u16()).collect::<Result<_, _>>()?;
        data.end()?;
        Ok(InfoQuery { name, wanted })
    }
}

/// The data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Debug, PartialEq, Eq)]
pub struct ContextQuery {
    /// Of which export.
    pub name: String,
    /// The contexts that the client means; a name that ends in a colon means all of that kind.
    pub queries: Vec<String>,
}

impl ContextQuery {
    /// Reads the data of the option.
    pub fn parse(data: &[u8]) -> Result<ContextQuery, Malformed> {
        let mut data = Data(data);
        let name = data.string()?;
        let count = data.u32()?;
        // Each takes four bytes at least, so that no number of them makes this long.
        let queries = (0..count).map(|_| data.string()).collect::<Result<_, _>>()?;
        data.end()?;
        Ok(ContextQuery { name, queries })
    }
}

/// The name of an export, where it is all that an option holds.
pub fn parse_name(data: &[u8]) -> Result<String, Malformed> {
    text(data)
}

/// What is left of an option's data.
struct Data<'a>(&'a [u8]);

impl<'a> Data<'a> {
    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| Malformed(format!("the data of an option ends after {} of {length} bytes", self.0.len())))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        let bytes = self.bytes(2)?;
        Ok(zerocopy::byteorder::big_endian::U16::read_from_bytes(bytes).map_or(0, |value| value.get()))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.bytes(4)?;
        Ok(zerocopy::byteorder::big_endian::U32::read_from_bytes(bytes).map_or(0, |value| value.get()))
    }

    fn string(&mut self) -> Result<String, Malformed> {
        let length = self.u32()? as usize;
        text(self.bytes(length)?)
    }

    fn end(&self) -> Result<(), Malformed> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(Malformed(format!("{left} bytes follow the data of an option"))),
        }
    }
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    if bytes.len() > MAX_STRING_BYTES {
        return Err(Malformed(format!("a name of {} bytes, expected at most {MAX_STRING_BYTES}", bytes.len())));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed("a name is not UTF-8".to_owned()))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn options_are_read() {
        let data = [&[0, 0, 0, 1][..], b"a", &[0, 2, 0, 3, 0, 1]].concat();
        assert_eq!(InfoQuery::parse(&data), Ok(InfoQuery { name: "a".to_owned(), wanted: vec![3, 1] }));
        let data = [&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5][..], b"base:"].concat();
        let expected = ContextQuery { name: String::new(), queries: vec!["base:".to_owned()] };
        assert_eq!(ContextQuery::parse(&data), Ok(expected));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let mut header = [0; 16];
        header[..8].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        header[12..].copy_from_slice(&MAX_OPTION_BYTES.to_be_bytes());
        assert_eq!(parse_header(&header), Ok((0, MAX_OPTION_BYTES)));
        header[15] = 1;
        assert!(parse_header(&header).is_err());
        assert!(InfoQuery::parse(&[0xff; 8]).is_err());
        assert!(ContextQuery::parse(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]).is_err());
        assert!(InfoQuery::parse(&[0; 7]).is_err(), "a byte too many");
        assert!(parse_name(&[0xc0]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(header: [u8; 16], data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (parse_header(&header), InfoQuery::parse(&data), ContextQuery::parse(&data), parse_name(&data));
        }
    }
}
