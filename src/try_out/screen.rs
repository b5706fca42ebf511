//! A run as lines for people, at home in 80 columns; where there are more, ids are shown whole.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use time::macros::format_description;

use super::cloud::Received;
use super::footer::Footer;
use super::header::header;
use super::ledger::{Found, Match};
use super::output::{Block, Options, Output, Target};
use super::summary::{milliseconds, summary};
use super::tally::Tally;
use crate::paint::Paint;

/// Without a terminal the running total is a line like the others, once in so many deliveries.
const TOTAL_EVERY: u64 = 20;

/// Columns of a pipe, and of a terminal that does not tell.
pub const USUAL_COLUMNS: usize = 80;

/// From here on a line has room for whole ids.
const WIDE: usize = 134;

/// Removes the footer, which stands on the last line of a terminal.
const ERASE_LINE: &str = "\r\x1b[2K";

/// What the screen is on.
#[derive(Clone, Copy, Debug)]
pub enum Surface {
    /// A terminal of so many columns; asked each time, as its window may be resized.
    Terminal(fn() -> usize),
    /// A pipe or a file.
    Plain,
}

/// The screen.
pub struct Screen<W> {
    out: W,
    surface: Surface,
    paint: Paint,
    footer: Footer,
}

impl<W: Write> Screen<W> {
    /// A screen on `out`.
    pub fn new(out: W, surface: Surface, paint: Paint) -> Self {
        Self { out, surface, paint, footer: Footer::default() }
    }

    fn columns(&self) -> usize {
        match self.surface {
            Surface::Terminal(columns) => columns(),
            Surface::Plain => USUAL_COLUMNS,
        }
    }

    /// Writes lines above the footer.
    fn write(&mut self, lines: &str, footer: &str) -> io::Result<()> {
        let erase = if matches!(self.surface, Surface::Terminal(_)) { ERASE_LINE } else { "" };
        write!(self.out, "{erase}{lines}{footer}")?;
        self.out.flush()
    }

    /// The footer where there is a terminal to keep it on.
    fn footer(&mut self, tally: &Tally) -> String {
        let columns = self.columns();
        match self.surface {
            Surface::Terminal(_) => self.footer.line(tally, Instant::now(), columns, self.paint),
            Surface::Plain => String::new(),
        }
    }

    fn block(&self, block: &Block) -> String {
        let start = self.start_of_line(block.at, &block.planned.label);
        let mut lines = match &block.answered {
            Ok(got) => {
                let answer = format!("{} {:<16}", got.answer.status, got.answer.reason);
                let answer = match (got.answer.status, got.answer.reason.as_str()) {
                    _ if !block.is_answered_as_expected() => self.paint.bad(&answer),
                    (200, "duplicate") => self.paint.known(&answer),
                    (200, "quarantined") => self.paint.refused(&answer),
                    (200, _) => self.paint.good(&answer),
                    _ => self.paint.refused(&answer),
                };
                format!("{start}{answer}{:>8}\n", milliseconds(got.took))
            }
            Err(error) => format!("{start}{}\n", self.paint.bad(error)),
        };
        block.read.iter().for_each(|received| lines += &self.event(received));
        let missing = block.planned.events.len().saturating_sub(block.read.len());
        if missing > 0 {
            lines += &self.bad(&format!("{missing} of its events not read back"));
        }
        block.differences.iter().for_each(|difference| lines += &self.bad(difference));
        lines
    }

    fn start_of_line(&self, at: OffsetDateTime, label: &str) -> String {
        let format = format_description!("[hour]:[minute]:[second].[subsecond digits:3]");
        let at = at.format(&format).expect("the format names only parts that a time has");
        format!("{}  {label:<34}  ", self.paint.dim(&at))
    }

    fn event(&self, received: &Received) -> String {
        let kind = match received.attribute("reason") {
            Some(reason) => format!("quarantined: {reason}"),
            None => {
                let kind = received.attribute("type").unwrap_or("(no type)");
                kind.strip_prefix("com.attio.").unwrap_or(kind).to_owned()
            }
        };
        let shown = if self.columns() >= WIDE { 36 } else { 8 };
        let id = short(received.attribute("id").unwrap_or("(no id)"), shown);
        let key = short(received.key_text(), shown);
        self.paint.dim(&format!("  -> {:<24} {key:<shown$}  {kind:<27} {id}", received.topic)) + "\n"
    }

    fn bad(&self, text: &str) -> String {
        self.paint.bad(&format!("  !! {text}")) + "\n"
    }
}

impl<W: Write> Output for Screen<W> {
    fn start(&mut self, target: &Target, options: Options) -> io::Result<()> {
        let header = header(target, options, self.paint);
        self.write(&header, "")
    }

    fn waiting(&mut self, target: &Target, answer: &str) -> io::Result<()> {
        let Target { bus, address, .. } = target;
        let line = format!("waiting for {bus} {address}: {answer}");
        self.write(&(self.paint.refused(line.trim()) + "\n"), "")
    }

    fn again(&mut self, block: &Block, wait: Duration) -> io::Result<()> {
        let start = self.start_of_line(OffsetDateTime::now_utc(), &block.planned.label);
        let said = self.paint.refused(&block.said());
        let wait = self.paint.dim(&format!("  .. tried again in {}", milliseconds(wait)));
        self.write(&format!("{start}{said}\n{wait}\n"), "")
    }

    fn delivery(&mut self, block: &Block, so_far: &Tally) -> io::Result<()> {
        self.footer.delivery(Instant::now());
        let mut lines = self.block(block);
        if matches!(self.surface, Surface::Plain) && block.number.is_multiple_of(TOTAL_EVERY) {
            lines += &self.footer.line(so_far, Instant::now(), USUAL_COLUMNS, self.paint);
            lines.push('\n');
        }
        let footer = self.footer(so_far);
        self.write(&lines, &footer)
    }

    fn stray(&mut self, received: &Received, what: &Match) -> io::Result<()> {
        let mut lines = String::new();
        match what.found {
            Found::NotSent => lines += "              from somebody else\n",
            Found::Again if what.differences.is_empty() => {
                lines += "              once more, as a try had failed\n";
            }
            _ => what.differences.iter().for_each(|difference| lines += &self.bad(difference)),
        }
        lines += &self.event(received);
        self.write(&lines, "")
    }

    fn tick(&mut self, so_far: &Tally) -> io::Result<()> {
        let footer = self.footer(so_far);
        self.write("", &footer)
    }

    fn finish(&mut self, _: Options, tally: &Tally) -> io::Result<()> {
        let text = summary(tally, self.paint);
        self.write(&text, "")
    }
}

/// Enough of an id to tell it from its neighbours.
fn short(id: &str, shown: usize) -> String {
    id.chars().take(shown).collect()
}
