//! The options of one run of the checker.

use std::path::PathBuf;
use std::time::Duration;

/// Which broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bus {
    Kafka,
    Nats,
}

/// The store that the bridges share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Store {
    Memory,
    Redis,
    Valkey,
    NatsKv,
}

/// How often each fault is injected.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Counts {
    /// The broker is killed (SIGKILL) and started again; of three brokers, the one that leads.
    pub broker_kills: usize,
    /// The broker is frozen (SIGSTOP) for a while.
    pub freezes: usize,
    /// Three brokers are restarted one after the other, each by SIGTERM.
    pub rolls: usize,
    /// Another of three brokers becomes leader.
    pub moves: usize,
    /// A bridge is killed (SIGKILL) and replaced.
    pub bridge_kills: usize,
    /// A bridge is stopped (SIGTERM) and replaced.
    pub drains: usize,
    /// Every bridge is replaced, one after the other, by SIGTERM.
    pub bridge_rolls: usize,
    /// Connections between bridge and broker are cut.
    pub cuts: usize,
    /// They are stalled, in one direction or both, and then cut or resumed.
    pub stalls: usize,
}

impl Counts {
    /// All of them.
    pub fn total(&self) -> usize {
        self.broker_kills
            + self.freezes
            + self.rolls
            + self.moves
            + self.bridge_kills
            + self.drains
            + self.bridge_rolls
            + self.cuts
            + self.stalls
    }
}

/// All of it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Options {
    /// Names the run's report.
    pub name: String,
    pub bus: Bus,
    pub store: Store,
    pub seed: u64,
    pub events: u64,
    /// The most events of an ordinary batch.
    pub batch: usize,
    /// Senders at work at once.
    pub senders: usize,
    /// Bridges behind the balancer.
    pub replicas: usize,
    /// Brokers, one or three.
    pub brokers: usize,
    pub faults: Counts,
    /// Whether the broker is formatted as another cluster when the bridges are ready, before anything is sent.
    pub formatted_anew: bool,
    /// The least and the longest downtime of a killed broker.
    pub down_ms: (u64, u64),
    /// Of a thousand deliveries, how many senders close before the answer, or within the request.
    pub leavers: u32,
    /// Of a thousand deliveries, how many are sent twice at once.
    pub twins: u32,
    /// Of a thousand deliveries, how many are sent again later though they were acknowledged.
    pub repeats: u32,
    /// How many of those a sender skips before it repeats one.
    pub repeats_after: usize,
    /// Of a thousand deliveries, how many wait for permission to send their body (`Expect: 100-continue`).
    pub askers: u32,
    /// More variables of the bridge's configuration.
    pub variables: Vec<(String, String)>,
    /// The bridge binary.
    pub bridge: PathBuf,
    /// After the last fault, or after its first attempt if that comes later, every delivery must be
    /// acknowledged within this.
    pub budget: Duration,
    /// Sending ends after this, even if events are missing.
    pub limit: Duration,
    /// The longest wait for events in flight at the end.
    pub quiet: Duration,
    /// Whether the broker's data is kept where something was lost.
    pub keeps: bool,
    /// Where reports go.
    pub reports: PathBuf,
}

impl Options {
    /// No faults, one bridge, one broker.
    pub fn new(name: &str, bus: Bus, seed: u64, events: u64) -> Self {
        Self {
            name: name.into(),
            bus,
            store: Store::Memory,
            seed,
            events,
            batch: 6,
            senders: 24,
            replicas: 1,
            brokers: 1,
            faults: Counts::default(),
            formatted_anew: false,
            down_ms: (200, 1500),
            leavers: 10,
            twins: 10,
            repeats: 40,
            repeats_after: 10,
            askers: 30,
            variables: Vec::new(),
            bridge: env!("CARGO_BIN_EXE_attio-bridge").into(),
            budget: Duration::from_secs(45),
            limit: Duration::from_secs(150),
            quiet: Duration::from_secs(40),
            keeps: true,
            reports: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("loss"),
        }
    }

    /// Where its report and the logs of its bridges go.
    pub fn folder(&self) -> PathBuf {
        self.reports.join(format!("{}-{}", self.name, self.seed))
    }

    /// Whether the broker is behind a proxy.
    pub fn is_proxied(&self) -> bool {
        self.faults.cuts + self.faults.stalls > 0
    }

    /// Whether the log of the bridges has a line for every delivery.
    pub fn logs_deliveries(&self) -> bool {
        self.faults.drains + self.faults.bridge_rolls > 0
    }
}
