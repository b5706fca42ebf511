//! Traces: the spans that a collector gets, and the context that messages carry.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use attio_bridge::bus;
use attio_bridge::cloudevent::Attribute;
use attio_bridge::pipeline::publish::PublishError;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::support::bridge::{Bridge, config};
use crate::support::fixtures;
use crate::support::memory::Answer;
use crate::support::request::Request;
use crate::support::wait::eventually;
use crate::support::watched::kit;

pub const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
pub const PARENT: &str = "b7ad6b7169203331";
pub const STATE: &str = "vendor=a,other@us=b c";

/// An OTLP/HTTP receiver that keeps what it gets.
#[derive(Clone)]
pub struct Collector {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Value>>>,
    status: Arc<AtomicU16>,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let collector = Self { address, requests: Arc::default(), status: Arc::new(AtomicU16::new(200)) };
        let router = Router::new().route("/v1/traces", post(receive)).with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        collector
    }

    fn spans(&self) -> Vec<Value> {
        let requests = self.requests.lock();
        let spans = |request: &Value| {
            request["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone()
        };
        requests.iter().flat_map(spans).collect()
    }

    /// Waits for so many spans.
    pub async fn wait_for(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} spans"), || async { self.spans().len() >= count }).await;
        self.spans()
    }

    async fn bridge(&self) -> Bridge {
        let endpoint = format!("http://{}", self.address);
        Bridge::with(|config| config.traces_endpoint = Some(endpoint)).await
    }
}

async fn receive(
    State(collector): State<Collector>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, &'static str) {
    assert_eq!(headers["content-type"], "application/json");
    let status = StatusCode::from_u16(collector.status.load(Ordering::SeqCst)).unwrap();
    if status == StatusCode::OK {
        collector.requests.lock().push(serde_json::from_slice(&body).unwrap());
    }
    (status, "{}")
}

pub fn attributes(span: &Value) -> BTreeMap<&str, &str> {
    let mut read = BTreeMap::new();
    for attribute in span["attributes"].as_array().unwrap() {
        let value = attribute["value"].as_object().unwrap().values().next().unwrap();
        read.insert(attribute["key"].as_str().unwrap(), value.as_str().unwrap());
    }
    read
}

pub fn traced(request: Request) -> Request {
    let request = request.header("traceparent", format!("00-{TRACE}-{PARENT}-01"));
    request.header("tracestate", "vendor=a, ").header("tracestate", "other@us=b c")
}

#[tokio::test]
async fn a_delivery_and_each_publish_are_spans_of_the_requests_trace() {
    let collector = Collector::start().await;
    let bridge = collector.bridge().await;
    let record = fixtures::delivery("record.created");
    bridge.ask(&traced(Request::keyed("a-key", &record))).await;
    let spans = collector.wait_for(2).await;
    let of_kind = |kind: u8| spans.iter().find(|span| span["kind"] == kind).unwrap();
    let (server, producer) = (of_kind(2), of_kind(4));
    for span in [server, producer] {
        assert_eq!((&span["traceId"], &span["traceState"]), (&json!(TRACE), &json!(STATE)));
    }
    // Sampled; the parent is another process's, and is this process's.
    assert_eq!((&server["flags"], &producer["flags"]), (&json!(0x301), &json!(0x101)));
    assert_eq!((&server["parentSpanId"], &producer["parentSpanId"]), (&json!(PARENT), &server["spanId"]));
    assert_eq!(
        (&server["name"], &producer["name"]),
        (&json!("POST /webhooks/{source}"), &json!("send attio.record"))
    );
    let of_server = attributes(server);
    assert_eq!(of_server["http.response.status_code"], "200");
    assert_eq!(of_server["attio_bridge.reason"], "accepted");
    assert_eq!(of_server["attio_bridge.delivery_id"], "a-key");

    let stored = bridge.bus.stored().remove(0);
    let attribute = |name| stored.event.get(name).unwrap();
    let of_producer = attributes(producer);
    assert_eq!(of_producer["messaging.message.id"], attribute(Attribute::Id));
    assert_eq!(of_producer["cloudevents.event_type"], "com.attio.record.created");
    assert_eq!(of_producer["messaging.destination.name"], "attio.record");
    let context = format!("00-{TRACE}-{}-01", producer["spanId"].as_str().unwrap());
    assert_eq!((attribute(Attribute::TraceParent), attribute(Attribute::TraceState)), (&*context, STATE));
    for (bus, of_bus) in
        [("kafka", ("KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:9")), ("nats", ("NATS__SERVERS", "127.0.0.1:9"))]
    {
        for mode in ["structured", "binary"] {
            let variables = [("BUS__TYPE", bus), ("BUS__CONTENT_MODE", mode), of_bus];
            let names = variables.map(|(name, _)| format!("ATTIO_BRIDGE__{name}"));
            let variables: Vec<_> =
                names.iter().map(String::as_str).zip(variables.map(|(_, value)| value)).collect();
            let encoded = bus::encode(&config(&variables).bus, &stored).unwrap();
            for (name, value) in [("traceparent", &*context), ("tracestate", STATE)] {
                let header = (name.to_owned(), value.to_owned());
                assert!(encoded.headers.contains(&header), "{bus}, {mode}: {:?}", encoded.headers);
            }
        }
    }

    // Nothing that must not be told.
    let text = format!("{:?}", collector.spans());
    assert!(!text.contains(crate::support::request::SECRET) && !text.contains("workspace_id"));

    // The types that OpenTelemetry publishes read it.
    let lines: String = collector.requests.lock().iter().map(|request| format!("{request}\n")).collect();
    let mut python = Command::new(kit("otlp/installed.txt").join("otlp/bin/python"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/read_otlp.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("no Python to test with: run tests/install.sh once");
    python.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "it reads them");
    let mut read: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    read.sort();
    let expected = [
        "attio-bridge SPAN_KIND_PRODUCER send attio.record",
        "attio-bridge SPAN_KIND_SERVER POST /webhooks/{source}",
    ];
    assert_eq!(read, expected);
}

#[tokio::test]
async fn failures_are_told_and_an_unsampled_trace_is_only_passed_on() {
    let collector = Collector::start().await;
    let bridge = collector.bridge().await;
    bridge.bus.script([Answer::Fail(PublishError::Timeout { detail: "as the test asked".into() })]);
    let record = fixtures::delivery("record.created");
    bridge.ask(&Request::keyed("a", &record)).await;
    let spans = collector.wait_for(2).await;
    for span in &spans {
        assert_eq!(span["status"]["code"], 2, "{span}");
        assert!(span["status"]["message"].as_str().unwrap().contains("as the test asked"), "{span}");
    }
    let unsampled = Request::keyed("b", &record).header("traceparent", format!("00-{TRACE}-{PARENT}-00"));
    bridge.ask(&unsampled).await;
    bridge.ask(&Request::unsigned(&record)).await;
    let spans = collector.wait_for(3).await;
    assert_eq!(attributes(&spans[2])["attio_bridge.reason"], "signature_missing");
    let stored = bridge.bus.stored().remove(0);
    let context = stored.event.get(Attribute::TraceParent).unwrap();
    assert!(context.starts_with(&format!("00-{TRACE}-")) && context.ends_with("-00"), "{context}");
}

#[tokio::test]
async fn without_an_endpoint_events_carry_no_context() {
    let bridge = Bridge::start().await;
    bridge.ask(&traced(Request::keyed("a", fixtures::delivery("record.created")))).await;
    assert_eq!(bridge.bus.stored()[0].event.get(Attribute::TraceParent), None);
}

#[tokio::test]
async fn a_collector_that_is_away_costs_no_delivery_and_gets_the_spans_later() {
    let collector = Collector::start().await;
    let bridge = collector.bridge().await;
    collector.status.store(503, Ordering::SeqCst);
    let record = fixtures::delivery("record.created");
    assert_eq!(bridge.ask(&Request::keyed("a", &record)).await.status, 200);
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    collector.status.store(200, Ordering::SeqCst);
    collector.wait_for(2).await;
    bridge.until("spans_total", &[("result", "exported")], 2.0).await;

    // What it refuses for good is counted.
    collector.status.store(400, Ordering::SeqCst);
    bridge.ask(&Request::keyed("b", &record)).await;
    bridge.until("spans_total", &[("result", "failed")], 2.0).await;
    assert_eq!(bridge.metric("spans_total", &[("result", "dropped")]).await, 0.0);
}

#[tokio::test]
async fn a_stop_exports_what_waits() {
    let collector = Collector::start().await;
    let bridge = collector.bridge().await;
    bridge.ask(&Request::keyed("a", fixtures::delivery("record.created"))).await;
    bridge.stop().await.unwrap();
    assert_eq!(collector.spans().len(), 2);
}
