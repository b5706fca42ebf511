//! A run as lines for people, at home in 80 columns.

use std::io::{self, Write};

use time::macros::format_description;

use super::cloud::Received;
use super::header::header;
use super::ledger::{Found, Match};
use super::output::{Block, Options, Output, Target};
use super::paint::Paint;
use super::summary::{milliseconds, summary};
use super::tally::Tally;

/// Without a terminal the running total is a line like the others, once in so many deliveries.
const TOTAL_EVERY: u64 = 20;

/// Removes the running total, which stands on the last line of a terminal.
const ERASE_LINE: &str = "\r\x1b[2K";

/// The screen.
pub struct Screen<W> {
    out: W,
    terminal: bool,
    paint: Paint,
}

impl<W: Write> Screen<W> {
    /// A screen on `out`.
    pub fn new(out: W, terminal: bool, paint: Paint) -> Self {
        Self { out, terminal, paint }
    }

    fn write(&mut self, text: &str, total: Option<&str>) -> io::Result<()> {
        let erase = if self.terminal { ERASE_LINE } else { "" };
        write!(self.out, "{erase}{text}")?;
        match total {
            Some(total) if self.terminal => write!(self.out, "{}", self.paint.dim(total))?,
            Some(total) => writeln!(self.out, "{total}")?,
            None => {}
        }
        self.out.flush()
    }

    fn block(&self, block: &Block) -> String {
        let format = format_description!("[hour]:[minute]:[second].[subsecond digits:3]");
        let at = block.at.format(&format).expect("the format names only parts that a time has");
        let label = &block.planned.label;
        let mut lines = match &block.answered {
            Ok(got) => {
                let answer = format!("{} {:<16}", got.answer.status, got.answer.reason);
                let answer = match got.answer.status {
                    _ if got.answer != block.planned.answer => self.paint.bad(&answer),
                    200 => self.paint.good(&answer),
                    _ => self.paint.refused(&answer),
                };
                format!("{at}  {label:<34}  {answer}{:>8}\n", milliseconds(got.took))
            }
            Err(error) => format!("{at}  {label:<34}  {}\n", self.paint.bad(error)),
        };
        block.read.iter().for_each(|received| lines += &self.event(received));
        let missing = block.planned.events.len().saturating_sub(block.read.len());
        if missing > 0 {
            lines += &self.bad(&format!("{missing} of its events not read back"));
        }
        block.differences.iter().for_each(|difference| lines += &self.bad(difference));
        lines
    }

    fn event(&self, received: &Received) -> String {
        let kind = match received.attribute("reason") {
            Some(reason) => format!("quarantined: {reason}"),
            None => {
                let kind = received.attribute("type").unwrap_or("(no type)");
                kind.strip_prefix("com.attio.").unwrap_or(kind).to_owned()
            }
        };
        let id = short(received.attribute("id").unwrap_or("(no id)"));
        let key = short(received.key_text());
        self.paint.dim(&format!("  -> {:<24} {key:<8}  {kind:<27} {id}", received.topic)) + "\n"
    }

    fn bad(&self, text: &str) -> String {
        self.paint.bad(&format!("  !! {text}")) + "\n"
    }
}

impl<W: Write> Output for Screen<W> {
    fn start(&mut self, target: &Target, options: Options) -> io::Result<()> {
        let header = header(target, options, self.paint);
        self.write(&header, None)
    }

    fn delivery(&mut self, block: &Block, so_far: &Tally) -> io::Result<()> {
        let lines = self.block(block);
        let total = (self.terminal || block.number.is_multiple_of(TOTAL_EVERY)).then(|| total(so_far));
        self.write(&lines, total.as_deref())
    }

    fn stray(&mut self, received: &Received, what: &Match) -> io::Result<()> {
        let mut lines = String::new();
        if what.found == Found::NotSent {
            lines += "              from somebody else\n";
        } else {
            what.differences.iter().for_each(|difference| lines += &self.bad(difference));
        }
        lines += &self.event(received);
        self.write(&lines, None)
    }

    fn finish(&mut self, _: Options, tally: &Tally) -> io::Result<()> {
        let text = summary(tally, self.paint);
        self.write(&text, None)
    }
}

/// `12 sent: 10 taken, 2 refused; 14 events, 14 read back; 0 differences`, below 80 columns.
fn total(tally: &Tally) -> String {
    let sums = tally.total();
    let status = |status: u16| tally.statuses.get(&status).copied().unwrap_or_default();
    let (taken, refused) = (status(200), status(401));
    let failed = sums.deliveries - taken - refused;
    let failed = if failed == 0 { String::new() } else { format!(", {failed} failed") };
    let total = format!(
        "{} sent: {taken} taken, {refused} refused{failed}; {} events, {} read back; {} differences",
        sums.deliveries, sums.events_expected, sums.events_read, tally.differences_total
    );
    // A line that wraps cannot be erased.
    total.chars().take(79).collect()
}

/// Enough of an id to tell it from its neighbours.
fn short(id: &str) -> String {
    id.chars().take(8).collect()
}
