//! `tintype unmount`

use std::path::PathBuf;

use clap::Args as ClapArgs;
use rustix::io::Errno;

use crate::cli::failure::Failure;
use crate::cli::{Global, Outcome};
use crate::error::{Error, Kind};
use crate::serve::fuse::{self, SUBTYPE, mount_at, whole_path};

/// End a mount of tintype
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The folder it is mounted in
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Take it away although it is in use: it ends when nobody uses it any more
    #[arg(long)]
    lazy: bool,
}

pub fn run(args: &Args, _: Global) -> Result<Outcome, Failure> {
    let folder = &args.folder;
    let failed = |cause| Failure::from(Error::io("look at the folder", cause).with_path(folder));
    let refused = |what: String| Failure::from(Error::new(Kind::TargetUnfit, what).with_path(folder));
    let place = whole_path(folder).map_err(failed)?;
    match mount_at(folder).map_err(failed)? {
        None => return Err(refused("nothing is mounted there".to_owned())),
        Some(entry) if entry.fs_type != format!("fuse.{SUBTYPE}") => {
            let found = entry.fs_type.escape_debug();
            return Err(refused(format!("what is mounted there is {found}, not of tintype")).hinted("use umount"));
        }
        Some(_) => {}
    }
    match fuse::unmount(&place, args.lazy) {
        Ok(()) => Ok(Outcome::Done),
        Err(cause) if cause.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
            let shown = folder.display();
            let failure = Failure::from(Error::new(Kind::TargetBusy, "it is in use").with_path(folder));
            Err(failure.hinted(format!(
                "\"fuser -vm {shown}\" or \"lsof +f -- {shown}\" shows by whom (\"losetup\" lists loop devices); --lazy \
                 takes it away all the same"
            )))
        }
        Err(cause) => Err(Error::io("unmount", cause).with_path(folder).into()),
    }
}
