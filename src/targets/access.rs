//! Who may open a new file: nobody else, or no more users than may open the files that it is made of.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};

const OWNER: u32 = 0o600;
const GROUP: u32 = 0o060;
const OTHERS: u32 = 0o006;

/// The permissions that a new file may have at most; the umask narrows them further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    mode: u32,
    /// The group that the mode's bits for a group are for; any, if `None`.
    group: Option<u32>,
}

impl Default for Access {
    /// As the umask says.
    fn default() -> Self {
        Access { mode: OWNER | GROUP | OTHERS, group: None }
    }
}

impl Access {
    /// For the owner alone.
    pub const PRIVATE: Access = Access { mode: OWNER, group: None };

    /// The same, narrowed to who may open this file or block device, too.
    #[must_use]
    pub fn no_wider_than(self, source: &Metadata) -> Access {
        if !source.is_file() && !source.file_type().is_block_device() {
            return self;
        }
        let both = self.mode & (source.mode() | OWNER);
        match self.group {
            Some(group) if group != source.gid() => Access { mode: without_group(both), ..self },
            _ => Access { mode: both, group: Some(source.gid()) },
        }
    }

    /// The mode to create the file with.
    pub fn mode(self) -> u32 {
        self.mode
    }

    /// Narrows a file that was created with this mode, and has got another group than its bits are for.
    pub fn settle(self, file: &File) -> io::Result<()> {
        let found = file.metadata()?;
        match self.group {
            Some(group) if group != found.gid() && found.mode() & GROUP != 0 => {
                file.set_permissions(Permissions::from_mode(without_group(found.mode() & 0o777)))
            }
            _ => Ok(()),
        }
    }
}

/// The mode in which a group may do what others may.
fn without_group(mode: u32) -> u32 {
    mode & !GROUP | (mode & OTHERS) << 3
}
