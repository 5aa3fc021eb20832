//! Runs a long job: a progress bar or JSON lines while it goes on, and signals that stop it.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::failure::Failure;
use super::{Global, output, units};
use crate::engine::Progress;
use crate::error::Error;

const BAR_INTERVAL: Duration = Duration::from_millis(100);
const JSON_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct ProgressEvent {
    r#type: &'static str,
    done_bytes: u64,
    total_bytes: u64,
    elapsed_s: f64,
}

/// Runs `work` while its progress is shown. Ctrl-C, SIGTERM and SIGHUP stop it cleanly, a second one at once; SIGUSR1
/// prints how far it is.
pub fn run<T>(global: Global, title: &str, work: impl FnOnce(&Progress) -> Result<T, Error>) -> Result<T, Failure> {
    let progress = Arc::new(Progress::new());
    let signals = watch_signals(&progress)?;
    let (finished, watching) = mpsc::channel::<()>();
    let result = std::thread::scope(|scope| {
        let shown = Arc::clone(&progress);
        scope.spawn(move || show_progress(global, title, &shown, &watching));
        let result = work(&progress);
        drop(finished);
        result
    });
    signals.close();
    if !global.quiet {
        progress.take_notes().iter().for_each(|note| output::warn(note));
    }
    Ok(result?)
}

fn watch_signals(progress: &Arc<Progress>) -> Result<signal_hook::iterator::Handle, Failure> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1]).map_err(|cause| Error::io("handle signals", cause))?;
    let handle = signals.handle();
    let progress = Arc::clone(progress);
    std::thread::spawn(move || {
        let mut stopping = false;
        for signal in signals.forever() {
            match signal {
                SIGUSR1 => output::say(&position(&progress)),
                _ if stopping => std::process::exit(130),
                _ => {
                    stopping = true;
                    progress.cancel();
                }
            }
        }
    });
    Ok(handle)
}

fn position(progress: &Progress) -> String {
    let (done, total) = progress.position();
    let percent = if total == 0 { 100.0 } else { done as f64 * 100.0 / total as f64 };
    format!("{} of {} ({percent:.1} %)", units::size(done), units::size(total))
}

fn show_progress(global: Global, title: &str, progress: &Progress, finished: &mpsc::Receiver<()>) {
    if global.json {
        let began = Instant::now();
        while finished.recv_timeout(JSON_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let (done_bytes, total_bytes) = progress.position();
            let elapsed_s = began.elapsed().as_secs_f64();
            // If nobody reads the events, the job goes on all the same.
            let _ = output::print_json_line(&ProgressEvent { r#type: "progress", done_bytes, total_bytes, elapsed_s });
        }
    } else if !global.quiet && io::stderr().is_terminal() {
        let bar = progress_bar(title);
        while finished.recv_timeout(BAR_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let (done, total) = progress.position();
            bar.set_length(total);
            bar.set_position(done);
        }
        bar.finish_and_clear();
    } else {
        let _ = finished.recv();
    }
}

fn progress_bar(title: &str) -> ProgressBar {
    let template = "{msg} [{bar:30}] {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left";
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(title.to_owned());
    bar
}
