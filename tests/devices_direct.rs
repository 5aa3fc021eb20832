//! Reads of block devices go past the page cache, which may be older than what is on the device.

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use common::block::{LoopDevice, Mounted, cached_bytes, have_loop_devices};
use common::nbd::Serving;
use common::{Run, Sandbox, assert_holds, digest, have};

const MIB: u64 = 1 << 20;

/// How many blocks of 1 KiB hold nothing but repetitions of this word.
fn count(bytes: &[u8], word: &[u8; 4]) -> usize {
    bytes.chunks(1024).filter(|block| block.chunks(4).all(|found| found == word)).count()
}

fn fill(mounted: &Mounted, word: &[u8; 4]) {
    mounted.write("file", &word.repeat(MIB as usize));
}

/// The tests' own commands read disks in use.
fn run_live(sandbox: &Sandbox, args: &[&str]) -> Run {
    let mut command = sandbox.command(args);
    Run::of(&command.env("TINTYPE_LIVE", "1").stdin(Stdio::null()).output().expect("run tintype"))
}

fn ready() -> bool {
    have_loop_devices() && have("mkfs.ext4") && have("addpart")
}

#[test]
fn the_second_copy_of_a_mounted_device_holds_the_second_content() {
    if !ready() {
        return;
    }
    let sandbox = Sandbox::new();
    File::create(sandbox.path("disk.raw")).unwrap().set_len(64 * MIB).unwrap();
    let device = LoopDevice::over(&sandbox.path("disk.raw"), 512);
    sandbox.tool("mkfs.ext4", ["-q", device.name()]);
    let mounted = Mounted::at(&device.0, sandbox.path("mounted"), "rw");
    fill(&mounted, b"OLD-");
    run_live(&sandbox, &["convert", device.name(), "a.raw"]).ok();
    assert_eq!(count(&fs::read(sandbox.path("a.raw")).unwrap(), b"OLD-"), 4096);

    fill(&mounted, b"NEW!");
    (0..30).for_each(|number| mounted.write(&format!("small-{number}"), format!("content {number}").as_bytes()));
    // Whoever reads the device through its cache keeps what is there now.
    let _keeps_the_cache = File::open(&device.0).unwrap();
    run_live(&sandbox, &["convert", device.name(), "b.raw"]).ok();
    let second = fs::read(sandbox.path("b.raw")).unwrap();
    assert_eq!((count(&second, b"OLD-"), count(&second, b"NEW!")), (0, 4096));
    assert!(second.windows(10).any(|found| found == b"content 29"), "new files are there");

    let repository = ["--repo", "repo", "--cache-dir", "cache"];
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    for word in [b"ONE.", b"TWO.", b"THRE"] {
        fill(&mounted, word);
        run_live(&sandbox, &[&["backup", device.name(), "--name", "live"], &repository[..]].concat()).ok();
        sandbox.run([&["restore", "live", "c.raw", "--force"], &repository[..]].concat()).ok();
        assert_eq!(count(&fs::read(sandbox.path("c.raw")).unwrap(), word), 4096);
    }
    for _ in 0..2 {
        fill(&mounted, b"DIG1");
        let before = sandbox.run(["digest", device.name()]).ok().stdout;
        fill(&mounted, b"DIG2");
        assert_ne!(sandbox.run(["digest", device.name()]).ok().stdout, before, "digest");
        sandbox.run(["compare", device.name(), "b.raw"]).fails(3, "");
    }
}

#[test]
fn the_whole_disk_is_read_as_its_mounted_partition_left_it() {
    if !ready() {
        return;
    }
    let sandbox = Sandbox::new();
    File::create(sandbox.path("disk.raw")).unwrap().set_len(64 * MIB).unwrap();
    let device = LoopDevice::over(&sandbox.path("disk.raw"), 512);
    let partition = device.add_partition(MIB, 62 * MIB);
    sandbox.tool("mkfs.ext4", ["-q", partition.to_str().unwrap()]);
    let mounted = Mounted::at(&partition, sandbox.path("mounted"), "rw");
    fill(&mounted, b"OLD-");
    run_live(&sandbox, &["convert", device.name(), "a.raw"]).ok();
    // Nothing of this is synced by whoever writes it.
    fs::write(mounted.0.join("file"), b"NEW!".repeat(MIB as usize)).unwrap();
    (0..300).for_each(|number| fs::write(mounted.0.join(format!("f{number}")), format!("[{number}]")).unwrap());
    run_live(&sandbox, &["convert", device.name(), "b.raw"]).ok();
    let second = fs::read(sandbox.path("b.raw")).unwrap();
    assert_eq!((count(&second, b"NEW!"), second.len() as u64), (4096, 64 * MIB));
    fs::write(sandbox.path("part.raw"), &second[MIB as usize..(63 * MIB) as usize]).unwrap();
    // What is only in the journal yet counts: whoever mounts the copy replays it.
    let mut replay = std::process::Command::new("e2fsck");
    replay.args(["-y", "-E", "journal_only"]).arg(sandbox.path("part.raw"));
    assert!(matches!(replay.status().unwrap().code(), Some(0 | 1)), "e2fsck replays the journal");
    let listed = sandbox.tool("debugfs", ["-R", "ls -l /", "part.raw"]);
    let found = (0..300).filter(|number| listed.contains(&format!(" f{number}\n"))).count();
    assert_eq!(found, 300, "files that were made meanwhile");
}

#[test]
fn what_is_written_through_a_partition_is_seen_on_its_disk() {
    if !ready() {
        return;
    }
    let sandbox = Sandbox::new();
    File::create(sandbox.path("disk.raw")).unwrap().set_len(8 * MIB).unwrap();
    let device = LoopDevice::over(&sandbox.path("disk.raw"), 512);
    let partition = device.add_partition(MIB, 4 * MIB);
    let _keeps_the_cache = File::open(&device.0).unwrap();
    for word in [b"one.", b"two."] {
        fs::write(&partition, word.repeat(MIB as usize)).unwrap();
        let found = sandbox.run(["convert", device.name(), "a.raw", "--force"]);
        assert!(matches!(found.code, Some(0)), "{}", found.stderr);
        assert_eq!(count(&fs::read(sandbox.path("a.raw")).unwrap(), word), 4096);
    }
}

#[test]
fn reading_a_device_leaves_the_page_cache_as_it_was() {
    if !ready() || !have("python3") {
        return;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.raw_disk("source.raw", 96 * MIB, 200);
    sandbox.run(["convert", "source.raw", "image.qcow2"]).ok();
    fs::copy(sandbox.path("source.raw"), sandbox.path("disk.raw")).unwrap();
    let image = fs::read(sandbox.path("image.qcow2")).unwrap();
    File::create(sandbox.path("image.raw")).unwrap().set_len(128 * MIB).unwrap();
    let device = LoopDevice::with(&sandbox.path("disk.raw"), &["--direct-io=on"]);
    let of_image = LoopDevice::with(&sandbox.path("image.raw"), &[]);
    fs::write(&of_image.0, &image).unwrap();
    let _open = [File::open(&device.0).unwrap(), File::open(&of_image.0).unwrap()];
    sandbox.tool("blockdev", ["--flushbufs", device.name()]);
    sandbox.tool("blockdev", ["--flushbufs", of_image.name()]);
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    let at_rest = cached_bytes(&device.0);
    for args in [
        &["digest", device.name()][..],
        &["convert", device.name(), "a.raw", "--verify"],
        &["backup", device.name(), "--name", "disk", "--repo", "repo", "--cache-dir", "cache"],
        &["compare", device.name(), "source.raw"],
        &["compare", "source.raw", device.name()],
        &["restore", "disk", device.name(), "--delta", "--force", "--repo", "repo", "--cache-dir", "cache"],
        &["info", device.name()],
    ] {
        let run = sandbox.run(args);
        assert_eq!(run.code, Some(0), "{args:?}: {}", run.stderr);
        let grown = cached_bytes(&device.0).saturating_sub(at_rest);
        assert!(grown <= MIB, "{args:?}: {grown} bytes more are in the page cache");
    }
    assert_eq!(digest(&sandbox, &sandbox.path("a.raw")), digest(&sandbox, &source));
    sandbox.run(["compare", "-f", "qcow2", of_image.name(), "source.raw"]).ok();
    sandbox.run(["info", "-f", "qcow2", of_image.name()]).ok();
    assert!(cached_bytes(&of_image.0) <= MIB, "an image on a device");
}

#[test]
fn an_image_on_a_device_and_a_table_of_partitions_are_not_stale() {
    if !ready() || !have("sgdisk") {
        return;
    }
    let sandbox = Sandbox::new();
    File::create(sandbox.path("disk.raw")).unwrap().set_len(16 * MIB).unwrap();
    let device = LoopDevice::over(&sandbox.path("disk.raw"), 512);
    let _keeps_the_cache = File::open(&device.0).unwrap();
    for size in ["5M", "7M"] {
        sandbox.tool("qemu-img", ["create", "-q", "-f", "qcow2", "image.qcow2", size]);
        // Behind the cache: the loop device's own file is written.
        let mut file = File::options().write(true).open(sandbox.path("disk.raw")).unwrap();
        std::io::Write::write_all(&mut file, &fs::read(sandbox.path("image.qcow2")).unwrap()).unwrap();
        let info = sandbox.run(["info", "-f", "qcow2", device.name()]).ok();
        assert!(info.stdout.contains(&size.replace('M', " MiB")), "{}", info.stdout);
    }
}

#[test]
fn a_device_is_read_to_its_odd_end() {
    if !have_loop_devices() {
        return;
    }
    let sandbox = Sandbox::new();
    for (sector_bytes, odd_bytes) in [(512, 512), (4096, 4096), (4096, 512), (4096, 3584), (4096, 0)] {
        let source = sandbox.raw_disk("source.raw", 3 * MIB + odd_bytes, 12);
        let mut expected = fs::read(&source).unwrap();
        let end = expected.len();
        expected[end - 700..].fill(0x5a);
        fs::write(&source, &expected).unwrap();
        let device = LoopDevice::over(&source, sector_bytes);
        // The kernel reads no part of a sector: nobody can have those bytes.
        let readable = end - end % sector_bytes as usize;
        let about = format!("sectors of {sector_bytes} bytes, {odd_bytes} bytes more");
        let run = sandbox.run(["convert", device.name(), "a.raw", "--force"]).ok();
        assert_eq!(run.stderr.contains("they are left out"), readable < end, "{about}: {}", run.stderr);
        assert_holds(&sandbox.path("a.raw"), &expected[..readable], &about);
        sandbox.run(["convert", device.name(), "b.raw", "--force", "--offset", "1536", "--size", "1M"]).ok();
        assert_holds(&sandbox.path("b.raw"), &expected[1536..1536 + MIB as usize], &about);
        drop(device);
    }
}

#[test]
fn a_device_on_standard_input_is_read_in_the_same_way() {
    if !ready() || !have("python3") {
        return;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.raw_disk("source.raw", 24 * MIB, 60);
    let device = LoopDevice::over(&source, 512);
    let open = File::open(&device.0).unwrap();
    sandbox.tool("blockdev", ["--flushbufs", device.name()]);
    let input = Stdio::from(File::open(&device.0).unwrap());
    let run = sandbox.run_with_input(["convert", "-f", "raw", "-", "a.raw"], input).ok();
    assert!(cached_bytes(&device.0) <= MIB, "{}", run.stderr);
    drop((open, device));
    assert_holds(&sandbox.path("a.raw"), &fs::read(&source).unwrap(), "the device");
}

#[test]
fn what_serves_a_device_keeps_little_of_it() {
    if !ready() || !have("qemu-img") || !have("python3") {
        return;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.raw_disk("source.raw", 80 * MIB, 100);
    let device = LoopDevice::over(&source, 512);
    let open = File::open(&device.0).unwrap();
    sandbox.tool("blockdev", ["--flushbufs", device.name()]);
    let before = cached_bytes(&device.0);
    let socket = sandbox.path("socket");
    let serving = Serving::start(&sandbox, 1, &[device.name(), "--socket", socket.to_str().unwrap()]);
    sandbox.tool("qemu-img", ["compare", "-f", "raw", "-F", "raw", serving.uri(), "source.raw"]);
    assert!(cached_bytes(&device.0) <= before + MIB);
    serving.stop().ok();
    drop((open, device));
    assert!(Path::new(&source).exists());
}
