//! A block device with areas that cannot be read, and a count of the requests that reached them.

use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Sandbox, have, have_root};

/// nbdkit with a map of bad areas, nbdfuse over it, and a loop device over that. Gone with the test.
pub struct BadDevice {
    pub device: String,
    pub bad: Vec<Range<u64>>,
    log: PathBuf,
    mount_point: PathBuf,
    nbdkit: Child,
    nbdfuse: Child,
}

/// True if such devices can be made here.
pub fn can_make() -> bool {
    have_root() && ["nbdkit", "nbdfuse", "losetup"].into_iter().all(have)
}

/// The map that ddrescue would write of a disk with these bad areas.
pub fn mapfile(size_bytes: u64, bad: &[Range<u64>]) -> String {
    let mut text = "# Mapfile\n0x00000000  ?\n".to_owned();
    let mut end = 0;
    for range in bad {
        if end < range.start {
            text += &format!("{end:#x} {:#x} +\n", range.start - end);
        }
        text += &format!("{:#x} {:#x} -\n", range.start, range.end - range.start);
        end = range.end;
    }
    if end < size_bytes {
        text += &format!("{end:#x} {:#x} +\n", size_bytes - end);
    }
    text
}

impl BadDevice {
    /// A device over the raw disk `name` of the sandbox.
    pub fn new(sandbox: &Sandbox, name: &str, sector_bytes: u32, bad: &[Range<u64>]) -> BadDevice {
        let disk = sandbox.path(name);
        let size_bytes = std::fs::metadata(&disk).expect("a disk").len();
        let (map, log) = (sandbox.path(&format!("{name}.bad")), sandbox.path(&format!("{name}.log")));
        std::fs::write(&map, mapfile(size_bytes, bad)).expect("a map");
        let (socket, mount_point) = (sandbox.path(&format!("{name}.sock")), sandbox.path(&format!("{name}.disk")));
        // One that was killed leaves its socket behind.
        let _ = std::fs::remove_file(&socket);
        let nbdkit = Command::new("nbdkit")
            .args(["-f", "-U", socket.to_str().expect("a path"), "--filter=log", "--filter=ddrescue", "file"])
            .arg(&disk)
            .arg(format!("ddrescue-mapfile={}", map.display()))
            .arg(format!("logfile={}", log.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nbdkit");
        wait_until("nbdkit listens", || socket.exists());
        std::fs::write(&mount_point, "").expect("a file");
        let nbdfuse = Command::new("nbdfuse")
            .arg(&mount_point)
            .arg("--unix")
            .arg(&socket)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nbdfuse");
        let is_mounted = || std::fs::metadata(&mount_point).is_ok_and(|found| found.len() == size_bytes);
        wait_until("nbdfuse mounts", is_mounted);
        let path = mount_point.to_str().expect("a path");
        let sector_bytes = sector_bytes.to_string();
        let args = ["-f", "--show", "--direct-io=on", "-b", &sector_bytes, path];
        let device = sandbox.tool("losetup", args).trim().to_owned();
        BadDevice { device, bad: bad.to_vec(), log, mount_point, nbdkit, nbdfuse }
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        std::fs::File::options().write(true).open(&self.log).and_then(|log| log.set_len(0)).expect("a log");
    }

    /// Returns the offset and length of all reads, in order.
    pub fn requests(&self) -> Vec<(u64, u64)> {
        let log = std::fs::read(&self.log).expect("a log");
        let log = String::from_utf8_lossy(&log).into_owned();
        let number = |line: &str, name: &str| {
            let digits = line.split(name).nth(1)?.split_whitespace().next()?.strip_prefix("0x")?;
            u64::from_str_radix(digits, 16).ok()
        };
        let reads = log.lines().filter(|line| line.contains(" Read id=") && line.ends_with("..."));
        reads.filter_map(|line| number(line, "offset=").zip(number(line, "count="))).collect()
    }

    /// Returns the number of reads that touched each bad area.
    pub fn requests_into_bad_areas(&self) -> Vec<usize> {
        let requests = self.requests();
        let touches = |area: &Range<u64>| {
            requests.iter().filter(|(offset, length)| *offset < area.end && offset + length > area.start).count()
        };
        self.bad.iter().map(touches).collect()
    }

    /// Takes the disk behind the device away: from now on nothing of it can be read.
    pub fn vanish(&mut self) {
        let _ = self.nbdkit.kill();
        let _ = self.nbdkit.wait();
    }
}

fn wait_until(what: &str, is_true: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_true() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for BadDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
        let _ = Command::new("umount").arg("-l").arg(&self.mount_point).stderr(Stdio::null()).status();
        for child in [&mut self.nbdfuse, &mut self.nbdkit] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
