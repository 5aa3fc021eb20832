//! Loop devices, partitions and mounts, which go with the test whatever becomes of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{have, have_root};

/// Whether there are loop devices.
pub fn have_loop_devices() -> bool {
    have_root() && have("losetup")
}

fn losetup(args: &[&str], file: &Path) -> String {
    let output = Command::new("losetup").args(args).arg(file).output().expect("losetup");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A loop device over a file, detached when dropped.
pub struct LoopDevice(pub PathBuf);

impl LoopDevice {
    pub fn over(file: &Path, sector_bytes: u32) -> LoopDevice {
        LoopDevice::with(file, &["--sector-size", &sector_bytes.to_string()])
    }

    pub fn with(file: &Path, options: &[&str]) -> LoopDevice {
        LoopDevice(PathBuf::from(losetup(&[&["--find", "--show"], options].concat(), file)))
    }

    pub fn name(&self) -> &str {
        self.0.to_str().expect("a device name")
    }

    /// Makes partition 1 by hand: the kernel may have no parser of tables. Its offset and length are in bytes.
    pub fn add_partition(&self, begin: u64, length_bytes: u64) -> PathBuf {
        let [begin, length] = [begin, length_bytes].map(|bytes| (bytes / 512).to_string());
        let status = Command::new("addpart").arg(&self.0).args(["1", &begin, &length]).status().expect("addpart");
        assert!(status.success());
        PathBuf::from(format!("{}p1", self.name()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if Path::new(&format!("{}p1", self.name())).exists() {
            let _ = Command::new("delpart").arg(&self.0).arg("1").status();
        }
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

/// A mounted file system, unmounted when dropped.
pub struct Mounted(pub PathBuf);

impl Mounted {
    pub fn at(device: &Path, folder: PathBuf, options: &str) -> Mounted {
        std::fs::create_dir_all(&folder).expect("a folder");
        let status = Command::new("mount").args(["-o", options]).arg(device).arg(&folder).status().expect("mount");
        assert!(status.success(), "mount {}", device.display());
        Mounted(folder)
    }

    /// Writes a file in place, durably.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        use std::io::Write as _;
        let path = self.0.join(name);
        let mut file = std::fs::File::options().write(true).create(true).truncate(false).open(path).expect("a file");
        file.write_all(bytes).expect("write");
        file.sync_all().expect("sync");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Says how many bytes of a device are in the page cache. Something has to have it open, or they are gone.
pub fn cached_bytes(device: &Path) -> u64 {
    const SCRIPT: &str = "
import ctypes, mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
size = os.lseek(fd, 0, os.SEEK_END)
view = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
pages = (ctypes.c_ubyte * ((size + 4095) // 4096))()
start = ctypes.addressof(ctypes.c_char.from_buffer(view))
assert ctypes.CDLL(None).mincore(ctypes.c_void_p(start), ctypes.c_size_t(size), pages) == 0
print(sum(page & 1 for page in pages) * 4096)
";
    let output = Command::new("python3").args(["-c", SCRIPT]).arg(device).output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
}
