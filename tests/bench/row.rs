//! One row of the report, and how it is measured.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::body::Deliveries;
use crate::load::closed::Until;
use crate::load::{Traffic, closed, open};
use crate::server::Server;
use crate::usage::{self, Usage};

/// What a server is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// So many requests a second.
    Rate(u32),
    /// So many connections, each as fast as it is answered.
    Saturated(usize),
    /// 64 connections, as fast as they are answered, 20 events in each request.
    Batches,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 6] = [
        Self::Rate(25),
        Self::Rate(1000),
        Self::Saturated(1),
        Self::Saturated(64),
        Self::Saturated(256),
        Self::Batches,
    ];

    /// As a heading.
    pub fn title(self) -> String {
        match self {
            Self::Rate(rate) => format!("{rate} requests/s, open loop"),
            Self::Saturated(1) => "saturation, 1 connection".into(),
            Self::Saturated(connections) => format!("saturation, {connections} connections"),
            Self::Batches => "saturation, 64 connections, 20 events a request".into(),
        }
    }
}

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The server.
    pub server: String,
    /// What it was asked to do.
    pub phase: Phase,
    /// Requests answered 200.
    pub requests: u64,
    /// Every other answer.
    pub failed: u64,
    /// Requests answered in a second.
    pub requests_per_second: f64,
    /// Events in them.
    pub events_per_second: f64,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p99: f64,
    /// Milliseconds.
    pub p999: f64,
    /// Microseconds of CPU, user and system, of the server for each request.
    pub cpu_us: f64,
    /// `cpu_us` over that of the floor in the same phase of the same run.
    pub ratio: f64,
    /// Context switches of the server for each request.
    pub switches: f64,
    /// MiB that the server held at its peak, up to the end of this row.
    pub peak_mib: f64,
}

/// A row while its stretches are measured, in alternation with those of the others.
#[derive(Default)]
pub struct Sum {
    traffic: Traffic,
    used: Usage,
    peak_kib: u64,
}

/// The deliveries of a run.
#[derive(Clone)]
pub struct Traffics {
    /// One event each.
    pub single: Arc<Deliveries>,
    /// 20 events each.
    pub batches: Arc<Deliveries>,
}

impl Sum {
    /// Measures one more stretch.
    pub fn add(&mut self, server: &Server, phase: Phase, traffics: &Traffics, time: Duration) {
        let before = usage::of(server.pid);
        let traffic = drive(server, phase, traffics, time);
        self.count(traffic, usage::of(server.pid) - before, usage::memory(server.pid, "VmHWM"));
    }

    /// Counts a stretch that was measured elsewhere.
    pub fn count(&mut self, traffic: Traffic, used: Usage, peak_kib: u64) {
        self.traffic.join(traffic);
        self.used.cpu += used.cpu;
        self.used.switches += used.switches;
        self.peak_kib = self.peak_kib.max(peak_kib);
    }

    /// The row; its ratio is for later.
    pub fn row(&self, server: &str, phase: Phase) -> Row {
        let Self { traffic, used, peak_kib } = self;
        let requests = (traffic.answered + traffic.failed).max(1) as f64;
        let rate = traffic.answered as f64 / traffic.took.as_secs_f64();
        let events = if phase == Phase::Batches { BATCH as f64 } else { 1.0 };
        Row {
            server: server.into(),
            phase,
            requests: traffic.answered,
            failed: traffic.failed,
            requests_per_second: rate,
            events_per_second: rate * events,
            p50: traffic.percentile(0.5),
            p99: traffic.percentile(0.99),
            p999: traffic.percentile(0.999),
            cpu_us: used.cpu as f64 / 1e3 / requests,
            ratio: 0.0,
            switches: used.switches as f64 / requests,
            peak_mib: *peak_kib as f64 / 1024.0,
        }
    }
}

/// Events in a batch.
pub const BATCH: usize = 20;

/// Sends the traffic of a phase.
pub fn drive(server: &Server, phase: Phase, traffics: &Traffics, time: Duration) -> Traffic {
    let Traffics { single, batches } = traffics;
    match phase {
        Phase::Rate(rate) => open::run(server.address, single, rate, time),
        Phase::Saturated(connections) => closed::run(server.address, single, connections, Until::Time(time)),
        Phase::Batches => closed::run(server.address, batches, 64, Until::Time(time)),
    }
}
