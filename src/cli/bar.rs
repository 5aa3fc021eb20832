//! The progress bar, on one line of the terminal however narrow it is.

use std::io;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// From so many columns on, a line holds so much.
const TEMPLATES: [(u16, &str); 3] = [
    (80, "{msg} [{wide_bar}] {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left"),
    (50, "{percent:>3} %  {bytes} of {total_bytes}  {eta} left"),
    (0, "{percent:>3} %  {eta} left"),
];

/// A progress bar on standard error.
pub struct Bar {
    bar: ProgressBar,
    template: &'static str,
}

impl Bar {
    /// A bar of a job with this title.
    pub fn new(title: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let mut bar = Bar { bar, template: "" };
        bar.fit();
        bar.bar.set_message(title.to_owned());
        bar
    }

    /// Shows so many bytes done, of how many.
    pub fn show(&mut self, (done, total): (u64, u64)) {
        self.fit();
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
