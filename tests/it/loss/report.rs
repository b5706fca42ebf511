//! The report of a run, as text and as JSON.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::closing::Sums;
use super::faults::Injected;
use super::laws::Laws;
use super::options::Options;

/// The report.
pub struct Report {
    pub options: Options,
    pub sums: Sums,
    pub laws: Laws,
    /// The folders of the broker's data, for analysis.
    pub kept: Vec<PathBuf>,
    /// The number of scheduled faults.
    pub scheduled: usize,
    pub injected: Vec<Injected>,
    /// Scrapes of /metrics that were checked while traffic flowed.
    pub scrapes: usize,
    /// The number of processes.
    pub bridges: usize,
    /// The longest wait of a delivery for its 200 after the faults.
    pub slowest: Duration,
    pub sending: Duration,
    pub whole: Duration,
}

impl Report {
    /// Whether every law holds and every fault was injected.
    pub fn is_good(&self) -> bool {
        self.laws.hold() && self.injected.len() == self.scheduled
    }

    /// The report as text.
    pub fn text(&self) -> String {
        let (mut out, sums) = (String::new(), &self.sums);
        let options = &self.options;
        let outcomes: Vec<_> = sums.outcomes.iter().map(|(name, count)| format!("{name}: {count}")).collect();
        let slow = self.slowest.as_secs_f64();
        let lines = [
            format!(
                "run           {} on {:?}, store {:?}, seed {}",
                options.name, options.bus, options.store, options.seed
            ),
            format!(
                "shape         {} bridges, {} brokers, {} senders",
                options.replicas, options.brokers, options.senders
            ),
            format!(
                "sent          {} events in {} deliveries, {} attempts",
                sums.events, sums.deliveries, sums.attempts
            ),
            format!("attempts      {}", outcomes.join(", ")),
            format!("acknowledged  {} events", sums.acknowledged_events),
            format!("stored        {} events, and {} copies more", sums.stored_events, sums.duplicates),
            format!("lost          {}", sums.lost),
            format!("unexplained   {}", sums.unexplained),
            format!("faults        {} of {}: {}", self.injected.len(), self.scheduled, self.kinds()),
            format!(
                "metrics       {} scrapes while traffic flowed, {} processes",
                self.scrapes, self.bridges
            ),
            format!("after faults  the slowest delivery took {slow:.1} s"),
            format!(
                "time          {:.1} s of sending, {:.1} s in all",
                self.sending.as_secs_f64(),
                self.whole.as_secs_f64()
            ),
        ];
        // Writing to a string cannot fail.
        for line in lines {
            let _ = writeln!(out, "{line}");
        }
        if sums.closed_unread > 0 {
            let _ = writeln!(
                out,
                "drains        {} requests met a connection that was closing, unread",
                sums.closed_unread
            );
        }
        for law in self.laws.all() {
            let result =
                if law.violations == 0 { "holds".into() } else { format!("BROKEN {} times", law.violations) };
            let _ = writeln!(out, "{:<13} {result}: {}", law.name, law.text);
            for example in &law.examples {
                let _ = writeln!(out, "              {example}");
            }
        }
        for folder in &self.kept {
            let _ = writeln!(
                out,
                "kept          the broker's data, with its settings and logs: {}",
                folder.display()
            );
        }
        if self.injected.len() < self.scheduled {
            let _ = writeln!(out, "INCOMPLETE    the traffic ended before the faults did");
        }
        let _ = writeln!(out, "result        {}", if self.is_good() { "good" } else { "BAD" });
        out
    }

    /// Every kind of fault with its number.
    fn kinds(&self) -> String {
        let mut kinds = std::collections::BTreeMap::<&str, usize>::new();
        for fault in &self.injected {
            let name = fault.what.split_once(' ').map_or(&*fault.what, |(name, _)| name);
            *kinds.entry(name).or_default() += 1;
        }
        kinds.into_iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    }

    /// Writes both forms to a folder.
    pub fn write(&self, folder: &Path) {
        let json = json!({
            "options": self.options,
            "good": self.is_good(),
            "sums": self.sums,
            "laws": self.laws.all(),
            "kept": self.kept,
            "faults": { "scheduled": self.scheduled, "injected": self.injected },
            "scrapes": self.scrapes,
            "bridges": self.bridges,
            "slowest_after_faults_seconds": self.slowest.as_secs_f64(),
            "sending_seconds": self.sending.as_secs_f64(),
            "seconds": self.whole.as_secs_f64(),
        });
        let pretty = serde_json::to_string_pretty(&json).expect("a report is JSON");
        fs::write(folder.join("report.json"), pretty).expect("the report is written");
        fs::write(folder.join("report.txt"), self.text()).expect("the report is written");
    }
}
