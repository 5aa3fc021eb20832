//! The host's side: positional files, as small as they can be, so that tests can put anything in their place.

use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::secrets::Secrets;

/// A file or device that can be read at any place, by any number of threads at once.
pub trait HostFile: Send + Sync {
    /// Returns the length in bytes.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Returns the length that the file has now, which differs from [`len_bytes`](Self::len_bytes) if it was cut or extended after
    /// it was opened. The default is for files of which nobody can tell.
    fn len_bytes_now(&self) -> io::Result<u64> {
        self.len_bytes()
    }

    /// Fills `buffer` from `host_offset`, or fails; past the end with [`io::ErrorKind::UnexpectedEof`].
    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Says whether the bytes from `host_offset` on are a hole, and for how long at least (at most `max_bytes`).
    ///
    /// `host_offset + max_bytes` lies within the file. The default knows of no holes.
    fn extent_at(&self, _host_offset: u64, max_bytes: u64) -> io::Result<HostExtent> {
        Ok(HostExtent { length_bytes: max_bytes, hole: false })
    }

    /// The operating system's file underneath, for cloning blocks, if there is one.
    fn as_file(&self) -> Option<&File> {
        None
    }
}

/// A range of a host file that is wholly a hole or wholly not known to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostExtent {
    /// Its length in bytes; never 0.
    pub length_bytes: u64,
    /// Whether the file stores nothing here, so that it reads as zeros.
    pub hole: bool,
}

/// A file that can also be written, at any place, by any number of threads at once.
///
/// Places that were never written read as zeros, unless whoever made the file says otherwise
/// ([`crate::sink::CreateOptions::target_holds_old_data`]).
pub trait HostFileMut: HostFile {
    /// Writes all of `bytes` at `host_offset`; the file grows where needed.
    fn write_all_at(&self, host_offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes a range inside the file read as zeros, whatever it held.
    fn write_zeros_at(&self, host_offset: u64, length_bytes: u64) -> io::Result<()>;

    /// Reserves storage for a range, which goes on to read as it did.
    fn allocate(&self, host_offset: u64, length_bytes: u64) -> io::Result<()>;

    /// Cuts or extends the file.
    fn set_len_bytes(&self, length_bytes: u64) -> io::Result<()>;

    /// Returns when everything written so far would survive a power cut.
    fn sync_data(&self) -> io::Result<()>;

    /// Shares `length_bytes` of `source` from `source_offset` on as this file's bytes at `host_offset`, without copying.
    ///
    /// Returns false, having changed nothing, where this is not possible: the caller copies instead. The default never can.
    fn clone_range(
        &self,
        _source: &dyn HostFile,
        _source_offset: u64,
        _host_offset: u64,
        _length_bytes: u64,
    ) -> io::Result<bool> {
        Ok(false)
    }
}

/// A device and inode number: the same for every name of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// The device that the file lies on, or that the file is.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
}

/// An open host file, with what its format adapter is not to know but errors and cycle detection need.
#[derive(Clone)]
pub struct OpenFile {
    /// The file.
    pub file: Arc<dyn HostFile>,
    /// How a person would call it.
    pub name: String,
    /// Who it is, if the operating system can tell.
    pub identity: Option<FileIdentity>,
    /// Whom to ask for its password, should it need one.
    pub secrets: Secrets,
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenFile").field("name", &self.name).field("identity", &self.identity).finish_non_exhaustive()
    }
}
