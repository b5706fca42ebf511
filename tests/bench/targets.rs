//! What was aimed at, beside what was measured.

use serde::Serialize;

use crate::row::{Phase, Row};

/// One of them.
#[derive(Debug, Serialize)]
pub struct Target {
    /// What was measured.
    pub what: String,
    /// The figure.
    pub measured: f64,
    /// What it may be at most.
    pub at_most: f64,
    /// Of both.
    pub unit: &'static str,
}

impl Target {
    /// One of them.
    pub fn new(what: impl Into<String>, measured: f64, at_most: f64, unit: &'static str) -> Self {
        Self { what: what.into(), measured, at_most, unit }
    }
}

/// Those that follow from the rows.
pub fn of_rows(rows: &[Row]) -> Vec<Target> {
    let row = |server: &str, phase| rows.iter().find(|row| row.server == server && row.phase == phase);
    let busy = Phase::Saturated(64);
    let mut targets = Vec::new();
    for (server, at_most) in [("memory", 2.0), ("kafka-linger", 2.9), ("nats", 3.0)] {
        if let Some(row) = row(server, busy) {
            targets.push(Target::new(
                format!("CPU a request, {server}, over the floor's"),
                row.ratio,
                at_most,
                "×",
            ));
        }
    }
    for (server, direct) in
        [("kafka", "direct-kafka"), ("kafka-linger", "direct-kafka-linger"), ("nats", "direct-nats")]
    {
        let (Some(bridge), Some(floor), Some(direct)) =
            (row(server, busy), row("floor", busy), row(direct, busy))
        else {
            continue;
        };
        let what = format!("CPU a request, {server}, over floor and bare producer together");
        targets.push(Target::new(what, bridge.cpu_us / (floor.cpu_us + direct.cpu_us), 1.35, "×"));
        if server == "kafka-linger" {
            let what = "acks a second of the bare producer over those of kafka-linger, 64 in flight";
            let measured = direct.events_per_second / bridge.events_per_second;
            targets.push(Target::new(what, measured, 1.0 / 0.9, "×"));
        }
    }
    for phase in [Phase::Rate(25), Phase::Rate(1000)] {
        for (server, direct) in [("kafka", "direct-kafka"), ("nats", "direct-nats")] {
            if let (Some(bridge), Some(direct)) = (row(server, phase), row(direct, phase)) {
                let what = format!("p99 of {server} over the bare producer's, {}", phase.title());
                targets.push(Target::new(what, bridge.p99 - direct.p99, 1.0, "ms"));
            }
        }
    }
    for server in ["memory", "kafka-linger", "nats"] {
        if let (Some(batch), Some(one)) = (row(server, Phase::Batches), row(server, busy)) {
            let what = format!("CPU of 20 events in one request over that of one, {server}");
            targets.push(Target::new(what, batch.cpu_us / one.cpu_us, 6.0, "×"));
        }
    }
    targets
}
