//! What is said at the end, for people.

use std::fmt::Write;
use std::time::Duration;

use super::account::Account;
use super::planned::Group;
use super::tally::{Sums, Tally};
use crate::paint::Paint;

/// Differences that are listed; the rest is counted.
const LISTED: usize = 50;

/// The table, the account and the verdict.
pub fn summary(tally: &Tally, paint: Paint) -> String {
    let mut text = String::from("\n");
    let title =
        format!("{:<24}{:>12}{:>14}{:>10}{:>12}", "", "deliveries", "as expected", "events", "read back");
    line(&mut text, &paint.strong(title.trim_end()));
    for group in Group::ALL {
        if let Some(sums) = tally.groups.get(&group) {
            line(&mut text, &row(group.name(), *sums));
        }
    }
    line(&mut text, &paint.strong(&row("total", tally.total())));
    text.push('\n');
    if let Some(account) = &tally.account {
        line(&mut text, &format!("bridge's own account, events: {}", balance(account)));
    }
    if let (Some(half), Some(most), Some(all)) = (tally.latency(500), tally.latency(990), tally.latency(1000))
    {
        let [half, most, all] = [half, most, all].map(milliseconds);
        line(&mut text, &format!("answers took {half} (median), {most} (99 %), {all} (longest)"));
    }
    if tally.tried_again > 0 {
        let (tries, events) = (tally.tried_again, tally.read_again);
        line(&mut text, &format!("{tries} tries failed and were made again; {events} events came twice"));
    }
    if tally.others > 0 {
        line(&mut text, &format!("{} events came from somebody else", tally.others));
    }
    text.push('\n');
    verdict(&mut text, tally, paint);
    text
}

fn verdict(text: &mut String, tally: &Tally, paint: Paint) {
    if tally.is_as_expected() {
        return line(text, &paint.good("Everything arrived exactly as expected."));
    }
    let total = tally.differences_total;
    line(
        text,
        &paint.bad(&format!("Not as expected, {total} difference{}:", if total == 1 { "" } else { "s" })),
    );
    for difference in tally.differences.iter().take(LISTED) {
        line(text, &format!("  {difference}"));
    }
    if total > LISTED as u64 {
        line(text, &format!("  and {} more", total - LISTED as u64));
    }
}

fn row(name: &str, sums: Sums) -> String {
    let Sums { deliveries, answered_as_expected, events_expected, events_read } = sums;
    format!("{name:<24}{deliveries:>12}{answered_as_expected:>14}{events_expected:>10}{events_read:>12}")
}

/// Such as `70 = 50 published + 20 duplicate`.
fn balance(account: &Account) -> String {
    let results = ["published", "duplicate", "filtered", "quarantined", "failed"];
    let results = results.into_iter().map(|result| (result, account.result(result)));
    let results = results.filter(|(_, count)| *count > 0);
    let mut parts: Vec<String> = results.map(|(result, count)| format!("{count} {result}")).collect();
    if account.in_flight > 0 {
        parts.push(format!("{} in flight", account.in_flight));
    }
    let is = if account.imbalance().is_none() { "=" } else { "is not" };
    format!("{} {is} {}", account.received, if parts.is_empty() { "0".into() } else { parts.join(" + ") })
}

/// A time as people compare them.
pub fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1000.0;
    if milliseconds < 1000.0 {
        format!("{milliseconds:.1} ms")
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}
