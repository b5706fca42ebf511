//! A progress bar for verbs that work through a known number of items. It is drawn on standard error,
//! and only if that is a terminal.

use std::fmt::{Display, Write};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::print;

/// A progress bar; dropping it clears its line.
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar from 0 to `total`. Hidden unless standard error is a terminal.
    pub fn new(total: usize) -> Self {
        let bar = ProgressBar::new(total as u64);
        let rate = |state: &ProgressState, out: &mut dyn Write| {
            // Writing to the line cannot fail.
            let _ = write!(out, "{:.1}/s", state.per_sec());
        };
        if let Ok(style) = ProgressStyle::with_template("[{bar:24}] {pos}/{len}  {rate}, {eta} left  {msg}") {
            bar.set_style(style.progress_chars("## ").with_key("rate", rate));
        }
        Self(bar)
    }

    /// Sets how many items are done, and a note behind the numbers.
    pub fn set(&self, done: usize, note: impl Display) {
        self.0.set_position(done as u64);
        self.0.set_message(note.to_string());
    }

    /// Prints data to standard output without tearing the bar.
    pub fn print(&self, data: impl Display) {
        self.0.suspend(|| print(data));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
