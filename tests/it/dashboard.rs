//! `deploy/grafana/dashboard.json`: every query returns data from a real Prometheus that scraped the bridge under
//! traffic, through an outage of its broker.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::network::{flows, load};
use crate::state::scene::Scene;
use crate::support::browser::Browser;
use crate::support::load::{Load, send_and_check};
use crate::support::mix::{Mix, Planned};
use crate::support::network::{ProxiedBroker, ProxiedNats};
use crate::support::ports::free_address;
use crate::support::request::Request;
use crate::support::snapshot::renewing;
use crate::support::wait::{eventually, eventually_blocking};
use crate::support::watched::{Process, kit};

const DASHBOARD: &str = include_str!("../../deploy/grafana/dashboard.json");

/// Draws panels and the answers to their queries.
const PAGE: &str = include_str!("support/dashboard.html");

/// Between two samples of a graph, in seconds.
const STEP: f64 = 0.2;

/// A real Prometheus that scrapes one bridge, five times a second.
struct Prometheus {
    process: Process,
    address: String,
    data: TempDir,
}

/// A series as Prometheus answers it: its labels `metric`, and its `values` or one `value`.
type Series = Value;

fn samples(series: &Series) -> Vec<f64> {
    let number = |sample: &Value| sample[1].as_str().and_then(|text| text.parse().ok()).expect("a number");
    match series["values"].as_array() {
        Some(values) => values.iter().map(number).collect(),
        None => vec![number(&series["value"])],
    }
}

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
        body["data"]["result"].as_array().unwrap_or_else(|| panic!("{parameters:?}: {body}")).clone()
    }

    fn instant(&self, query: &str) -> Vec<Series> {
        self.ask("query", &[("query", query)])
    }

    /// The one value of a query now. There is none after a scrape that took too long.
    fn value(&self, query: &str) -> Option<f64> {
        let found = self.instant(query);
        assert!(found.len() < 2, "{query}: {found:?}");
        found.first().map(|one| samples(one)[0])
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
        let mut found = Vec::new();
        // See `value`.
        eventually_blocking(&format!("{title}: data: {query}"), || {
            found = match target["instant"].as_bool() {
                Some(true) => self.instant(&query),
                _ => self.range(&query, begun, ended),
            };
            found.iter().flat_map(samples).any(f64::is_finite)
        });
        let samples: Vec<f64> = found.iter().flat_map(samples).collect();
        for label in labels(text(&target["legendFormat"])) {
            assert!(found.iter().all(|one| one["metric"][label].is_string()), "{title}: {label}: {found:?}");
        }
        (query, found, samples)
    }

    fn range(&self, query: &str, from: f64, to: f64) -> Vec<Series> {
        let [from, to, step] = [from, to, STEP].map(|seconds| seconds.to_string());
        self.ask("query_range", &[("query", query), ("start", &from), ("end", &to), ("step", &step)])
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).unwrap()
}

/// The row of what `state run` measures, folded.
const STATES: &str = "States, of attio-bridge state run";

/// The row with the states and its panels.
fn states(dashboard: &Value) -> Vec<Value> {
    let mut row = rows(dashboard).find(|row| row["title"] == STATES).expect("the row is there").clone();
    let panels = row["panels"].take();
    row["collapsed"] = json!(false);
    [&[row], &panels.as_array().expect("it is folded")[..]].concat()
}

/// Rows and panels, without those of folded rows.
fn open(dashboard: &Value) -> &[Value] {
    dashboard["panels"].as_array().unwrap()
}

fn rows(dashboard: &Value) -> impl Iterator<Item = &Value> {
    open(dashboard).iter().filter(|panel| is_row(panel))
}

fn is_row(panel: &Value) -> bool {
    panel["type"] == "row"
}

/// Draws rows and panels with the answers to their queries in Chromium. Page and picture are left for people.
fn draw(name: &str, panels: &[Value], (begun, ended): (f64, f64)) -> PathBuf {
    let data = json!({ "panels": panels, "from": begun, "to": ended, "step": STEP }).to_string();
    let picture = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let page = picture.with_extension("html");
    fs::write(&page, PAGE.replace("DATA", &data.replace('<', "\\u003c"))).unwrap();
    let mut browser = Browser::open(&format!("file://{}", page.display()));
    assert_eq!(browser.errors(), Vec::<String>::new());
    let drawn = browser.evaluate("document.querySelectorAll('section:has(svg [fill], .numbers b)').length");
    assert_eq!(drawn, panels.iter().filter(|panel| !is_row(panel)).count(), "every panel has data");
    let height = browser.evaluate("document.body.offsetHeight").as_u64().expect("a height");
    browser.show_as(1600, height.try_into().unwrap(), "dark");
    browser.picture(&picture);
    picture
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// The labels that a legend names.
fn labels(legend: &str) -> impl Iterator<Item = &str> {
    legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next())
}

/// 60 deliveries a second, for a picture that people can read.
async fn steadily(load: &Load, tenths: Range<usize>) {
    for tenth in tenths {
        load.allow(6 * (tenth + 1));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
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
    let load = if renewing() {
        let planned = (0..3600).map(|_| mix.single()).collect();
        let load = Load::limited(planned, 2, bridge.http, 0);
        steadily(&load, 0..250).await;
        load
    } else {
        let load = load(&mut mix, 3000, &bridge);
        flows(&load, 1000).await;
        load
    };
    broker.kill();
    if renewing() {
        steadily(&load, 250..400).await;
    }
    let down = "min_over_time(attio_bridge_bus_up[1m]) == 0";
    let unavailable = r#"attio_bridge_deliveries_total{source="attio", reason="broker_unavailable"} > 0"#;
    for seen in [down, unavailable] {
        eventually("Prometheus sees the outage", || async { !prometheus.instant(seen).is_empty() }).await;
    }
    broker.restart();
    if renewing() {
        steadily(&load, 400..600).await;
    }
    load.finish().await;
    let received = bridge.metrics().await.sum("events_received_total", &[]);
    eventually("Prometheus sees the last event", || async {
        prometheus.value("sum(attio_bridge_events_received_total)") == Some(received)
    })
    .await;
    let ended = now();

    let dashboard = dashboard();
    let mut panels = open(&dashboard).to_vec();
    let mut queries = 0;
    for panel in panels.iter_mut().filter(|panel| !is_row(panel)) {
        let mut answers = Vec::new();
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
                    let reasons: BTreeSet<_> =
                        found.iter().map(|one| text(&one["metric"]["reason"])).collect();
                    for reason in ["accepted", "signature_mismatch", "broker_unavailable"] {
                        assert!(reasons.contains(reason), "{reasons:?}");
                    }
                }
                _ => {}
            }
            queries += 1;
            answers.push(found);
        }
        panel["answers"] = json!(answers);
    }
    assert!(queries > 30, "{queries}");
    let picture = draw("dashboard.png", &panels, (begun, ended));
    if renewing() {
        let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/images/dashboard.png");
        fs::copy(picture, committed).unwrap();
    }
}

#[test]
fn every_query_about_states_returns_data_of_a_running_state_run() {
    let scene = Scene::nats();
    let _program = scene.run();
    let prometheus = Prometheus::scraping(scene.listen.parse().unwrap());
    let published = r#"attio_bridge_state_published_total{kind="record"}"#;
    // A rate is the growth between two scrapes.
    eventually_blocking("Prometheus sees that there is none", || prometheus.value(published) == Some(0.0));
    let begun = now();
    let id = scene.person("Ada");
    scene.tell("record.created", &id);
    scene.eventually_named(&id, "Ada");
    eventually_blocking("Prometheus sees the state", || prometheus.value(published) == Some(1.0));
    // An event may come and be done between two scrapes.
    eventually_blocking("Prometheus sees an event that waits", || {
        scene.tell("record.updated", &id);
        let seen = prometheus.range("attio_bridge_state_lag_seconds", begun, now());
        seen.iter().flat_map(samples).any(|lag| lag > 0.0)
    });
    let (mut panels, ended) = (states(&dashboard()), now());
    let mut queries = 0;
    for panel in panels.iter_mut().filter(|panel| !is_row(panel)) {
        let mut answers = Vec::new();
        for target in panel["targets"].as_array().unwrap() {
            let title = text(&panel["title"]);
            let (query, found, samples) = prometheus.answers(title, target, begun, ended);
            let most = samples.iter().copied().fold(f64::MIN, f64::max);
            match title {
                "States published" | "Reads of Attio" | "Lag of the states, by process" => {
                    assert!(most > 0.0, "{query}: {samples:?}");
                }
                "Stuck entities" | "Rate limited by Attio" => assert_eq!(most, 0.0, "{query}"),
                _ => {}
            }
            queries += 1;
            answers.push(found);
        }
        panel["answers"] = json!(answers);
    }
    assert_eq!(queries, 9);
    draw("dashboard-states.png", &panels, (begun, ended));
}

/// As Grafana needs them: the first row is the promise, nothing overlaps, and each panel is described.
#[test]
fn panels_are_described_and_do_not_overlap() {
    let dashboard = dashboard();
    let titles: Vec<_> = rows(&dashboard).map(|row| text(&row["title"])).collect();
    let expected =
        ["The promise", "Edge", "Verification and dedup", "Shared dedup", "Bus", STATES, "Runtime"];
    assert_eq!(titles, expected);
    let (mut taken, mut seen) = (BTreeSet::new(), BTreeSet::new());
    let panels = [open(&dashboard), &states(&dashboard)].concat();
    for panel in panels.iter().filter(|panel| !is_row(panel)) {
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
