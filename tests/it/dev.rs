//! The verb `dev`, run as a program.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Lines};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use attio_bridge::catalog::EVENT_TYPES;
use attio_bridge::fake_attio::post::{Poster, Reply};
use attio_bridge::signing::{Payload, Scheme, SignedRequest};
use serde_json::Value;

use crate::support::{kafka, nats};

/// On a free port.
const ON_A_FREE_PORT: [&str; 3] = ["dev", "--listen", "127.0.0.1:0"];

/// Settings that would break `dev` if it used them.
const POISON: [(&str, &str); 4] = [
    ("ATTIO_BRIDGE_CONFIG", "/no/such/file"),
    ("ATTIO_WEBHOOK_SECRET", "short"),
    ("ATTIO_BRIDGE__BUS__TYPE", "nats"),
    ("ATTIO_BRIDGE__ADMIN__LISTEN", "nowhere"),
];

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attio-bridge"));
    command.args(ON_A_FREE_PORT).args(arguments).env_clear().envs(POISON).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// A run whose lines the test reads as they come.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the program runs");
        let lines = BufReader::new(child.stdout.take().expect("its output is piped")).lines();
        Self { child, lines }
    }

    fn next_line(&mut self) -> Value {
        json(&self.lines.next().expect("another line").expect("a line"))
    }

    /// The next line of that kind.
    fn next(&mut self, kind: &str) -> Value {
        std::iter::repeat_with(|| self.next_line()).find(|line| line["kind"] == kind).expect("endless")
    }

    /// Sends SIGTERM.
    fn stop(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    fn code(mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }
}

/// Posts once.
fn post(url: &str, request: &SignedRequest) -> Reply {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(Poster::plain("test").post(url, request)).expect("an answer")
}

/// Posts an event that the run did not send.
fn post_as_guest(start: &Value) {
    let text = |name: &str| start[name].as_str().expect("text");
    let body = r#"{"event_type":"task.created","id":{"task_id":"guest"}}"#;
    let now = time::OffsetDateTime::now_utc();
    let reply = post(text("webhooks"), &Payload::new(Scheme::Attio, body).sign(text("secret"), now));
    assert_eq!((reply.status, &*reply.reason()), (200, "accepted"));
}

#[test]
fn once_arrives_exactly_as_expected() {
    let output = run(&["--once"]);
    let (screen, logs) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{screen}\n{logs}");
    assert!(screen.contains("Everything arrived exactly as expected."), "{screen}");
    assert_eq!(logs, "");
    for entry in EVENT_TYPES {
        assert!(screen.contains(entry.name), "{}", entry.name);
    }
    assert!(!screen.contains('\x1b'), "colour in a pipe");
    let wide = screen.lines().find(|line| line.chars().count() > 80);
    assert_eq!(wide, None);
}

#[test]
fn json_prints_each_delivery_and_a_summary() {
    let output = run(&["--once", "--json"]);
    let lines: Vec<Value> = text(&output.stdout).lines().map(json).collect();
    assert_eq!(output.status.code(), Some(0), "{lines:#?}");
    let [start, deliveries @ .., summary] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((&start["kind"], &summary["kind"]), (&"start".into(), &"summary".into()));
    assert!(deliveries.iter().all(|line| line["kind"] == "delivery" && line["as_expected"] == true));
    assert_eq!(summary["total"]["deliveries"], deliveries.len());
    let read: usize = deliveries.iter().map(|line| line["events"].as_array().unwrap().len()).sum();
    assert_eq!(summary["total"]["events_read"], read);
    assert_eq!(summary["account"]["balances"], true);
    assert_eq!(summary["as_expected"], true);
    let statuses: Vec<_> = deliveries.iter().map(|line| line["status"].as_u64().unwrap()).collect();
    assert!(statuses.contains(&200) && statuses.contains(&401), "{statuses:?}");
}

#[test]
fn mix_sends_the_requested_kinds() {
    let output = run(&["--once", "--json", "--mix", "forged,batch"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let lines: Vec<Value> = text(&output.stdout).lines().map(json).collect();
    let [_, deliveries @ .., _] = &lines[..] else { panic!("{lines:?}") };
    let groups: BTreeSet<&str> = deliveries.iter().map(|line| line["group"].as_str().unwrap()).collect();
    assert_eq!(groups, ["not genuine", "several events"].into());
    let wrong = run(&["--mix", "everything"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("timestamped"), "{}", text(&wrong.stderr));
}

#[test]
fn once_reports_events_of_others_as_differences() {
    let mut run = Running::start(&["--once", "--json", "--rate", "40"]);
    let start = run.next("start");
    let mut sent = run.next("delivery")["counts"]["events"].as_u64().unwrap_or(0);
    post_as_guest(&start);
    let summary = loop {
        let line = run.next_line();
        match line["kind"].as_str() {
            Some("summary") => break line,
            _ => sent += line["counts"]["events"].as_u64().unwrap_or(0),
        }
    };
    assert!(sent >= EVENT_TYPES.len() as u64, "{summary}");
    assert_eq!(summary["as_expected"], false);
    let differences = summary["differences"].as_array().unwrap();
    let has = |text: &str| differences.iter().any(|found| found.as_str().unwrap().contains(text));
    assert!(has("com.attio.task.created") && has("was not sent"), "{differences:?}");
    let received = format!("metrics: {} events received, expected {sent}", sent + 1);
    assert!(has(&received), "{received}: {differences:?}");
    assert_eq!(run.code(), Some(3));
}

#[test]
fn without_once_it_runs_until_sigterm_and_accepts_events_of_others() {
    let mut run = Running::start(&["--json", "--rate", "50"]);
    let start = run.next("start");
    run.next("delivery");
    post_as_guest(&start);
    assert_eq!(run.next("stray")["event"]["key"], "guest");
    run.stop();
    let summary = run.next("summary");
    assert_eq!(summary["as_expected"], true, "{summary}");
    assert_eq!(summary["from_others"], 1);
    assert_eq!(run.code(), Some(0));
}

/// Events of others (here: of an earlier run) are ignored on a shared broker.
#[test]
fn once_on_a_shared_kafka() {
    let broker = kafka::shared();
    let bus = format!("kafka://{}", broker.bootstrap());
    for run_number in 1..=2 {
        let output = run(&["--once", "--json", "--bus", &bus]);
        let last = text(&output.stdout).lines().last().map(json);
        assert_eq!(output.status.code(), Some(0), "{run_number}: {last:?} {}", text(&output.stderr));
    }
}

#[test]
fn taken_listen_address_exits_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_attio-bridge"));
    let output = command.args(["dev", "--once", "--listen", &address]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&address), "{}", text(&output.stderr));
}

#[test]
fn invalid_arguments_exit_2() {
    for wrong in
        [&["--rate", "0"][..], &["--bus", "amqp://x:1"], &["--bus", "kafka://x"], &["--config", "/some/file"]]
    {
        assert_eq!(run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn once_on_nats() {
    let server = nats::Server::start();
    // The second time the stream has the events of the first.
    for _ in 0..2 {
        let output = run(&["--once", "--bus", &server.url()]);
        let screen = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{screen}{}", text(&output.stderr));
        assert!(screen.contains("Everything arrived exactly as expected."), "{screen}");
        assert!(!screen.contains("nats --server"), "no hints with --once: {screen}");
    }
}

#[test]
fn bus_stdout_prints_events_on_stdout_and_the_rest_on_stderr() {
    let output = run(&["--once", "--bus", "stdout"]);
    let (events, screen) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{screen}");
    assert!(screen.contains("Everything arrived exactly as expected."), "{screen}");
    let count = events.lines().map(json).filter(|event| event["specversion"] == "1.0").count();
    let output = run(&["--once", "--bus", "stdout", "--json"]);
    let lines: Vec<Value> = text(&output.stderr).lines().map(json).collect();
    let [start, .., summary] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((&start["kind"], &start["stdout"]), (&"start".into(), &"".into()));
    // Every round has the same number of events.
    assert_eq!(summary["total"]["events_expected"], count, "{summary}");
    assert_eq!(text(&output.stdout).lines().count(), count);
    assert!(count >= EVENT_TYPES.len(), "{count}");
}

/// The hints fit into 80 columns.
#[test]
fn without_once_the_screen_begins_with_hints() {
    let mut child = command(&["--rate", "20"]).stdout(Stdio::piped()).spawn().expect("the program runs");
    let lines = BufReader::new(child.stdout.take().expect("its output is piped")).lines();
    let head: Vec<String> =
        lines.map_while(Result::ok).take_while(|line| !line.starts_with("time")).collect();
    child.kill().and_then(|()| child.wait()).expect("it ends");
    for hint in ["kcat -b", "openssl dgst", "attio-bridge webhooks list", "/v2/objects/people/records"] {
        assert!(head.iter().any(|line| line.contains(hint)), "{hint}: {head:#?}");
    }
    assert!(head.iter().all(|line| line.chars().count() <= 80), "{head:#?}");
}

/// What is refused while the broker is down is retried, and nothing is missing in the end.
#[test]
fn deliveries_are_retried_through_a_broker_outage() {
    let broker = kafka::Broker::start();
    let mut run =
        Running::start(&["--json", "--rate", "20", "--bus", &format!("kafka://{}", broker.bootstrap())]);
    run.next("delivery");
    broker.kill();
    // An attempt that the kill interrupts may end by Attio's timeout, which is not an error of the bridge.
    let failed = std::iter::repeat_with(|| run.next("try")).find(|one| one["status"] == 503);
    let failed = failed.expect("endless");
    broker.restart();
    let delivered =
        std::iter::repeat_with(|| run.next("delivery")).find(|one| one["number"] == failed["number"]);
    let delivered = delivered.expect("endless");
    assert!(delivered["tries"].as_u64() > Some(1), "{delivered}");
    assert_eq!((&delivered["status"], &delivered["as_expected"]), (&200.into(), &true.into()), "{delivered}");
    run.stop();
    let summary = run.next("summary");
    assert_eq!(summary["as_expected"], true, "{summary}");
    assert!(summary["tried_again"].as_u64() > Some(0), "{summary}");
    assert_eq!(run.code(), Some(0));
}

/// The fake Attio's API answers, and events of changes made there are delivered.
#[test]
fn fake_attio_answers_and_delivers_events_of_api_changes() {
    let mut run = Running::start(&["--json", "--rate", "1"]);
    let start = run.next("start");
    let text = |name: &str| start[name].as_str().expect("text");
    let mut list = Command::new(env!("CARGO_BIN_EXE_attio-bridge"));
    list.args(["webhooks", "list", "--json"]).env_clear().env("ATTIO_API_KEY", text("attio_key"));
    let output = list.env("ATTIO_BRIDGE__ATTIO__API_URL", text("attio")).output().expect("the program runs");
    let webhooks = json(&self::text(&output.stdout));
    assert_eq!(webhooks.as_array().map(Vec::len), Some(1), "{webhooks}");
    assert_eq!(webhooks[0]["status"], "active");

    run.next("delivery");
    let url = format!("{}/v2/objects/people/records", text("attio"));
    let headers = vec![("Authorization", format!("Bearer {}", text("attio_key")))];
    let reply = post(&url, &SignedRequest { headers, body: r#"{"data":{"values":{}}}"#.into() });
    assert_eq!(reply.status, 200);
    let record = json(&self::text(&reply.body))["data"]["id"]["record_id"].clone();
    assert_eq!(run.next("stray")["event"]["key"], record);
    run.stop();
    assert_eq!(run.next("summary")["as_expected"], true);
}

#[test]
fn unreachable_broker_is_awaited_and_named() {
    let unreachable_address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("nats://{unreachable_address}");
    let mut run = Running::start(&["--json", "--bus", &url]);
    let waiting = run.next("waiting");
    assert_eq!(waiting["nats"], url);
    assert!(waiting["readyz"].as_str().is_some_and(|text| !text.is_empty()), "{waiting}");
    run.stop();
    run.code();
}
