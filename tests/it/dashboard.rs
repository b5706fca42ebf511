//! `deploy/grafana/dashboard.json`: every query returns data from a real Prometheus that scraped the bridge under
//! traffic, through an outage of its broker.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tempfile::TempDir;

use crate::network::{flows, load};
use crate::state::scene::Scene;
use crate::support::load::send_and_check;
use crate::support::mix::{Mix, Planned};
use crate::support::network::{ProxiedBroker, ProxiedNats};
use crate::support::ports::free_address;
use crate::support::request::Request;
use crate::support::wait::{eventually, eventually_blocking};
use crate::support::watched::{Process, kit};

const DASHBOARD: &str = include_str!("../../deploy/grafana/dashboard.json");

/// A real Prometheus that scrapes one bridge, five times a second.
struct Prometheus {
    process: Process,
    address: String,
    data: TempDir,
}

/// A series: its labels, and its samples.
type Series = (Value, Vec<f64>);

impl Prometheus {
    fn scraping(target: SocketAddr) -> Self {
        let this =
            Self { process: Process::default(), address: free_address(), data: tempfile::tempdir().unwrap() };
        let config = this.data.path().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\n\
             scrape_configs: [{{job_name: bridge, static_configs: [{{targets: ['{target}']}}]}}]\n"
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(kit("prometheus").join("prometheus"));
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", this.data.path().join("data").display()));
        command.arg(format!("--web.listen-address={}", this.address));
        this.process.start(&command, this.data.path());
        let log = || fs::read_to_string(this.data.path().join("output.log")).unwrap_or_default();
        eventually_blocking("Prometheus has scraped the bridge", || {
            this.process.assert_alive(log);
            TcpStream::connect(&this.address).is_ok() && !this.instant("attio_bridge_build_info").is_empty()
        });
        this
    }

    /// HTTP/1.0, so that the answer is not chunked and ends with the connection.
    fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Vec<Series> {
        let encoded =
            |(name, value): &(&str, &str)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
        let query = parameters.iter().map(encoded).collect::<Vec<_>>().join("&");
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET /api/v1/{path}?{query} HTTP/1.0\r\nHost: prometheus\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a body");
        if head.contains(" 503 ") {
            return Vec::new(); // It is starting.
        }
        let body: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"));
        let found = body["data"]["result"].as_array().unwrap_or_else(|| panic!("{parameters:?}: {body}"));
        let number =
            |sample: &Value| sample[1].as_str().and_then(|text| text.parse().ok()).expect("a number");
        let samples = |one: &Value| match one["values"].as_array() {
            Some(values) => values.iter().map(number).collect(),
            None => vec![number(&one["value"])],
        };
        found.iter().map(|one| (one["metric"].clone(), samples(one))).collect()
    }

    fn instant(&self, query: &str) -> Vec<Series> {
        self.ask("query", &[("query", query)])
    }

    /// The one value of a query now.
    fn value(&self, query: &str) -> f64 {
        let found = self.instant(query);
        let [(_, samples)] = &found[..] else { panic!("{query}: {found:?}") };
        samples[0]
    }

    /// A panel's query, its answer, which has data and the labels of the legend, and all samples.
    fn answers(
        &self,
        title: &str,
        target: &Value,
        begun: f64,
        ended: f64,
    ) -> (String, Vec<Series>, Vec<f64>) {
        let query = text(&target["expr"]).replace("$job", ".*").replace("$instance", ".*");
        let whole = format!("{}s", (ended - begun).ceil());
        let query = query.replace("$__rate_interval", "2s").replace("$__range", &whole);
        assert!(!query.contains('$'), "{query}: a variable that is not known here");
        let found = match target["instant"].as_bool() {
            Some(true) => self.instant(&query),
            _ => self.range(&query, begun, ended),
        };
        let samples: Vec<f64> = found.iter().flat_map(|(_, samples)| samples.clone()).collect();
        assert!(samples.iter().any(|sample| sample.is_finite()), "{title}: no data: {query}");
        for label in labels(text(&target["legendFormat"])) {
            assert!(found.iter().all(|(of, _)| of[label].is_string()), "{title}: {label}: {found:?}");
        }
        (query, found, samples)
    }

    fn range(&self, query: &str, from: f64, to: f64) -> Vec<Series> {
        let (from, to) = (from.to_string(), to.to_string());
        self.ask("query_range", &[("query", query), ("start", &from), ("end", &to), ("step", "0.2")])
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).unwrap()
}

/// The row of what `state run` measures.
const STATES: &str = "States, of attio-bridge state run";

/// The panels of the row with the states, or all others.
fn panels_of(dashboard: &Value, states: bool) -> impl Iterator<Item = &Value> {
    let mut of_states = false;
    let in_row = move |panel: &&Value| {
        if panel["type"] == "row" {
            of_states = panel["title"] == STATES;
        }
        panel["type"] != "row" && of_states == states
    };
    dashboard["panels"].as_array().unwrap().iter().filter(in_row)
}

/// The panels that are no rows.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// The labels that a legend names.
fn labels(legend: &str) -> impl Iterator<Item = &str> {
    legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_returns_data_and_no_event_is_unaccounted_for() {
    let broker = ProxiedNats::new();
    let bridge = broker.bridge(&[("ATTIO_BRIDGE__DEDUP__STORE", "nats-kv")]).await;
    let prometheus = Prometheus::scraping(bridge.admin);
    let begun = now();

    let mut mix = Mix::new(broker.prefix(), 77);
    let planned: Arc<[Planned]> = mix.deliveries(300).into();
    send_and_check(&planned, 4, bridge.http).await;
    assert_eq!(bridge.ask(&Request::signed("{}").path("/webhooks/other")).await.status, 404);
    let load = load(&mut mix, 3000, &bridge);
    flows(&load, 1000).await;
    broker.kill();
    let down = "min_over_time(attio_bridge_bus_up[1m]) == 0";
    let unavailable = r#"attio_bridge_deliveries_total{source="attio", reason="broker_unavailable"} > 0"#;
    for seen in [down, unavailable] {
        eventually("Prometheus sees the outage", || async { !prometheus.instant(seen).is_empty() }).await;
    }
    broker.restart();
    load.finish().await;
    let received = bridge.metrics().await.sum("events_received_total", &[]);
    eventually("Prometheus sees the last event", || async {
        prometheus.value("sum(attio_bridge_events_received_total)") == received
    })
    .await;
    let ended = now();

    let dashboard = dashboard();
    let mut queries = 0;
    for panel in panels_of(&dashboard, false) {
        for target in panel["targets"].as_array().unwrap() {
            let title = text(&panel["title"]);
            let (query, found, samples) = prometheus.answers(title, target, begun, ended);
            let (least, most) = (samples.iter().copied().fold(f64::MAX, f64::min), samples.iter().copied());
            let most = most.fold(f64::MIN, f64::max);
            match (title, target["legendFormat"].as_str()) {
                ("Events unaccounted for", Some("" | "unaccounted for")) => {
                    assert_eq!((least, most), (0.0, 0.0), "{query}");
                }
                ("Broker connected, by bridge", _) => assert_eq!((least, most), (0.0, 1.0), "{query}"),
                ("Broker connected", _) => assert_eq!(most, 1.0, "{query}"),
                ("Deliveries accepted" | "Events stored" | "Told to come back", _) => {
                    assert!(least > 0.0, "{title}: {samples:?}");
                }
                ("Deliveries by reason", _) => {
                    let reasons: BTreeSet<_> = found.iter().map(|(of, _)| text(&of["reason"])).collect();
                    for reason in ["accepted", "signature_mismatch", "broker_unavailable"] {
                        assert!(reasons.contains(reason), "{reasons:?}");
                    }
                }
                _ => {}
            }
            queries += 1;
        }
    }
    assert!(queries > 30, "{queries}");
}

#[test]
fn every_query_about_states_returns_data_of_a_running_state_run() {
    let scene = Scene::nats();
    let _program = scene.run();
    let prometheus = Prometheus::scraping(scene.listen.parse().unwrap());
    let published = r#"attio_bridge_state_published_total{kind="record"}"#;
    // A rate is the growth between two scrapes.
    eventually_blocking(
        "Prometheus sees that there is none",
        || matches!(&prometheus.instant(published)[..], [(_, samples)] if samples[0] == 0.0),
    );
    let begun = now();
    let id = scene.person("Ada");
    scene.tell("record.created", &id);
    scene.eventually_named(&id, "Ada");
    eventually_blocking("Prometheus sees the state", || prometheus.value(published) == 1.0);
    // An event may come and be done between two scrapes.
    eventually_blocking("Prometheus sees an event that waits", || {
        scene.tell("record.updated", &id);
        prometheus.value("max_over_time(attio_bridge_state_lag_seconds[1m])") > 0.0
    });
    let dashboard = dashboard();
    let mut queries = 0;
    for panel in panels_of(&dashboard, true) {
        for target in panel["targets"].as_array().unwrap() {
            let title = text(&panel["title"]);
            let (query, _, samples) = prometheus.answers(title, target, begun, now());
            let most = samples.iter().copied().fold(f64::MIN, f64::max);
            match title {
                "States published" | "Reads of Attio" | "Lag of the states, by process" => {
                    assert!(most > 0.0, "{query}: {samples:?}");
                }
                "Stuck entities" | "Rate limited by Attio" => assert_eq!(most, 0.0, "{query}"),
                _ => {}
            }
            queries += 1;
        }
    }
    assert_eq!(queries, 9);
}

/// As Grafana needs them: the first row is the promise, nothing overlaps, and each panel is described.
#[test]
fn panels_are_described_and_do_not_overlap() {
    let dashboard = dashboard();
    let rows = dashboard["panels"].as_array().unwrap();
    let titles: Vec<_> =
        rows.iter().filter(|row| row["type"] == "row").map(|row| text(&row["title"])).collect();
    let expected =
        ["The promise", "Edge", "Verification and dedup", "Shared dedup", "Bus", STATES, "Runtime"];
    assert_eq!(titles, expected);
    let (mut taken, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard) {
        assert!(!text(&panel["description"]).is_empty(), "{panel}");
        let number = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(number("x") + number("w") <= 24, "{panel}");
        for x in number("x")..number("x") + number("w") {
            for y in number("y")..number("y") + number("h") {
                assert!(taken.insert((x, y)), "{}: another panel is there", panel["title"]);
            }
        }
        assert!(
            seen.insert((panel["type"].to_string(), panel["title"].to_string())),
            "{}: twice",
            panel["title"]
        );
        if text(&panel["description"]).contains("convert_classic_histograms_to_nhcb") {
            for target in panel["targets"].as_array().unwrap() {
                let (classic, native) = text(&target["expr"]).split_once(" or ").expect("both forms");
                assert!(classic.contains("_bucket{") && !native.contains("_bucket"), "{target}");
            }
        }
    }
}
