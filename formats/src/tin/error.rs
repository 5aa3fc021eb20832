//! Failures of the codecs as those of a format.

use tintype_tin::{ErrorKind as TinErrorKind, TinError};

use crate::error::{ErrorKind, ImageError};

impl From<TinError> for ImageError {
    fn from(cause: TinError) -> Self {
        let kind = match cause.kind() {
            TinErrorKind::NotThisFormat => ErrorKind::NotThisFormat,
            TinErrorKind::Corrupt => ErrorKind::Corrupt,
            TinErrorKind::Truncated => ErrorKind::Truncated,
            TinErrorKind::Unsupported => ErrorKind::Unsupported,
            TinErrorKind::LimitExceeded => ErrorKind::LimitExceeded,
            TinErrorKind::InvalidOption => ErrorKind::InvalidOption,
            TinErrorKind::WrongKey => ErrorKind::WrongKey,
            TinErrorKind::NoRandomness => ErrorKind::Io,
        };
        let error = ImageError::new(kind, cause.doing(), cause.detail());
        match cause.into_source() {
            Some(source) => error.caused_by(source),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use tintype_tin::chunk::ChunkHeader;
    use tintype_tin::id::Id;
    use tintype_tin::keys::KeyRing;
    use tintype_tin::manifest;
    use tintype_tin::seal::Purpose;
    use tintype_tin::signed::ObjectKind;

    use super::*;

    /// A manifest that is signed and sealed as it should be, and is no JSON.
    fn unreadable_manifest() -> TinError {
        let ring = KeyRing::public(Id([1; 16])).unwrap();
        let snapshot = Id([2; 16]);
        let (record, key) = ring.new_segment(Purpose::Manifest).unwrap();
        let associated = [b"tintype manifest 1\0".as_slice(), &[1; 16], &[2; 16], &[3; 16]].concat();
        let mut text = b"no JSON".to_vec();
        key.seal(0, &associated, &mut text).unwrap();
        let mut body = [[2; 16], [3; 16]].concat();
        record.encode(&mut body);
        body.extend_from_slice(&(text.len() as u32).to_le_bytes());
        body.extend_from_slice(&text);
        let object = ring.sign(ObjectKind::Manifest, &manifest::name(snapshot), &body).unwrap();
        manifest::open(&ring, snapshot, &object).unwrap().manifest.unwrap_err()
    }

    #[test]
    fn the_words_the_kind_and_the_cause_stay() {
        let short = ChunkHeader::parse(b"TCHK").unwrap_err();
        for (tin, kind) in [(short, ErrorKind::Truncated), (unreadable_manifest(), ErrorKind::Corrupt)] {
            let words = |error: &dyn Error| (error.to_string(), error.source().map(ToString::to_string));
            let expected = words(&tin);
            assert_eq!(expected.1.is_some(), kind == ErrorKind::Corrupt);
            let image = ImageError::from(tin);
            assert_eq!((words(&image), image.kind()), (expected, kind));
        }
    }
}
