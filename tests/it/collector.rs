//! Traces of the program on a real Kafka, as a real OpenTelemetry Collector understands them.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::fixtures;
use crate::support::kafka::shared;
use crate::support::ports::free_address;
use crate::support::program::{lent, variables};
use crate::support::real_bus;
use crate::support::request::Request;
use crate::support::served::Served;
use crate::support::unique;
use crate::support::wait::eventually;
use crate::support::watched::Watched;
use crate::traces::{Collector, PARENT, STATE, TRACE, attributes, traced};

/// Starts one that passes on what it receives; ended when dropped.
fn collector(address: &str, to: &Collector, data: &tempfile::TempDir) -> Watched {
    let built = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/collector.sh"))
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(built.status.success(), "the collector is built");
    let configuration = json!({
        "receivers": { "otlp": { "protocols": { "http": { "endpoint": address } } } },
        "exporters": { "otlp_http": {
            "endpoint": format!("http://{}", to.address),
            "encoding": "json",
            "compression": "none",
        } },
        "service": {
            "telemetry": { "metrics": { "level": "none" } },
            "pipelines": { "traces": { "receivers": ["otlp"], "exporters": ["otlp_http"] } },
        },
    });
    let file = data.path().join("collector.yaml");
    std::fs::write(&file, configuration.to_string()).unwrap();
    let mut command = Command::new(String::from_utf8(built.stdout).unwrap().trim());
    command.arg("--config").arg(&file);
    Watched::start(&command, data.path())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "full tier: builds a collector"]
async fn a_real_collector_understands_every_span() {
    let to = Collector::start().await;
    let (address, data) = (free_address(), tempfile::tempdir().unwrap());
    let _collector = collector(&address, &to, &data);
    let broker = shared();
    let prefix = unique("traced");
    let mut all = real_bus::kafka(&broker, &prefix, "binary");
    all.extend(variables(&[("TRACES__ENDPOINT", &format!("http://{address}"))]));
    let served = Served::start(&lent(&all));
    eventually("it is ready", || async { served.probe("/readyz").await == 200 }).await;
    let delivery = Request::keyed("a-key", fixtures::delivery("record.created"));
    assert_eq!(served.ask(&traced(delivery)).await.status, 200);
    assert_eq!(served.ask(&Request::unsigned("{}")).await.status, 401);

    let spans = to.wait_for(3).await;
    let of = |kind: u8, parent: &str| {
        spans.iter().find(|span| span["kind"] == kind && span["parentSpanId"] == parent).unwrap()
    };
    let server = of(2, PARENT);
    let producer = of(4, server["spanId"].as_str().unwrap());
    for span in [server, producer] {
        assert_eq!((&span["traceId"], &span["traceState"]), (&json!(TRACE), &json!(STATE)));
        assert!(span.get("links").is_none(), "{span}");
    }
    let topic = format!("{prefix}.record");
    assert_eq!(producer["name"], format!("send {topic}"));
    let record = broker.read_all(&topic).remove(0);
    let context = format!("00-{TRACE}-{}-01", producer["spanId"].as_str().unwrap());
    for name in ["traceparent", "ce_traceparent"] {
        assert_eq!(record.header(name), Some(&*context));
    }
    for name in ["tracestate", "ce_tracestate"] {
        assert_eq!(record.header(name), Some(STATE));
    }
    // OpenTelemetry's conventions for messaging spans, and those of Kafka and of CloudEvents.
    let told = attributes(producer);
    for (name, expected) in [
        ("messaging.system", "kafka"),
        ("messaging.operation.name", "send"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", &*topic),
        ("messaging.destination.partition.id", &*record.partition.to_string()),
        ("messaging.kafka.offset", &*record.offset.to_string()),
        ("messaging.kafka.message.key", record.key()),
        ("messaging.message.id", record.header("ce_id").unwrap()),
        ("cloudevents.event_id", record.header("ce_id").unwrap()),
        ("cloudevents.event_type", "com.attio.record.created"),
    ] {
        assert_eq!(told.get(name), Some(&expected), "{name}: {told:#?}");
    }
    // Those for HTTP servers.
    let refused = spans.iter().find(|span| span.get("parentSpanId").is_none_or(|id| id == "")).unwrap();
    for (span, status) in [(server, "200"), (refused, "401")] {
        let told = attributes(span);
        assert_eq!(span["name"], "POST /webhooks/{source}");
        for (name, expected) in [
            ("http.request.method", "POST"),
            ("http.route", "/webhooks/{source}"),
            ("url.path", "/webhooks/attio"),
            ("url.scheme", "http"),
            ("http.response.status_code", status),
        ] {
            assert_eq!(told.get(name), Some(&expected), "{name}: {told:#?}");
        }
    }
    // A server's span is an error from 500 on; the code is absent where it is unset.
    assert!(refused["status"].get("code").is_none_or(|code| code == 0), "{refused}");
}
