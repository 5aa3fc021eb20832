//! Disks start as machines from wherever they are, and are as they were afterwards; and what is proved of a backup is noted.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Run, Sandbox, cheap, have};
use serde_json::Value;

const LINE: &str = "TINTYPE-GUEST-1 last sector reached";

/// A boot sector that writes itself to the disk's second sector, and powers the machine off.
const WRITES: &[u8] =
    b"\x31\xc0\x8e\xd8\x8e\xd0\xbc\x00\x7c\xfb\xbe\x1b\x7c\xb4\x43\xcd\x13\xba\x04\x06\xb8\x00\x20\xef\xf4\xeb\
    \xfd\x10\x00\x01\x00\x00\x7c\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00";

/// A boot sector that writes a line to the serial port and waits for a letter from there; then it reads the first 24 MiB of
/// the disk, writes the sum of them in hex, and powers the machine off.
const SUMS: &[u8] =
    b"\x31\xc0\x8e\xd8\x8e\xc0\x8e\xd0\xbc\x00\x7c\xfb\xfc\x66\x31\xff\xba\xf8\x03\xb0\x52\xee\xb0\x0a\xee\xba\
    \xfd\x03\xec\xa8\x01\x74\xf8\xba\xf8\x03\xec\xbe\x87\x7c\xb4\x42\xb2\x80\xcd\x13\x72\x4d\x1e\xb8\x00\x10\
    \x8e\xd8\x31\xf6\xb9\x00\x20\x66\xd1\xc7\x66\xad\x66\x01\xc7\xe2\xf6\x1f\x66\x83\x06\x8f\x7c\x40\x66\x81\
    \x3e\x8f\x7c\x00\xc0\x00\x00\x72\xce\xb9\x08\x00\x66\xc1\xc7\x04\x66\x89\xf8\x24\x0f\x04\x30\x3c\x39\x76\
    \x02\x04\x27\x89\xc3\xba\xfd\x03\xec\xa8\x20\x74\xf8\x89\xd8\xba\xf8\x03\xee\xe2\xdd\xba\x04\x06\xb8\x00\
    \x20\xef\xf4\xeb\xf6\x10\x00\x40\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x00";

/// How many bytes that boot sector reads.
const SUMMED_BYTES: usize = 24 << 20;

/// A boot sector that writes 200 letters on the screen, and stops.
const DRAWS: &[u8] = b"\x31\xc0\x8e\xd8\x8e\xd0\xbc\x00\x7c\xfb\xb9\xc8\x00\xb8\x58\x0e\xcd\x10\xe2\xf9\xf4\xeb\xfd";

fn build(script: &str, target: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest").join(script);
    let output = Command::new(script).arg(target).output().expect("run the guest's script");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn command(sandbox: &Sandbox, args: &[&str]) -> Command {
    let mut command = sandbox.command(args);
    command.env("TINTYPE_PASSWORD", "a b c").env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
    command
}

fn run(sandbox: &Sandbox, args: &[&str]) -> Run {
    Run::of(&command(sandbox, args).stdin(Stdio::null()).output().unwrap())
}

/// A disk of 1 MiB with this boot sector.
fn disk_with(sandbox: &Sandbox, name: &str, code: &[u8]) {
    let mut bytes = vec![0; 1 << 20];
    bytes[..code.len()].copy_from_slice(code);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(sandbox.path(name), bytes).unwrap();
}

/// A sandbox with an encrypted repository that has these disks.
fn with_backups(disks: &[&str], sandbox: Sandbox) -> Sandbox {
    cheap::init(&sandbox.path("repo"), "a b c");
    disks.iter().for_each(|disk| drop(run(&sandbox, &["backup", "--repo", "repo", disk]).ok()));
    sandbox
}

/// Boots a stored snapshot, and returns what the program says of it.
fn verify(sandbox: &Sandbox, snapshot: &str, more: &[&str], code: i32) -> Value {
    let args = ["verify", "--repo", "repo", "--json", "--accel", "tcg", "--boot", snapshot];
    let run = run(sandbox, &[&args, more].concat());
    assert_eq!(run.code, Some(code), "{}{}", run.stdout, run.stderr);
    serde_json::from_str(run.stdout.lines().last().unwrap()).unwrap()
}

#[test]
fn a_boot_sector_runs_to_its_end_from_everywhere_and_changes_nothing() {
    if !have("qemu-system-x86_64") {
        return;
    }
    let sandbox = Sandbox::new();
    build("build-boot-sector", &sandbox.path("guest1.raw"));
    let sandbox = with_backups(&["guest1.raw"], sandbox);
    let images = ["guest1.qcow2", "guest1.vhdx", "guest1.vmdk"];
    images.iter().for_each(|image| drop(run(&sandbox, &["convert", "guest1.raw", image]).ok()));
    run(&sandbox, &["export", "guest1", "guest1.tin", "--repo", "repo"]).ok();
    let files = [&["guest1.raw", "guest1.tin"], &images[..]].concat();
    let before: Vec<_> = files.iter().map(|file| fs::read(sandbox.path(file)).unwrap()).collect();
    for source in [&["repo::guest1"], &files[..]].concat() {
        let found = run(&sandbox, &["boot", source, "--accel", "tcg", "--display", "none"]).ok();
        assert!(found.stdout.contains(LINE), "{source}: {}{}", found.stdout, found.stderr);
    }
    run(&sandbox, &["boot", "guest1.raw", "--display", "gtk"]).fails(2, "no desktop");
    for bus in ["ide", "nvme", "virtio"] {
        run(&sandbox, &["boot", "guest1.raw", "--accel", "tcg", "--serial", "said.txt", "--json", "--bus", bus]).ok();
        assert!(fs::read_to_string(sandbox.path("said.txt")).unwrap().contains(LINE), "{bus}");
    }
    // Wherever KVM is, and works or does not; and temporary files go to where no socket can have a name.
    let far = sandbox.path(&"x".repeat(110));
    fs::create_dir(&far).unwrap();
    let output = command(&sandbox, &["boot", "guest1.raw"]).env("TMPDIR", far).stdin(Stdio::null()).output().unwrap();
    assert!(Run::of(&output).ok().stdout.contains(LINE));
    for (file, before) in files.iter().zip(before) {
        assert!(fs::read(sandbox.path(file)).unwrap() == before, "{file} changed");
    }
    run(&sandbox, &["compare", "--strict", "guest1.raw", "repo::guest1"]).ok();
}

#[test]
fn what_a_machine_writes_is_thrown_away_or_kept() {
    if !have("qemu-system-x86_64") {
        return;
    }
    let sandbox = Sandbox::new();
    disk_with(&sandbox, "writes.raw", WRITES);
    let before = fs::read(sandbox.path("writes.raw")).unwrap();
    let names = common::names_in(&sandbox.path("."));
    let boot = |more: &[&str]| run(&sandbox, &[&["boot", "--accel", "tcg", "--json"], more].concat());
    boot(&["writes.raw"]).ok();
    assert_eq!(common::names_in(&sandbox.path(".")), names);
    boot(&["writes.raw", "--keep", "kept.qcow2"]).ok();
    assert!(fs::read(sandbox.path("writes.raw")).unwrap() == before);
    let both = |name: &str| {
        run(&sandbox, &["convert", "kept.qcow2", name, "--force"]).ok();
        fs::read(sandbox.path(name)).unwrap()
    };
    let whole = both("both.raw");
    assert!(whole[512..1024] == before[..512] && whole[1024..] == before[1024..]);
    sandbox.tool("qemu-img", ["check", "-q", "kept.qcow2"]);
    // It goes on from there, and with no other disk.
    boot(&["writes.raw", "--keep", "kept.qcow2"]).ok();
    assert!(both("again.raw") == whole);
    fs::copy(sandbox.path("writes.raw"), sandbox.path("other.raw")).unwrap();
    boot(&["other.raw", "--keep", "kept.qcow2"]).fails(2, "not over");
    boot(&["other.raw", "--keep", "other.raw"]).fails(1, "other.raw");
    assert!(fs::read(sandbox.path("other.raw")).unwrap() == before);
}

#[test]
fn a_kernel_boots_from_an_encrypted_backup_by_bios_and_uefi() {
    let tools = ["qemu-system-x86_64", "syslinux", "grub-mkstandalone", "sgdisk"];
    if !tools.iter().all(|tool| have(tool)) {
        return;
    }
    let sandbox = Sandbox::new();
    let line = build("build-kernel", &sandbox.path("guest2.raw"));
    let sandbox = with_backups(&["guest2.raw"], sandbox);
    let until = format!("serial:^{line}$");
    for (firmware, machine) in [("bios", "BIOS, virtio, TCG"), ("auto", "UEFI, virtio, TCG")] {
        let found = verify(&sandbox, "guest2", &["--until", &until, "--firmware", firmware], 0);
        assert_eq!((&found["boots"], found["machine"].as_str()), (&Value::Bool(true), Some(machine)));
        assert_eq!(found["seen"], *line);
    }
    run(&sandbox, &["compare", "--strict", "guest2.raw", "repo::guest2"]).ok();
}

#[test]
fn a_backup_that_boots_is_told_from_one_that_does_not() {
    if !have("qemu-system-x86_64") {
        return;
    }
    let sandbox = Sandbox::new();
    build("build-boot-sector", &sandbox.path("good.raw"));
    disk_with(&sandbox, "draws.raw", DRAWS);
    let mut wiped = fs::read(sandbox.path("good.raw")).unwrap();
    wiped[..512].fill(0);
    fs::write(sandbox.path("wiped.raw"), wiped).unwrap();
    let sandbox = with_backups(&["good.raw", "draws.raw", "wiped.raw"], sandbox);

    assert_eq!(verify(&sandbox, "good", &["--until", "serial:^TINTYPE-GUEST-1 last"], 0)["seen"], LINE);
    let off = verify(&sandbox, "good", &["--until", "serial:^last"], 4);
    assert!(off["seen"].as_str().unwrap().contains("powered itself off"), "{off}");
    let found = verify(&sandbox, "wiped", &["--screenshot", "wiped.png"], 4);
    assert!(found["seen"].as_str().unwrap().contains("No bootable device"), "{found}");
    verify(&sandbox, "draws", &["--screenshot", "draws.png"], 0);
    let [wiped, draws] = ["wiped.png", "draws.png"].map(|name| fs::read(sandbox.path(name)).unwrap());
    for picture in [&wiped, &draws] {
        let (width, height) = (&picture[16..20], &picture[20..24]);
        assert_eq!(
            (&picture[..8], width, height),
            (&b"\x89PNG\r\n\x1a\n"[..], &[0, 0, 2, 208][..], &[0, 0, 1, 144][..])
        );
    }
    assert!(wiped != draws);
    assert_eq!(verify(&sandbox, "draws", &["--until", "serial:x", "--timeout", "2s"], 4)["boots"], false);

    let listed = run(&sandbox, &["snapshots", "--repo", "repo", "--json"]).ok();
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let boots =
        listed["snapshots"].as_array().unwrap().iter().map(|row| (row["name"].as_str().unwrap(), &row["boots"]));
    let boots: Vec<_> = boots.map(|(name, boot)| (name, boot["ok"].as_bool(), boot["until"].as_str())).collect();
    let expected = [("good", false, "serial"), ("draws", false, "serial"), ("wiped", false, "screen")];
    assert_eq!(boots, expected.map(|(name, ok, until)| (name, Some(ok), Some(until))));
    let text = run(&sandbox, &["snapshots", "--repo", "repo"]).ok().stdout;
    assert!(text.contains("boots") && text.contains("(screen)"), "{text}");
    // What a machine said is in no object that everybody can read, and such an entry is whole.
    run(&sandbox, &["verify", "--repo", "repo"]).ok();
    for entry in common::names_in(&sandbox.path("repo/ledger")) {
        let bytes = fs::read(sandbox.path("repo/ledger").join(entry)).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("GUEST"));
    }
}

#[test]
fn a_machine_that_runs_is_stopped_within_a_second() {
    if !have("qemu-system-x86_64") {
        return;
    }
    let sandbox = Sandbox::new();
    disk_with(&sandbox, "draws.raw", DRAWS);
    let mut child = command(&sandbox, &["boot", "draws.raw", "--accel", "tcg", "--display", "none"]);
    let mut child = child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let stopped = Instant::now();
    sandbox.tool("kill", ["-TERM", &child.id().to_string()]);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(stopped.elapsed() < Duration::from_millis(1500), "{:?}", stopped.elapsed());
}

#[test]
fn a_missing_qemu_is_told_by_the_name_of_its_package() {
    let sandbox = Sandbox::new();
    disk_with(&sandbox, "draws.raw", DRAWS);
    let output = command(&sandbox, &["boot", "draws.raw", "--accel", "tcg"]).env("PATH", "").output().unwrap();
    Run::of(&output).fails(1, "qemu-system-x86");
}

/// A disk of noise with this boot sector, and the sum that [`SUMS`] writes.
fn noise_with(sandbox: &Sandbox, name: &str, code: &[u8]) -> String {
    let mut random = tintype_formats::testing::Random(7);
    let mut bytes: Vec<u8> = (0..SUMMED_BYTES / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect();
    bytes[..512].fill(0);
    bytes[..code.len()].copy_from_slice(code);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(sandbox.path(name), &bytes).unwrap();
    let words = bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word));
    format!("{:08x}", words.fold(0u32, |sum, word| sum.rotate_left(1).wrapping_add(word)))
}

/// Starts tintype with pipes, and waits for its first line that begins so.
fn start(mut command: Command, begin: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with(begin) {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "it ended before it said {begin}");
    }
    (child, output)
}

#[test]
fn a_prune_takes_nothing_from_a_machine_or_a_server_until_both_have_ended() {
    if !have("qemu-system-x86_64") {
        return;
    }
    let sandbox = Sandbox::new();
    let sum = noise_with(&sandbox, "noise.raw", SUMS);
    // Without a password, whose work proves nothing here.
    let bare = |args: &[&str]| {
        let mut command = command(&sandbox, args);
        command.env_remove("TINTYPE_PASSWORD").stdin(Stdio::null());
        command
    };
    let run = |args: &[&str]| Run::of(&bare(args).output().unwrap());
    run(&["init", "repo", "--no-encryption"]).ok();
    sandbox.raw_disk("other.raw", 1 << 20, 9);
    ["noise.raw", "other.raw"].iter().for_each(|disk| drop(run(&["backup", "--repo", "repo", disk]).ok()));
    let packs = || sandbox.tool("find", ["repo/packs", "-type", "f"]);
    let boot = ["boot", "repo::noise", "--accel", "tcg", "--bus", "virtio", "--display", "none", "--serial", "stdio"];
    let (mut machine, mut said) = start(bare(&boot), "R");
    let (mut server, _output) = start(bare(&["serve", "repo::noise", "--socket", "s"]), "nbd");
    let stored = packs();

    // The first finds what it may take, and so asks who is still there; the second would take what nobody holds.
    run(&["forget", "noise@latest", "other@latest", "--prune", "--fence-after", "0", "--repo", "repo"]).ok();
    assert!(packs().len() < stored.len());
    run(&["prune", "--fence-after", "0", "--repo", "repo"]).ok();
    run(&["boot", "repo::noise"]).fails(1, "noise");
    machine.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(rest.contains(&sum), "{rest} instead of {sum}");
    assert!(machine.wait().unwrap().success());

    run(&["prune", "--fence-after", "0", "--repo", "repo"]).ok();
    let uri = format!("nbd+unix:///?socket={}", sandbox.path("s").display());
    run(&["compare", "--strict", "noise.raw", &uri]).ok();
    sandbox.tool("kill", ["-TERM", &server.id().to_string()]);
    server.wait().unwrap();
    run(&["prune", "--repo", "repo"]).ok();
    assert_eq!(packs(), "");
}

#[test]
fn a_terminal_is_as_it_was_when_the_machine_has_ended() {
    if !have("qemu-system-x86_64") || !have("script") {
        return;
    }
    let sandbox = Sandbox::new();
    disk_with(&sandbox, "draws.raw", DRAWS);
    let words = "stty -g; \"$PROGRAM\" boot draws.raw --accel tcg --display none; echo it ended with $?; stty -g";
    let mut terminal = Command::new("script");
    terminal.args(["-qec", words, "/dev/null"]).current_dir(sandbox.path("."));
    terminal.env("PROGRAM", env!("CARGO_BIN_EXE_tintype")).env("SHELL", "/bin/sh");
    let mut terminal = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut shown = BufReader::new(terminal.stdout.take().unwrap()).lines();
    let before = shown.next().unwrap().unwrap();
    shown.find(|line| line.as_ref().unwrap().contains("Ctrl-A X")).unwrap().unwrap();
    // Ctrl-C is for the machine, which does not care.
    let mut keys = terminal.stdin.take().unwrap();
    keys.write_all(b"\x03").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    keys.write_all(b"\x01x").unwrap();
    let rest: Vec<_> = shown.map(Result::unwrap).collect();
    assert!(rest.iter().any(|line| line.contains("it ended with 0")), "{rest:?}");
    assert_eq!(rest.last(), Some(&before));
    terminal.wait().unwrap();
}
