//! Shows long jobs: a progress bar, or JSON lines.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use serde::Serialize;
use signal_hook::iterator::Signals;

use super::bar::{Bar, shown};
use super::failure::Failure;
use super::{Global, output, units};
use crate::error::Error;
use crate::jobs::{self, Front};
use crate::progress::{Now, Progress};

const BAR_INTERVAL: Duration = Duration::from_millis(100);
const JSON_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct ProgressEvent {
    r#type: &'static str,
    phase: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<String>,
    done_bytes: u64,
    total_bytes: u64,
    elapsed_s: f64,
}

/// Runs `work`, which writes nothing, while its progress is shown.
pub fn run<T>(
    global: Global,
    title: &'static str,
    work: impl FnOnce(&Progress) -> Result<T, Error>,
) -> Result<T, Failure> {
    Ok(jobs::run(&Shown { global, began: Instant::now() }, title, work)?)
}

/// Runs `work` while its progress is shown; `abandon` cleans up if it is stopped and cannot be waited for.
pub fn run_and_abandon<T>(
    global: Global,
    title: &'static str,
    signals: Signals,
    abandon: &(dyn Fn(Error) -> Option<Error> + Sync),
    work: impl FnOnce(&Progress) -> Result<T, Error>,
) -> Result<T, Failure> {
    Ok(jobs::run_and_abandon(&Shown { global, began: Instant::now() }, title, signals, abandon, work)?)
}

/// A job that is shown on the terminal, or to a program.
struct Shown {
    global: Global,
    began: Instant,
}

impl Front for Shown {
    fn show(&self, progress: &Progress, goes_on: &dyn Fn(Duration) -> bool) {
        if self.global.json {
            while goes_on(JSON_INTERVAL) {
                self.print_event(progress);
            }
        } else if !self.global.quiet && io::stderr().is_terminal() {
            let mut bar = Bar::new();
            while goes_on(BAR_INTERVAL) {
                bar.show(progress);
            }
            bar.clear();
        }
    }

    fn say_position(&self, progress: &Progress) {
        if self.global.json {
            self.print_event(progress);
        } else {
            output::say(&position(progress));
        }
    }

    fn note(&self, text: &str) {
        output::warn(text, self.global);
    }

    fn report(&self, error: Error) -> u8 {
        output::report(&Failure::from(error), self.global)
    }
}

impl Shown {
    fn print_event(&self, progress: &Progress) {
        let ((done_bytes, total_bytes), Now { phase, disk }) = (progress.position(), progress.now());
        let elapsed_s = self.began.elapsed().as_secs_f64();
        let event = ProgressEvent { r#type: "progress", phase, disk, done_bytes, total_bytes, elapsed_s };
        // If nobody reads the events, the job goes on all the same.
        let _ = output::print_json_line(&event);
    }
}

fn position(progress: &Progress) -> String {
    let (done, total) = progress.position();
    let percent = if total == 0 { 100.0 } else { done as f64 * 100.0 / total as f64 };
    let now = shown(&progress.now());
    format!("{now}: {} of {} ({percent:.1} %)", units::size(done), units::size(total))
}
