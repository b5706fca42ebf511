//! What verbs print: data to standard output, messages to standard error, questions, tables, progress.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead, ErrorKind, IsTerminal, Write as _};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use comfy_table::presets::NOTHING;
use comfy_table::{Row, Table};
use console::truncate_str;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use tokio::task::JoinHandle;

use super::Exit;
use crate::printable::{self, Paint};

pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Why data was lost on its way to standard output, once that has happened.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// Prints data to standard output. Where that fails, [`finish`] ends the process with an error.
pub fn print(data: impl Display) {
    if let Err(error) = write(&printable::styled(&data.to_string()))
        && error.kind() != ErrorKind::BrokenPipe
    {
        let _ = LOST.set(error);
    }
}

/// The exit code of a verb that ended with this one: data that was lost is a failure, a closed pipe is none.
pub fn finish(exit: Exit) -> Exit {
    match LOST.get() {
        None => exit,
        Some(error) => {
            say(format_args!("error: cannot write to standard output: {error}"));
            if exit == Exit::Done { Exit::Failed } else { exit }
        }
    }
}

/// Writes past the buffer of `io::stdout`, which is flushed when nobody can be told of an error, and ignores some.
fn write(text: &str) -> io::Result<()> {
    File::from(io::stdout().as_fd().try_clone_to_owned()?).write_all(text.as_bytes())
}

pub fn say(message: impl Display) {
    let message = without_error_numbers(&message.to_string());
    let _ = writeln!(io::stderr().lock(), "{}", printable::lines(&message));
}

/// A message without the numbers of the system's errors, ` (os error 2)`, which help nobody.
pub fn without_error_numbers(message: &str) -> String {
    let mut parts = message.split(" (os error ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let part = part.trim_start_matches(|c: char| c.is_ascii_digit());
        text + part.strip_prefix(')').unwrap_or(part)
    })
}

pub fn say_styled(message: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable::styled(message));
}

/// Asks on the terminal, unless `yes`. False if the operator declines; an error if there is no terminal.
pub fn confirm(question: &str, yes: bool) -> Result<bool, String> {
    if yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        return Err(format!("{question} Not a terminal, so nobody can be asked: pass --yes"));
    }
    let _ = write!(io::stderr().lock(), "{} [y/N] ", printable::line(question));
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    let agreed = read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    if !agreed {
        say("Cancelled, nothing was changed.");
    }
    Ok(agreed)
}

pub fn paint() -> Paint {
    Paint(io::stdout().is_terminal() && !no_color())
}

pub fn terminal_columns() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0.into())
}

/// Writes a line of data. False once the reader is gone.
pub fn write_line(line: &str) -> io::Result<bool> {
    match write(&format!("{line}\n")) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(io::Error::new(error.kind(), format!("cannot write to standard output: {error}"))),
    }
}

/// A table with these headings. Each row is one line, and its cells are made printable; [`render`] makes it text.
pub fn new_table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(heading);
    for cells in rows {
        let mut row = Row::from(cells.iter().map(|cell| printable::line(cell)));
        row.max_height(1);
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

pub fn render(table: &Table) -> String {
    table.trim_fmt() + "\n"
}

pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    render(&new_table(heading, rows))
}

/// A text that is wider than `width`, cut and marked with `…`.
pub fn short(text: &str, width: usize) -> String {
    truncate_str(text, width, "…").into_owned()
}

/// A progress bar; dropping it clears its line.
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar from 0 to `total`. Hidden unless standard error is a terminal.
    pub fn new(total: usize) -> Self {
        let bar = ProgressBar::new(total as u64);
        let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
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

/// A count that grows towards no known end; dropping it clears its line.
pub struct Counter(ProgressBar);

impl Counter {
    /// Hidden unless standard error is a terminal.
    pub fn new() -> Self {
        let bar = ProgressBar::no_length();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} compared, {elapsed}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    pub fn add(&self, count: usize) {
        self.0.inc(count as u64);
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Without a terminal a line says so often that the verb still waits.
const STILL_EVERY: Duration = Duration::from_secs(10);

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

const POLL_EVERY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_numbers_are_removed_and_nothing_else() {
        let error = io::Error::from_raw_os_error(2);
        let shown = without_error_numbers(&format!("a ({error}), b: {error}"));
        assert_eq!(shown, "a (No such file or directory), b: No such file or directory");
    }

    #[test]
    fn columns_are_aligned_and_lines_trimmed() {
        let rows = [["a", "long"], ["bcd", ""]].map(|row| row.map(String::from));
        assert_eq!(table(["X", "Y"], &rows), "X    Y\na    long\nbcd\n");
    }
}
