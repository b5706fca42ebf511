//! Signs of life on standard error: a progress bar for verbs that work through a known number of items, drawn only on
//! a terminal, and how long a verb has been waiting.

use std::fmt::{Display, Write};
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use tokio::task::JoinHandle;

use super::{print, say};

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

/// Without a terminal a line says so often that the verb still waits.
const STILL_EVERY: Duration = Duration::from_secs(10);

/// Shows that a verb waits, until it is dropped.
pub struct Waiting {
    spinner: ProgressBar,
    lines: Option<JoinHandle<()>>,
}

impl Waiting {
    /// Says what it waits for: `until the bridge accepts the new secret`.
    pub fn new(what: impl Display) -> Self {
        let what = what.to_string();
        say(format_args!("waiting {what}"));
        let spinner = ProgressBar::new_spinner();
        if io::stderr().is_terminal() {
            if let Ok(style) = ProgressStyle::with_template("{spinner} waiting, {elapsed}") {
                spinner.set_style(style);
            }
            spinner.enable_steady_tick(Duration::from_millis(100));
            return Self { spinner, lines: None };
        }
        let started = Instant::now();
        let lines = async move {
            loop {
                tokio::time::sleep(STILL_EVERY).await;
                say(format_args!("still waiting {what} ({} s)", started.elapsed().as_secs()));
            }
        };
        Self { spinner, lines: Some(tokio::spawn(lines)) }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.spinner.finish_and_clear();
        if let Some(lines) = &self.lines {
            lines.abort();
        }
    }
}

/// Asks again and again until the answer is yes, or says why it is not when the time is up. Shows that it waits.
pub async fn wait_until(
    what: impl Display,
    timeout: Duration,
    mut holds: impl AsyncFnMut() -> Result<bool, String>,
) -> Result<(), String> {
    let started = Instant::now();
    let _waiting = Waiting::new(format_args!("until {what}"));
    loop {
        let result = holds().await;
        if result == Ok(true) {
            return Ok(());
        }
        if started.elapsed() > timeout {
            let reason = result.err().map(|error| format!(" ({error})")).unwrap_or_default();
            let timeout = humantime::format_duration(timeout);
            return Err(format!("timed out after {timeout} waiting until {what}{reason}"));
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Time between two questions of [`wait_until`].
const POLL_EVERY: Duration = Duration::from_millis(500);
