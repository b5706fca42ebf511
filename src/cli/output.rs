//! What verbs print: data to standard output, messages to standard error, questions, tables.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufRead, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use comfy_table::presets::NOTHING;
use comfy_table::{Row, Table};

use super::Exit;
use crate::printable::{self, Paint};

/// Whether `NO_COLOR` is set.
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

/// Prints a message to standard error.
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

/// Prints a message with its colours to standard error.
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

/// The columns of standard output; `default` if it is not a terminal.
pub fn columns(default: usize) -> usize {
    terminal_columns().unwrap_or(default)
}

/// The columns of standard output, if it is a terminal.
pub fn terminal_columns() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0.into())
}

/// Writes a line of data. False once the reader is gone.
pub fn write_line(line: &str) -> io::Result<bool> {
    match write(&format!("{line}\n")) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
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

/// The text of a table, however wide.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    render(&new_table(heading, rows))
}

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
