//! Which process a session is of, so that a prune on the same computer sees that it has died and need not wait for it.
//!
//! A hint about when to fence, never about what is safe: a writer that was fenced and lives begins again. Only sessions of writers
//! that can do so say their process.

use std::fs;
use std::io;

use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use tintype_tin::id::Id;

/// A process, as far as its computer goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// What tells one start of one computer, and one container on it, from all others, hashed together with the repository's id:
    /// nobody else learns it.
    computer: Id,
    /// Its number there.
    number: u32,
    /// When it began, in ticks since the computer did: numbers are used again.
    began: u64,
}

impl Process {
    /// This one; nothing where the kernel does not tell.
    pub fn own(repository: Id) -> Option<Process> {
        let (began, _) = stat_of(rustix::process::getpid()).ok()?;
        Some(Process { computer: this_computer(repository)?, number: std::process::id(), began })
    }

    /// Whether it is sure that it was on this computer and is not there any more.
    pub fn has_died(&self, repository: Id) -> bool {
        // A process has a positive number; what a file says may be anything.
        let Some(number) = i32::try_from(self.number).ok().and_then(Pid::from_raw) else { return false };
        if this_computer(repository) != Some(self.computer) {
            return false;
        }
        match rustix::process::test_kill_process(number) {
            Err(rustix::io::Errno::SRCH) => true,
            // Those of others may be hidden.
            _ => stat_of(number).is_ok_and(|(began, is_gone)| is_gone || began != self.began),
        }
    }
}

/// Nothing where `/proc` is that of other process numbers than ours. Machines that were cloned while they ran are one computer,
/// unless they got other names since.
fn this_computer(repository: Id) -> Option<Id> {
    if fs::read_link("/proc/self").ok()?.to_str()?.parse() != Ok(std::process::id()) {
        return None;
    }
    let start = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    // The begin of a process is told by the clock of whoever asks. Kernels before 5.6 know one clock only.
    let [numbers, clock] = ["pid", "time"].map(|name| fs::read_link(format!("/proc/self/ns/{name}")));
    let (numbers, clock) = (numbers.ok()?, clock.unwrap_or_default());
    let host = crate::system::host_name();
    let mut hasher = blake3::Hasher::new_derive_key("tintype 2026 computer of a session");
    hasher.update(&repository.0);
    for part in [start.trim(), machine.trim(), &host, numbers.to_str()?, clock.to_str()?] {
        hasher.update(part.as_bytes()).update(b"\0");
    }
    hasher.finalize().as_bytes().first_chunk().map(|id| Id(*id))
}

/// When a process began, and whether it has ended and only waits for its parent to notice: proc_pid_stat(5), fields 22 and 3.
fn stat_of(number: Pid) -> io::Result<(u64, bool)> {
    let text = fs::read_to_string(format!("/proc/{}/stat", number.as_raw_pid()))?;
    // The second field is the program's name, in parentheses, and may hold anything.
    let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
    match fields.as_deref().and_then(|fields| Some((fields.first()?, fields.get(19)?.parse().ok()?))) {
        Some((state, began)) => Ok((began, matches!(*state, "Z" | "X"))),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const REPOSITORY: Id = Id([7; 16]);

    #[test]
    fn who_lives_has_not_died_and_who_was_killed_has() {
        let own = Process::own(REPOSITORY).unwrap();
        assert!(!own.has_died(REPOSITORY));
        assert!(Process { began: own.began + 1, ..own.clone() }.has_died(REPOSITORY), "the number was used again");
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let number = Pid::from_child(&child);
        let (began, _) = stat_of(number).unwrap();
        let process = Process { number: child.id(), began, ..own };
        assert!(!process.has_died(REPOSITORY));
        child.kill().unwrap();
        while !stat_of(number).unwrap().1 {
            std::thread::yield_now();
        }
        assert!(process.has_died(REPOSITORY), "it is a zombie");
        child.wait().unwrap();
        assert!(process.has_died(REPOSITORY));
    }

    #[test]
    fn nothing_is_known_of_another_computer() {
        let own = Process::own(REPOSITORY).unwrap();
        let elsewhere = Process { computer: Id([9; 16]), number: i32::MAX as u32, began: 0 };
        assert!(!elsewhere.has_died(REPOSITORY));
        assert!(Process { number: i32::MAX as u32, ..own.clone() }.has_died(REPOSITORY));
        assert!(!Process { number: 0, ..own.clone() }.has_died(REPOSITORY));
        assert!(!Process { number: u32::MAX, ..own }.has_died(REPOSITORY));
        assert!(!Process::own(REPOSITORY).unwrap().has_died(Id([8; 16])), "of another repository");
    }
}
