//! What a process has used, in the kernel's own words (proc(5)).

use std::fs;
use std::ops::Sub;

use serde::{Deserialize, Serialize};

/// Counted from the start of the process, over all its threads.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Nanoseconds on a core, user and system.
    pub cpu: u64,
    /// Context switches, asked for or not.
    pub switches: u64,
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        // A thread that has ended takes its share along.
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            switches: self.switches.saturating_sub(earlier.switches),
        }
    }
}

/// What a process has used so far.
pub fn of(pid: u32) -> Usage {
    let mut all = Usage::default();
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs").flatten() {
        let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        all.cpu += read("schedstat").split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
        let switches = |line: &str| line.split_once("ctxt_switches:")?.1.trim().parse::<u64>().ok();
        all.switches += read("status").lines().filter_map(switches).sum::<u64>();
    }
    all
}

/// The resident memory of a process in KiB: `VmRSS` now, `VmHWM` at its peak.
pub fn memory(pid: u32, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("Linux tells it");
    let kib = line.trim_start_matches(':').split_whitespace().next();
    kib.and_then(|kib| kib.parse().ok()).expect("a number of KiB")
}
