//! Runs a long job: a progress bar or JSON lines while it goes on, and signals that stop it.

use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::{Handle, Signals};

use super::bar::{Bar, shown};
use super::failure::Failure;
use super::{Global, output, units};
use crate::error::{Aftermath, Error};
use crate::progress::{Now, Progress};
use crate::system;

const BAR_INTERVAL: Duration = Duration::from_millis(100);
const JSON_INTERVAL: Duration = Duration::from_secs(1);

/// How long a stopped job may take to end by itself: a thread may hang in a read of a pipe, or in a sync.
const GRACE: Duration = Duration::from_millis(600);

/// How often is looked whether it has ended.
const GRACE_STEP: Duration = Duration::from_millis(20);

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
    let nothing = |error: Error| Some(error);
    run_and_abandon(global, title, catch_signals()?, &nothing, work)
}

/// Runs `work` while its progress is shown. Ctrl-C, SIGTERM and SIGHUP stop it; SIGUSR1 prints how far it is.
///
/// A job that does not stop within moments, or is signalled again, is left where it hangs, and the process ends after
/// `abandon` has cleaned up: it completes the error, or gives nothing if the job has done its work already.
pub fn run_and_abandon<T>(
    global: Global,
    title: &'static str,
    mut signals: Signals,
    abandon: &(dyn Fn(Error) -> Option<Error> + Sync),
    work: impl FnOnce(&Progress) -> Result<T, Error>,
) -> Result<T, Failure> {
    let progress = Progress::new();
    progress.enter(title);
    let began = Instant::now();
    let handle = signals.handle();
    let (finished, watching) = mpsc::channel::<()>();
    let result = std::thread::scope(|scope| {
        let progress = &progress;
        let closing = CloseOnDrop(handle);
        scope.spawn(move || Watcher { global, progress, began, abandon }.watch(&mut signals));
        let shown = scope.spawn(move || show_progress(global, progress, began, &watching));
        let result = work(progress);
        drop(finished);
        // Only when all is shown: signals still end a process that waits for a reader of its events.
        let _ = shown.join();
        drop(closing);
        result
    });
    progress.take_notes().iter().for_each(|note| output::warn(note, global));
    Ok(result?)
}

/// Ends the watcher, also when the work panics.
struct CloseOnDrop(Handle);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Keeps signals for the job that is to begin, so that none comes between the making of its target and its beginning.
///
/// Who started this process with a signal ignored (`nohup`) wants it to stay so.
pub fn catch_signals() -> Result<Signals, Failure> {
    let wanted = [SIGINT, SIGTERM, SIGHUP, SIGUSR1].into_iter().filter(|signal| !system::is_signal_ignored(*signal));
    Ok(Signals::new(wanted).map_err(|cause| Error::io("handle signals", cause))?)
}

struct Watcher<'a> {
    global: Global,
    progress: &'a Progress,
    began: Instant,
    abandon: &'a (dyn Fn(Error) -> Option<Error> + Sync),
}

impl Watcher<'_> {
    fn watch(&self, signals: &mut Signals) {
        let handle = signals.handle();
        while !handle.is_closed() {
            for signal in signals.wait() {
                match signal {
                    SIGUSR1 => self.say_position(),
                    _ if self.progress.is_cancelled() => std::process::exit(130),
                    _ => self.progress.cancel(),
                }
            }
            if self.progress.is_cancelled() {
                self.end_in_time(signals);
            }
        }
    }

    /// Returns when the job has ended, or is past what can be stopped; else ends the process.
    fn end_in_time(&self, signals: &mut Signals) {
        let handle = signals.handle();
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline && !signals.pending().any(|signal| signal != SIGUSR1) {
            if handle.is_closed() {
                return;
            }
            std::thread::sleep(GRACE_STEP);
        }
        if !handle.is_closed()
            && let Some(error) = (self.abandon)(Error::cancelled())
        {
            std::process::exit(output::report(&Failure::from(error), self.global).into());
        }
    }

    fn say_position(&self) {
        if self.global.json {
            print_event(self.progress, self.began);
        } else {
            output::say(&position(self.progress));
        }
    }
}

/// What an abandoned target makes of the error.
pub fn with_aftermath(error: Error, aftermath: Option<Aftermath>) -> Option<Error> {
    aftermath.map(|aftermath| error.with_aftermath(aftermath))
}

fn position(progress: &Progress) -> String {
    let (done, total) = progress.position();
    let percent = if total == 0 { 100.0 } else { done as f64 * 100.0 / total as f64 };
    let now = shown(&progress.now());
    format!("{now}: {} of {} ({percent:.1} %)", units::size(done), units::size(total))
}

fn show_progress(global: Global, progress: &Progress, began: Instant, finished: &mpsc::Receiver<()>) {
    let goes_on =
        |interval| finished.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) && !progress.is_cancelled();
    if global.json {
        while goes_on(JSON_INTERVAL) {
            print_event(progress, began);
        }
    } else if !global.quiet && io::stderr().is_terminal() {
        let mut bar = Bar::new();
        while goes_on(BAR_INTERVAL) {
            bar.show(progress);
        }
        bar.clear();
    }
}

fn print_event(progress: &Progress, began: Instant) {
    let ((done_bytes, total_bytes), Now { phase, disk }) = (progress.position(), progress.now());
    let elapsed_s = began.elapsed().as_secs_f64();
    // If nobody reads the events, the job goes on all the same.
    let _ =
        output::print_json_line(&ProgressEvent { r#type: "progress", phase, disk, done_bytes, total_bytes, elapsed_s });
}
