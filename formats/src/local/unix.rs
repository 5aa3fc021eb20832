//! What only Unix has: positional reads of one open file, holes, identities, and names that cannot lead out of a folder.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags, RenameFlags, ResolveFlags, SeekFrom};

use crate::host_file::{FileIdentity, HostExtent, HostFile, HostFileMut};

/// In place of an inode number, for devices: they are known by their own number, whatever node names them.
const DEVICE_INODE: u64 = u64::MAX;

/// How much is written of zeros at a time, in bytes.
const ZEROS: &[u8] = &[0; 1 << 16];

/// A file or block device that is read through the operating system. Who opened it decided that it may be.
pub struct LocalFile {
    file: File,
    len_bytes: u64,
}

impl LocalFile {
    /// Wraps an open file, which is not to change its length any more.
    pub fn new(file: File) -> io::Result<Self> {
        let len_bytes = rustix::fs::seek(&file, SeekFrom::End(0))?;
        Ok(LocalFile { file, len_bytes })
    }
}

impl HostFile for LocalFile {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len_bytes)
    }

    fn len_bytes_now(&self) -> io::Result<u64> {
        Ok(rustix::fs::seek(&self.file, SeekFrom::End(0))?)
    }

    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, host_offset)
    }

    fn extent_at(&self, host_offset: u64, max_bytes: u64) -> io::Result<HostExtent> {
        file_extent_at(&self.file, host_offset, max_bytes)
    }

    fn as_file(&self) -> Option<&File> {
        Some(&self.file)
    }
}

/// A new file, which is written.
pub(super) struct NewFile(pub(super) File);

impl HostFile for NewFile {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_exact_at(&self, host_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, host_offset)
    }
}

impl HostFileMut for NewFile {
    fn write_all_at(&self, host_offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, host_offset)
    }

    fn write_zeros_at(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        let mut done = 0;
        while done < length_bytes {
            let step = ZEROS.len().min((length_bytes - done).try_into().unwrap_or(usize::MAX));
            self.0.write_all_at(&ZEROS[..step], host_offset + done)?;
            done += step as u64;
        }
        Ok(())
    }

    fn allocate(&self, host_offset: u64, length_bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), host_offset, length_bytes) {
            // A file system that reserves nothing: the file is as long as it would be.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                self.0.set_len(self.0.metadata()?.len().max(host_offset + length_bytes))
            }
            other => Ok(other?),
        }
    }

    fn set_len_bytes(&self, length_bytes: u64) -> io::Result<()> {
        self.0.set_len(length_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Asks the file system for a hole; a file system or device that has none says data.
///
/// The seek moves the file's own position, which nothing here uses: reads and writes are positional.
pub fn file_extent_at(file: &File, host_offset: u64, max_bytes: u64) -> io::Result<HostExtent> {
    let end = host_offset + max_bytes;
    let data = |length_bytes| HostExtent { length_bytes, hole: false };
    let next_data = match rustix::fs::seek(file, SeekFrom::Data(host_offset)) {
        Ok(offset) => offset,
        // Somebody cut the file meanwhile: who takes that for data finds out that it is gone.
        Err(rustix::io::Errno::NXIO) if rustix::fs::seek(file, SeekFrom::End(0))? < end => return Ok(data(max_bytes)),
        Err(rustix::io::Errno::NXIO) => end,
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => return Ok(data(max_bytes)),
        Err(errno) => return Err(errno.into()),
    };
    if next_data > host_offset {
        return Ok(HostExtent { length_bytes: next_data.min(end) - host_offset, hole: true });
    }
    match rustix::fs::seek(file, SeekFrom::Hole(host_offset)) {
        Ok(next_hole) if next_hole > host_offset => Ok(data(next_hole.min(end) - host_offset)),
        Ok(_) | Err(rustix::io::Errno::NXIO | rustix::io::Errno::INVAL) => Ok(data(max_bytes)),
        Err(errno) => Err(errno.into()),
    }
}

/// The identity of a file or device.
pub fn identity_of(metadata: &Metadata) -> FileIdentity {
    if metadata.file_type().is_block_device() || metadata.file_type().is_char_device() {
        identity_of_device(metadata.rdev())
    } else {
        FileIdentity { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The identity of the device with this number.
pub fn identity_of_device(device: u64) -> FileIdentity {
    FileIdentity { device, inode: DEVICE_INODE }
}

/// Returns true if it is that of a device.
pub fn is_device_identity(identity: &FileIdentity) -> bool {
    identity.inode == DEVICE_INODE
}

/// Why a file below a folder was not opened.
pub(super) enum NotOpened {
    /// The folder itself cannot be opened.
    Folder(io::Error),
    /// The name leads out of the folder.
    LeadsOut,
    /// The operating system refused.
    File(io::Error),
}

/// Opens a file below a folder for reading, without following a link out of it, and without waiting for whoever holds the other
/// end of a FIFO.
pub(super) fn open_beneath(root: &Path, below: &Path) -> Result<File, NotOpened> {
    let directory = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| NotOpened::Folder(errno.into()))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&directory, below, flags, Mode::empty(), resolve) {
        Ok(descriptor) => Ok(File::from(descriptor)),
        Err(rustix::io::Errno::XDEV) => Err(NotOpened::LeadsOut),
        Err(errno) => Err(NotOpened::File(errno.into())),
    }
}

/// Opens a file for reading; a FIFO is not waited for.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Gives a file another name, unless something has that already.
pub(super) fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::NOREPLACE)?)
}

/// Bytes that nobody can guess.
pub(super) fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes)
}
