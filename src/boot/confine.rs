//! Keeps QEMU, which runs what a guest says, from the rest of this computer: its environment, its sandbox, its user.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use super::settings::{Accelerator, Display, Serial, Settings};
use crate::error::{Error, Result};

/// Sandbox of QEMU: no old system calls, no new privileges, no programs, no change of its priority.
pub const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The same for a window, whose libraries set priorities of their threads.
pub const SANDBOX_OF_WINDOW: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny";

/// The variables that QEMU needs; passwords are in others.
const VARIABLES: [&str; 5] = ["PATH", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE"];

/// The variables by which it finds a desktop.
const VARIABLES_OF_WINDOW: [&str; 11] = [
    "HOME",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
    "XDG_SESSION_TYPE",
    "XDG_CONFIG_HOME",
    "XDG_DATA_DIRS",
    "DBUS_SESSION_BUS_ADDRESS",
    "GDK_BACKEND",
    "GDK_SCALE",
];

/// The user that QEMU runs as if root starts it: one of this name, or else this number, which nobody has. It is not `nobody`,
/// who has other processes.
const USER: &str = "tintype-boot";
const USER_NUMBER: u32 = 65530;

/// Leaves a program only the variables that QEMU needs.
pub fn clean_environment(command: &mut Command, has_window: bool) {
    command.env_clear();
    let of_window = if has_window { &VARIABLES_OF_WINDOW[..] } else { &[] };
    for name in VARIABLES.iter().chain(of_window) {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

/// Confinement of QEMU, apart from its environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confinement {
    /// True if it gets its sandbox.
    pub sandbox: bool,
    /// Another user and group than this process has.
    pub user: Option<User>,
}

/// A user, and its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    uid: u32,
    gid: u32,
}

impl Confinement {
    /// As much as the machine allows. What QEMU opens by name must be there for another user: a file for the serial port, a
    /// desktop, and what the user's own arguments name may not be.
    pub fn of(settings: &Settings, accelerator: Accelerator) -> Confinement {
        let opens_by_name =
            matches!(settings.serial, Serial::File(_)) || settings.display == Display::Gtk || !settings.more.is_empty();
        let is_root = rustix::process::geteuid().is_root();
        let user = if is_root && !opens_by_name { other_user() } else { None };
        let user = user.and_then(|user| match accelerator {
            Accelerator::Kvm => with_kvm(user, Path::new("/dev/kvm")),
            _ => Some(user),
        });
        Confinement { sandbox: true, user }
    }

    /// Returns the part that QEMU refused to start with, by its words; `None` if it failed for another reason.
    pub fn without_what_fails(self, words: &str) -> Option<(Confinement, &'static str)> {
        if self.user.is_some() && words.contains("ermission denied") {
            let remark = "QEMU runs as root, because a file that it needs is not readable for other users";
            return Some((Confinement { user: None, ..self }, remark));
        }
        if self.sandbox && (words.contains("sandbox") || words.contains("seccomp")) {
            return Some((Confinement { sandbox: false, ..self }, "this QEMU has no sandbox: the guest runs without"));
        }
        None
    }

    /// Has a program run as the other user.
    pub fn apply(self, command: &mut Command) {
        if let Some(User { uid, gid }) = self.user {
            // The standard library drops root's other groups, too.
            command.uid(uid).gid(gid);
        }
    }

    /// Gives the other user a file or folder that QEMU opens by name.
    pub fn lend(self, path: &Path) -> Result<()> {
        let Some(User { uid, .. }) = self.user else { return Ok(()) };
        let lent = std::os::unix::fs::lchown(path, Some(uid), None);
        lent.map_err(|cause| Error::io("give QEMU's user its folder", cause).with_path(path))
    }
}

/// True if folders of this user may be ones that were lent to QEMU.
pub fn is_ours(uid: u32) -> bool {
    let own = rustix::process::geteuid();
    uid == own.as_raw() || own.is_root() && other_user().is_some_and(|user| user.uid == uid)
}

fn other_user() -> Option<User> {
    user_in(&std::fs::read_to_string("/etc/passwd").unwrap_or_default())
}

fn user_in(passwd: &str) -> Option<User> {
    let number = |text: &str| text.parse::<u32>().ok();
    let mut is_taken = false;
    for line in passwd.lines() {
        let fields: Vec<_> = line.split(':').collect();
        let [name, _, uid, gid, ..] = fields.as_slice() else { continue };
        if *name == USER {
            return Some(User { uid: number(uid)?, gid: number(gid)? }).filter(|user| user.uid != 0);
        }
        is_taken |= number(uid) == Some(USER_NUMBER);
    }
    (!is_taken).then_some(User { uid: USER_NUMBER, gid: USER_NUMBER })
}

/// The user with a group that may use KVM; `None` if only root may.
fn with_kvm(user: User, device: &Path) -> Option<User> {
    use std::os::unix::fs::MetadataExt as _;
    let found = device.metadata().ok()?;
    match found.mode() {
        mode if mode & 0o006 == 0o006 => Some(user),
        mode if mode & 0o060 == 0o060 && found.gid() != 0 => Some(User { gid: found.gid(), ..user }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_one_of_that_name_or_one_that_nobody_is() {
        assert_eq!(user_in("root:x:0:0::/root:/bin/sh\n"), Some(User { uid: 65530, gid: 65530 }));
        assert_eq!(user_in("tintype-boot:x:120:121::/:/bin/false\n"), Some(User { uid: 120, gid: 121 }));
        assert_eq!(user_in("tintype-boot:x:0:0::/:/bin/false\n"), None);
        assert_eq!(user_in("somebody:x:65530:1::/:/bin/sh\n"), None);
    }

    #[test]
    fn only_what_fails_is_left_out() {
        let full = Confinement { sandbox: true, user: Some(User { uid: 1, gid: 1 }) };
        assert!(full.without_what_fails("QEMU ended with code 1: no such bus").is_none());
        let (less, _) = full.without_what_fails("Could not open 'code.fd': Permission denied").unwrap();
        assert_eq!(less, Confinement { user: None, ..full });
        let (least, _) = less.without_what_fails("-sandbox: invalid option").unwrap();
        assert_eq!(least, Confinement { sandbox: false, user: None });
        assert!(least.without_what_fails("sandbox: Permission denied").is_none());
    }
}
