//! A clock that is wrong, for one run of the program.

use std::path::PathBuf;
use std::process::Command;

use super::{Sandbox, have};

/// Moves the real-time clock by `CLOCK_OFFSET` seconds.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    const char *offset = getenv("CLOCK_OFFSET");
    if (!result && clock == CLOCK_REALTIME && offset) time->tv_sec += atoll(offset);
    return result;
}
"#;

/// A library that programs are started with to have another clock.
pub struct WrongClock(PathBuf);

impl WrongClock {
    /// Builds it in the sandbox; none if there is no C compiler.
    pub fn build(sandbox: &Sandbox) -> Option<WrongClock> {
        if !have("cc") {
            return None;
        }
        std::fs::write(sandbox.path("clock.c"), SOURCE).expect("a source file");
        sandbox.tool("cc", ["-shared", "-fPIC", "-o", "clock.so", "clock.c"]);
        Some(WrongClock(sandbox.path("clock.so")))
    }

    /// Has a program see another time, so many hours from now.
    pub fn shift(&self, command: &mut Command, hours: i64) {
        command.env("LD_PRELOAD", &self.0).env("CLOCK_OFFSET", (hours * 3600).to_string());
    }
}
