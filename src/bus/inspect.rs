//! The report of `check --connect`, and the requirements it checks: the same for every bus.

use std::io::{IsTerminal, stdout};
use std::sync::Arc;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use crate::pipeline::publish::Destination;

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
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What was checked.
    pub check: String,
    /// Its result.
    pub result: Level,
    /// What was found, and what to do.
    pub detail: String,
}

/// All checks of a bus.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `kafka`, `nats` or `stdout`.
    pub bus: &'static str,
    /// Its servers.
    pub target: String,
    /// In the order in which a message depends on them.
    pub checks: Vec<Row>,
}

/// The table's width where standard output is not a terminal.
const WIDTH: u16 = 100;

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

    /// A table, and a line with the counts. As wide as the terminal.
    pub fn to_text(&self) -> String {
        self.to_text_within((!stdout().is_terminal()).then_some(WIDTH))
    }

    fn to_text_within(&self, width: Option<u16>) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        if let Some(width) = width {
            table.set_width(width);
        }
        table.add_rows(self.checks.iter().map(|row| [&*row.check, row.result.word(), &*row.detail]));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let count = |level| self.checks.iter().filter(|row| row.result == level).count();
        let [ok, warnings, failed] = [Level::Ok, Level::Warning, Level::Failed].map(count);
        let table = table.trim_fmt();
        let Self { bus, target, .. } = self;
        format!("{bus} at {target}\n\n{table}\n\n{ok} ok, {warnings} warning, {failed} failed\n")
    }

    /// The same as JSON, with the worst result.
    pub fn to_json(&self) -> serde_json::Value {
        let Self { bus, target, checks } = self;
        serde_json::json!({ "bus": bus, "target": target, "result": self.worst(), "checks": checks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_aligned_and_wrapped() {
        let mut report = Report::new("kafka", "k:1");
        report.add("tls", Level::Ok, "short");
        report.add("topic attio.record", Level::Failed, "word ".repeat(30));
        let text = report.to_text_within(Some(WIDTH));
        assert!(text.starts_with("kafka at k:1\n\ntls                 ok      short\n"), "{text}");
        assert!(text.lines().all(|line| line.len() <= usize::from(WIDTH)), "{text}");
        assert!(text.ends_with("\n1 ok, 0 warning, 1 failed\n"), "{text}");
        assert_eq!(report.to_json()["result"], "failed");
    }

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
