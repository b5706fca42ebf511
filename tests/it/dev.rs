//! The verb `dev`, run as a program.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Lines};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use attio_bridge::catalog::EVENT_TYPES;
use attio_bridge::fake_attio::post::{Poster, Reply};
use attio_bridge::signing::{Payload, Scheme, SignedRequest};
use serde_json::Value;

use crate::support::terminal::Terminal;
use crate::support::wait::eventually_blocking;
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

pub fn run(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the program runs")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

pub fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// A run whose lines the test reads as they come.
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    pub fn start(arguments: &[&str]) -> Self {
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
    pub fn next(&mut self, kind: &str) -> Value {
        std::iter::repeat_with(|| self.next_line()).find(|line| line["kind"] == kind).expect("endless")
    }

    /// Sends SIGTERM.
    pub fn stop(&self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    pub fn code(mut self) -> Option<i32> {
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
    assert_eq!(groups, ["forged", "several events"].into());
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
        for subject in ["-> subject ", "-> attio.record.created ", "-> attio.list-entry.updated "] {
            assert!(screen.contains(subject), "{subject}: {screen}");
        }
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

/// What the screen shows before the first delivery; run with that `PATH`.
fn head(arguments: &[&str], path: &str) -> Vec<String> {
    let mut command = command(arguments);
    let mut child = command.env("PATH", path).stdout(Stdio::piped()).spawn().expect("the program runs");
    let lines = BufReader::new(child.stdout.take().expect("its output is piped")).lines();
    let head = lines.map_while(Result::ok).take_while(|line| !line.starts_with("time")).collect();
    child.kill().and_then(|()| child.wait()).expect("it ends");
    head
}

#[test]
fn without_once_the_screen_begins_with_commands_that_run_as_they_stand() {
    let program = Path::new(env!("CARGO_BIN_EXE_attio-bridge"));
    let folder = program.parent().unwrap().display().to_string();
    let full = program.display().to_string();
    for (path, name) in [("/usr/bin:/bin", &*full), (&*format!("/usr/bin:{folder}"), "attio-bridge")] {
        let head = head(&["--rate", "20"], path);
        let own = [format!("  {name} webhooks list"), format!("  {name} tail --bus kafka://127.0.0.1:")];
        let others = ["kcat -q -b", "openssl dgst", "%{http_code}", "/v2/objects/people/records"];
        for hint in own.iter().map(String::as_str).chain(others) {
            assert!(head.iter().any(|line| line.contains(hint)), "{hint}: {head:#?}");
        }
        // The path of the program may be of any length.
        let fits = |line: &&String| line.contains(&full) || line.chars().count() <= 80;
        assert!(head.iter().all(|line| fits(&line)), "{head:#?}");
    }
}

#[test]
fn default_port_in_use_is_named() {
    // Fails if another process has it, which is as good.
    let _taken = TcpListener::bind("127.0.0.1:8080");
    let mut command = Command::new(env!("CARGO_BIN_EXE_attio-bridge"));
    let output = command.args(["dev", "--once", "--mix", "one"]).env_clear().output().unwrap();
    let screen = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{screen}");
    let line = screen.lines().find(|line| line.contains("webhooks  http://")).expect("the address");
    assert!(line.ends_with("(port 8080 is in use)") && !line.contains(":8080/"), "{line}");
}

#[test]
fn tail_reads_the_bus_of_dev_without_a_configuration() {
    let mut dev = Running::start(&["--json", "--rate", "20"]);
    let bus = format!("kafka://{}", dev.next("start")["kafka"].as_str().expect("an address"));
    dev.next("delivery");
    let mut tail = Command::new(env!("CARGO_BIN_EXE_attio-bridge"));
    let tail =
        tail.args(["tail", "--bus", &bus, "--from", "beginning", "--count", "1"]).env_clear().envs(POISON);
    let output = tail.output().expect("the program runs");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(json(&text(&output.stdout))["specversion"], "1.0");
    dev.stop();
    dev.code();
}

/// The lines of deliveries and events in what a terminal showed.
fn traffic(shown: &str) -> Vec<&str> {
    let is_traffic = |line: &&str| line.starts_with("  -> ") || line.get(2..3) == Some(":");
    shown.lines().filter(is_traffic).collect()
}

#[test]
fn keys_pause_filter_and_show_an_event_and_the_terminal_is_restored() {
    let mut terminal = Terminal::start(80, &[&ON_A_FREE_PORT[..], &["--rate", "20"]].concat());
    terminal.shows(1, "? keys  q quit");
    terminal.shows(3, "  -> attio.");
    terminal.press("?");
    terminal.shows(1, "pause the display");
    terminal.press("d");
    terminal.shows(1, "  \"specversion\": \"1.0\"");
    terminal.shows(1, "    \"event_type\": \"");
    terminal.press("a");
    terminal.shows(2, "webhooks  http://127.0.0.1:");
    terminal.press("p");
    terminal.shows(1, "PAUSED, 1 waiting");
    let before = traffic(&terminal.text()).len();
    terminal.shows(1, "PAUSED, 5 waiting");
    assert_eq!(traffic(&terminal.text()).len(), before);
    terminal.press(" ");
    terminal.press("/dupX\x7flicate\r");
    terminal.shows(1, "/duplicate_");
    terminal.shows(1, "/duplicate  ");
    let (from, repeats) = (terminal.text().len(), terminal.text().matches("200 duplicate").count());
    terminal.shows(repeats + 1, "200 duplicate");
    let shown = terminal.text();
    let later = traffic(&shown[from..]);
    assert!(later.iter().all(|line| line.contains("200 duplicate")), "{later:?}");
    terminal.press("q");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("Everything arrived exactly as expected."), "{shown}");
    let mode = &shown[shown.rfind("speed ").expect("stty -a")..];
    assert!(mode.contains(" icanon") && mode.contains(" echo ") && !mode.contains("-isig"), "{mode}");
}

#[test]
fn ctrl_c_and_sigterm_restore_the_terminal() {
    for end_by_key in [true, false] {
        let arguments = [&ON_A_FREE_PORT[..], &["--rate", "19.5"]].concat();
        let mut terminal = Terminal::start(100, &arguments);
        terminal.shows(1, "? keys  q quit");
        terminal.shows(1, "  -> attio.");
        if end_by_key {
            terminal.press("\x03");
        } else {
            terminal.signal("TERM");
        }
        let (code, shown) = terminal.end();
        assert!(shown.contains("Everything arrived exactly as expected."), "{code:?} {shown}");
        let mode = &shown[shown.rfind("speed ").expect("stty -a")..];
        assert!(mode.contains(" icanon") && mode.contains(" echo "), "{mode}");
    }
}

#[test]
fn sigquit_restores_the_terminal() {
    let terminal = Terminal::start(100, &[&ON_A_FREE_PORT[..], &["--rate", "20"]].concat());
    terminal.shows(1, "? keys  q quit");
    eventually_blocking("single keys are read", || !terminal.is_restored());
    terminal.signal("QUIT");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(128 + 9), "{shown}");
    let mode = &shown[shown.rfind("speed ").expect("stty -a")..];
    assert!(mode.contains(" icanon") && mode.contains(" echo "), "{mode}");
}

#[test]
fn ctrl_z_restores_the_terminal_and_keys_work_after_it() {
    let mut terminal = Terminal::start(80, &[&ON_A_FREE_PORT[..], &["--rate", "20"]].concat());
    terminal.shows(1, "? keys  q quit");
    eventually_blocking("single keys are read", || !terminal.is_restored());
    terminal.press("\x1a");
    eventually_blocking("it is suspended", || terminal.is_stopped());
    assert!(terminal.is_restored());
    terminal.signal("CONT");
    eventually_blocking("single keys are read again", || !terminal.is_restored());
    terminal.press("?");
    terminal.shows(1, "pause the display");
    terminal.press("q");
    assert_eq!(terminal.end().0, Some(0));
}

#[test]
fn traffic_fits_the_terminal() {
    for columns in [60, 80, 120, 200] {
        let mut terminal = Terminal::start(columns, &[&ON_A_FREE_PORT[..], &["--rate", "50"]].concat());
        terminal.shows(40, "  -> attio.");
        terminal.press("q");
        let (_, shown) = terminal.end();
        let start = shown.find("  -> topic").expect("the head of the columns");
        let wide: Vec<&str> =
            shown[start..].lines().take_while(|line| !line.starts_with("events in")).collect();
        let wide: Vec<&&str> = wide.iter().filter(|line| line.chars().count() > columns).collect();
        assert!(wide.is_empty(), "{columns}: {wide:#?}");
        assert!(!shown.contains(" 0.0/s") && !shown.contains("-/s"), "{shown}");
        let whole_ids = traffic(&shown).iter().any(|line| line.matches('-').count() > 8);
        assert_eq!(whole_ids, columns == 200, "{columns}: {shown}");
    }
}

/// The broker dies under the screen: no log lines on it, and no failure of `dev`.
#[test]
fn killed_broker_is_shown_without_log_lines_and_named_at_the_end() {
    let broker = kafka::Broker::start();
    let bus = format!("kafka://{}", broker.bootstrap());
    let arguments = [&ON_A_FREE_PORT[..], &["--rate", "20", "--bus", &bus]].concat();
    let mut terminal = Terminal::start(80, &arguments);
    terminal.shows(3, "  -> attio.");
    broker.kill();
    terminal.shows(2, ".. retried in");
    terminal.shows(1, "broker_unavailable for ");
    terminal.press("q");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("The broker is away: what it holds cannot be read back; "), "{shown}");
    for log in [" WARN ", " ERROR ", " INFO ", "Not as expected", "WRONG"] {
        assert!(!shown.contains(log), "{log}: {shown}");
    }
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
    // The broker may take one topic before another, and is away until it takes all: what it holds is not read back then.
    for _ in 0..40 {
        run.next("delivery");
    }
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
