//! Longer texts of a screen: the addresses and commands at the start, an event whole, the summary.

use std::time::Duration;

use super::SOURCE;
use super::broker::ReadEvent;
use super::delivery::Group;
use super::output::{Options, Target};
use super::totals::{BridgeMetrics, GroupTotals, Totals};
use crate::explain::reformat::{Escapes, Json, Order, Style};
use crate::pipeline::outcome::EventResult;
use crate::printable::{BAD, GOOD, REFUSED, STRONG, line as safe};
use crate::version::VERSION;

/// Differences that are listed at the end; more are only counted.
const LISTED: usize = 50;

/// Where everything is, and how to join in.
pub fn header(target: &Target, options: Options, keys: bool) -> String {
    let Target { http, taken, admin, bus, address, embedded, attio, key, .. } = target;
    let broker = if *embedded {
        "in this process; its events are gone when it ends"
    } else {
        "your broker; what is published stays there"
    };
    let end = match (options.once, keys) {
        (true, _) => "one round, then the result",
        (false, true) => "until q or Ctrl-C; ? shows the keys",
        (false, false) => "until Ctrl-C",
    };
    let broker = match *bus {
        "stdout" => "standard output; all else is on standard error".to_owned(),
        _ => format!("{address} ({broker})"),
    };
    let port = |address: &str| address.rsplit(':').next().unwrap_or_default().to_owned();
    let taken = taken.map_or(String::new(), |taken| format!(" (port {} is in use)", port(taken)));
    let hints = if options.once { String::new() } else { hints(target) };
    format!(
        "{STRONG}attio-bridge dev {VERSION}{STRONG:#}, {end}

  webhooks  http://{http}/webhooks/{SOURCE}{taken}
  page      http://{admin}/ (the same live in a browser)
  metrics   http://{admin}/metrics
  {bus:<9} {broker}
  attio     {attio} (a fake of its API; key: {key})

{hints}",
    )
}

fn hints(target: &Target) -> String {
    let Target { http, bus, address, secret, attio, key, program, .. } = target;
    let read = match *bus {
        "kafka" => format!(
            "{STRONG}Read along with `tail` or a Kafka client such as kcat:{STRONG:#}
  {program} tail --bus kafka://{address}
  kcat -q -b {address} -X auto.offset.reset=earliest -G me '^attio\\..*'\n\n"
        ),
        "nats" => format!(
            "{STRONG}Read along with `tail` or any NATS client:{STRONG:#}
  {program} tail --bus {address}
  nats --server {address} sub 'attio.>'\n\n"
        ),
        _ => String::new(),
    };
    format!(
        "{read}{STRONG}Send an event of your own:{STRONG:#}
  secret={secret}
  body='{{\"event_type\":\"task.created\",\"id\":{{\"task_id\":\"mine\"}}}}'
  sign=$(printf %s \"$body\" | openssl dgst -sha256 -hmac \"$secret\" -r)
  curl -sS -w '\\n%{{http_code}}\\n' --json \"$body\" \\
    -H \"Attio-Signature: ${{sign%% *}}\" http://{http}/webhooks/{SOURCE}

{STRONG}Call the fake Attio's API, and create a record there:{STRONG:#}
  export ATTIO_API_KEY={key} \\
    ATTIO_BRIDGE__ATTIO__API_URL={attio}
  {program} webhooks list
  curl -sS -H \"Authorization: Bearer {key}\" \\
    --json '{{\"data\":{{\"values\":{{}}}}}}' \\
    {attio}/v2/objects/people/records

"
    )
}

/// An event with every attribute, and its position.
pub fn whole(event: &ReadEvent) -> String {
    let ReadEvent { address, partition, offset, .. } = event;
    let (address, key) = (safe(address), safe(event.key_text()));
    let json = match &event.event {
        Ok(event) => indented(&event.to_json()),
        Err(error) => error.to_string(),
    };
    let json: String = json.lines().map(|line| safe(line) + "\n").collect();
    format!("\n{STRONG}{address}, partition {partition}, offset {offset}, key {key}{STRONG:#}\n{json}\n")
}

/// JSON with a line for each member, and everything else as it was.
fn indented(json: &str) -> String {
    let parsed = Json::parse(json);
    let text = parsed.and_then(|parsed| parsed.to_text(Style::Indented(2), Escapes::Kept, Order::Kept));
    text.unwrap_or_else(|| json.to_owned())
}

/// The table, the metrics, and whether everything was as expected.
pub fn summary(totals: &Totals) -> String {
    let mut text = format!(
        "\n{STRONG}{:<18}{:>11}{:>12}{:>8}{:>10}{STRONG:#}\n",
        "kind", "deliveries", "as expected", "events", "read back"
    );
    let groups = Group::ALL.into_iter().filter_map(|group| Some((group, totals.groups.get(&group)?)));
    groups.for_each(|(group, totals)| text += &format!("{}\n", row(group.name(), *totals)));
    text += &format!("{STRONG}{}{STRONG:#}\n\n", row("total", totals.total()));
    if let Some(metrics) = &totals.metrics {
        text += &format!("events in the bridge's metrics: {}\n", balance(metrics));
    }
    if let [Some(median), Some(p99), Some(max)] =
        [0.5, 0.99, 1.0].map(|share| totals.latencies.quantile(share))
    {
        let [median, p99, max] = [median, p99, max].map(duration);
        text += &format!("latency of answers: {median} median, {p99} p99, {max} max\n");
    }
    let Totals { retried, read_again, others, differences_total, unanswered, .. } = totals;
    if *retried > 0 {
        text += &format!("{retried} tries failed and were retried; {read_again} events were read twice\n");
    }
    if *others > 0 {
        text += &format!("{others} events came from other senders\n");
    }
    if totals.is_as_expected() {
        return text + &format!("\n{GOOD}Everything arrived exactly as expected.{GOOD:#}\n");
    }
    let plural = |count: &u64| if *count == 1 { "" } else { "s" };
    if totals.away {
        let deliveries = if *unanswered == 1 { "delivery" } else { "deliveries" };
        text += &format!(
            "\n{REFUSED}The broker is away: what it holds cannot be read back; {unanswered} {deliveries} \
             unanswered.{REFUSED:#}\n"
        );
    }
    if *differences_total == 0 {
        return text;
    }
    text += &format!(
        "\n{BAD}Not as expected, {differences_total} difference{}:{BAD:#}\n",
        plural(differences_total)
    );
    totals
        .differences
        .iter()
        .take(LISTED)
        .for_each(|difference| text += &format!("  {}\n", safe(difference)));
    if let Some(more @ 1..) = differences_total.checked_sub(LISTED as u64) {
        text += &format!("  and {more} more\n");
    }
    text
}

fn row(name: &str, totals: GroupTotals) -> String {
    let GroupTotals { deliveries, answered_as_expected, events_expected, events_read } = totals;
    format!("{name:<18}{deliveries:>11}{answered_as_expected:>12}{events_expected:>8}{events_read:>10}")
}

/// Such as `70 = 50 published + 20 duplicate`.
fn balance(metrics: &BridgeMetrics) -> String {
    let counts = EventResult::LABELS.map(|result| (metrics.result(result), result));
    let counts = counts.into_iter().chain([(metrics.in_flight, "in flight")]).filter(|(count, _)| *count > 0);
    let parts: Vec<String> = counts.map(|(count, result)| format!("{count} {result}")).collect();
    let is = if metrics.imbalance().is_none() { "=" } else { "is not" };
    format!("{} {is} {}", metrics.received, if parts.is_empty() { "0".into() } else { parts.join(" + ") })
}

/// Such as `1.2 ms` or `3.45 s`.
pub fn duration(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 1.0 => format!("{:.1} ms", seconds * 1000.0),
        seconds => format!("{seconds:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_without_other_changes() {
        let json = r#"{"a":1.50e+2,"b":[{}, {"c":"x\",:{\\"}],"d":[]}"#;
        let expected = "{\n  \"a\": 1.50e+2,\n  \"b\": [\n    {},\n    {\n      \"c\": \"x\\\",:{\\\\\"\n    }\n  ],\n  \"d\": []\n}";
        assert_eq!(indented(json), expected);
    }
}
