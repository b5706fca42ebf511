//! The figures as people and programs read them.

mod chart;
mod table;

use std::fs;
use std::path::PathBuf;

use serde::Serialize;

use crate::instructions::Cost;
use crate::row::Row;
use crate::targets::Target;
pub use table::costs;

/// Where and when.
#[derive(Serialize)]
pub struct Machine {
    date: String,
    cpu: String,
    cores: usize,
    memory_gib: f64,
    kernel: String,
    /// The machine's load over the last minute when the run began.
    load: String,
    /// What other processes used during the busiest round.
    pub others: String,
    version: &'static str,
}

impl Machine {
    /// This one, now.
    pub fn describe() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
        };
        let kib = field(&read("/proc/meminfo"), "MemTotal");
        let kib: f64 = kib.trim_end_matches(" kB").parse().unwrap_or_default();
        Self {
            date: time::OffsetDateTime::now_utc().date().to_string(),
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: (kib / 1024.0 / 102.4).round() / 10.0,
            // Without what its builder calls it.
            kernel: read("/proc/sys/kernel/osrelease")
                .trim()
                .split('-')
                .next()
                .unwrap_or_default()
                .to_owned(),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            others: String::new(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    fn line(&self) -> String {
        let Self { date, cpu, cores, memory_gib, kernel, load, others, version } = self;
        format!(
            "{date}: attio-bridge {version}, {cores} cores of {cpu}, {memory_gib} GiB, Linux {kernel}, load \
             {load} at the start, {others}; client, brokers and servers on the same machine"
        )
    }
}

#[derive(Serialize)]
struct Results<'a> {
    machine: &'a Machine,
    rows: &'a [Row],
    costs: &'a [Cost],
    targets: &'a [Target],
}

/// Prints the tables and leaves `results.json`, `report.md` and `chart.svg` in the target folder.
pub fn write(machine: &Machine, rows: &[Row], costs: &[Cost], targets: &[Target]) {
    let folder = folder();
    fs::create_dir_all(&folder).expect("the target folder can be written");
    let counted = if costs.is_empty() { String::new() } else { table::costs(costs) };
    let text = format!("{}\n\n{}{counted}{}", machine.line(), table::rows(rows), table::targets(targets));
    println!("{text}");
    let json =
        serde_json::to_string_pretty(&Results { machine, rows, costs, targets }).expect("figures are JSON");
    let files = [("results.json", json), ("report.md", text), ("chart.svg", chart::svg(machine, rows))];
    for (name, content) in files {
        fs::write(folder.join(name), content).expect("the target folder can be written");
    }
    println!("results.json, report.md and chart.svg are in {}", folder.display());
}

/// `bench` beside the kit, in the target folder that this program was built into.
fn folder() -> PathBuf {
    let kit = crate::support::watched::kit("nats-server");
    kit.ancestors().nth(1).expect("the kit is in the target folder").join("bench")
}

impl Machine {
    /// For the chart's footer.
    fn short(&self) -> String {
        format!("{} · {} cores of {} · lower is better", self.date, self.cores, self.cpu)
    }
}
