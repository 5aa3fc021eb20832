//! Answers the kernel's requests.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use tintype_formats::locks::Unpoisoned as _;

use super::disk::DiskFile;
use super::errors::{Observer, errno_of};
use super::inodes::Inodes;
use super::tree::{Entry, Folder};
use crate::error::{Error, Result};

/// How long the kernel may believe what does not change.
const LONG: Duration = Duration::from_secs(3600);

/// How long the kernel may believe what changes: who lists a folder again gets what is there then.
const SHORT: Duration = Duration::from_secs(1);

/// The longest request, in bytes: what the kernel allows unless its limits were raised.
const MAX_REQUEST_BYTES: u32 = 1 << 20;

/// How many requests of read-ahead and of loop devices the kernel may have in the works.
const MAX_BACKGROUND: u16 = 64;

/// The unit of sizes in the statistics, in bytes.
const BLOCK_BYTES: u32 = 4096;

/// `FALLOC_FL_*` of `linux/falloc.h`.
const KEEP_SIZE: i32 = 0x01;
const PUNCH_HOLE: i32 = 0x02;
const ZERO_RANGE: i32 = 0x10;

/// `SEEK_DATA` and `SEEK_HOLE` of `linux/fs.h`.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// A mounted tree.
pub(super) struct FileSystem {
    pub(super) inodes: Inodes,
    pub(super) observer: Arc<dyn Observer>,
    /// What the statistics say that there is, in bytes.
    pub(super) total_bytes: u64,
    pub(super) owner: (u32, u32),
    pub(super) listings: Listings,
    pub(super) at_end: Option<Box<dyn FnOnce() + Send + Sync>>,
}

/// What stands in a folder: number, type and name.
type Listing = Vec<(u64, FileType, String)>;

/// Open folders: who reads one in several requests gets what was there when it was opened.
#[derive(Default)]
pub(super) struct Listings {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Listing>>>,
}

impl Listings {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Listing>>> {
        self.open.lock().unpoisoned()
    }
}

impl FileSystem {
    /// What the kernel is told of a failure; the observer is told more.
    fn failed(&self, doing: &str, cause: &Error) -> Errno {
        self.observer.failed(doing, cause);
        errno_of(cause)
    }

    fn file(&self, inode: INodeNo) -> Result<Arc<DiskFile>, Errno> {
        match self.inodes.get(inode.0) {
            Some(Entry::Disk(file)) => Ok(file),
            Some(Entry::Folder(_)) => Err(Errno::EISDIR),
            Some(_) => Err(Errno::EROFS),
            None => Err(Errno::ENOENT),
        }
    }

    fn folder(&self, inode: INodeNo) -> Result<Arc<dyn Folder>, Errno> {
        match self.inodes.get(inode.0) {
            Some(Entry::Folder(folder)) => Ok(folder),
            Some(_) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        }
    }

    fn look_up(&self, parent: INodeNo, name: &OsStr) -> Result<(Duration, FileAttr), Errno> {
        let folder = self.folder(parent)?;
        let name = name.to_str().ok_or(Errno::ENOENT)?;
        let found = folder.entry(name).map_err(|cause| self.failed("look into a folder", &cause))?;
        let entry = found.ok_or(Errno::ENOENT)?;
        let number = self.inodes.number(parent.0, name, &entry);
        let lifetime = if folder.changes() || lasts_shortly(&entry) { SHORT } else { LONG };
        Ok((lifetime, self.attributes(number, &entry)))
    }

    fn attributes(&self, number: u64, entry: &Entry) -> FileAttr {
        let (kind, size, stored, permissions, changed) = match entry {
            Entry::Folder(folder) => (FileType::Directory, 0, 0, 0o555, folder.changed()),
            Entry::Link(to) => (FileType::Symlink, to.len() as u64, 0, 0o777, SystemTime::UNIX_EPOCH),
            Entry::Text(text) => {
                let size = text.bytes.len() as u64;
                (FileType::RegularFile, size, size, 0o444, text.changed)
            }
            Entry::Disk(file) => {
                let permissions = if file.is_writable() { 0o644 } else { 0o444 };
                (FileType::RegularFile, file.size_bytes(), file.data_bytes(), permissions, file.changed())
            }
        };
        FileAttr {
            ino: INodeNo(number),
            size,
            blocks: stored.div_ceil(512),
            atime: changed,
            mtime: changed,
            ctime: changed,
            crtime: changed,
            kind,
            perm: permissions,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        }
    }

    fn list(&self, inode: INodeNo) -> Result<Listing, Errno> {
        let folder = self.folder(inode)?;
        let entries = folder.entries().map_err(|cause| self.failed("list a folder", &cause))?;
        let dots = [(inode.0, "."), (self.inodes.parent(inode.0), "..")];
        let dots = dots.into_iter().map(|(number, name)| (number, FileType::Directory, name.to_owned()));
        let named = entries.into_iter().map(|(name, entry)| {
            let kind = match entry {
                Entry::Folder(_) => FileType::Directory,
                Entry::Link(_) => FileType::Symlink,
                Entry::Disk(_) | Entry::Text(_) => FileType::RegularFile,
            };
            (self.inodes.number(inode.0, &name, &entry), kind, name)
        });
        Ok(dots.chain(named).collect())
    }

    /// Reads from a file, up to its end, and hands the bytes on.
    fn read_file<R>(
        &self,
        inode: INodeNo,
        offset: u64,
        max_bytes: u32,
        hand_on: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, Errno> {
        thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        let file = match self.inodes.get(inode.0) {
            Some(Entry::Text(text)) => {
                let rest = text.bytes.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
                return Ok(hand_on(&rest[..rest.len().min(max_bytes as usize)]));
            }
            _ => self.file(inode)?,
        };
        let length =
            file.size_bytes().saturating_sub(offset).min(max_bytes.min(MAX_REQUEST_BYTES * 16).into()) as usize;
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < length {
                buffer.resize(length, 0);
            }
            let buffer = &mut buffer[..length];
            let doing = || format!("read {length} bytes at {offset:#x}");
            file.read_at(offset, buffer).map_err(|cause| self.failed(&doing(), &cause))?;
            Ok(hand_on(buffer))
        })
    }

    fn open_file(&self, inode: INodeNo, flags: OpenFlags) -> Result<FopenFlags, Errno> {
        let is_writable = match self.inodes.get(inode.0).ok_or(Errno::ENOENT)? {
            Entry::Disk(file) => file.is_writable(),
            Entry::Text(_) => false,
            Entry::Folder(_) | Entry::Link(_) => return Err(Errno::EISDIR),
        };
        if flags.acc_mode() != OpenAccMode::O_RDONLY && !is_writable {
            return Err(Errno::EROFS);
        }
        // What takes writes may be written to by another name: a partition is a part of its disk.
        Ok(if is_writable { FopenFlags::empty() } else { FopenFlags::FOPEN_KEEP_CACHE })
    }

    fn allocate(&self, inode: INodeNo, offset: u64, length: u64, mode: i32) -> Result<(), Errno> {
        let file = self.file(inode)?;
        if !file.is_writable() {
            return Err(Errno::EROFS);
        }
        let reads_as_zeros = mode == PUNCH_HOLE | KEEP_SIZE || mode & !KEEP_SIZE == ZERO_RANGE;
        if !reads_as_zeros {
            return Err(Errno::EOPNOTSUPP);
        }
        let room = file.size_bytes().saturating_sub(offset);
        if length > room && mode & KEEP_SIZE == 0 {
            return Err(Errno::EFBIG);
        }
        let length = length.min(room);
        file.write_zeros_at(offset, length).map_err(|cause| self.failed("write zeros", &cause))
    }

    /// Writes what has room: a disk does not grow.
    fn write_file(&self, inode: INodeNo, offset: u64, bytes: &[u8]) -> Result<u32, Errno> {
        let file = self.file(inode)?;
        let room = file.size_bytes().saturating_sub(offset);
        if room == 0 && !bytes.is_empty() {
            return Err(Errno::EFBIG);
        }
        let bytes = &bytes[..bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        let doing = || format!("write {} bytes at {offset:#x}", bytes.len());
        file.write_at(offset, bytes).map_err(|cause| self.failed(&doing(), &cause))?;
        Ok(bytes.len() as u32)
    }

    fn flush_file(&self, inode: INodeNo) -> Result<(), Errno> {
        match self.inodes.get(inode.0) {
            Some(Entry::Disk(file)) => {
                file.flush().map_err(|cause| self.failed("make durable what was written", &cause))
            }
            _ => Ok(()),
        }
    }
}

/// Whether other things may be seen of it soon.
fn lasts_shortly(entry: &Entry) -> bool {
    matches!(entry, Entry::Link(_)) || matches!(entry, Entry::Folder(folder) if folder.changes())
}

impl Filesystem for FileSystem {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // What a kernel does not offer, it does without.
        let wanted = [InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_ASYNC_DIO];
        wanted.into_iter().for_each(|flag| _ = config.add_capabilities(flag));
        _ = config.set_max_write(MAX_REQUEST_BYTES);
        _ = config.set_max_background(MAX_BACKGROUND);
        if let Err(most) = config.set_max_readahead(MAX_REQUEST_BYTES) {
            _ = config.set_max_readahead(most);
        }
        Ok(())
    }

    fn destroy(&mut self) {
        if let Some(at_end) = self.at_end.take() {
            at_end();
        }
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look_up(parent, name) {
            Ok((lifetime, attributes)) => reply.entry(&lifetime, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.inodes.get(inode.0) {
            Some(entry) => {
                let lifetime = if lasts_shortly(&entry) { SHORT } else { LONG };
                reply.attr(&lifetime, &self.attributes(inode.0, &entry));
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    /// Nothing can be changed; that a file gets the size that it has is no change.
    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let others = mode.is_some() || uid.is_some() || gid.is_some() || accessed.is_some() || modified.is_some();
        match (self.inodes.get(inode.0), size) {
            (None, _) => reply.error(Errno::ENOENT),
            (Some(entry), Some(size)) if !others && self.attributes(inode.0, &entry).size == size => {
                reply.attr(&LONG, &self.attributes(inode.0, &entry));
            }
            _ => reply.error(Errno::EPERM),
        }
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        match self.inodes.get(inode.0) {
            Some(Entry::Link(to)) => reply.data(to.as_bytes()),
            Some(_) => reply.error(Errno::EINVAL),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open_file(inode, flags) {
            Ok(flags) => reply.opened(FileHandle(0), flags),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut reply = Some(reply);
        let read = self.read_file(inode, offset, size, |bytes| {
            if let Some(reply) = reply.take() {
                reply.data(bytes);
            }
        });
        if let (Err(errno), Some(reply)) = (read, reply) {
            reply.error(errno);
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.write_file(inode, offset, data) {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(errno),
        }
    }

    /// A file was closed, which promises nothing; `fsync` does.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.flush_file(inode), reply);
    }

    fn opendir(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.list(inode) {
            Ok(listing) => {
                let handle = self.listings.next.fetch_add(1, Relaxed);
                self.listings.lock().insert(handle, Arc::new(listing));
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listing = self.listings.lock().get(&handle.0).cloned();
        let Some(listing) = listing else { return reply.error(Errno::EBADF) };
        let rest = (1..).zip(listing.iter()).skip(usize::try_from(offset).unwrap_or(usize::MAX));
        for (next, (number, kind, name)) in rest {
            if reply.add(INodeNo(*number), next, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.listings.lock().remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.total_bytes.div_ceil(BLOCK_BYTES.into());
        let longest = 255;
        reply.statfs(blocks, 0, 0, 0, 0, BLOCK_BYTES, longest, BLOCK_BYTES);
    }

    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        answer(self.allocate(inode, offset, length, mode), reply);
    }

    fn lseek(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let wants_data = match whence {
            SEEK_DATA => true,
            SEEK_HOLE => false,
            _ => return reply.error(Errno::EINVAL),
        };
        let found = match (self.file(inode), u64::try_from(offset)) {
            (Ok(file), Ok(offset)) => file.seek(offset, wants_data),
            // A text has no holes.
            _ => return reply.error(Errno::ENOSYS),
        };
        match found {
            Ok(Some(at)) => reply.offset(at.cast_signed()),
            Ok(None) => reply.error(Errno::ENXIO),
            Err(cause) => reply.error(self.failed("look for holes", &cause)),
        }
    }
}

fn answer(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}
