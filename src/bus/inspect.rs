//! What `check --connect` finds out about a bus, in rows that are the same for every bus.

use std::fmt::Write;
use std::sync::Arc;

use serde::Serialize;

use crate::pipeline::publish::Destination;

/// What the bridge will ask of the bus.
#[derive(Clone, Debug)]
pub struct Requirements {
    /// All that events can go to, quarantine too.
    pub destinations: Vec<Arc<Destination>>,
    /// Every address of them, each once.
    pub addresses: Vec<Arc<str>>,
    /// The address of quarantine.
    pub quarantine: Arc<str>,
    /// `http.max_body_bytes`: no event is larger.
    pub max_body_bytes: usize,
}

/// What an envelope adds to an event at most, generously.
const ENVELOPE: usize = 4096;

impl Requirements {
    /// The largest message that can go to an address: quarantine holds whole bodies in base64.
    pub fn largest(&self, address: &str) -> usize {
        let body = self.max_body_bytes;
        let wrapped = if address == &*self.quarantine { body.div_ceil(3).saturating_mul(4) } else { body };
        wrapped.saturating_add(ENVELOPE)
    }
}

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and an operator should know.
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

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What was looked at.
    pub check: String,
    /// How good it is.
    pub result: Level,
    /// What was found, and what to do.
    pub detail: String,
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `kafka`, `nats` or `stdout`.
    pub bus: &'static str,
    /// Where it was looked for.
    pub target: String,
    /// In the order in which a message meets them.
    pub checks: Vec<Row>,
}

/// The table's width; terminals have at least this, and logs do not mind.
const WIDTH: usize = 110;

impl Report {
    /// Nothing found yet.
    pub fn new(bus: &'static str, target: impl Into<String>) -> Self {
        Self { bus, target: target.into(), checks: Vec::new() }
    }

    /// Adds a finding.
    pub fn add(&mut self, check: impl Into<String>, result: Level, detail: impl Into<String>) {
        self.checks.push(Row { check: check.into(), result, detail: detail.into() });
    }

    /// The worst there is.
    pub fn worst(&self) -> Level {
        self.checks.iter().map(|row| row.result).max().unwrap_or(Level::Ok)
    }

    /// A table for people, and a line that counts.
    pub fn to_text(&self) -> String {
        let widest = self.checks.iter().map(|row| row.check.len()).max().unwrap_or(0);
        let indent = widest + "  warning  ".len();
        let mut out = format!("{} at {}\n\n", self.bus, self.target);
        for Row { check, result, detail } in &self.checks {
            let mut lines = wrap(detail, WIDTH.saturating_sub(indent).max(WIDTH / 2)).into_iter();
            let first = lines.next().unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{check:widest$}  {:7}  {first}", result.word());
            for line in lines {
                let _ = writeln!(out, "{:indent$}{line}", "");
            }
        }
        let count = |level| self.checks.iter().filter(|row| row.result == level).count();
        let [ok, warnings, failed] = [Level::Ok, Level::Warning, Level::Failed].map(count);
        let _ = writeln!(out, "\n{ok} ok, {warnings} warning, {failed} failed");
        out
    }

    /// The same as JSON, with the worst of all results.
    pub fn to_json(&self) -> serde_json::Value {
        let Self { bus, target, checks } = self;
        serde_json::json!({ "bus": bus, "target": target, "result": self.worst(), "checks": checks })
    }
}

/// Lines of whole words, each as short as asked where its words allow.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_wrapped() {
        let mut report = Report::new("kafka", "k:1");
        report.add("tls", Level::Ok, "short");
        report.add("topic attio.record", Level::Failed, "word ".repeat(30));
        let text = report.to_text();
        assert!(text.starts_with("kafka at k:1\n\ntls                 ok       short\n"), "{text}");
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        assert!(text.ends_with("\n1 ok, 0 warning, 1 failed\n"), "{text}");
        assert_eq!(report.to_json()["result"], "failed");
    }

    #[test]
    fn quarantine_holds_a_body_in_base64() {
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
