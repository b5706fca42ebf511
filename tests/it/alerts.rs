//! The alerts use existing metrics. When each fires is tested by `deploy/alerts_test.yaml`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use attio_bridge::attio::watch::WatchMetrics;
use attio_bridge::http::respond;
use attio_bridge::pipeline::outcome::Reason;
use attio_bridge::state::metrics::StateMetrics;

use crate::support::bridge::Bridge;
use crate::support::scrape::Scrape;
use crate::support::watched::kit;

const ALERTS: &str = include_str!("../../deploy/alerts.yaml");

/// A metric and its labels, each with its operator and value.
type Selector<'a> = (&'a str, Vec<(&'a str, &'a str, &'a str)>);

/// Every `attio_bridge_name{label="value",…}` of a text, those in comments as well.
fn selectors(text: &str) -> Vec<Selector<'_>> {
    text.split("attio_bridge_").skip(1).map(selector).collect()
}

fn selector(text: &str) -> Selector<'_> {
    let (metric, rest) = split_word(text);
    let inside =
        rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inside, _)| inside);
    let label = |part| {
        let (name, rest) = split_word(part);
        let (operator, value) = rest.split_once('"').expect("a quoted value");
        (name, operator, value.trim_end_matches('"'))
    };
    (metric, inside.split(',').map(str::trim).filter(|part| !part.is_empty()).map(label).collect())
}

fn split_word(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(text.len()))
}

#[tokio::test]
async fn alerts_select_existing_metrics_and_labels() {
    let bridge = Bridge::start().await;
    let bridge = bridge.metrics().await;
    let watch = WatchMetrics::new(&["production".into()], &["attio".into()]).render();
    let watch = Scrape::parse(std::str::from_utf8(&watch).unwrap());
    let state = StateMetrics::new().render();
    let state = Scrape::parse(std::str::from_utf8(&state).unwrap());
    let mut values: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for (metric, labels) in [&bridge, &watch, &state].into_iter().flat_map(Scrape::label_sets) {
        for (label, value) in labels {
            values.entry((metric.clone(), label)).or_default().insert(value);
        }
    }
    let found = selectors(ALERTS);
    assert!(found.len() >= 12, "{found:?}");
    for (metric, labels) in found {
        assert!(
            [&bridge, &watch, &state].iter().any(|scrape| scrape.names().contains(metric)),
            "there is no metric {metric}"
        );
        for (label, operator, value) in labels {
            let known = values.get(&(metric.into(), label.into()));
            let known = known.unwrap_or_else(|| panic!("{metric} has no label {label}"));
            for value in value.split('|') {
                assert!(known.contains(value), "{metric} has no {label}{operator}{value}");
            }
        }
    }
}

#[test]
fn alert_for_503_covers_every_reason() {
    let (_, rest) = ALERTS.split_once("reason=~\"").expect("a list of reasons");
    let (listed, _) = rest.split_once('"').expect("the list ends");
    let unavailable = Reason::ALL.into_iter().filter(|reason| respond::status(*reason).as_u16() == 503);
    assert_eq!(listed.split('|').collect::<BTreeSet<_>>(), unavailable.map(Reason::slug).collect());
}

/// Prometheus 2 counts a sample on the left edge of a range, Prometheus 3 does not. promtool 2.42 tests both here: for
/// the second every range is a millisecond shorter.
#[test]
fn alerts_are_tested_as_prometheus_2_and_3_read_their_ranges() {
    let open = ["5m", "15m", "1h"].into_iter().zip(["4m59s999ms", "14m59s999ms", "59m59s999ms"]);
    let open = open.fold(ALERTS.to_owned(), |alerts, (range, shorter)| {
        alerts.replace(&format!("[{range}]"), &format!("[{shorter}]"))
    });
    assert_eq!(open.matches("s999ms]").count(), ALERTS.matches("m]").count() + ALERTS.matches("h]").count());
    for alerts in [ALERTS, &open] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("alerts.yaml"), alerts).unwrap();
        let tests = folder.path().join("alerts_test.yaml");
        std::fs::write(&tests, include_str!("../../deploy/alerts_test.yaml")).unwrap();
        let promtool = kit("promtool").join("promtool");
        let output = Command::new(promtool).args(["test", "rules"]).arg(tests).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}
