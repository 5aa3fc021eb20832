//! Makes files and folders durable, also on file systems that cannot sync one of them alone.
//!
//! Some file systems (FUSE, SMB, older NFS) refuse `fsync` of a folder, or of any file. Then all of the file system is synced.
//! An error that says that something was lost is never passed over: the kernel reports it once.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

use rustix::io::Errno;

/// The answers that say that the file system does not sync this, and not that it tried and failed.
const REFUSALS: [Errno; 5] = [Errno::OPNOTSUPP, Errno::INVAL, Errno::NOTTY, Errno::BADF, Errno::ACCESS];

/// Makes a file's content, length and owner durable.
pub fn sync_file(file: &File) -> io::Result<()> {
    sync_or_all(file, file.sync_all())
}

/// Makes a file's content and length durable.
pub fn sync_data(file: &File) -> io::Result<()> {
    sync_or_all(file, file.sync_data())
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: impl AsFd) -> io::Result<()> {
    let folder = File::from(folder.as_fd().try_clone_to_owned()?);
    sync_file(&folder)
}

fn sync_or_all(file: &File, synced: io::Result<()>) -> io::Result<()> {
    let Err(cause) = synced else { return Ok(()) };
    match Errno::from_io_error(&cause) {
        Some(Errno::NOSYS) => return Err(cannot(&cause)),
        Some(errno) if REFUSALS.contains(&errno) => {}
        _ => return Err(cause),
    }
    // SAFETY: the descriptor is open, and the call takes nothing else.
    if unsafe { libc::syncfs(file.as_raw_fd()) } == 0 {
        return Ok(());
    }
    let all = io::Error::last_os_error();
    match Errno::from_io_error(&all) {
        Some(errno) if REFUSALS.contains(&errno) || errno == Errno::NOSYS => Err(cannot(&cause)),
        _ => Err(all),
    }
}

fn cannot(refused: &io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("the file system cannot make files durable: {refused}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_syncs_all_and_a_failure_stays_one() {
        let file = tempfile::tempfile().unwrap();
        for errno in REFUSALS {
            sync_or_all(&file, Err(errno.into())).unwrap();
        }
        for errno in [Errno::IO, Errno::NOSPC, Errno::DQUOT, Errno::ROFS] {
            let found = sync_or_all(&file, Err(errno.into())).unwrap_err();
            assert_eq!(found.raw_os_error(), Some(errno.raw_os_error()));
        }
        assert_eq!(sync_or_all(&file, Err(Errno::NOSYS.into())).unwrap_err().kind(), io::ErrorKind::Unsupported);
    }
}
