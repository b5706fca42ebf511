//! What serving needs of a bus, and the report of `check --connect` about it: the same for every bus.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::pipeline::publish::Destination;

/// Whether the topics or the stream are verified or created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ensure {
    /// Neither.
    Off,
    /// What is missing is logged and keeps the bridge unready.
    #[default]
    Verify,
    /// Created where missing.
    Create,
}

/// What serving needs of the bus.
#[derive(Clone, Debug)]
pub struct Requirements {
    /// All that events can go to, quarantine among them.
    pub destinations: Vec<Arc<Destination>>,
    /// Their addresses, each once.
    pub addresses: Vec<Arc<str>>,
    /// The address of the quarantine.
    pub quarantine: Arc<str>,
    /// `http.max_body_bytes`: no event is larger.
    pub max_body_bytes: usize,
}

/// How long the sender retries a delivery: what is kept for less can be gone before it has come, or anyone has read it.
pub(super) const RETRIES: Duration = Duration::from_secs(3 * 24 * 3600);
/// What an envelope adds to an event, generously.
const ENVELOPE: usize = 4096;

impl Requirements {
    /// The largest message that can go to an address. The quarantine holds whole bodies in base64.
    pub fn largest(&self, address: &str) -> usize {
        let body = self.max_body_bytes;
        let wrapped = if address == &*self.quarantine { body.div_ceil(3).saturating_mul(4) } else { body };
        wrapped.saturating_add(ENVELOPE)
    }
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As required.
    Ok,
    /// Events can be published, with a risk.
    Warning,
    /// Events cannot be published.
    Failed,
}

impl Level {
    /// Its name.
    pub const fn word(self) -> &'static str {
        ["ok", "warning", "failed"][self as usize]
    }
}

/// One check: what was found, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub check: String,
    pub result: Level,
    pub detail: String,
}

/// All checks of a bus, in the order in which a message depends on them.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub bus: &'static str,
    /// Its servers.
    pub target: String,
    pub checks: Vec<Row>,
}

impl Report {
    /// Without checks yet.
    pub fn new(bus: &'static str, target: impl Into<String>) -> Self {
        Self { bus, target: target.into(), checks: Vec::new() }
    }

    /// Adds a check.
    pub fn add(&mut self, check: impl Into<String>, result: Level, detail: impl Into<String>) {
        self.checks.push(Row { check: check.into(), result, detail: detail.into() });
    }

    /// The worst result.
    pub fn worst(&self) -> Level {
        self.checks.iter().map(|row| row.result).max().unwrap_or(Level::Ok)
    }

    /// As JSON, with the worst result.
    pub fn to_json(&self) -> serde_json::Value {
        let Self { bus, target, checks } = self;
        serde_json::json!({ "bus": bus, "target": target, "result": self.worst(), "checks": checks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_message_of_the_quarantine_is_base64() {
        let requirements = Requirements {
            destinations: vec![],
            addresses: vec![],
            quarantine: "a.quarantine".into(),
            max_body_bytes: 524_288,
        };
        assert_eq!(requirements.largest("a.record"), 528_384);
        assert_eq!(requirements.largest("a.quarantine"), 703_148);
    }
}
