//! The admin page and its stream of deliveries: as a client of the stream sees them, and in Chromium.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use attio_bridge::cloudevent::Attribute;
use attio_bridge::pipeline::publish::{Bus, PublishError};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::bridge::{Bridge, config};
use crate::support::browser::Browser;
use crate::support::load::ready;
use crate::support::memory::{Answer, Memory};
use crate::support::nats::target::NatsTarget;
use crate::support::ports::free_address;
use crate::support::request::{Request, SECRET};
use crate::support::wait::PATIENCE;
use crate::support::{fixtures, kafka, nats, unique};

/// A client of `GET /deliveries`.
struct Stream {
    tcp: TcpStream,
    text: String,
}

impl Stream {
    async fn open<B: Bus + ?Sized>(bridge: &Bridge<B>, headers: &str) -> Self {
        let mut tcp = TcpStream::connect(bridge.admin).await.unwrap();
        let request = format!("GET /deliveries HTTP/1.1\r\nHost: bridge.test\r\n{headers}\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        Self { tcp, text: String::new() }
    }

    /// Reads more; false at the end.
    async fn more(&mut self) -> bool {
        let mut buffer = [0; 65_536];
        let count = timeout(PATIENCE, self.tcp.read(&mut buffer)).await.expect("the stream goes on").unwrap();
        self.text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        count > 0
    }

    /// Waits until there are so many deliveries.
    async fn deliveries(&mut self, count: usize) -> Vec<Value> {
        loop {
            let complete = self.text.rsplit_once("\n\n").map_or("", |(complete, _)| complete);
            let data = complete.lines().filter_map(|line| line.strip_prefix("data: "));
            let all: Vec<Value> = data.map(|json| serde_json::from_str(json).unwrap()).collect();
            if all.len() >= count {
                return all;
            }
            assert!(self.more().await, "{}", self.text);
        }
    }

    fn ids(&self) -> Vec<&str> {
        self.text.lines().filter_map(|line| line.strip_prefix("id: ")).collect()
    }
}

fn reasons(deliveries: &[Value]) -> Vec<(u64, &str)> {
    let reason = |delivery: &'_ Value| delivery["status"].as_u64().unwrap();
    deliveries.iter().map(|delivery| (reason(delivery), delivery["reason"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn the_stream_begins_with_the_last_deliveries_and_goes_on_with_the_next() {
    let bridge = Bridge::start().await;
    let record = fixtures::delivery("record.created");
    let keyed = Request::keyed("a-key", &record);
    bridge.ask(&keyed).await;
    bridge.ask(&keyed).await;
    bridge.ask(&Request::unsigned(&record)).await;
    bridge.ask(&Request::unsigned(&record).header("Attio-Signature", "0".repeat(64))).await;
    bridge.ask(&Request::signed(&record).path("/webhooks/nobody")).await;
    let mut stream = Stream::open(&bridge, "").await;
    let first = stream.deliveries(5).await;
    let expected = [
        (200, "accepted"),
        (200, "duplicate"),
        (401, "signature_missing"),
        (401, "signature_mismatch"),
        (404, "unknown_source"),
    ];
    assert_eq!(reasons(&first), expected);
    let numbers: Vec<u64> = first.iter().map(|delivery| delivery["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);

    let stored = bridge.bus.stored().remove(0);
    let attribute = |name| stored.event.get(name).unwrap();
    let event = json!({
        "id": attribute(Attribute::Id),
        "type": attribute(Attribute::Type),
        "key": attribute(Attribute::PartitionKey),
        "address": &*stored.destination.address,
        "result": "published",
    });
    assert_eq!(first[0]["events"], json!([event]));
    assert_eq!(first[1]["events"][0]["result"], "duplicate");
    assert_eq!(first[1]["events"][0]["key"], event["key"]);
    assert_eq!((&first[0]["source"], &first[4]["source"]), (&json!("attio"), &json!("none")));
    assert_eq!(first[0]["delivery_id"], "a-key");
    assert_eq!(first[0]["secret"], "default");
    assert_eq!(first[0]["bytes"], record.len());
    assert!(first[0]["duration_ms"].as_f64().is_some_and(|taken| taken > 0.0), "{}", first[0]);
    assert_eq!(first[2]["events"], json!([]));

    bridge.bus.answer(Answer::Fail(PublishError::Timeout { detail: "as the test asked".into() }));
    bridge.ask(&Request::keyed("another", &record)).await;
    let failed = stream.deliveries(6).await.remove(5);
    assert_eq!((&failed["status"], &failed["reason"]), (&json!(503), &json!("broker_timeout")));
    assert!(failed["error"].as_str().unwrap().contains("as the test asked"), "{failed}");
    assert_eq!(failed["events"][0]["result"], "failed");

    // A client that comes back gets what it has not seen.
    let resume = format!("Last-Event-ID: {}\r\n", stream.ids()[3]);
    let resumed = Stream::open(&bridge, &resume).await.deliveries(2).await;
    assert_eq!(resumed.iter().map(|delivery| delivery["number"].clone()).collect::<Vec<_>>(), [5, 6]);

    let body = String::from_utf8(record).unwrap();
    let workspace = fixtures::json("events/record.created.json")["events"][0]["id"]["workspace_id"].clone();
    for secret in [SECRET, &"0".repeat(64), workspace.as_str().unwrap(), &body] {
        assert!(!stream.text.contains(secret), "{secret} in {}", stream.text);
    }
}

/// Waits until the delivery is accepted. What the page's stream says of its event.
async fn stored(bridge: &Bridge<dyn Bus>) -> Value {
    ready(bridge).await;
    let request = Request::keyed("a-key", fixtures::delivery("record.created"));
    assert_eq!(bridge.ask(&request).await.status_and_reason(), (200, "accepted".into()));
    Stream::open(bridge, "").await.deliveries(1).await[0]["events"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_says_where_the_brokers_have_stored_an_event() {
    let (broker, prefix) = (kafka::shared(), unique("page"));
    let bridge = Bridge::serving(config(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "kafka"),
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", broker.bootstrap()),
        ("ATTIO_BRIDGE__KAFKA__TOPICS__ENSURE", "create"),
        ("ATTIO_BRIDGE__ROUTE__PREFIX", &prefix),
    ]));
    let event = stored(&bridge.await).await;
    let record = broker.read_all(&format!("{prefix}.record")).remove(0);
    assert_eq!((&event["partition"], &event["offset"]), (&json!(record.partition), &json!(record.offset)));
    assert_eq!(event["address"], format!("{prefix}.record"));
    assert!(event.get("sequence").is_none(), "{event}");

    let (server, target) = (nats::shared(), NatsTarget::new("page"));
    let event = stored(&target.bridge(&server, &[]).await).await;
    assert_eq!(target.stored(&server).len(), 1);
    assert_eq!(event["sequence"], 1);
    assert!(event.get("offset").is_none(), "{event}");
}

#[tokio::test]
async fn quarantined_filtered_and_many_events_are_shown() {
    let bridge = Bridge::with(|config| {
        config.sources[0].filter.exclude.types = vec!["task.created".into()];
    })
    .await;
    bridge.ask(&Request::keyed("a", "[no json")).await;
    bridge.ask(&Request::keyed("b", fixtures::delivery("task.created"))).await;
    let event = fixtures::json("events/record.created.json")["events"][0].clone();
    let many = json!({ "webhook_id": "w", "events": vec![event; 130] }).to_string();
    bridge.ask(&Request::keyed("c", many)).await;
    let [quarantined, filtered, many] =
        <[Value; 3]>::try_from(Stream::open(&bridge, "").await.deliveries(3).await).unwrap();
    let event = &quarantined["events"][0];
    assert_eq!(event["type"], "dev.attio-bridge.delivery.quarantined");
    assert_eq!((&event["address"], &event["result"]), (&json!("attio.quarantine"), &json!("quarantined")));
    let event = &filtered["events"][0];
    assert_eq!((&event["type"], &event["result"]), (&json!("com.attio.task.created"), &json!("filtered")));
    assert_eq!((&event["id"], &event["address"]), (&Value::Null, &Value::Null));
    assert_eq!((many["events"].as_array().unwrap().len(), &many["more_events"]), (100, &json!(30)));
}

#[tokio::test]
async fn an_open_stream_holds_up_no_stop_and_ends_with_it() {
    let bridge = Bridge::start().await;
    let mut stream = Stream::open(&bridge, "").await;
    bridge.ask(&Request::keyed("a", fixtures::delivery("record.created"))).await;
    stream.deliveries(1).await;
    bridge.stop().await.unwrap();
    while stream.more().await {}
    assert!(stream.text.ends_with("\r\n0\r\n\r\n"), "it is complete: {}", stream.text);
}

#[tokio::test]
async fn streams_are_limited_and_leave_room_for_probes() {
    let bridge = Bridge::start().await;
    let mut streams = Vec::new();
    for _ in 0..16 {
        let mut stream = Stream::open(&bridge, "").await;
        while !stream.text.contains("retry: 1000") {
            assert!(stream.more().await, "{}", stream.text);
        }
        streams.push(stream);
    }
    assert_eq!(bridge.admin("/deliveries").await.status, 503);
    assert_eq!(bridge.admin("/readyz").await.status, 200);
}

#[tokio::test]
async fn without_the_page_there_is_neither_page_nor_stream() {
    let bridge = Bridge::with(|config| config.admin.page = false).await;
    bridge.ask(&Request::keyed("a", fixtures::delivery("record.created"))).await;
    assert_eq!(bridge.admin("/deliveries").await.status, 404);
    let root = bridge.admin("/").await;
    assert!(root.body.starts_with(b"/livez"), "{root:?}");
}

#[tokio::test]
async fn the_page_loads_nothing_and_may_do_little() {
    let bridge = Bridge::start().await;
    let page = bridge.admin("/").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    let rules: BTreeMap<&str, &str> = policy.split("; ").map(|rule| rule.split_once(' ').unwrap()).collect();
    assert_eq!(rules["default-src"], "'none'");
    assert_eq!(rules["connect-src"], "'self'");
    assert_eq!(rules["frame-ancestors"], "'none'");
    let html = String::from_utf8(page.body).unwrap();
    let outside = html.replace("http://www.w3.org/2000/svg", "");
    assert!(!outside.contains("http://") && !outside.contains("https://") && !outside.contains("//cdn"));
}

/// Where a picture of the page is left, for people.
fn picture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{name}.png"))
}

/// Clears the list of errors, of which only those may be that a stream or a request found nobody.
fn only_of_the_outage(errors: Vec<String>) {
    for error in errors {
        assert!(error.contains("net::ERR_") || error.contains("Failed to load resource"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_filters_pauses_and_comes_back_after_a_restart() {
    let address = free_address();
    let start = |bus| {
        let address = address.clone();
        async move {
            let mut config = config(&[]);
            config.admin.listen = address;
            Bridge::over(bus, config).await
        }
    };
    let bus = Memory::new();
    let bridge = start(bus.clone()).await;
    let send = async |bridge: &Bridge, key: &str, event: &str| {
        bridge.ask(&Request::keyed(key, fixtures::delivery(event))).await;
    };
    send(&bridge, "before", "record.created").await;
    let mut page = Browser::open(&format!("http://{address}/"));
    page.show_as(1600, 1000, "light");
    let rows = "document.querySelectorAll('#rows tr').length";
    let is = |count: usize| format!("{rows} === {count}");
    page.until(&is(1));
    page.until("document.querySelector('#link').textContent === 'Live'");
    page.until("document.querySelector('#ready').textContent === 'Ready'");
    let shows =
        |id: &str, text: &str| format!("document.querySelector('{id}').textContent.includes('{text}')");
    for (card, text) in [("#events", "1published"), ("#events-why", "1 received"), ("#dedup", "1ids")] {
        page.until(&shows(card, text));
    }
    for chart in ["#chart-rate", "#chart-answer", "#chart-publish"] {
        page.until(&format!("document.querySelector('{chart} svg[role=img] .path') !== null"));
    }

    send(&bridge, "task", "task.created").await;
    bridge.ask(&Request::unsigned("{}")).await;
    bus.script([Answer::Fail(PublishError::Unavailable { detail: "the broker is away".into() })]);
    send(&bridge, "failed", "note.created").await;
    page.until(&is(4));
    let first = "document.querySelector('#rows tr').textContent";
    page.until(&format!("{first}.includes('503 broker_unavailable') && {first}.includes('note.created')"));

    // Filter: by words, by answer.
    page.press("/");
    page.write("task.cr");
    page.until(&is(1));
    page.press("Escape");
    page.until(&is(4));
    page.click("[data-show=refused]");
    page.until(&format!("{rows} === 1 && {first}.includes('401 signature_missing')"));
    page.click("[data-show='']");
    page.until(&is(4));

    // Pause: what arrives waits.
    page.press("Escape");
    page.press("p");
    send(&bridge, "paused", "list.created").await;
    page.until("document.querySelector('#flow').textContent === 'Paused: 1 new'");
    assert_eq!(page.evaluate(rows), 4);
    page.click("#pause");
    page.until(&is(5));

    // The detail of a delivery, by keyboard.
    page.evaluate("document.activeElement.blur()");
    page.press("ArrowDown");
    page.press("ArrowDown");
    page.press("Enter");
    let detail = "document.querySelector('#detail').textContent";
    page.until(&format!(
        "{detail}.includes('com.attio.note.created') && {detail}.includes('the broker is away')"
    ));
    page.press("ArrowUp");
    page.until(&format!("{detail}.includes('attio.list') && {detail}.includes('accepted')"));
    page.press("Escape");
    page.until("document.querySelector('#detail').hidden && document.activeElement.matches('#rows tr')");
    assert_eq!(page.errors(), Vec::<String>::new());

    // A restart: the page says so, and goes on by itself.
    bridge.stop().await.unwrap();
    page.until("document.querySelector('#link').textContent === 'Reconnecting'");
    let bridge = start(bus).await;
    send(&bridge, "after", "workspace-member.created").await;
    page.until("document.querySelector('#link').textContent === 'Live'");
    page.until(&format!("{rows} === 6 && {first}.includes('workspace-member.created')"));
    only_of_the_outage(page.errors());

    // Nothing is wider than the window, at any size and in any colours.
    for (width, height) in [(390, 844), (1600, 1000)] {
        for colours in ["light", "dark"] {
            page.show_as(width, height, colours);
            page.until(&format!("document.documentElement.scrollWidth <= {width}"));
            page.picture(&picture(&format!("{width}-{colours}")));
        }
    }
    page.click("#rows tr");
    page.until(&format!(
        "!document.querySelector('#detail').hidden && {detail}.includes('workspace-member')"
    ));
    page.picture(&picture("1600-open"));

    // On a small window the detail covers the list, and has the focus.
    page.press("Escape");
    page.show_as(390, 844, "dark");
    page.until("document.activeElement.matches('#rows tr')");
    page.press("Enter");
    page.until("document.activeElement.matches('#detail button')");
    page.press("ArrowDown");
    page.until(&format!(
        "{detail}.includes('attio.list') && document.activeElement.matches('#detail button')"
    ));
    page.until("document.documentElement.scrollWidth <= 390");
    page.picture(&picture("390-open"));
    page.press("Enter");
    page.until("document.querySelector('#detail').hidden && document.activeElement.matches('#rows tr')");
    assert_eq!(page.errors(), Vec::<String>::new());
}
