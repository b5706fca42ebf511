//! Shows a run to people: lines as wide as the terminal, or 80 columns. On a terminal they have a footer below them, and
//! keys pause, filter and show one event whole.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use anstyle::Style;
use console::truncate_str;
use indicatif::{ProgressBar, ProgressStyle};
use time::OffsetDateTime;
use time::macros::format_description;

use super::broker::ReadEvent;
use super::delivery::{Finding, Found, Report};
use super::keyboard::Key;
use super::output::{Options, Output, Target};
use super::text::{duration, header, summary, whole};
use super::totals::Totals;
use crate::printable::{BAD, DIM, GOOD, KNOWN, REFUSED, STRONG, line as safe, styled};

/// Without a terminal the totals are a line after so many deliveries.
const TOTALS_EVERY: u64 = 20;

/// The width without a terminal.
const PLAIN_COLUMNS: usize = 80;

/// From this width on whole ids are shown.
const WIDE: usize = 140;

/// The rate is that of the deliveries in this time.
const RATE_OVER: Duration = Duration::from_secs(10);

/// Deliveries that a pause holds back; older ones are not shown.
const HELD: usize = 1000;

const KEYS: &str = "\
  space, p   pause the display, and continue
  /          show only what contains a text: an id, a type, a topic, a status
  Esc        show all again
  d, Enter   the last event whole
  a          the addresses and commands of the start
  ?, h       this help
  q          quit, as Ctrl-C does
";

pub struct Screen<W> {
    out: W,
    footer: ProgressBar,
    colour: bool,
    /// The width of the terminal now; none if there is no terminal.
    columns: fn() -> Option<usize>,
    keys: bool,
    head: String,
    /// The width of topics or subjects.
    address: usize,
    /// The last event that was shown.
    last: Option<ReadEvent>,
    /// What a pause holds back.
    held: Option<VecDeque<String>>,
    filter: String,
    typed: Option<String>,
    /// When the latest deliveries ended.
    latest: VecDeque<Instant>,
    /// Since when, and why, attempts fail.
    failing: Option<(Instant, String)>,
}

impl<W: Write> Screen<W> {
    /// A screen with that footer. Without `colour` the footer has none; `out` removes the colours of lines itself.
    pub fn new(
        out: W,
        footer: ProgressBar,
        colour: bool,
        columns: fn() -> Option<usize>,
        keys: bool,
    ) -> Self {
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            footer.set_style(style);
        }
        Self {
            out,
            footer,
            colour,
            columns,
            keys,
            head: String::new(),
            address: 24,
            last: None,
            held: None,
            filter: String::new(),
            typed: None,
            latest: VecDeque::new(),
            failing: None,
        }
    }

    fn width(&self) -> usize {
        (self.columns)().unwrap_or(PLAIN_COLUMNS)
    }

    /// The width of ids and keys.
    fn id_width(&self) -> usize {
        if self.width() >= WIDE { 36 } else { 8 }
    }

    /// Writes lines above the footer.
    fn write(&mut self, lines: &str) -> io::Result<()> {
        let (out, lines) = (&mut self.out, styled(lines));
        self.footer.suspend(|| out.write_all(lines.as_bytes()).and_then(|()| out.flush()))
    }

    /// Writes a delivery or an event with its lines cut to the width, unless it is filtered out or held back.
    fn show(&mut self, lines: &str, events: &[ReadEvent]) -> io::Result<()> {
        let filter = self.filter.to_lowercase();
        let contains = |text: &str| text.to_lowercase().contains(&filter);
        let has = |event: &ReadEvent| {
            let ids = [event.attribute("id"), event.attribute("subject"), event.attribute("type")];
            contains(event.key_text()) || ids.into_iter().flatten().any(contains)
        };
        if !contains(lines) && !events.iter().any(has) {
            return Ok(());
        }
        self.last = events.last().cloned().or(self.last.take());
        let width = self.width();
        let mut fitting = String::new();
        lines.lines().for_each(|line| fitting = format!("{fitting}{}\n", truncate_str(line, width, "…")));
        let Some(held) = &mut self.held else { return self.write(&fitting) };
        if held.len() == HELD {
            held.pop_front();
        }
        held.push_back(fitting);
        Ok(())
    }

    fn resume(&mut self) -> io::Result<()> {
        let held = self.held.take().unwrap_or_default();
        self.write(&String::from_iter(held))
    }

    /// Counts and rates in at most `columns`. What matters least comes last, and is left out first.
    fn totals(&mut self, totals: &Totals, columns: usize) -> String {
        while self.latest.front().is_some_and(|ended| ended.elapsed() > RATE_OVER) {
            self.latest.pop_front();
        }
        let (mut text, mut used) = (String::new(), 0);
        let mut part = |style: Style, part: String| {
            let gap = if used == 0 { "" } else { "  " };
            let width = gap.len() + part.chars().count();
            if used + width <= columns {
                used += width;
                text += &format!("{gap}{style}{part}{style:#}");
            }
        };
        if let Some(typed) = &self.typed {
            part(STRONG, format!("/{typed}_"));
            part(DIM, "Enter shows only what contains this, Esc shows all".into());
            return text;
        }
        if let Some(held) = &self.held {
            part(STRONG, format!("PAUSED, {} waiting", held.len()));
        }
        if !self.filter.is_empty() {
            part(STRONG, format!("/{}", self.filter));
        }
        if let Some((since, reason)) = &self.failing {
            part(BAD, format!("{reason} for {} s", since.elapsed().as_secs()));
        }
        let (counts, failed, wrong) = (totals.counts, totals.failed, totals.differences_total);
        if wrong > 0 {
            part(BAD, format!("{wrong} WRONG"));
        }
        if failed > 0 && !totals.away {
            part(BAD, format!("{failed} failed"));
        }
        if let Some(over) = self.latest.front().map(Instant::elapsed)
            && over >= Duration::from_secs(1)
        {
            part(DIM, format!("{:.1}/s", self.latest.len() as f64 / over.as_secs_f64()));
        }
        part(GOOD, format!("{} published", counts.published));
        part(KNOWN, format!("{} duplicate", counts.duplicates));
        part(REFUSED, format!("{} refused", totals.refused));
        if counts.quarantined > 0 {
            part(REFUSED, format!("{} quarantined", counts.quarantined));
        }
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            if let Some(latency) = totals.latencies.quantile(share) {
                part(DIM, format!("{name} {}", duration(latency)));
            }
        }
        text
    }

    fn event(&self, event: &ReadEvent) -> String {
        let kind = match event.attribute("reason") {
            Some(reason) => format!("quarantined: {reason}"),
            None => event.attribute("type").unwrap_or("(no type)").replacen("com.attio.", "", 1),
        };
        let (width, wide) = (self.id_width(), self.address);
        let [address, kind, key, id] =
            [&*event.address, &kind, event.key_text(), event.attribute("id").unwrap_or("(no id)")].map(safe);
        format!("{DIM}  -> {address:<wide$} {key:<width$.width$}  {id:<width$.width$}  {kind}{DIM:#}\n")
    }

    /// Time, label, answer, latency.
    fn answer(&self, report: &Report, style: Style) -> String {
        let start = self.start_of_line(report.at, &report.delivery.label);
        match &report.answered {
            Ok(got) => {
                let (status, reason) = (got.answer.status, safe(&got.answer.reason));
                format!("{start}{style}{status} {reason:<18}{style:#}{:>8}\n", duration(got.took))
            }
            Err(error) => format!("{start}{style}{}{style:#}\n", safe(error)),
        }
    }

    fn start_of_line(&self, at: OffsetDateTime, label: &str) -> String {
        let format = format_description!("[hour]:[minute]:[second].[subsecond digits:3]");
        let at = at.format(&format).expect("the format names only parts that a time has");
        let width = self.width().clamp(60, PLAIN_COLUMNS) - 46;
        let label = truncate_str(label, width, "…");
        format!("{DIM}{at}{DIM:#}  {label:<width$}  ")
    }
}

impl<W: Write> Output for Screen<W> {
    fn start(&mut self, target: &Target, options: Options) -> io::Result<()> {
        self.address = if target.bus == "nats" { 33 } else { 24 };
        self.head = header(target, options, self.keys);
        let sent = self.start_of_line(OffsetDateTime::UNIX_EPOCH, "sent").replacen(
            "00:00:00.000",
            "time (UTC)  ",
            1,
        );
        let (address, wide) = (if target.bus == "nats" { "subject" } else { "topic" }, self.address);
        let width = self.id_width();
        self.head += &format!("{DIM}{sent}{DIM}answer                    took{DIM:#}\n");
        self.head +=
            &format!("{DIM}  -> {address:<wide$} {:<width$}  {:<width$}  type{DIM:#}\n", "key", "id");
        let head = self.head.clone();
        self.write(&head)
    }

    fn waiting(&mut self, target: &Target, answer: &str) -> io::Result<()> {
        let Target { bus, address, .. } = target;
        self.write(&format!("{REFUSED}waiting for {bus} {address}: {}{REFUSED:#}\n", safe(answer)))
    }

    fn retrying(&mut self, report: &Report, wait: Duration) -> io::Result<()> {
        let reason = match &report.answered {
            Ok(got) => safe(&got.answer.reason),
            Err(error) => safe(error),
        };
        self.failing = Some((self.failing.take().map_or_else(Instant::now, |(since, _)| since), reason));
        let (line, wait) = (self.answer(report, REFUSED), duration(wait));
        self.show(&format!("{line}{DIM}  .. retried in {wait}{DIM:#}\n"), &[])
    }

    fn delivery(&mut self, report: &Report, totals: &Totals) -> io::Result<()> {
        self.latest.push_back(Instant::now());
        let (status, reason) = match &report.answered {
            Ok(got) => (got.answer.status, got.answer.reason.as_str()),
            Err(_) => (0, ""),
        };
        if status == 200 {
            self.failing = None;
        }
        let style = match (status, reason) {
            _ if !report.is_answered_as_expected() && !totals.away => BAD,
            (200, "duplicate") => KNOWN,
            (200, "quarantined") => REFUSED,
            (200, _) => GOOD,
            _ => REFUSED,
        };
        let mut lines = self.answer(report, style);
        report.read.iter().for_each(|event| lines += &self.event(event));
        if report.missing() > 0 && !totals.away {
            lines += &bad(&format!("{} of its events not read back", report.missing()));
        }
        report.differences.iter().for_each(|difference| lines += &bad(difference));
        self.show(&lines, &report.read)?;
        if (self.columns)().is_none() && report.number.is_multiple_of(TOTALS_EVERY) {
            let line = self.totals(totals, PLAIN_COLUMNS);
            self.write(&format!("{line}\n"))?;
        }
        self.tick(totals)
    }

    fn stray(&mut self, event: &ReadEvent, finding: &Finding) -> io::Result<()> {
        let note = match finding.found {
            Found::NotSent => "              from another sender\n",
            Found::Duplicate if finding.differences.is_empty() => {
                "              read again, after a failed try\n"
            }
            Found::Expected => "              read late\n",
            _ => "",
        };
        let mut lines = note.to_owned();
        if finding.found != Found::NotSent {
            finding.differences.iter().for_each(|difference| lines += &bad(difference));
        }
        lines += &self.event(event);
        self.show(&lines, std::slice::from_ref(event))
    }

    fn key(&mut self, key: Key) -> io::Result<bool> {
        match (&mut self.typed, key) {
            (_, Key::Hangup) => return Ok(true),
            (Some(typed), Key::Char(c)) => typed.push(c),
            (Some(typed), Key::Backspace) => {
                typed.pop();
            }
            (Some(typed), Key::Enter) => {
                self.filter = std::mem::take(typed);
                self.typed = None;
            }
            (_, Key::Escape) => (self.typed, self.filter) = (None, String::new()),
            (None, Key::Char('q')) => return Ok(true),
            (None, Key::Char(' ' | 'p')) if self.held.is_some() => self.resume()?,
            (None, Key::Char(' ' | 'p')) => self.held = Some(VecDeque::new()),
            (None, Key::Char('/')) => self.typed = Some(String::new()),
            (None, Key::Char('d') | Key::Enter) => {
                let whole = self.last.as_ref().map_or("no event was read yet\n".to_owned(), whole);
                self.write(&whole)?;
            }
            (None, Key::Char('a')) => {
                let head = self.head.clone();
                self.write(&head)?;
            }
            (None, Key::Char('?' | 'h')) => self.write(KEYS)?,
            (None, Key::Char(_) | Key::Backspace) => {}
        }
        Ok(false)
    }

    fn tick(&mut self, totals: &Totals) -> io::Result<()> {
        if !self.footer.is_hidden() {
            let columns = self.width();
            let hint = match columns {
                _ if !self.keys || self.typed.is_some() => "",
                110.. => "  space pause  / filter  d event  ? help  q quit",
                _ => "  ? keys  q quit",
            };
            let text = self.totals(totals, columns.saturating_sub(hint.len() + 1));
            let text = styled(&format!("{text}{DIM}{hint}{DIM:#}"));
            self.footer.set_message(if self.colour { text } else { plain(&text) });
        }
        Ok(())
    }

    fn finish(&mut self, totals: &Totals) -> io::Result<()> {
        self.resume()?;
        self.footer.finish_and_clear();
        self.write(&summary(totals))
    }
}

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

fn bad(text: &str) -> String {
    format!("{BAD}  !! {}{BAD:#}\n", safe(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_fits_the_narrowest_terminal() {
        assert!(KEYS.lines().all(|line| line.chars().count() <= PLAIN_COLUMNS), "{KEYS}");
    }
}
