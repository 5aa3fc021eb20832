//! Standard input as a disk: a raw stream, or a file that was redirected.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use tintype_formats::is_zero;

use super::local::into_open_file;
use super::open::{OpenedDisk, open_raw, open_raw_device};
use crate::error::{Error, Kind, Result};

/// What standard input turned out to be.
pub enum StandardInput {
    /// A file or device that can be read at any place (`tintype ... - < disk.raw`).
    Disk(Box<OpenedDisk>),
    /// A pipe.
    Pipe(File),
}

/// The name of standard input in messages.
const NAME: &str = "standard input";

/// Looks at standard input. A pipe of unknown size is first stored in a temporary file if `spool` is set, because a disk
/// image begins with its size.
pub fn open_standard_input(spool: bool) -> Result<StandardInput> {
    if io::stdin().is_terminal() {
        return Err(Error::new(Kind::Usage, "standard input is a terminal; expected a disk in a pipe or a file"));
    }
    let input = io::stdin().as_fd().try_clone_to_owned().map_err(|cause| Error::io("open standard input", cause))?;
    let mut input = File::from(input);
    let metadata = input.metadata().map_err(|cause| Error::io("look at standard input", cause))?;
    if metadata.file_type().is_block_device() {
        return open_raw_device(input, Path::new(NAME)).map(|disk| StandardInput::Disk(Box::new(disk)));
    }
    let file = match (metadata.is_file(), spool) {
        (true, _) => input,
        (false, true) => {
            spooled(&mut input).map_err(|cause| Error::io("store standard input in a temporary file", cause))?
        }
        (false, false) => return Ok(StandardInput::Pipe(input)),
    };
    open_raw(into_open_file(file, Path::new(NAME))?).map(|disk| StandardInput::Disk(Box::new(disk)))
}

/// Copies a stream into a file without a name, leaving its zeros out.
fn spooled(input: &mut impl Read) -> io::Result<File> {
    use std::os::unix::fs::FileExt as _;
    const STEP_BYTES: usize = 64 << 10;
    let file = tempfile::tempfile()?;
    let mut buffer = vec![0; STEP_BYTES];
    let mut offset = 0;
    loop {
        let length = input.by_ref().take(STEP_BYTES as u64).read(&mut buffer)?;
        if length == 0 {
            break;
        }
        if !is_zero(&buffer[..length]) {
            file.write_all_at(&buffer[..length], offset)?;
        }
        offset += length as u64;
    }
    if offset == 0 {
        let message = "it is empty: perhaps what should have written to it failed";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
    }
    file.set_len(offset)?;
    Ok(file)
}
