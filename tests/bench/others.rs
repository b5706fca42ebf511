//! What other processes use of the machine while the bench runs (proc(5)).

use std::collections::HashMap;
use std::fs;
use std::time::Instant;

/// Cores that others may use before the machine no longer counts as quiet.
const QUIET: f64 = 0.05;

/// Of the times in proc(5): `sysconf(_SC_CLK_TCK)` on every Linux in use.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time by process, at a moment.
pub struct Snapshot {
    at: Instant,
    /// Processes that are neither this one nor its descendants, nor threads of the kernel.
    processes: HashMap<u32, Stat>,
    /// Ticks that the hypervisor gave to other machines.
    stolen: u64,
}

/// What others have used between two moments.
pub struct Others {
    /// Cores, on average.
    pub cores: f64,
    /// The processes that used most, and how many cores each.
    pub top: Vec<(String, f64)>,
}

impl Others {
    pub fn are_quiet(&self) -> bool {
        self.cores <= QUIET
    }

    /// For people.
    pub fn describe(&self) -> String {
        let top: Vec<String> = self.top.iter().map(|(name, cores)| format!("{name} {cores:.2}")).collect();
        let top = if top.is_empty() { String::new() } else { format!(" ({})", top.join(", ")) };
        format!("others used {:.2} cores{top}", self.cores)
    }
}

impl Snapshot {
    pub fn take() -> Self {
        let mut stats: HashMap<u32, Stat> = fs::read_dir("/proc")
            .expect("proc is mounted")
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|pid: u32| {
                Some((pid, Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))
            })
            .collect();
        let this = std::process::id();
        // The kernel's threads descend from process 2.
        let is_ours = |pid: u32| {
            let mut ancestors =
                std::iter::successors(Some(pid), |pid| stats.get(pid).map(|stat| stat.parent));
            ancestors.any(|pid| pid == this || pid == 2)
        };
        let others: Vec<u32> = stats.keys().copied().filter(|pid| !is_ours(*pid)).collect();
        let processes = others.into_iter().filter_map(|pid| stats.remove_entry(&pid)).collect();
        let total = fs::read_to_string("/proc/stat").expect("proc is mounted");
        let stolen = total.lines().next().and_then(|line| line.split_whitespace().nth(8)?.parse().ok());
        Self { at: Instant::now(), processes, stolen: stolen.unwrap_or(0) }
    }

    /// What others have used since.
    pub fn since(&self) -> Others {
        let now = Self::take();
        let ticks = (now.at - self.at).as_secs_f64() * TICKS_PER_SECOND;
        let cores = |used: u64| used as f64 / ticks;
        // The times of a child that ends pass on to its parent, so the sum grows by what was used.
        let all = |snapshot: &Self| {
            snapshot.processes.values().map(|stat| stat.ticks + stat.of_children).sum::<u64>()
        };
        let stolen = now.stolen.saturating_sub(self.stolen);
        let total = cores(all(&now).saturating_sub(all(self)) + stolen);
        let mut used: Vec<(String, f64)> = now
            .processes
            .into_iter()
            .map(|(pid, stat)| {
                let before = self.processes.get(&pid).map_or(0, |stat| stat.ticks);
                (stat.name, cores(stat.ticks.saturating_sub(before)))
            })
            .collect();
        used.push(("other virtual machines".into(), cores(stolen)));
        used.retain(|(_, cores)| *cores > 0.005);
        used.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        used.truncate(5);
        Others { cores: total, top: used }
    }
}

struct Stat {
    name: String,
    parent: u32,
    /// User and system.
    ticks: u64,
    /// The same of its children that have ended.
    of_children: u64,
}

impl Stat {
    fn parse(line: &str) -> Option<Self> {
        // The name is in parentheses, and may contain some.
        let (before, rest) = line.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let name = before.split_once('(')?.1.to_owned();
        Some(Self {
            name,
            parent: u32::try_from(field(1)?).ok()?,
            ticks: field(11)? + field(12)?,
            of_children: field(13)? + field(14)?,
        })
    }
}
