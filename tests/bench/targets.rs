//! What was aimed at, beside what was measured.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::instructions::Cost;
use crate::peer::PEER;
use crate::row::{Phase, Row};

/// One of them.
#[derive(Clone, Debug, Serialize)]
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

/// What the rows of this build, and of each one given by `--beside`, are measured by.
pub fn of_rows(rows: &[Row]) -> Vec<Target> {
    let suffixes: BTreeSet<&str> =
        rows.iter().filter(|row| !row.server.starts_with(PEER)).map(|row| suffix(&row.server)).collect();
    suffixes.into_iter().flat_map(|suffix| Rows { rows, suffix }.targets()).collect()
}

/// What `--beside` adds to the name of a row.
fn suffix(server: &str) -> &str {
    server.find('@').map_or("", |at| &server[at..])
}

/// The rows of one build, beside those of everything else.
struct Rows<'a> {
    rows: &'a [Row],
    /// `@NAME`, or nothing for this build.
    suffix: &'a str,
}

const BUSY: Phase = Phase::Saturated(64);

impl Rows<'_> {
    fn named(&self, server: &str, phase: Phase) -> Option<&Row> {
        self.rows.iter().find(|row| row.server == server && row.phase == phase)
    }

    /// The row of a bridge of this build.
    fn bridge(&self, server: &str, phase: Phase) -> Option<&Row> {
        self.named(&format!("{server}{}", self.suffix), phase)
    }

    fn targets(&self) -> Vec<Target> {
        [
            self.over_the_floor(),
            self.over_peers(),
            self.over_producers(),
            self.over_one_event(),
            self.of_partitions(),
        ]
        .concat()
    }

    fn target(&self, what: String, measured: f64, at_most: f64, unit: &'static str) -> Target {
        Target::new(format!("{what}{}", self.suffix.replace('@', ", build ")), measured, at_most, unit)
    }

    fn over_the_floor(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for phase in [BUSY, Phase::Saturated(256)] {
            for (server, at_most) in [("memory", 1.6), ("kafka", 2.8), ("nats", 2.3)] {
                if let Some(row) = self.bridge(server, phase) {
                    let what = format!("CPU a request of {server} over the floor's, {}", phase.title());
                    targets.push(self.target(what, row.ratio, at_most, "×"));
                }
            }
        }
        let switches = self.bridge("kafka", BUSY).map(|row| {
            self.target("thread switches a request of kafka, 64 connections".into(), row.switches, 0.35, "")
        });
        targets.into_iter().chain(switches).collect()
    }

    fn over_peers(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for phase in [BUSY, Phase::Saturated(256)] {
            let peers = self.rows.iter().filter(|row| row.phase == phase && row.server.starts_with(PEER));
            // One that refuses its requests does another work.
            let peers = peers.filter(|peer| peer.failed * 100 < peer.requests);
            for (peer, kafka) in peers.filter_map(|peer| Some((peer, self.bridge("kafka", phase)?))) {
                let what = format!("CPU a request of kafka over that of {}, {}", peer.server, phase.title());
                targets.push(self.target(what, kafka.cpu_us / peer.cpu_us, 0.85, "×"));
            }
        }
        targets
    }

    fn over_producers(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for (server, direct) in
            [("kafka", "direct-kafka"), ("kafka-linger", "direct-kafka-linger"), ("nats", "direct-nats")]
        {
            let rows = (self.bridge(server, BUSY), self.named("floor", BUSY), self.named(direct, BUSY));
            let (Some(bridge), Some(floor), Some(direct)) = rows else { continue };
            let what = format!("CPU a request of {server} over floor and bare producer together");
            targets.push(self.target(what, bridge.cpu_us / (floor.cpu_us + direct.cpu_us), 1.35, "×"));
            if server == "kafka-linger" {
                let what = "acks a second of the bare producer over those of kafka-linger, 64 in flight";
                let measured = direct.events_per_second / bridge.events_per_second;
                targets.push(self.target(what.into(), measured, 1.0 / 0.9, "×"));
            }
        }
        for phase in [Phase::Rate(25), Phase::Rate(1000)] {
            for (server, direct) in [("kafka", "direct-kafka"), ("nats", "direct-nats")] {
                if let (Some(bridge), Some(direct)) = (self.bridge(server, phase), self.named(direct, phase))
                {
                    let what = format!("p99 of {server} over the bare producer's, {}", phase.title());
                    targets.push(self.target(what, bridge.p99 - direct.p99, 1.0, "ms"));
                }
            }
        }
        targets
    }

    fn over_one_event(&self) -> Vec<Target> {
        let limits = [("memory", 5.0), ("nats", 6.0), ("kafka", 7.0)];
        let target = |(server, at_most)| {
            let (batch, one) = (self.bridge(server, Phase::Batches)?, self.bridge(server, BUSY)?);
            let what = format!("CPU of 20 events in one request over that of one, {server}");
            Some(self.target(what, batch.cpu_us / one.cpu_us, at_most, "×"))
        };
        limits.into_iter().filter_map(target).collect()
    }

    fn of_partitions(&self) -> Vec<Target> {
        let (many, few) = (self.bridge("kafka-60", BUSY), self.bridge("kafka-4", BUSY));
        let ratio = many.zip(few).map(|(many, few)| many.cpu_us / few.cpu_us);
        let what = || "CPU a request with 60 partitions over that with 4".into();
        ratio.map(|ratio| self.target(what(), ratio, 1.4, "×")).into_iter().collect()
    }
}

/// Those of the counted costs.
pub fn of_costs(costs: &[Cost]) -> Vec<Target> {
    let memory = costs.iter().filter(|cost| cost.what == "server, memory");
    let targets = |cost: &Cost| {
        let (instructions, allocations) = (cost.instructions[0], cost.allocations[0]);
        [
            Target::new("instructions a delivery on the memory bus", instructions, 110_000.0, ""),
            Target::new("allocations a delivery on the memory bus", allocations, 50.0, ""),
        ]
    };
    memory.flat_map(targets).collect()
}
