//! `tail` on real brokers: output in either content mode, where it starts, and that it leaves nothing on
//! the broker.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use attio_bridge::pipeline::publish::Bus;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::support::bridge::Bridge;
use crate::support::kafka::Broker;
use crate::support::kafka::security::wrong::{self, Wrong};
use crate::support::kafka::security::{self, Door, Operation, Topics};
use crate::support::kafka::variables::variables as by_kafka;
use crate::support::nats::Server;
use crate::support::nats::bench::stream_name;
use crate::support::ports::free_address;
use crate::support::program::{Program, Variables, lines, on_terminal, printed, run, variables};
use crate::support::real_bus;
use crate::support::request::Request;
use crate::support::wait::{PATIENCE, eventually, eventually_blocking};
use crate::support::{kafka, nats, unique};

/// A bus of a bridge and its variables.
enum RealBus {
    Kafka { broker: Arc<Broker>, variables: Variables },
    Nats { server: Arc<Server>, stream: String, variables: Variables },
}

impl RealBus {
    fn kafka(mode: &str) -> Self {
        let broker = kafka::shared();
        let variables = real_bus::kafka(&broker, &unique("tail"), mode);
        Self::Kafka { broker, variables }
    }

    fn nats(mode: &str) -> Self {
        let (server, stream) = (nats::shared(), stream_name("tail"));
        let variables = real_bus::nats(&server, &stream, &unique("tail"), mode);
        Self::Nats { server, stream, variables }
    }

    fn all() -> [Self; 4] {
        [Self::kafka("structured"), Self::kafka("binary"), Self::nats("structured"), Self::nats("binary")]
    }

    fn variables(&self) -> &Variables {
        match self {
            Self::Kafka { variables, .. } | Self::Nats { variables, .. } => variables,
        }
    }

    async fn bridge(&self) -> Bridge<dyn Bus> {
        real_bus::bridge(self.variables()).await
    }

    fn has_no_reader_state(&self) {
        let left = match self {
            Self::Kafka { broker, .. } => broker.groups(),
            Self::Nats { server, stream, .. } => server.consumers(stream),
        };
        let left: Vec<_> = left.iter().filter(|name| name.contains("attio-bridge")).collect();
        assert!(left.is_empty(), "left on the broker: {left:?}");
    }
}

/// With odd white space, numbers and a line end.
fn event(kind: &str, id: &str, record: &str) -> String {
    format!(
        "{{\"event_type\":\"{kind}\" ,\n\"id\":{{\"workspace_id\":\"ws\",\"object_id\":\"o\",\"record_id\":\"{record}\",\
         \"attribute_id\":\"a\",\"event_id\":\"{id}\"}},\"big\":12345678901234567890.0,\"text\":\"\\u00e9 é\"}}"
    )
}

async fn publish(bridge: &Bridge<dyn Bus>, bodies: &[String]) {
    for body in bodies {
        assert_eq!(bridge.ask(&Request::keyed("the key", body)).await.status, 200);
    }
}

fn ids(text: &str) -> Vec<String> {
    let mut ids: Vec<_> =
        lines(text).iter().map(|line| line["id"].as_str().expect("an id").to_owned()).collect();
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_prints_structured_json_lines_in_either_content_mode() {
    for bus in RealBus::all() {
        let bridge = bus.bridge().await;
        publish(&bridge, &[event("record.updated", "one", "r")]).await;
        let text = printed(&["tail", "--from", "beginning", "--count", "1"], bus.variables());
        assert_eq!(text.lines().count(), 1, "{text}");
        let data = event("record.updated", "one", "r").replace('\n', " ");
        assert!(text.contains(&format!("\"data\":{data}")), "byte for byte: {text}");
        let line = &lines(&text)[0];
        let expected = [
            ("specversion", "1.0"),
            ("id", "one"),
            ("type", "com.attio.record.updated"),
            ("source", "https://attio.com/workspaces/ws"),
            ("subject", "objects/o/records/r"),
            ("datacontenttype", "application/json"),
            ("partitionkey", "r"),
        ];
        for (name, value) in expected {
            assert_eq!(line[name], value, "{name}: {text}");
        }
        assert!(line["recordedtime"].is_string(), "{text}");
        bus.has_no_reader_state();
    }
}

/// As on the dead-letter topic of a share group: the broker copies key and value, and none of the record's headers.
#[test]
fn structured_events_without_their_headers_are_read() {
    let (broker, prefix) = (kafka::shared(), unique("bare"));
    let variables = real_bus::kafka(&broker, &prefix, "structured");
    let producer: BaseProducer = broker.client().create().unwrap();
    let quarantined = r#"{"specversion":"1.0","id":"q","type":"dev.attio-bridge.delivery.quarantined",
        "time":"2026-11-24T10:00:00.000Z","reason":"not_json","data_base64":"eA=="}"#;
    let event = r#"{"specversion":"1.0","id":"e","type":"com.attio.record.updated","data":{}}"#;
    for (category, value) in [("record", event), ("record", "{}"), ("quarantine", quarantined)] {
        let topic = format!("{prefix}.{category}");
        if broker.partitions(&topic).is_none() {
            broker.create_topic(&topic, 1, &[]);
        }
        assert!(producer.send(BaseRecord::<str, str>::to(&topic).payload(value)).is_ok());
        producer.flush(PATIENCE).unwrap();
    }
    let read = printed(&["tail", "--from", "beginning", "--count", "2", "--json"], &variables);
    assert_eq!(ids(&read), ["e", "q"]);
    let list = printed(&["quarantine", "list", "--json"], &variables);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&list).unwrap()[0]["id"], "q");
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_flags_filter_events() {
    for bus in [RealBus::kafka("structured"), RealBus::nats("binary")] {
        let bridge = bus.bridge().await;
        publish(
            &bridge,
            &[
                event("record.created", "a", "r1"),
                event("record.updated", "b", "r2"),
                event("note.created", "c", "r3"),
            ],
        )
        .await;
        assert_eq!(bridge.ask(&Request::keyed("bad", "no JSON")).await.status, 200);
        let tail = |more: &[&str], count: &str| {
            let arguments = [&["tail", "--from", "beginning", "--count", count], more].concat();
            printed(&arguments, bus.variables())
        };
        assert_eq!(ids(&tail(&["--category", "record"], "2")), ["a", "b"]);
        assert_eq!(ids(&tail(&["--category", "record,note", "--json"], "3")), ["a", "b", "c"]);
        assert_eq!(ids(&tail(&["--type", "record.updated"], "1")), ["b"]);
        assert_eq!(ids(&tail(&["--type", "com.attio.note.*"], "1")), ["c"]);
        assert_eq!(ids(&tail(&["--record", "r1"], "1")), ["a"]);
        let quarantined = lines(&tail(&["--category", "quarantine"], "1"));
        assert_eq!(quarantined[0]["reason"], "not_json");
        let since = printed(&["tail", "--from", "1h", "--count", "4"], bus.variables());
        assert_eq!(lines(&since).len(), 4);
        bus.has_no_reader_state();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_on_a_terminal_has_a_heading_and_fits_it() {
    let bus = RealBus::nats("structured");
    let bridge = bus.bridge().await;
    let record = "891dcbfc-9141-415d-9b2a-2238a6cc012d";
    publish(
        &bridge,
        &[event("activity-attribute.created", "1", record), event("record.updated", "2", record)],
    )
    .await;
    assert_eq!(bridge.ask(&Request::keyed("bad", "no JSON")).await.status, 200);
    for columns in [40, 60, 80, 120, 200] {
        let shown = on_terminal(columns, &["tail", "--from", "beginning", "--count", "3"], bus.variables());
        let shown: Vec<&str> = shown.lines().filter(|line| !line.starts_with("reading")).collect();
        assert!(shown[0].starts_with("time (UTC)   type"), "{shown:#?}");
        assert!(shown.iter().all(|line| line.chars().count() <= columns), "{columns}: {shown:#?}");
        assert_eq!(shown.len(), 4, "{shown:#?}");
        // The columns begin where the heading says, and what is cut is marked.
        let key = shown[0].find("key");
        for (line, first) in [(shown[1], 'a'), (shown[2], '8')] {
            assert!(key.is_none_or(|key| line.chars().nth(key) == Some(first)), "{columns}: {shown:#?}");
        }
        if columns <= 80 {
            assert!(shown[2].ends_with('…') && shown[1].contains("activity-attribute.c…"), "{shown:#?}");
        }
    }
}

#[test]
fn unknown_event_types_are_refused_with_the_nearest() {
    let table = [
        ("record.foo", "record."),
        ("recrod.updated", "record.updated"),
        ("com.attio.note.create", "note.created"),
        ("task.created,task.updatd", "task.updated"),
        ("records.*", "no such event type"),
        ("*", "no such event type"),
    ];
    for (wrong, nearest) in table {
        let output = run(&["tail", "--type", wrong], &variables(&[("BUS__TYPE", "stdout")]));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {said}");
        assert!(said.contains(nearest) && said.contains("--category unknown"), "{wrong}: {said}");
    }
    for good in ["record.*", "com.attio.note-content.updated", "dev.attio-bridge.delivery.quarantined"] {
        let output = run(&["tail", "--type", good], &variables(&[("BUS__TYPE", "stdout")]));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("no such event type"), "{good}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_follows_new_events_and_sigint_exits_0() {
    for bus in [RealBus::kafka("binary"), RealBus::nats("structured")] {
        let bridge = bus.bridge().await;
        publish(&bridge, &[event("record.created", "old", "r")]).await;
        let mut program = Program::start(&["tail"], bus.variables());
        // Something that comes after it began to read shows that it has.
        let mut sent = 0;
        let first = std::thread::scope(|scope| {
            let line = scope.spawn(|| program.line());
            while !line.is_finished() {
                sent += 1;
                let body = event("record.created", &format!("new-{sent}"), "r");
                tokio::task::block_in_place(|| {
                    tokio::runtime::Handle::current().block_on(publish(&bridge, &[body]));
                });
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            line.join().expect("a line")
        });
        assert!(first["id"].as_str().is_some_and(|id| id.starts_with("new-")), "not the old one: {first}");
        program.signal("INT");
        assert_eq!(program.end().0, Some(0));
        bus.has_no_reader_state();
    }
}

/// Beside another consumer of the same topic, measured in events of one trickle: `tail` is never further behind than
/// that consumer reads in 1.5 s, while it searches for new topics several times; and the trickle does not delay its end.
#[tokio::test(flavor = "multi_thread")]
async fn tail_on_kafka_never_pauses_and_ends_during_a_trickle() {
    const EVENTS: usize = 130;
    let (broker, prefix) = (kafka::shared(), unique("steady"));
    let variables = real_bus::kafka(&broker, &prefix, "structured");
    let bridge = Arc::new(real_bus::bridge(&variables).await);
    let mut program = Program::start(&["tail", "--from", "beginning"], &variables);
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let trickle = tokio::spawn({
        let (bridge, stop, sent) = (Arc::clone(&bridge), Arc::clone(&stop), Arc::clone(&sent));
        async move {
            while !stop.load(Ordering::Relaxed) {
                let number = sent.load(Ordering::Relaxed) + 1;
                publish(&bridge, &[event("record.created", &number.to_string(), "r")]).await;
                sent.store(number, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    let mut other = Command::new("kcat")
        .args(["-b", broker.bootstrap(), "-C", "-u", "-q", "-t", &format!("{prefix}.record")])
        .args(["-o", "beginning", "-f", "%o\n"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("tests/install.sh installs kcat");
    let read_by_other = Arc::new(AtomicUsize::new(0));
    let reads = Arc::clone(&read_by_other);
    std::thread::spawn({
        let offsets = BufReader::new(other.stdout.take().expect("piped")).lines();
        let read = Arc::clone(&read_by_other);
        move || {
            offsets.map_while(Result::ok).for_each(|_| {
                read.fetch_add(1, Ordering::Relaxed);
            })
        }
    });
    let (mut program, behind, allowed) = tokio::task::spawn_blocking(move || {
        let (started, mut behind) = (Instant::now(), Vec::new());
        while behind.len() < EVENTS {
            let line = program.line();
            let number: usize = line["id"].as_str().and_then(|id| id.parse().ok()).expect("a number");
            behind.push(read_by_other.load(Ordering::Relaxed).saturating_sub(number));
        }
        let allowed = (EVENTS as f64 * 1.5 / started.elapsed().as_secs_f64()).ceil() as usize;
        (program, behind, allowed)
    })
    .await
    .expect("it prints every event");
    assert!(behind.iter().all(|behind| *behind <= allowed), "events behind kcat: {behind:?}, not {allowed}");
    assert!(reads.load(Ordering::Relaxed) > EVENTS / 2, "kcat reads the same events");
    let before = sent.load(Ordering::Relaxed);
    program.signal("INT");
    let (code, said) = tokio::task::spawn_blocking(move || program.end()).await.expect("it ends");
    let meanwhile = sent.load(Ordering::Relaxed) - before;
    assert_eq!(code, Some(0), "{said}");
    assert!(meanwhile <= 2 * allowed, "it ended after {meanwhile} more events");
    stop.store(true, Ordering::Relaxed);
    trickle.await.expect("it is published");
    other.kill().and_then(|()| other.wait()).expect("it ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_reads_topics_created_later() {
    let variables = real_bus::kafka(&kafka::shared(), &unique("later"), "structured");
    let mut program = Program::start(&["tail"], &variables);
    program.listens();
    let bridge = real_bus::bridge(&variables).await;
    publish(&bridge, &[event("record.created", "one", "r")]).await;
    assert_eq!(program.line()["id"], "one");
    program.signal("TERM");
    assert_eq!(program.end().0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_has_no_gap_after_a_nats_restart() {
    let (server, stream) = (Arc::new(Server::start()), stream_name("back"));
    let variables = real_bus::nats(&server, &stream, &unique("back"), "structured");
    let bus = RealBus::Nats { server: Arc::clone(&server), stream, variables };
    let bridge = bus.bridge().await;
    publish(&bridge, &[event("record.created", "before", "r")]).await;
    let mut program = Program::start(&["tail", "--from", "beginning"], bus.variables());
    assert_eq!(program.line()["id"], "before");
    server.kill();
    server.restart();
    eventually("it is accepted", || async {
        bridge.ask(&Request::keyed("k", event("record.created", "after", "r"))).await.status == 200
    })
    .await;
    assert_eq!(program.line()["id"], "after");
    program.signal("INT");
    assert_eq!(program.end().0, Some(0));
    bus.has_no_reader_state();
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_says_that_its_output_cannot_be_written() {
    let bus = RealBus::nats("structured");
    let bridge = bus.bridge().await;
    publish(&bridge, &[event("record.created", "one", "r")]).await;
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_attio-bridge"));
    command.args(["tail", "--from", "beginning"]).env_clear().envs(bus.variables().iter().cloned());
    let output = command.env("ATTIO_WEBHOOK_SECRET", "0".repeat(64)).stdout(full).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.ends_with("error: cannot write to standard output: No space left on device\n"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_ends_when_its_stdout_is_closed() {
    let bus = RealBus::nats("structured");
    let bridge = bus.bridge().await;
    publish(&bridge, &[event("record.created", "one", "r"), event("record.created", "two", "r")]).await;
    let mut program = Program::start(&["tail", "--from", "beginning"], bus.variables());
    program.line();
    program.close_stdout();
    for n in 0..3 {
        publish(&bridge, &[event("record.created", &format!("more-{n}"), "r")]).await;
    }
    assert_eq!(program.end().0, Some(0));
    eventually_blocking("nothing is left", || match &bus {
        RealBus::Nats { server, stream, .. } => server.consumers(stream).is_empty(),
        RealBus::Kafka { .. } => true,
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_read_acl_is_enough_for_tail_and_its_absence_is_reported() {
    let (secured, prefix) = (security::shared(), unique("guarded"));
    let record = format!("{prefix}.record");
    secured.broker.create_topic(&record, 1, &[]);
    let reader = secured.login(Door::SaslTls, "PLAIN", security::SECOND_USER, security::PASSWORD);
    let reader = by_kafka(&reader, &prefix);
    let allow = |operation| secured.grant(security::SECOND_USER, operation, Topics::Prefixed(&prefix));
    allow(Operation::Describe);
    let mut denied = Program::start(&["tail", "--from", "beginning", "--count", "1"], &reader);
    let (code, said) = denied.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("grant this user Read on the topics"), "{said}");

    allow(Operation::Read);
    let bridge = real_bus::bridge(&real_bus::kafka(&secured.broker, &prefix, "structured")).await;
    publish(&bridge, &[event("record.created", "one", "r")]).await;
    assert_eq!(ids(&printed(&["tail", "--from", "beginning", "--count", "1"], &reader)), ["one"]);
    assert!(secured.broker.groups().iter().all(|group| !group.contains("attio-bridge")));
}

#[test]
fn every_kafka_connection_error_is_reported_with_its_cause() {
    let secured = security::shared();
    let check_error = |Wrong { options, words, .. }: Wrong| {
        let output = run(&["tail"], &by_kafka(&options, "attio"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{options:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
        assert!(!said.contains("wrong-password"), "{said}");
    };
    std::thread::scope(|scope| {
        for way in wrong::ways(&secured) {
            scope.spawn(move || check_error(way));
        }
    });
}

#[test]
fn unreadable_bus_is_a_clear_error() {
    let address = free_address();
    let kafka = variables(&[("BUS__TYPE", "kafka"), ("KAFKA__BOOTSTRAP_SERVERS", &address)]);
    let nats = variables(&[("BUS__TYPE", "nats"), ("NATS__SERVERS", &format!("nats://{address}"))]);
    let server = nats::shared();
    let no_stream = variables(&[
        ("BUS__TYPE", "nats"),
        ("NATS__SERVERS", &server.url()),
        ("NATS__STREAM__NAME", &stream_name("none")),
    ]);
    let stdout = variables(&[("BUS__TYPE", "stdout")]);
    let table = [
        (kafka, 1, ["kafka cannot be read: ", &*address]),
        (nats, 1, ["nats cannot be read: ", &*address]),
        (no_stream, 1, ["nats cannot be read: stream none-", "not found"]),
        (stdout, 2, ["bus.type", "stdout"]),
    ];
    for (variables, code, parts) in table {
        let output = run(&["tail"], &variables);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
        assert!(output.stdout.is_empty());
    }
    for wrong in [["--from", "yesterday"], ["--category", "people"], ["--count", "0"]] {
        let output = run(&["tail", wrong[0], wrong[1]], &Variables::new());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {output:?}");
    }
}
