//! Runs long work for a front end: signals stop it, and somebody is shown how far it is.

mod signals;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use signal_hook::iterator::{Handle, Signals};

use crate::error::{Aftermath, Error, Result};
use crate::progress::Progress;

pub use signals::{Wish, cancel_by_signals, catch_signals, is_stop, obey};

/// How long a stopped job may take to end by itself: a thread may hang in a read of a pipe, or in a sync.
const GRACE: Duration = Duration::from_millis(600);

/// How often is looked whether it has ended.
const GRACE_STEP: Duration = Duration::from_millis(20);

/// Who a job is run for.
pub trait Front: Sync {
    /// Shows how far the job is, from a thread of its own, until it is over: `goes_on` waits so long, and is false then.
    fn show(&self, progress: &Progress, goes_on: &dyn Fn(Duration) -> bool);

    /// Says how far the job is, to somebody who asks.
    fn say_position(&self, progress: &Progress);

    /// Says what the job left a word about.
    fn note(&self, text: &str);

    /// Says why a job ends that cannot be waited for, and returns the exit code of the process.
    fn report(&self, error: Error) -> u8;
}

/// Runs `work`, which writes nothing, while its progress is shown.
pub fn run<T>(front: &dyn Front, title: &'static str, work: impl FnOnce(&Progress) -> Result<T>) -> Result<T> {
    let nothing = |error: Error| Some(error);
    run_and_abandon(front, title, catch_signals()?, &nothing, work)
}

/// Runs `work` while its progress is shown. Ctrl-C, SIGTERM and SIGHUP stop it; SIGUSR1 asks how far it is.
///
/// A job that does not stop within moments, or is signalled again, is left where it hangs, and the process ends after
/// `abandon` has cleaned up: it completes the error, or gives nothing if the job has done its work already.
pub fn run_and_abandon<T>(
    front: &dyn Front,
    title: &'static str,
    mut signals: Signals,
    abandon: &(dyn Fn(Error) -> Option<Error> + Sync),
    work: impl FnOnce(&Progress) -> Result<T>,
) -> Result<T> {
    let progress = Progress::new();
    progress.enter(title);
    let handle = signals.handle();
    let (finished, watching) = mpsc::channel::<()>();
    let result = std::thread::scope(|scope| {
        let progress = &progress;
        let closing = CloseOnDrop(handle);
        scope.spawn(move || Watcher { front, progress, abandon }.watch(&mut signals));
        let shown = scope.spawn(move || {
            let is_over = |interval| watching.recv_timeout(interval) != Err(RecvTimeoutError::Timeout);
            front.show(progress, &|interval| !is_over(interval) && !progress.is_cancelled());
        });
        let result = work(progress);
        drop(finished);
        // Only when all is shown: signals still end a process that waits for a reader of its events.
        let _ = shown.join();
        drop(closing);
        result
    });
    progress.take_notes().iter().for_each(|note| front.note(note));
    result
}

/// Completes the error of a job that is abandoned with what became of its target; nothing, if that is done.
pub fn with_aftermath(error: Error, aftermath: Option<Aftermath>) -> Option<Error> {
    aftermath.map(|aftermath| error.with_aftermath(aftermath))
}

/// Ends the watcher, also when the work panics.
struct CloseOnDrop(Handle);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct Watcher<'a> {
    front: &'a dyn Front,
    progress: &'a Progress,
    abandon: &'a (dyn Fn(Error) -> Option<Error> + Sync),
}

impl Watcher<'_> {
    fn watch(&self, signals: &mut Signals) {
        let handle = signals.handle();
        while !handle.is_closed() {
            for signal in signals.wait() {
                match is_stop(signal) {
                    false => self.front.say_position(self.progress),
                    true if self.progress.is_cancelled() => std::process::exit(130),
                    true => self.progress.cancel(),
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
        while Instant::now() < deadline && !signals.pending().any(is_stop) {
            if handle.is_closed() {
                return;
            }
            std::thread::sleep(GRACE_STEP);
        }
        if !handle.is_closed()
            && let Some(error) = (self.abandon)(Error::cancelled())
        {
            std::process::exit(self.front.report(error).into());
        }
    }
}
