//! A guest that runs in QEMU gets nothing of this computer, and a processor that does not run proves nothing of a backup.

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Run, Sandbox, have, have_root};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const QEMU: &str = "qemu-system-x86_64";

/// A boot sector that stops the processor.
const HALTS: &[u8] = b"\xf4\xeb\xfd";

/// A boot sector that writes a line to the serial port, and halts.
const SPEAKS: &[u8] = b"\xba\xf8\x03\xb0\x52\xee\xb0\x0a\xee\xf4\xeb\xfd";

/// A boot sector that writes letters to the serial port and to the firmware's port, for ever and without an end of a line.
const FLOODS: &[u8] = b"\xb0\x1b\xba\xf8\x03\xee\xb0\x78\xee\xba\x02\x04\xee\xeb\xf1";

fn disk_with(sandbox: &Sandbox, name: &str, code: &[u8]) {
    let mut bytes = vec![0; 1 << 20];
    bytes[..code.len()].copy_from_slice(code);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(sandbox.path(name), bytes).unwrap();
}

/// A folder that every user can enter and write to, as `/tmp` is.
fn shared_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    folder
}

/// A machine of a disk, started under umask 0, with its temporary files in this folder.
struct Booted(Child);

impl Booted {
    fn start(sandbox: &Sandbox, disk: &str, temporary: &Path) -> Booted {
        let script = "umask 0; exec \"$0\" boot \"$1\" --accel tcg --display none";
        let mut command = sandbox.command::<&str>([]);
        let program = command.get_program().to_owned();
        let mut shell = Command::new("sh");
        shell.current_dir(sandbox.path("")).arg("-c").arg(script).arg(program).arg(disk);
        shell.env("TMPDIR", temporary).env("TINTYPE_PASSWORD", "secret-of-the-repository").env("OTHER_SECRET", "x");
        shell.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.stdin(Stdio::null());
        Booted(shell.spawn().unwrap())
    }

    /// The process of QEMU, once it is one.
    fn qemu(&self) -> PathBuf {
        let began = Instant::now();
        loop {
            for entry in fs::read_dir("/proc").unwrap().flatten() {
                let path = entry.path();
                let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
                let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)).map(str::to_owned);
                let is_child = parent.is_some_and(|parent| parent == self.0.id().to_string());
                let program = fs::read(path.join("cmdline")).unwrap_or_default();
                if is_child && program.starts_with(QEMU.as_bytes()) {
                    return path;
                }
            }
            assert!(began.elapsed() < Duration::from_secs(60), "no QEMU is started");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(entries(&path));
        }
        found.push(path);
    }
    found
}

#[test]
fn qemu_gets_no_secret_a_sandbox_and_another_user() {
    if !have(QEMU) {
        return;
    }
    let (sandbox, temporary) = (Sandbox::new(), shared_folder());
    disk_with(&sandbox, "halts.raw", HALTS);
    let booted = Booted::start(&sandbox, "halts.raw", temporary.path());
    let qemu = booted.qemu();
    // What it is at first is a copy of this program.
    std::thread::sleep(Duration::from_millis(500));
    let environment = String::from_utf8_lossy(&fs::read(qemu.join("environ")).unwrap()).into_owned();
    assert!(environment.contains("PATH="), "{environment}");
    assert!(!environment.contains("TINTYPE") && !environment.to_lowercase().contains("secret"), "{environment}");
    let arguments = String::from_utf8_lossy(&fs::read(qemu.join("cmdline")).unwrap()).replace('\0', " ");
    assert!(
        arguments.contains("-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        "{arguments}"
    );
    let status = fs::read_to_string(qemu.join("status")).unwrap();
    assert!(status.contains("Seccomp:\t2"), "{status}");
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        let users = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        assert!(users.split_whitespace().all(|user| user != "0"), "{users}");
        let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
        assert_eq!(groups.trim(), "");
    }
}

#[test]
fn private_folders_are_private_under_every_umask() {
    if !have(QEMU) || !have("setpriv") || !have_root() {
        return;
    }
    let (sandbox, temporary) = (Sandbox::new(), shared_folder());
    disk_with(&sandbox, "halts.raw", HALTS);
    let booted = Booted::start(&sandbox, "halts.raw", temporary.path());
    booted.qemu();
    let folder = fs::read_dir(temporary.path()).unwrap().flatten().map(|entry| entry.path());
    let folder = folder.into_iter().find(|path| path.to_string_lossy().contains("tintype-boot-")).unwrap();
    assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
    let as_nobody = |script: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script]).arg(&folder);
        command.stderr(Stdio::null()).stdout(Stdio::null()).status().unwrap().success()
    };
    assert!(as_nobody("test -d \"$0\""), "another user cannot even see the folder");
    for script in ["ls \"$0\"", "cat \"$0\"/*", "mv \"$0\"/nbd \"$0\"/x", "ln -s /etc/passwd \"$0\"/text"] {
        assert!(!as_nobody(script), "another user can: {script}");
    }
    for path in entries(&folder) {
        let found = path.symlink_metadata().unwrap();
        assert!(found.file_type().is_socket() && found.mode() & 0o077 == 0, "{}: {:o}", path.display(), found.mode());
    }
}

#[test]
fn the_cache_is_private_under_every_umask() {
    let sandbox = Sandbox::new();
    sandbox.raw_disk("disk.raw", 1 << 20, 4);
    let program = sandbox.command::<&str>([]).get_program().to_owned();
    let script = "umask 0; \"$0\" init repo --no-encryption && \"$0\" backup --repo repo disk.raw \
                  && \"$0\" backup --repo repo disk.raw";
    let status = Command::new("sh")
        .args(["-c", script])
        .arg(program)
        .current_dir(sandbox.path(""))
        .env("XDG_CACHE_HOME", sandbox.path("cache"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    let found = entries(&sandbox.path("cache"));
    assert!(found.iter().any(|path| path.is_file()), "{found:?}");
    for path in found.iter().chain([&sandbox.path("cache")]) {
        let mode = path.symlink_metadata().unwrap().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
}

fn run_with_qemu(sandbox: &Sandbox, script: &str, args: &[&str]) -> Run {
    let folder = sandbox.path("bin");
    fs::create_dir_all(&folder).unwrap();
    let real =
        std::env::split_paths(&std::env::var_os("PATH").unwrap()).map(|dir| dir.join(QEMU)).find(|path| path.exists());
    let real = real.unwrap();
    let text = format!("#!/bin/sh\nQEMU={}\n{script}\nexec \"$QEMU\" \"$@\"\n", real.display());
    fs::write(folder.join(QEMU), text).unwrap();
    fs::set_permissions(folder.join(QEMU), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut command = sandbox.command(args);
    command.env("PATH", path).env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
    Run::of(&command.stdin(Stdio::null()).output().unwrap())
}

fn kvm_opens() -> bool {
    let opens = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if !opens {
        eprintln!("SKIPPED: /dev/kvm does not open");
    }
    opens
}

fn with_backup(code: &[u8]) -> Sandbox {
    let sandbox = Sandbox::new();
    disk_with(&sandbox, "disk.raw", code);
    sandbox.run(["init", "repo", "--no-encryption"]).ok();
    sandbox.run(["backup", "--repo", "repo", "disk.raw"]).ok();
    sandbox
}

const VERIFY: [&str; 7] = ["verify", "--repo", "repo", "--json", "--boot", "disk", "--until"];

/// What the trial of KVM is like, to be told from a machine.
const IS_TRIAL: &str = "*isa-debug-exit*";

#[test]
fn a_kvm_that_hangs_is_found_out_before_it_is_used() {
    if !have(QEMU) || !kvm_opens() {
        return;
    }
    let sandbox = with_backup(SPEAKS);
    let script = "case \"$*\" in *\"-accel kvm\"*) exec sleep 100;; esac";
    let run = run_with_qemu(&sandbox, script, &[&VERIFY[..], &["serial:R"]].concat());
    let found: Value = serde_json::from_str(run.ok().stdout.lines().last().unwrap()).unwrap();
    assert_eq!(found["boots"], true, "{found}");
    assert!(found["machine"].as_str().unwrap().ends_with("TCG"), "{found}");
}

/// The trial works, and the machine never runs an instruction: it gets another try without KVM before anything is recorded.
#[test]
fn a_machine_that_never_ran_is_started_without_kvm() {
    if !have(QEMU) || !kvm_opens() {
        return;
    }
    let sandbox = with_backup(SPEAKS);
    let script = format!(
        "case \"$*\" in {IS_TRIAL}) exit 33;; *\"-accel kvm\"*)\n\
         exec \"$QEMU\" $(printf '%s\\n' \"$@\" | sed 's/^kvm$/tcg/; s/^host$/max/') -S;; esac"
    );
    let more = ["serial:R", "--timeout", "5s"];
    let run = run_with_qemu(&sandbox, &script, &[&VERIFY[..], &more].concat());
    let found: Value = serde_json::from_str(run.ok().stdout.lines().last().unwrap()).unwrap();
    assert_eq!(found["boots"], true, "{found}");
    assert!(found["machine"].as_str().unwrap().ends_with("TCG"), "{found}");
}

#[test]
fn a_machine_that_never_ran_at_all_proves_nothing() {
    if !have(QEMU) {
        return;
    }
    let sandbox = with_backup(SPEAKS);
    let script = format!("case \"$*\" in {IS_TRIAL}) exit 1;; esac\nset -- \"$@\" -S");
    let more = ["serial:R", "--timeout", "3s"];
    let run = run_with_qemu(&sandbox, &script, &[&VERIFY[..], &more].concat());
    assert!(!run.stdout.contains("boots"), "{}", run.stdout);
    run.fails(1, "ran no instruction");
}

#[test]
fn a_guest_that_floods_its_ports_is_told_of_in_a_line() {
    if !have(QEMU) {
        return;
    }
    let sandbox = with_backup(FLOODS);
    let args =
        ["verify", "--repo", "repo", "--accel", "tcg", "--boot", "disk", "--until", "serial:never", "--timeout", "8s"];
    let run = sandbox.run(args).fails(4, "");
    assert!(run.stdout.contains("does not boot") && run.stdout.len() < 1000, "{}", run.stdout);
    assert!(!run.stdout.contains('\u{1b}'), "{:?}", run.stdout);
}
