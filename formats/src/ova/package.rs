//! Where the files of a package are: in an archive, or beside the descriptor, through the gate.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use super::descriptor::PackageFile;
use crate::error::{ErrorKind, ImageError, Result};
use crate::file_parts::FileParts;
use crate::gzip_file::GzipFile;
use crate::host_file::{HostFile, OpenFile};
use crate::limits::MAX_REFERENCE_NAME_BYTES;
use crate::reference_gate::{FileReference, NoReferences, ReferenceGate, Referenced};
use crate::tar::{self, Member};

/// How many files an archive may have: each costs a read when the archive is opened.
const MAX_MEMBERS: usize = 4096;

/// How many chunks a file may be cut into: each of them may be an open file.
const MAX_CHUNKS: u64 = 4096;

const DOING: &str = "open a file of the OVF package";

/// An archive and what is in it.
pub struct Archive {
    file: OpenFile,
    members: Vec<Member>,
    /// Places in `members`; `None` for a name that two have.
    by_name: HashMap<String, Option<usize>>,
    /// Where the last member ends.
    pub end_offset: u64,
}

impl Archive {
    /// Lists the archive.
    pub fn open(file: OpenFile, len_bytes: u64) -> Result<Archive> {
        let (mut members, mut by_name, mut position) = (Vec::<Member>::new(), HashMap::new(), 0);
        while let Some(member) = tar::member_at(file.file.as_ref(), position, Some(len_bytes))? {
            if members.len() >= MAX_MEMBERS {
                let detail = format!("it has more than {MAX_MEMBERS} files");
                return Err(ImageError::limit_exceeded("list the archive", detail));
            }
            // It lies inside the file, so that there is an end.
            position = member.end().unwrap_or(u64::MAX);
            let place = members.len();
            by_name.entry(plain_name(&member.name).to_owned()).and_modify(|found| *found = None).or_insert(Some(place));
            members.push(member);
        }
        Ok(Archive { file, members, by_name, end_offset: position.min(len_bytes) })
    }

    /// The members, in their order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// A member's bytes, where they are.
    pub fn open_member(&self, member: &Member) -> Result<Arc<dyn HostFile>> {
        Ok(Arc::new(member.open(&self.file.file)?))
    }

    /// The member of a name; `None` if there is none.
    pub fn find(&self, name: &str) -> Result<Option<&Member>> {
        match self.by_name.get(plain_name(name)) {
            Some(Some(place)) => Ok(self.members.get(*place)),
            Some(None) => {
                let detail = format!("the archive has two files \"{}\"", name.escape_debug());
                Err(ImageError::corrupt(DOING, detail))
            }
            None => Ok(None),
        }
    }

    /// All of a small member.
    pub fn read_small(&self, member: &Member, max_bytes: u64) -> Result<Vec<u8>> {
        read_small(self.open_member(member)?.as_ref(), &member.name, max_bytes)
    }
}

/// All of a small file.
pub fn read_small(file: &dyn HostFile, name: &str, max_bytes: u64) -> Result<Vec<u8>> {
    let doing = || format!("read \"{}\"", name.escape_debug());
    let len_bytes = file.len_bytes().map_err(|cause| ImageError::io(doing(), cause))?;
    if len_bytes > max_bytes {
        return Err(ImageError::limit_exceeded(
            doing(),
            format!("it has {len_bytes} bytes, at most {max_bytes} are read"),
        ));
    }
    let mut bytes = vec![0; len_bytes as usize];
    file.read_exact_at(0, &mut bytes).map_err(|cause| ImageError::io(doing(), cause))?;
    Ok(bytes)
}

/// What disks in an archive name is looked for in the archive, and nowhere else.
impl ReferenceGate for Archive {
    fn open(&self, reference: &FileReference) -> Result<Referenced> {
        for name in &reference.names {
            if let Some(member) = self.find(name)? {
                let (name, identity) = (member.name.clone(), self.file.identity);
                let file = OpenFile { file: self.open_member(member)?, name, identity, ..self.file.clone() };
                return Ok(Referenced { file, gate: Arc::new(NoReferences) });
            }
        }
        let name = reference.names.first().map_or("", String::as_str).escape_debug();
        Err(ImageError::reference_denied(DOING, format!("\"{name}\" is not in the archive")))
    }
}

/// A file of the package as stored: with its chunks put together, still compressed.
pub struct StoredFile {
    /// All of it.
    pub content: Arc<dyn HostFile>,
    /// Its length.
    pub len_bytes: u64,
    /// What it is made of.
    pub files: Vec<OpenFile>,
}

/// Opens a file of the package.
pub fn open_stored(file: &PackageFile, gate: &dyn ReferenceGate) -> Result<StoredFile> {
    let stored = match file.chunk_bytes {
        None => open_whole(&file.href, gate)?,
        Some(chunk_bytes) => open_chunks(file, chunk_bytes, gate)?,
    };
    if let Some(said) = file.size_bytes.filter(|said| *said > stored.len_bytes) {
        let (href, found) = (file.href.escape_debug(), stored.len_bytes);
        let detail = format!("\"{href}\" has {found} bytes, the descriptor says {said}: it was cut");
        return Err(ImageError::truncated(DOING, detail));
    }
    Ok(stored)
}

fn open_whole(href: &str, gate: &dyn ReferenceGate) -> Result<StoredFile> {
    let (file, len_bytes) = open_named(href, gate)?;
    Ok(StoredFile { content: Arc::clone(&file.file), len_bytes, files: vec![file] })
}

/// The file's own bytes.
pub fn uncompressed(file: &PackageFile, stored: Arc<dyn HostFile>) -> Result<Arc<dyn HostFile>> {
    match file.compression.as_deref() {
        None => Ok(stored),
        Some("gzip") => {
            let gzip = GzipFile::new(stored).map_err(|cause| ImageError::io(DOING, cause))?;
            Ok(Arc::new(gzip))
        }
        Some(other) => {
            let (href, other) = (file.href.escape_debug(), other.escape_debug());
            Err(ImageError::unsupported(DOING, format!("\"{href}\" is compressed with \"{other}\", only gzip is read")))
        }
    }
}

fn open_named(href: &str, gate: &dyn ReferenceGate) -> Result<(OpenFile, u64)> {
    if href.len() > MAX_REFERENCE_NAME_BYTES {
        let detail = format!("its name has {} bytes, at most {MAX_REFERENCE_NAME_BYTES} work", href.len());
        return Err(ImageError::limit_exceeded(DOING, detail));
    }
    // It is a relative URL, but most tools write names as they are.
    let mut names = vec![href.to_owned()];
    names.extend(percent_decoded(href).filter(|decoded| decoded != href));
    let reference = FileReference { names, format: None, identities: Vec::new() };
    let file = gate.open(&reference)?.file;
    let len_bytes = file.file.len_bytes().map_err(|cause| ImageError::io(DOING, cause))?;
    Ok((file, len_bytes))
}

/// Chunks are called `NAME.000000000`, `NAME.000000001` and so on; all but the last have the same size (§7.1).
fn open_chunks(file: &PackageFile, chunk_bytes: u64, gate: &dyn ReferenceGate) -> Result<StoredFile> {
    let href = file.href.escape_debug();
    let expected = match file.size_bytes {
        _ if chunk_bytes == 0 => return Err(ImageError::corrupt(DOING, format!("\"{href}\" has chunks of 0 bytes"))),
        Some(size_bytes) => size_bytes.div_ceil(chunk_bytes),
        None => u64::MAX,
    };
    let (mut parts, mut files) = (FileParts::default(), Vec::new());
    let (mut number, mut last_bytes) = (0, chunk_bytes);
    while number < expected {
        if number >= MAX_CHUNKS {
            return Err(ImageError::limit_exceeded(DOING, format!("\"{href}\" has more than {MAX_CHUNKS} chunks")));
        }
        let (chunk, len_bytes) = match open_named(&format!("{}.{number:09}", file.href), gate) {
            Err(error) if file.size_bytes.is_none() && number > 0 && error.kind() == ErrorKind::ReferenceDenied => {
                break;
            }
            found => found?,
        };
        if last_bytes != chunk_bytes || len_bytes > chunk_bytes {
            let detail = format!(
                "chunk {number} of \"{href}\" has {len_bytes} bytes, expected {chunk_bytes} of all but the last"
            );
            return Err(ImageError::corrupt(DOING, detail));
        }
        parts.push(Arc::clone(&chunk.file), 0, len_bytes)?;
        files.push(chunk);
        (last_bytes, number) = (len_bytes, number + 1);
    }
    let len_bytes = parts.len_bytes().map_err(|cause| ImageError::io(DOING, cause))?;
    Ok(StoredFile { content: Arc::new(parts), len_bytes, files })
}

/// A name without the `./` that some tools put before it.
fn plain_name(name: &str) -> &str {
    name.strip_prefix("./").unwrap_or(name)
}

/// Returns the name that a URL means; `None` if it is not UTF-8. A `%` without two digits stays.
fn percent_decoded(href: &str) -> Option<String> {
    percent_decode_str(href).decode_utf8().ok().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_urls_are_decoded() {
        assert_eq!(percent_decoded("my%20disk%2Dä.vmdk").as_deref(), Some("my disk-ä.vmdk"));
        assert_eq!(percent_decoded("100%.vmdk%2").as_deref(), Some("100%.vmdk%2"));
        assert_eq!(percent_decoded("%ff"), None);
    }
}
