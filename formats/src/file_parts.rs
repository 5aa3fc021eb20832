//! A file that is made of parts of others and of holes: a member of an archive, a file in chunks, a sparse member.

use std::io;
use std::sync::Arc;

use crate::error::{ImageError, Result};
use crate::host_file::{HostExtent, HostFile};
use crate::limits::MAX_DISK_BYTES;

/// Parts, one after the other. They cannot be cloned from: the place of a part in its file is known only here.
#[derive(Default)]
pub struct FileParts {
    parts: Vec<Part>,
    len_bytes: u64,
}

struct Part {
    /// Where it begins in the whole.
    begin: u64,
    length_bytes: u64,
    /// The file that holds it and its place there; a hole if `None`.
    stored: Option<(Arc<dyn HostFile>, u64)>,
}

impl FileParts {
    /// A file of one part: `length_bytes` of `file` from `host_offset` on, which lie within it.
    pub fn one(file: Arc<dyn HostFile>, host_offset: u64, length_bytes: u64) -> Result<Self> {
        let mut parts = Self::default();
        parts.push(file, host_offset, length_bytes)?;
        Ok(parts)
    }

    /// Appends `length_bytes` of `file` from `host_offset` on, which lie within it.
    pub fn push(&mut self, file: Arc<dyn HostFile>, host_offset: u64, length_bytes: u64) -> Result<()> {
        if host_offset.checked_add(length_bytes).is_none_or(|end| end > MAX_DISK_BYTES) {
            return Err(too_long(length_bytes).at_host(host_offset));
        }
        self.append(length_bytes, Some((file, host_offset)))
    }

    /// Appends zeros.
    pub fn push_hole(&mut self, length_bytes: u64) -> Result<()> {
        self.append(length_bytes, None)
    }

    fn append(&mut self, length_bytes: u64, stored: Option<(Arc<dyn HostFile>, u64)>) -> Result<()> {
        let begin = self.len_bytes;
        let end = begin.checked_add(length_bytes).filter(|end| *end <= MAX_DISK_BYTES);
        self.len_bytes = end.ok_or_else(|| too_long(length_bytes))?;
        if length_bytes > 0 {
            self.parts.push(Part { begin, length_bytes, stored });
        }
        Ok(())
    }

    /// Where the last byte ends that is stored somewhere.
    pub fn stored_end(&self) -> u64 {
        let last = self.parts.iter().rev().find(|part| part.stored.is_some());
        last.map_or(0, |part| part.begin + part.length_bytes)
    }

    /// The part that holds an offset inside the file, and how far into it that is.
    fn part_at(&self, host_offset: u64) -> io::Result<(&Part, u64)> {
        let after = self.parts.partition_point(|part| part.begin <= host_offset);
        let part = after.checked_sub(1).and_then(|index| self.parts.get(index)).ok_or(io::ErrorKind::UnexpectedEof)?;
        match host_offset - part.begin {
            within if within < part.length_bytes => Ok((part, within)),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn too_long(length_bytes: u64) -> ImageError {
    let detail = format!("a part of {length_bytes} bytes makes it longer than {MAX_DISK_BYTES}");
    ImageError::limit_exceeded("put the file together", detail)
}

impl HostFile for FileParts {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len_bytes)
    }

    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if host_offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.len_bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < buffer.len() {
            let (part, within) = self.part_at(host_offset + done as u64)?;
            let step = (part.length_bytes - within).min((buffer.len() - done) as u64) as usize;
            let target = &mut buffer[done..done + step];
            match &part.stored {
                Some((file, begin)) => file.read_exact_at(begin + within, target)?,
                None => target.fill(0),
            }
            done += step;
        }
        Ok(())
    }

    fn extent_at(&self, host_offset: u64, max_bytes: u64) -> io::Result<HostExtent> {
        let (part, within) = self.part_at(host_offset)?;
        let length_bytes = (part.length_bytes - within).min(max_bytes);
        match &part.stored {
            Some((file, begin)) => file.extent_at(begin + within, length_bytes),
            None => Ok(HostExtent { length_bytes, hole: true }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::testing::MemoryFile;

    fn parts() -> FileParts {
        let file = Arc::new(MemoryFile::from_bytes(b"0123456789"));
        let mut parts = FileParts::one(file.clone(), 2, 3).unwrap();
        parts.push_hole(2).unwrap();
        parts.push(file.clone(), 0, 0).unwrap();
        parts.push(file, 0, 4).unwrap();
        parts.push_hole(1).unwrap();
        parts
    }

    #[test]
    fn reads_go_through_parts_and_holes() {
        let parts = parts();
        let whole = *b"234\x00\x000123\x00";
        for begin in 0..=whole.len() {
            for end in begin..=whole.len() {
                let mut found = vec![0xff; end - begin];
                parts.read_exact_at(begin as u64, &mut found).unwrap();
                assert_eq!(found, whole[begin..end], "{begin}..{end}");
            }
        }
        assert_eq!((parts.len_bytes().unwrap(), parts.stored_end()), (10, 9));
        for (offset, length) in [(10, 1), (9, 2), (u64::MAX, 1), (11, 0)] {
            let error = parts.read_exact_at(offset, &mut vec![0; length]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{offset}, {length}");
        }
    }

    #[test]
    fn extents_end_with_their_part() {
        let parts = parts();
        let found: Vec<_> =
            [0, 1, 3, 4, 5, 9].map(|offset| parts.extent_at(offset, 10 - offset).unwrap()).into_iter().collect();
        let expected = [(3, false), (2, false), (2, true), (1, true), (4, false), (1, true)];
        assert_eq!(found, expected.map(|(length_bytes, hole)| HostExtent { length_bytes, hole }));
        assert!(parts.extent_at(10, 1).is_err());
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let file: Arc<dyn HostFile> = Arc::new(MemoryFile::new());
        let mut parts = FileParts::default();
        parts.push_hole(MAX_DISK_BYTES).unwrap();
        assert_eq!(parts.push_hole(1).unwrap_err().kind(), ErrorKind::LimitExceeded);
        assert_eq!(FileParts::one(file, u64::MAX, 1).err().unwrap().kind(), ErrorKind::LimitExceeded);
    }
}
