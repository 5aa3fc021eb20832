//! Finds out whether KVM runs a processor here. That `/dev/kvm` opens says little: inside of some virtual machines QEMU then
//! ends at the first instruction, or hangs before it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use super::confine::clean_environment;
use super::qemu::PROGRAM;
use crate::system;

/// How long a processor may take to run three instructions. Starting QEMU takes a fraction of a second.
const LIMIT: Duration = Duration::from_secs(10);

/// A firmware is a whole number of these.
const FIRMWARE_BYTES: usize = 64 << 10;

/// Where a processor begins, in the last 64 KiB below 1 MiB: 16 bytes before the end.
const RESET_VECTOR: usize = FIRMWARE_BYTES - 16;

/// `mov al, 0x10; out 0xf4, al; hlt`: leaves by the device at that port.
const CODE: [u8; 5] = [0xb0, 0x10, 0xe6, 0xf4, 0xf4];

/// How QEMU ends then: twice the value, plus one.
const EXIT_CODE: i32 = 0x10 << 1 | 1;

/// How much is read of what QEMU says, in bytes.
const MAX_WORDS_BYTES: u64 = 1024;

/// Says why KVM cannot be used here, if it cannot. Tried once; the answer is remembered until the process ends.
pub fn problem() -> Option<String> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let opened = File::options().read(true).write(true).open("/dev/kvm");
            match opened {
                Err(cause) => Some(format!("/dev/kvm: {}", cause.kind())),
                Ok(_) => trial("kvm", "host", LIMIT),
            }
        })
        .clone()
}

/// Runs a machine whose firmware ends QEMU; says what went wrong, if anything did.
fn trial(accelerator: &str, processor: &str, limit: Duration) -> Option<String> {
    match run(accelerator, processor, limit) {
        Ok(problem) => problem,
        Err(cause) => Some(format!("a trial run failed: {cause}")),
    }
}

fn run(accelerator: &str, processor: &str, limit: Duration) -> std::io::Result<Option<String>> {
    let mut firmware = tempfile::NamedTempFile::new()?;
    let mut bytes = vec![0xf4; FIRMWARE_BYTES];
    bytes[RESET_VECTOR..][..CODE.len()].copy_from_slice(&CODE);
    firmware.write_all(&bytes)?;
    let mut command = Command::new(PROGRAM);
    command.args(["-accel", accelerator, "-cpu", processor, "-machine", "pc", "-m", "32M", "-bios"]);
    command.arg(firmware.path());
    command.args(["-no-user-config", "-nodefaults", "-no-reboot", "-display", "none"]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    clean_environment(&mut command, false);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    system::end_with_parent(&mut command);
    let mut child = command.spawn()?;
    let deadline = Instant::now() + limit;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            None => {
                child.kill()?;
                child.wait()?;
                return Ok(Some(format!("a processor ran no instruction within {} s", limit.as_secs())));
            }
        }
    };
    if status.code() == Some(EXIT_CODE) {
        return Ok(None);
    }
    let mut words = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(MAX_WORDS_BYTES).read_to_end(&mut words)?;
    }
    let words = String::from_utf8_lossy(&words).lines().next().unwrap_or_default().trim().to_owned();
    let how = match status.signal() {
        Some(signal) => format!("QEMU ended by signal {signal}"),
        None => format!("QEMU ended with code {}", status.code().unwrap_or_default()),
    };
    Ok(Some(if words.is_empty() { how } else { format!("{how}: {words}") }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_that_works_is_told_from_one_that_does_not() {
        if Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).status().is_err() {
            assert!(std::env::var_os("CI").is_none(), "{PROGRAM} is missing, and CI skips nothing");
            eprintln!("SKIPPED: {PROGRAM} is missing");
            return;
        }
        assert_eq!(trial("tcg", "max", LIMIT), None);
        assert!(trial("no-such-thing", "max", LIMIT).unwrap().starts_with("QEMU ended"));
        assert!(trial("tcg", "max", Duration::ZERO).unwrap().contains("ran no instruction"));
        let began = Instant::now();
        assert_eq!(problem(), problem());
        assert!(began.elapsed() < LIMIT * 2, "the answer is remembered");
    }
}
