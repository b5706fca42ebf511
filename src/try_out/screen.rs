//! Shows a run to people: lines made for 80 columns, on a terminal with a footer below them.

use std::io::{self, Write};
use std::time::Duration;

use anstyle::Style;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use time::OffsetDateTime;
use time::macros::format_description;

use super::SOURCE;
use super::delivery::{Group, Report};
use super::expected::{Finding, Found};
use super::output::{Options, Output, Target};
use super::reading::ReadEvent;
use super::totals::{BridgeMetrics, GroupTotals, Totals};
use crate::paint::{BAD, DIM, GOOD, KNOWN, REFUSED, STRONG};
use crate::printable::{line, styled};
use crate::version::VERSION;

/// Without a terminal the totals are a line after so many deliveries.
const TOTALS_EVERY: u64 = 20;

/// The width without a terminal.
const PLAIN_COLUMNS: usize = 80;

/// From this width on whole ids are shown.
const WIDE: usize = 134;

/// Differences that are listed at the end; more are only counted.
const LISTED: usize = 50;

/// A screen.
pub struct Screen<W> {
    out: W,
    footer: ProgressBar,
    colour: bool,
    /// The width of the terminal now; none if there is no terminal.
    columns: fn() -> Option<usize>,
}

impl<W: Write> Screen<W> {
    /// A screen whose footer is drawn on `target` if that is a terminal. Without `colour` the footer has none;
    /// `out` removes the colours of lines itself.
    pub fn new(out: W, target: ProgressDrawTarget, colour: bool, columns: fn() -> Option<usize>) -> Self {
        let footer = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            footer.set_style(style);
        }
        Self { out, footer, colour, columns }
    }

    /// Writes lines above the footer.
    fn write(&mut self, lines: &str) -> io::Result<()> {
        let out = &mut self.out;
        let lines = styled(lines);
        self.footer.suspend(|| out.write_all(lines.as_bytes()).and_then(|()| out.flush()))
    }

    /// Counts and rates in at most `columns`. What matters least comes last, and is left out first.
    fn totals(&self, totals: &Totals, columns: usize) -> String {
        let counts = totals.counts;
        let (refused, failed, wrong) = (totals.refused(), totals.failed(), totals.differences_total);
        let rate = format!("{:5.1}/s", self.footer.per_sec());
        let (mut text, mut used) = (format!("{DIM}{rate}{DIM:#}"), rate.len());
        let mut part = |style: Style, part: String| {
            used += 2 + part.chars().count();
            if used <= columns {
                text += &format!("  {style}{part}{style:#}");
            }
        };
        if wrong > 0 || failed > 0 {
            part(BAD, format!("{failed} failed, {wrong} WRONG"));
        }
        part(GOOD, format!("{} published", counts.published));
        part(KNOWN, format!("{} duplicate", counts.duplicates));
        part(REFUSED, format!("{refused} refused"));
        if counts.quarantined > 0 {
            part(REFUSED, format!("{} quarantined", counts.quarantined));
        }
        if counts.filtered > 0 {
            part(DIM, format!("{} filtered", counts.filtered));
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
            Some(reason) => format!("quarantined: {}", line(reason)),
            None => line(event.attribute("type").unwrap_or("(no type)")).replacen("com.attio.", "", 1),
        };
        let width = if (self.columns)().is_some_and(|columns| columns >= WIDE) { 36 } else { 8 };
        let (key, id) = (line(event.key_text()), line(event.attribute("id").unwrap_or("(no id)")));
        let topic = &event.topic;
        format!("{DIM}  -> {topic:<24} {key:<width$.width$}  {kind:<27} {id:.width$}{DIM:#}\n")
    }
}

impl<W: Write> Output for Screen<W> {
    fn start(&mut self, target: &Target, options: Options) -> io::Result<()> {
        self.write(&header(target, options))
    }

    fn waiting(&mut self, target: &Target, answer: &str) -> io::Result<()> {
        let Target { bus, address, .. } = target;
        self.write(&format!("{REFUSED}waiting for {bus} {address}: {}{REFUSED:#}\n", line(answer)))
    }

    fn retrying(&mut self, report: &Report, wait: Duration) -> io::Result<()> {
        let start = start_of_line(OffsetDateTime::now_utc(), &report.delivery.label);
        let (answer, wait) = (report.answer_text(), duration(wait));
        self.write(&format!("{start}{REFUSED}{answer}{REFUSED:#}\n{DIM}  .. retried in {wait}{DIM:#}\n"))
    }

    fn delivery(&mut self, report: &Report, totals: &Totals) -> io::Result<()> {
        self.footer.inc(1);
        let mut lines = answer_line(report);
        report.read.iter().for_each(|event| lines += &self.event(event));
        if report.missing() > 0 {
            lines += &bad(&format!("{} of its events not read back", report.missing()));
        }
        report.differences.iter().for_each(|difference| lines += &bad(difference));
        if (self.columns)().is_none() && report.number.is_multiple_of(TOTALS_EVERY) {
            lines += &self.totals(totals, PLAIN_COLUMNS);
            lines.push('\n');
        }
        self.write(&lines)?;
        self.tick(totals)
    }

    fn stray(&mut self, event: &ReadEvent, finding: &Finding) -> io::Result<()> {
        let note = match finding.found {
            Found::NotSent => "from another sender",
            Found::Duplicate if finding.differences.is_empty() => "read again, after a failed try",
            Found::Expected => "read late",
            _ => "",
        };
        let mut lines = if note.is_empty() { String::new() } else { format!("              {note}\n") };
        if finding.found != Found::NotSent {
            finding.differences.iter().for_each(|difference| lines += &bad(difference));
        }
        lines += &self.event(event);
        self.write(&lines)
    }

    fn tick(&mut self, totals: &Totals) -> io::Result<()> {
        if !self.footer.is_hidden() {
            let text = self.totals(totals, (self.columns)().unwrap_or(PLAIN_COLUMNS));
            let text = if self.colour { text } else { anstream::adapter::strip_str(&text).to_string() };
            self.footer.set_message(text);
        }
        Ok(())
    }

    fn finish(&mut self, totals: &Totals) -> io::Result<()> {
        self.footer.finish_and_clear();
        self.write(&summary(totals))
    }
}

/// Time, label, answer, latency.
fn answer_line(report: &Report) -> String {
    let start = start_of_line(report.at, &report.delivery.label);
    let got = match &report.answered {
        Ok(got) => got,
        Err(error) => return format!("{start}{BAD}{}{BAD:#}\n", line(&error.to_string())),
    };
    let (status, reason) = (got.answer.status, got.answer.reason.as_str());
    let style = match (status, reason) {
        _ if !report.is_answered_as_expected() => BAD,
        (200, "duplicate") => KNOWN,
        (200, "quarantined") => REFUSED,
        (200, _) => GOOD,
        _ => REFUSED,
    };
    format!("{start}{style}{status} {reason:<16}{style:#}{:>8}\n", duration(got.took))
}

fn start_of_line(at: OffsetDateTime, label: &str) -> String {
    let format = format_description!("[hour]:[minute]:[second].[subsecond digits:3]");
    let at = at.format(&format).expect("the format names only parts that a time has");
    format!("{DIM}{at}{DIM:#}  {label:<34}  ")
}

fn bad(text: &str) -> String {
    format!("{BAD}  !! {}{BAD:#}\n", line(text))
}

/// Where everything is, and how to join in.
fn header(target: &Target, options: Options) -> String {
    let Target { http, admin, bus, address, embedded, attio, key, .. } = target;
    let broker = if *embedded { "in this process, and gone with it" } else { "not ours; it stays" };
    let end = if options.once { "one round, then the result" } else { "until Ctrl-C" };
    let broker = match *bus {
        "stdout" => "standard output; all else is on standard error".to_owned(),
        _ => format!("{address} ({broker})"),
    };
    let hints = if options.once { String::new() } else { hints(target) };
    format!(
        "{STRONG}attio-bridge dev {VERSION}{STRONG:#}, {end}

  webhooks  http://{http}/webhooks/{SOURCE}
  metrics   http://{admin}/metrics
  {bus:<9} {broker}
  attio     {attio} (a fake of its API; key: {key})

{hints}{DIM}time (UTC)    sent                                answer                took{DIM:#}
{DIM}  -> topic                    key       type (com.attio.)           id{DIM:#}
",
    )
}

fn hints(target: &Target) -> String {
    let Target { http, bus, address, secret, attio, key, .. } = target;
    let read = match *bus {
        "kafka" => format!(
            "{STRONG}Read along with any Kafka client:{STRONG:#}
  kcat -b {address} -X auto.offset.reset=earliest -G me '^attio\\..*'\n\n"
        ),
        "nats" => format!(
            "{STRONG}Read along with any NATS client:{STRONG:#}
  nats --server {address} sub 'attio.>'\n\n"
        ),
        _ => String::new(),
    };
    format!(
        "{read}{STRONG}Send an event of your own:{STRONG:#}
  secret={secret}
  body='{{\"event_type\":\"task.created\",\"id\":{{\"task_id\":\"mine\"}}}}'
  sign=$(printf %s \"$body\" | openssl dgst -sha256 -hmac \"$secret\" -r)
  curl --json \"$body\" -H \"Attio-Signature: ${{sign%% *}}\" \\
    http://{http}/webhooks/{SOURCE}

{STRONG}Call the fake Attio's API, and create a record there:{STRONG:#}
  export ATTIO_API_KEY={key} \\
    ATTIO_BRIDGE__ATTIO__API_URL={attio}
  attio-bridge webhooks list
  curl -H \"Authorization: Bearer {key}\" --json '{{\"data\":{{\"values\":{{}}}}}}' \\
    {attio}/v2/objects/people/records

"
    )
}

/// The table, the metrics, and whether everything was as expected.
fn summary(totals: &Totals) -> String {
    let title = ["", "deliveries", "as expected", "events", "read back"];
    let [name, deliveries, as_expected, events, read] = title;
    let title = format!("{name:<24}{deliveries:>12}{as_expected:>14}{events:>10}{read:>12}");
    let mut text = format!("\n{STRONG}{title}{STRONG:#}\n");
    let groups = Group::ALL.into_iter().filter_map(|group| Some((group, totals.groups.get(&group)?)));
    groups.for_each(|(group, totals)| text += &format!("{}\n", row(group.name(), *totals)));
    text += &format!("{STRONG}{}{STRONG:#}\n\n", row("total", totals.total()));
    if let Some(metrics) = &totals.metrics {
        text += &format!("events in the bridge's metrics: {}\n", balance(metrics));
    }
    if let [Some(median), Some(p99), Some(max)] =
        [0.5, 0.99, 1.0].map(|share| totals.latencies.quantile(share))
    {
        let [median, p99, max] = [median, p99, max].map(duration);
        text += &format!("answers took {median} (median), {p99} (99 %), {max} (longest)\n");
    }
    let Totals { retried, read_again, others, differences_total, .. } = totals;
    if *retried > 0 {
        text += &format!("{retried} tries failed and were retried; {read_again} events were read twice\n");
    }
    if *others > 0 {
        text += &format!("{others} events came from other senders\n");
    }
    if totals.is_as_expected() {
        return text + &format!("\n{GOOD}Everything arrived exactly as expected.{GOOD:#}\n");
    }
    let plural = if *differences_total == 1 { "" } else { "s" };
    text += &format!("\n{BAD}Not as expected, {differences_total} difference{plural}:{BAD:#}\n");
    totals
        .differences
        .iter()
        .take(LISTED)
        .for_each(|difference| text += &format!("  {}\n", line(difference)));
    if let Some(more @ 1..) = differences_total.checked_sub(LISTED as u64) {
        text += &format!("  and {more} more\n");
    }
    text
}

fn row(name: &str, totals: GroupTotals) -> String {
    let GroupTotals { deliveries, answered_as_expected, events_expected, events_read } = totals;
    format!("{name:<24}{deliveries:>12}{answered_as_expected:>14}{events_expected:>10}{events_read:>12}")
}

/// Such as `70 = 50 published + 20 duplicate`.
fn balance(metrics: &BridgeMetrics) -> String {
    let results = ["published", "duplicate", "filtered", "quarantined", "failed"];
    let counts = results.map(|result| (metrics.result(result), result));
    let counts = counts.into_iter().chain([(metrics.in_flight, "in flight")]).filter(|(count, _)| *count > 0);
    let parts: Vec<String> = counts.map(|(count, result)| format!("{count} {result}")).collect();
    let is = if metrics.imbalance().is_none() { "=" } else { "is not" };
    format!("{} {is} {}", metrics.received, if parts.is_empty() { "0".into() } else { parts.join(" + ") })
}

fn duration(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 1.0 => format!("{:.1} ms", seconds * 1000.0),
        seconds => format!("{seconds:.2} s"),
    }
}
