//! The progress bar, on one line of the terminal however narrow it is.

use std::io;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::escape::printable;
use crate::progress::{Now, Progress};

/// From so many columns on, a line holds so much.
const TEMPLATES: [(u16, &str); 3] = [
    (80, "{msg} [{wide_bar}] {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left"),
    (50, "{msg}  {percent:>3} %  {bytes} of {total_bytes}  {eta} left"),
    (0, "{percent:>3} %  {eta} left"),
];

/// A progress bar on standard error.
pub struct Bar {
    bar: ProgressBar,
    template: &'static str,
    now: Now,
}

impl Bar {
    /// Returns a bar that shows nothing yet.
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        Bar { bar, template: "", now: Now::default() }
    }

    /// Shows the phase, and how far it is.
    pub fn show(&mut self, progress: &Progress) {
        let now = progress.now();
        if now != self.now {
            self.bar.set_message(shown(&now));
            // The rate and the time left are those of what goes on.
            self.bar.reset();
            self.now = now;
        }
        self.fit();
        let (done, total) = progress.position();
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// The terminal may have become wider or narrower.
    fn fit(&mut self) {
        let template = template_for(columns());
        if self.template != template
            && let Ok(style) = ProgressStyle::with_template(template)
        {
            self.bar.set_style(style.progress_chars("=> "));
            self.template = template;
        }
    }

    /// Leaves the line empty.
    pub fn clear(self) {
        self.bar.finish_and_clear();
    }
}

/// Returns the phase and the disk for people.
pub fn shown(now: &Now) -> String {
    match &now.disk {
        Some(disk) => format!("{} {}", now.phase, printable(disk)),
        None => now.phase.to_owned(),
    }
}

/// What fits into this many columns.
fn template_for(columns: u16) -> &'static str {
    TEMPLATES.iter().find(|(from, _)| columns >= *from).map_or("", |(_, template)| template)
}

/// How wide the terminal is; a terminal that does not say is taken for a usual one.
fn columns() -> u16 {
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 => size.ws_col,
        _ => 80,
    }
}
