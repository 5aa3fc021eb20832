//! What a reader may use up before it is stopped.

use std::io::Read;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};

/// Far above what reading needs (the crates map and buffer little), far below what hurts the machine.
const ADDRESS_SPACE_BYTES: u64 = 4 << 30;
/// Ten times what a disk of 40 GiB of zeros takes; an endless loop ends here.
const CPU_SECONDS: u64 = 300;
/// A reader that waits for itself uses no CPU time.
const DEADLINE: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(20);

/// What became of the inner process.
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// All that it printed.
    pub stdout: Vec<u8>,
}

/// Limits this process's memory and CPU time; it is killed, or its allocations fail, beyond them.
pub fn limit_this_process() -> rustix::io::Result<()> {
    let limit = |value| Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(Resource::As, limit(ADDRESS_SPACE_BYTES))?;
    setrlimit(Resource::Cpu, limit(CPU_SECONDS))?;
    setrlimit(Resource::Core, limit(0))
}

/// Waits for a process to end, and kills it at the deadline.
pub fn wait_with_deadline(mut child: Child) -> Result<Output, String> {
    let mut pipe = child.stdout.take().ok_or("the process has no output pipe")?;
    let reader = thread::spawn(move || {
        let mut stdout = Vec::new();
        pipe.read_to_end(&mut stdout).map(|_| stdout)
    });
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|cause| format!("wait: {cause}"))? {
            break status;
        }
        if started.elapsed() > DEADLINE {
            child.kill().and_then(|()| child.wait()).map_err(|cause| format!("kill: {cause}"))?;
            return Err(format!("no answer within {} s", DEADLINE.as_secs()));
        }
        thread::sleep(POLL);
    };
    let stdout = reader.join().map_err(|_| "the pipe's reader failed")?.map_err(|cause| format!("read: {cause}"))?;
    Ok(Output { status, stdout })
}
