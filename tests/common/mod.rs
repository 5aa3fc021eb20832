//! What the tests of the program share: running it, making disks, finding tools.

#![allow(dead_code)]

pub mod bad_device;
pub mod block;
pub mod cheap;
pub mod clock;
pub mod nbd;

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A folder for one test, gone when it ends.
pub struct Sandbox(TempDir);

impl Sandbox {
    pub fn new() -> Self {
        // Beside the build, not in /tmp: that may be a small memory file system without direct I/O.
        Self::in_folder(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    /// A folder in another one, for instance where other users may be.
    pub fn in_folder(base: &Path) -> Self {
        Sandbox(tempfile::Builder::new().prefix("t").tempdir_in(base).expect("a temporary folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs tintype in this folder.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        self.run_with_input(args, Stdio::null())
    }

    pub fn run_with_input<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: Stdio) -> Run {
        let output = self.command(args).stdin(input).output().expect("run tintype");
        Run::of(&output)
    }

    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tintype"));
        command.current_dir(self.0.path()).args(args);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TINTYPE_")) {
            command.env_remove(name);
        }
        // Where the index of a repository would go, so that no test leaves anything behind.
        command.env("XDG_CACHE_HOME", self.0.path().join("cache"));
        command
    }

    /// Runs a tool in this folder; panics with what it said if it fails.
    pub fn tool<S: AsRef<OsStr>>(&self, name: &str, args: impl IntoIterator<Item = S>) -> String {
        let output = Command::new(name).current_dir(self.0.path()).args(args).output().expect(name);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{name} failed: {out}{err}");
        out.into_owned()
    }

    /// Makes a raw disk with data in `runs` places; the same for the same arguments.
    pub fn raw_disk(&self, name: &str, size_bytes: u64, runs: u64) -> PathBuf {
        let path = self.path(name);
        let file = File::create(&path).expect("create a disk");
        file.set_len(size_bytes).expect("set the size of a disk");
        let mut random = tintype_formats::testing::Random(size_bytes ^ runs);
        for run in 0..runs {
            let length = (4096 * (1 + random.below(80))).min(size_bytes);
            let offset = random.below((size_bytes - length) / 512 + 1) * 512;
            file.write_all_at(&content(&mut random, length as usize, run), offset).expect("write to a disk");
        }
        path
    }
}

/// A disk of 8 MiB with two partitions in an MBR: from sector 64, and the second half.
#[allow(dead_code, reason = "not every test needs partitions")]
pub fn partitioned_disk(sandbox: &Sandbox, name: &str) -> Vec<u8> {
    let path = sandbox.raw_disk(name, 8 << 20, 30);
    let mut disk = std::fs::read(&path).expect("a disk");
    disk[446..512].fill(0);
    for (place, begin, sectors) in [(0usize, 64u32, 4000u32), (1, 8192, 8192)] {
        let at = 446 + 16 * place;
        disk[at + 4] = 0x83;
        disk[at + 8..at + 12].copy_from_slice(&begin.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    }
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(path, &disk).expect("write a disk");
    disk
}

/// Bytes of three kinds in turn: noise, text that compresses, zeros.
fn content(random: &mut tintype_formats::testing::Random, length: usize, kind: u64) -> Vec<u8> {
    match kind % 4 {
        0 | 1 => (0..length.div_ceil(8)).flat_map(|_| random.next_u64().to_le_bytes()).take(length).collect(),
        2 => b"somebody's only copy of a disk ".iter().copied().cycle().take(length).collect(),
        _ => vec![0; length],
    }
}

/// How a run of tintype ended.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn of(output: &Output) -> Run {
        Run {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Panics unless it succeeded.
    #[track_caller]
    pub fn ok(self) -> Run {
        assert_eq!(self.code, Some(0), "tintype failed: {}{}", self.stdout, self.stderr);
        self
    }

    /// Panics unless it ended with this code and said this.
    #[track_caller]
    pub fn fails(self, code: i32, words: &str) -> Run {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        assert!(self.stderr.contains(words), "expected \"{words}\" in: {}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }
}

/// Whether a tool is there. In CI it must be; elsewhere its absence is told loudly.
pub fn have(tool: &str) -> bool {
    let found =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(tool).exists()));
    have_or_skip(found, tool)
}

/// Whether the tests run as root, as those with loop devices and mounts must.
pub fn have_root() -> bool {
    let root = std::fs::metadata("/proc/self").is_ok_and(|found| found.uid() == 0);
    have_or_skip(root, "the permission of root")
}

pub fn have_or_skip(found: bool, what: &str) -> bool {
    if !found {
        assert!(std::env::var_os("CI").is_none(), "{what} is missing, and CI skips nothing");
        eprintln!("SKIPPED: {what} is missing");
    }
    found
}

/// Panics unless QEMU reads the same bytes and the same size from both images.
#[track_caller]
pub fn assert_qemu_reads_the_same(sandbox: &Sandbox, raw: &str, image: &str, format: &str) {
    sandbox.tool("qemu-img", ["compare", "-q", "-f", "raw", "-F", format, raw, image]);
    let info = sandbox.tool("qemu-img", ["info", "--output=json", "-f", format, image]);
    let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
    let size = std::fs::metadata(sandbox.path(raw)).expect("a file").len();
    assert_eq!(info["virtual-size"], size.next_multiple_of(512), "the size of {image}");
}

/// The SHA-256 of a disk's content, as tintype says it.
pub fn digest(sandbox: &Sandbox, image: &Path) -> String {
    let run = sandbox.run([OsStr::new("digest"), image.as_os_str()]).ok();
    run.stdout.split_whitespace().next().expect("a digest").to_owned()
}

/// Panics, without printing all of them, unless the file holds these bytes.
#[track_caller]
pub fn assert_holds(path: &Path, expected: &[u8], about: &str) {
    let found = std::fs::read(path).expect("a file");
    assert_eq!(found.len(), expected.len(), "the length of {}: {about}", path.display());
    let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
    assert_eq!(differs, None, "{} differs: {about}", path.display());
}

/// How many bytes of a file are stored.
pub fn allocated_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).expect("a file").blocks() * 512
}

/// What stands in a folder, sorted.
pub fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A disk with data at both ends, and on both sides of 4 GiB and 32 GiB where it reaches so far.
pub fn disk_of(sandbox: &Sandbox, size: u64) -> PathBuf {
    const GIB: u64 = 1 << 30;
    let path = sandbox.raw_disk("source.raw", size, if size < 1 << 20 { 0 } else { 20 });
    let file = File::options().write(true).open(&path).unwrap();
    for place in [0, 4 * GIB, 32 * GIB, size] {
        for offset in [place.saturating_sub(512), place] {
            if offset + 512 <= size {
                file.write_all_at(&[offset as u8 | 1; 512], offset).unwrap();
            }
        }
    }
    path
}
