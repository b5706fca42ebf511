//! Where a run is shown: a trait, and JSON Lines for programs.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::SOURCE;
use super::broker::ReadEvent;
use super::delivery::{Finding, Found, Group, Report};
use super::keyboard::Key;
use super::totals::Totals;
use crate::cloudevent::timestamp;
use crate::printable;

/// The bridge under test and its broker.
#[derive(Clone, Debug)]
pub struct Target {
    pub http: SocketAddr,
    /// The default address of that listener, if it was taken.
    pub taken: Option<&'static str>,
    pub admin: SocketAddr,
    /// `kafka`, `nats` or `stdout`.
    pub bus: &'static str,
    /// The broker: `host:port` of Kafka, a URL of NATS, empty for standard output.
    pub address: String,
    pub embedded: bool,
    pub secret: String,
    pub attio: String,
    pub key: &'static str,
    /// The command that runs this program.
    pub program: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// One round only; an event that was not sent is a difference.
    pub once: bool,
    /// Deliveries per second; none for as fast as they are answered.
    pub rate: Option<f64>,
}

pub trait Output {
    fn start(&mut self, target: &Target, options: Options) -> io::Result<()>;
    fn waiting(&mut self, target: &Target, answer: &str) -> io::Result<()>;
    /// An attempt failed; the next one follows in `wait`.
    fn retrying(&mut self, report: &Report, wait: Duration) -> io::Result<()>;
    /// A delivery is complete, or was awaited long enough.
    fn delivery(&mut self, report: &Report, totals: &Totals) -> io::Result<()>;
    /// An event that belongs to no delivery that is still to be shown.
    fn stray(&mut self, event: &ReadEvent, finding: &Finding) -> io::Result<()>;
    /// A key was pressed. Whether it quits.
    fn key(&mut self, _: Key) -> io::Result<bool> {
        Ok(false)
    }
    fn tick(&mut self, _: &Totals) -> io::Result<()> {
        Ok(())
    }
    fn finish(&mut self, totals: &Totals) -> io::Result<()>;
}

/// One JSON object per line: at the start, for each delivery, at the end.
pub struct JsonLines<W>(pub W);

impl<W: Write> JsonLines<W> {
    fn line(&mut self, line: &Value) -> io::Result<()> {
        writeln!(self.0, "{}", printable::lines(&line.to_string()))?;
        self.0.flush()
    }
}

impl<W: Write> Output for JsonLines<W> {
    fn start(&mut self, target: &Target, options: Options) -> io::Result<()> {
        let Target { http, admin, bus, address, embedded, secret, attio, key, .. } = target;
        self.line(&json!({
            "kind": "start",
            "webhooks": format!("http://{http}/webhooks/{SOURCE}"),
            "page": format!("http://{admin}/"),
            "metrics": format!("http://{admin}/metrics"),
            (*bus): address,
            "embedded": embedded,
            "secret": secret,
            "attio": attio,
            "attio_key": key,
            "once": options.once,
        }))
    }

    fn waiting(&mut self, target: &Target, answer: &str) -> io::Result<()> {
        self.line(&json!({ "kind": "waiting", (target.bus): target.address, "readyz": answer }))
    }

    fn retrying(&mut self, report: &Report, wait: Duration) -> io::Result<()> {
        let got = report.answered.as_ref().ok();
        self.line(&json!({
            "kind": "try",
            "number": report.number,
            "try": report.attempts,
            "status": got.map(|got| got.answer.status),
            "reason": got.map(|got| &got.answer.reason),
            "error": report.answered.as_ref().err(),
            "again_ms": milliseconds(wait),
        }))
    }

    fn delivery(&mut self, report: &Report, _: &Totals) -> io::Result<()> {
        let got = report.answered.as_ref().ok();
        let as_expected =
            report.is_answered_as_expected() && report.differences.is_empty() && report.missing() == 0;
        self.line(&json!({
            "kind": "delivery",
            "number": report.number,
            "time": timestamp(report.at),
            "group": report.delivery.group.name(),
            "sent": report.delivery.label,
            "tries": report.attempts,
            "status": got.map(|got| got.answer.status),
            "reason": got.map(|got| &got.answer.reason),
            "counts": got.map(|got| got.answer.counts),
            "error": report.answered.as_ref().err(),
            "latency_ms": got.map(|got| milliseconds(got.took)),
            "events": report.read.iter().map(event_json).collect::<Vec<_>>(),
            "differences": report.differences,
            "as_expected": as_expected,
        }))
    }

    fn stray(&mut self, event: &ReadEvent, finding: &Finding) -> io::Result<()> {
        let differences = if finding.found == Found::NotSent { &[][..] } else { &finding.differences };
        self.line(&json!({ "kind": "stray", "event": event_json(event), "differences": differences }))
    }

    fn finish(&mut self, totals: &Totals) -> io::Result<()> {
        let groups = Group::ALL.into_iter().filter_map(|group| Some((group, totals.groups.get(&group)?)));
        let groups: Map<String, Value> =
            groups.map(|(group, totals)| (group.name().to_owned(), json!(totals))).collect();
        let latency = |share| totals.latencies.quantile(share).map(milliseconds);
        let account = totals.metrics.as_ref().map(|metrics| {
            json!({
                "received": metrics.received,
                "results": metrics.results,
                "in_flight": metrics.in_flight,
                "balances": metrics.imbalance().is_none(),
            })
        });
        self.line(&json!({
            "kind": "summary",
            "total": totals.total(),
            "groups": groups,
            "account": account,
            "latency_ms": { "median": latency(0.5), "p99": latency(0.99), "max": latency(1.0) },
            "from_others": totals.others,
            "tried_again": totals.retried,
            "read_again": totals.read_again,
            "broker_away": totals.away,
            "unanswered": totals.unanswered,
            "differences": totals.differences,
            "differences_total": totals.differences_total,
            "as_expected": totals.is_as_expected(),
        }))
    }
}

fn event_json(event: &ReadEvent) -> Value {
    json!({
        "topic": event.topic(),
        "address": event.address,
        "partition": event.partition,
        "offset": event.offset,
        "key": event.key_text(),
        "id": event.attribute("id"),
        "type": event.attribute("type"),
        "subject": event.attribute("subject"),
        "reason": event.attribute("reason"),
        "problem": event.event.as_ref().err().map(ToString::to_string),
    })
}

/// Milliseconds, precise to the microsecond.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
