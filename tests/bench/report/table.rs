//! Tables in Markdown.

use std::fmt::Write;

use crate::instructions::Cost;
use crate::row::{Phase, Row};
use crate::targets::Target;

/// One table for each phase.
pub fn rows(rows: &[Row]) -> String {
    let mut out = String::new();
    for phase in Phase::ALL {
        let rows = || rows.iter().filter(|row| row.phase == phase);
        if rows().next().is_none() {
            continue;
        }
        let _ = write!(out, "### {}\n\n{HEADER}", phase.title());
        for row in rows() {
            let _ = writeln!(out, "{}", line(row));
        }
        out.push('\n');
    }
    out
}

const HEADER: &str = "\
| server | requests/s | events/s | p50 ms | p99 ms | p99.9 ms | CPU µs/request | × floor | switches/request | peak MiB | not 200 |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
";

fn line(row: &Row) -> String {
    let Row {
        server,
        failed,
        requests_per_second: requests,
        events_per_second: events,
        p50,
        p99,
        p999,
        cpu_us,
        ratio,
        switches,
        peak_mib,
        ..
    } = row;
    format!(
        "| {server} | {requests:.0} | {events:.0} | {p50:.2} | {p99:.2} | {p999:.2} | {cpu_us:.1} | {ratio:.2} \
         | {switches:.2} | {peak_mib:.0} | {failed} |"
    )
}

/// What was counted.
pub fn costs(costs: &[Cost]) -> String {
    let mut out = String::from(
        "### Instructions and allocations a delivery, counted by callgrind\n\n\
         | what | instructions, 1 event | 20 events | allocations, 1 event | 20 events |\n\
         |---|---:|---:|---:|---:|\n",
    );
    for Cost { what, instructions: [one, batch], allocations: [few, many] } in costs {
        let _ = writeln!(out, "| {what} | {one:.0} | {batch:.0} | {few:.1} | {many:.1} |");
    }
    out.push('\n');
    out
}

/// Each target beside what was measured.
pub fn targets(targets: &[Target]) -> String {
    let mut out = String::from("### Targets\n\n| what | measured | target | |\n|---|---:|---:|---|\n");
    for Target { what, measured, at_most, unit } in targets {
        let result = if measured <= at_most { "met" } else { "missed" };
        let _ = writeln!(out, "| {what} | {measured:.2} {unit} | {at_most:.2} {unit} | {result} |");
    }
    out
}
