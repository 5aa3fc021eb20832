//! Running `tintype mount`, with an end to it however a test ends.
#![allow(dead_code, reason = "every test takes what it needs")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Sandbox, have_or_skip, have_root};

/// Longest that anything here may take.
pub const LIMIT: Duration = Duration::from_secs(30);

/// True if the tests may mount.
pub fn can_mount() -> bool {
    have_root() && have_or_skip(Path::new("/dev/fuse").exists(), "/dev/fuse")
}

/// A mount that ends with the test, however that ends.
pub struct Mount {
    child: Option<Child>,
    pub folder: PathBuf,
    /// The first line that the program printed.
    pub line: String,
}

impl Mount {
    /// Unmounts the folder, whoever mounted it, when the test ends.
    pub fn none(folder: PathBuf) -> Mount {
        Mount { child: None, folder, line: String::new() }
    }

    /// Mounts at "m", and waits until it is there.
    pub fn new(sandbox: &Sandbox, args: &[&str]) -> Mount {
        let folder = sandbox.path("m");
        fs::create_dir_all(&folder).unwrap();
        let mut command = sandbox.command(["mount"].iter().chain(args).chain(&["m"]));
        let log = File::create(sandbox.path("mount.log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut mount = Mount { child: Some(command.spawn().unwrap()), folder, line: String::new() };
        let output = mount.child.as_mut().unwrap().stdout.take().unwrap();
        BufReader::new(output).read_line(&mut mount.line).unwrap();
        let said = fs::read_to_string(sandbox.path("mount.log")).unwrap();
        assert!(mount.line.contains("mounted"), "{args:?}: {}{said}", mount.line);
        mount
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// Waits until the program has ended, and gives its exit code.
    pub fn code(&mut self) -> Option<i32> {
        let mut child = self.child.take().unwrap();
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child = Some(child);
        panic!("it does not end");
    }

    /// Ends it as its user would.
    pub fn end(mut self, sandbox: &Sandbox) {
        sandbox.run(["unmount", "m"]).ok();
        assert_eq!(self.code(), Some(0));
        assert!(!is_mounted(&self.folder));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if is_mounted(&self.folder) {
            let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
        }
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn is_mounted(folder: &Path) -> bool {
    let folder = folder.display().to_string();
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|line| line.split(' ').nth(4) == Some(&folder))
}
