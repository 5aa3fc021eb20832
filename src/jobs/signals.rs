//! What signals want of a long run.

use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::system;

/// What a signal wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// To be told how far it is.
    Position,
    /// That it ends soon.
    Stop,
}

/// Keeps signals for the job that is to begin, so that none comes between the making of its target and its beginning.
///
/// Who started this process with a signal ignored (`nohup`) wants it to stay so.
pub fn catch_signals() -> Result<Signals> {
    let wanted = [SIGINT, SIGTERM, SIGHUP, SIGUSR1].into_iter().filter(|signal| !system::is_signal_ignored(*signal));
    Signals::new(wanted).map_err(|cause| Error::io("handle signals", cause))
}

/// True if a signal is to stop what runs.
pub fn is_stop(signal: i32) -> bool {
    signal != SIGUSR1
}

/// Carries out what signals want until their handle is closed. The second one that is to stop it ends the process.
pub fn obey(mut signals: Signals, mut carry_out: impl FnMut(Wish)) {
    let mut is_stopped = false;
    for signal in signals.forever() {
        match is_stop(signal) {
            false => carry_out(Wish::Position),
            true if is_stopped => std::process::exit(130),
            true => {
                is_stopped = true;
                carry_out(Wish::Stop);
            }
        }
    }
}

/// A progress that a signal cancels, for work that must end what it started before it stops: it is waited for.
pub fn cancel_by_signals() -> Result<Arc<Progress>> {
    let progress = Arc::new(Progress::new());
    let (mut signals, cancelled) = (catch_signals()?, Arc::clone(&progress));
    let watch = move || signals.forever().filter(|signal| is_stop(*signal)).for_each(|_| cancelled.cancel());
    let spawned = std::thread::Builder::new().name("signals".to_owned()).spawn(watch);
    spawned.map_err(|cause| Error::io("start a thread", cause))?;
    Ok(progress)
}
