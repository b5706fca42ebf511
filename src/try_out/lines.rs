//! A run as JSON Lines for programs: one object at the start, one for each delivery, one at the end.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::SOURCE;
use super::cloud::Received;
use super::ledger::{Found, Match};
use super::output::{Block, Options, Output, Target};
use super::planned::Group;
use super::tally::Tally;
use crate::cloudevent::timestamp;

/// The lines.
pub struct Lines<W>(pub W);

impl<W: Write> Lines<W> {
    fn line(&mut self, line: &Value) -> io::Result<()> {
        writeln!(self.0, "{line}")?;
        self.0.flush()
    }
}

impl<W: Write> Output for Lines<W> {
    fn start(&mut self, target: &Target, options: Options) -> io::Result<()> {
        let Target { http, admin, bus, address, embedded, secret, attio, key } = target;
        self.line(&json!({
            "kind": "start",
            "webhooks": format!("http://{http}/webhooks/{SOURCE}"),
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

    fn again(&mut self, block: &Block, wait: Duration) -> io::Result<()> {
        let got = block.answered.as_ref().ok();
        self.line(&json!({
            "kind": "try",
            "number": block.number,
            "try": block.tries,
            "status": got.map(|got| got.answer.status),
            "reason": got.map(|got| &got.answer.reason),
            "error": block.answered.as_ref().err(),
            "again_ms": wait.as_micros() as f64 / 1000.0,
        }))
    }

    fn delivery(&mut self, block: &Block, _: &Tally) -> io::Result<()> {
        let got = block.answered.as_ref().ok();
        let as_expected = block.is_answered_as_expected()
            && block.differences.is_empty()
            && block.read.len() == block.planned.events.len();
        self.line(&json!({
            "kind": "delivery",
            "number": block.number,
            "time": timestamp(block.at),
            "group": block.planned.group.name(),
            "sent": block.planned.label,
            "tries": block.tries,
            "status": got.map(|got| got.answer.status),
            "reason": got.map(|got| &got.answer.reason),
            "counts": got.map(|got| got.answer.counts),
            "error": block.answered.as_ref().err(),
            "latency_ms": got.map(|got| got.took.as_micros() as f64 / 1000.0),
            "events": block.read.iter().map(event).collect::<Vec<_>>(),
            "differences": block.differences,
            "as_expected": as_expected,
        }))
    }

    fn stray(&mut self, received: &Received, what: &Match) -> io::Result<()> {
        let differences = if what.found == Found::NotSent { &[] } else { what.differences.as_slice() };
        self.line(&json!({ "kind": "stray", "event": event(received), "differences": differences }))
    }

    fn tick(&mut self, _: &Tally) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self, _: Options, tally: &Tally) -> io::Result<()> {
        let groups =
            Group::ALL.into_iter().filter_map(|group| Some((group.name(), tally.groups.get(&group)?)));
        let groups: serde_json::Map<String, Value> =
            groups.map(|(name, sums)| (name.to_owned(), json!(sums))).collect();
        let latency = |per_mille| tally.latency(per_mille).map(|time| time.as_micros() as f64 / 1000.0);
        let account = tally.account.as_ref().map(|account| {
            json!({
                "received": account.received,
                "results": account.results,
                "in_flight": account.in_flight,
                "balances": account.imbalance().is_none(),
            })
        });
        self.line(&json!({
            "kind": "summary",
            "total": tally.total(),
            "groups": groups,
            "account": account,
            "latency_ms": { "median": latency(500), "p99": latency(990), "max": latency(1000) },
            "from_others": tally.others,
            "tried_again": tally.tried_again,
            "read_again": tally.read_again,
            "differences": tally.differences,
            "differences_total": tally.differences_total,
            "as_expected": tally.is_as_expected(),
        }))
    }
}

fn event(received: &Received) -> Value {
    json!({
        "topic": received.topic,
        "partition": received.partition,
        "offset": received.offset,
        "key": received.key_text(),
        "id": received.attribute("id"),
        "type": received.attribute("type"),
        "subject": received.attribute("subject"),
        "reason": received.attribute("reason"),
        "problem": received.event.as_ref().err(),
    })
}
