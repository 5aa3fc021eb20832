//! Whole machines start from everything that a disk can lie in, by both firmwares, and leave it as it was; and they start from
//! what was restored of them. This takes minutes: .ci/run calls it.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::{Run, Sandbox, have, have_root};
use rustix::process::{Pid, Signal, kill_process};
use tintype_formats::locks::Unpoisoned as _;

const TOOLS: [&str; 4] = ["qemu-system-x86_64", "syslinux", "grub-mkstandalone", "sgdisk"];

/// The images of a disk, and what makes each of them.
const IMAGES: [(&str, &[&str]); 5] = [
    ("guest.qcow2", &["convert", "guest.raw", "guest.qcow2", "--compress", "zstd"]),
    ("guest.vhdx", &["convert", "guest.raw", "guest.vhdx"]),
    ("guest.vmdk", &["convert", "guest.raw", "guest.vmdk"]),
    ("plain.tin", &["convert", "guest.raw", "plain.tin"]),
    ("encrypted.tin", &["export", "guest", "encrypted.tin", "--repo", "repo"]),
];

/// Machines that run at once.
const MACHINES: usize = 2;

/// How long a machine may take to its line: processors are emulated.
const LIMIT: Duration = Duration::from_secs(240);

/// Runs a guest's script with these arguments, and says the line that the guest will say.
fn script(words: &[&str], sandbox: &Sandbox) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest").join(words[0]);
    let output = Command::new(script).current_dir(sandbox.path(".")).args(&words[1..]).output();
    let output = output.expect("run the guest's script");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn command(sandbox: &Sandbox, args: &[&str]) -> Command {
    let mut command = sandbox.command(args);
    command.env("TINTYPE_PASSWORD", "a b c").stdin(Stdio::null());
    command
}

fn run(sandbox: &Sandbox, args: &[&str]) {
    let began = Instant::now();
    Run::of(&command(sandbox, args).output().expect("run tintype")).ok();
    eprintln!("{:5.1} s  {}", began.elapsed().as_secs_f64(), args.join(" "));
}

/// Boots a disk until its line comes, and pulls the plug. Says the line.
fn line_of(sandbox: &Sandbox, source: &str, firmware: &str, begin: &str) -> String {
    let began = Instant::now();
    let serial = format!("{}-{firmware}.txt", source.replace([':', '/'], "-"));
    let args = ["boot", source, "--accel", "tcg", "--display", "none", "--memory", "512M", "--cpus", "1"];
    let args = [&args[..], &["--firmware", firmware, "--serial", &serial]].concat();
    let child = command(sandbox, &args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("run tintype");
    let line = loop {
        let has_ended = child.try_wait().expect("wait").is_some();
        if let Some(line) = whole_line(&sandbox.path(&serial), begin) {
            break Some(line);
        }
        if has_ended || began.elapsed() > LIMIT {
            break None;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    // It may have powered itself off.
    let _ = kill_process(Pid::from_child(&child), Signal::TERM);
    let ended = Run::of(&child.wait_with_output().expect("wait"));
    let said = fs::read(sandbox.path(&serial)).unwrap_or_default();
    let line = line.unwrap_or_else(|| {
        panic!("{source} does not boot by {firmware}: {ended:?}: {}", String::from_utf8_lossy(&said))
    });
    assert!(matches!(ended.code, Some(0 | 130)), "{source}, {firmware}: {ended:?}");
    eprintln!("{:5.1} s  boot {source}, {firmware}", began.elapsed().as_secs_f64());
    line
}

/// The line that begins so, if the file has it with its end.
fn whole_line(serial: &Path, begin: &str) -> Option<String> {
    let said = String::from_utf8_lossy(&fs::read(serial).ok()?).into_owned();
    let from = said.find(begin)?;
    let line = &said[from..from + said[from..].find('\n')?];
    Some(line.trim_end().to_owned())
}

/// Chooses the firmwares that the source at a place is booted by.
type Firmwares = fn(usize) -> &'static [&'static str];

/// Every source by both.
fn both(_: usize) -> &'static [&'static str] {
    &["bios", "uefi"]
}

/// One after the other, for systems that take long: what a source and a firmware do together, a small system shows.
fn in_turn(place: usize) -> &'static [&'static str] {
    [&["bios"], &["uefi"]][place % 2]
}

/// Boots all of these. All have to say the same.
fn all_boot(sandbox: &Sandbox, sources: &[&str], firmwares: Firmwares, begin: &str) -> String {
    let mut waiting = Vec::new();
    for (place, source) in sources.iter().enumerate() {
        waiting.extend(firmwares(place).iter().map(|firmware| (*source, *firmware)));
    }
    let (waiting, lines) = (Mutex::new(waiting), Mutex::new(BTreeSet::new()));
    let next = || waiting.lock().unpoisoned().pop();
    let boot = || {
        while let Some((source, firmware)) = next() {
            let line = line_of(sandbox, source, firmware, begin);
            lines.lock().expect("a lock").insert(line);
        }
    };
    std::thread::scope(|scope| (0..MACHINES).for_each(|_| drop(scope.spawn(boot))));
    let lines = lines.into_inner().expect("no boot failed");
    assert_eq!(lines.len(), 1, "they said {lines:?}");
    lines.into_iter().next().expect("a line")
}

fn digests(sandbox: &Sandbox, files: &[&str]) -> String {
    sandbox.tool("sha256sum", files)
}

/// Makes an image of every kind of `guest.raw`, and a backup; boots them all; restores the backup, and boots that. Says the
/// line that all machines said.
fn boots_from_everywhere(sandbox: &Sandbox, firmwares: Firmwares, begin: &str) -> String {
    run(sandbox, &["init", "repo"]);
    run(sandbox, &["backup", "--repo", "repo", "guest.raw"]);
    IMAGES.iter().for_each(|(_, args)| run(sandbox, args));
    let files: Vec<_> = ["guest.raw"].into_iter().chain(IMAGES.iter().map(|(image, _)| *image)).collect();
    let before = digests(sandbox, &files);
    let line = all_boot(sandbox, &[&["repo::guest"], &files[..]].concat(), firmwares, begin);
    assert!(digests(sandbox, &files) == before, "a machine changed its source");
    run(sandbox, &["verify", "--repo", "repo"]);
    run(sandbox, &["compare", "--strict", "guest.raw", "repo::guest"]);
    let until = format!("serial:^{line}$");
    run(sandbox, &["verify", "--repo", "repo", "--boot", "guest", "--accel", "tcg", "--until", &until]);

    run(sandbox, &["restore", "--repo", "repo", "guest", "restored.raw"]);
    run(sandbox, &["restore", "--repo", "repo", "guest", "restored.vhdx"]);
    sandbox.tool("cmp", ["guest.raw", "restored.raw"]);
    run(sandbox, &["compare", "--strict", "guest.raw", "restored.vhdx"]);
    assert_eq!(all_boot(sandbox, &["restored.raw", "restored.vhdx"], firmwares, begin), line);
    line
}

#[test]
#[ignore = "minutes: .ci/run calls it"]
fn a_kernel_boots_from_everywhere_and_after_its_restore() {
    if !TOOLS.iter().all(|tool| have(tool)) {
        return;
    }
    let sandbox = Sandbox::new();
    let line = script(&["build-kernel", "guest.raw"], &sandbox);
    assert_eq!(boots_from_everywhere(&sandbox, both, "TINTYPE-GUEST-2 "), line);
}

#[test]
#[ignore = "minutes: .ci/run calls it"]
fn a_service_in_a_machine_proves_that_it_boots() {
    if !TOOLS.iter().all(|tool| have(tool)) {
        return;
    }
    let sandbox = Sandbox::new();
    let line = script(&["build-kernel", "guest.raw", "22"], &sandbox);
    run(&sandbox, &["init", "repo"]);
    run(&sandbox, &["backup", "--repo", "repo", "guest.raw"]);
    let verify = |until: &str, timeout: &str, code: i32| {
        let args = ["verify", "--repo", "repo", "--boot", "guest", "--accel", "tcg", "--until", until];
        let run = Run::of(&command(&sandbox, &[&args[..], &["--timeout", timeout]].concat()).output().expect("run"));
        assert_eq!(run.code, Some(code), "{run:?}");
        run.stdout
    };
    let found = verify("port:22", "4m", 0);
    assert!(found.contains(&format!("an answer: {line}")), "{found}");
    let found = verify("port:23", "15s", 4);
    assert!(found.contains("does not boot"), "{found}");
}

/// A system that was installed by UEFI has its loader in a folder of its own; its computer knew, and the disk does not tell.
#[test]
#[ignore = "minutes: .ci/run calls it"]
fn a_loader_that_only_its_old_computer_knew_of_is_found() {
    if !TOOLS.iter().all(|tool| have(tool)) || !have("mcopy") {
        return;
    }
    let sandbox = Sandbox::new();
    let line = script(&["build-kernel", "guest.raw"], &sandbox);
    let partition = ["-i", "guest.raw@@1M"];
    let on_partition = |tool: &str, args: &[&str]| drop(sandbox.tool(tool, [&partition[..], args].concat()));
    on_partition("mmd", &["::/EFI/debian"]);
    on_partition("mmove", &["::/EFI/BOOT/BOOTX64.EFI", "::/EFI/debian/grubx64.efi"]);
    assert_eq!(line_of(&sandbox, "guest.raw", "uefi", "TINTYPE-GUEST-2 "), line);
}

/// Takes some gigabytes of disk space. TINTYPE_GUEST3 may name a disk that tests/guest/build-debian made; otherwise it is made
/// now, which takes two minutes.
#[test]
#[ignore = "a quarter of an hour and a mirror of Debian: .ci/run calls it"]
fn a_debian_boots_from_everywhere_and_after_its_restore() {
    if !TOOLS.iter().all(|tool| have(tool)) {
        return;
    }
    let sandbox = Sandbox::new();
    let built = match std::env::var_os("TINTYPE_GUEST3") {
        Some(path) => {
            sandbox.tool("cp", ["--sparse=always".as_ref(), path.as_os_str(), "guest.raw".as_ref()]);
            None
        }
        None if have_root() && have("debootstrap") => Some(script(&["build-debian", "guest.raw"], &sandbox)),
        None => return,
    };
    let line = boots_from_everywhere(&sandbox, in_turn, "TINTYPE-GUEST-3 ");
    assert!(built.is_none_or(|built| built == line), "{line}");
}
