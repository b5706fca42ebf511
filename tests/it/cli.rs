//! The program from outside: help, streams and exit codes.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Output;

use crate::setup::SECRET;
use crate::support::program::run_bare as program;

fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit code")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

const GOOD: [(&str, &str); 2] = [("ATTIO_WEBHOOK_SECRET", SECRET), ("ATTIO_BRIDGE__BUS__TYPE", "stdout")];

#[test]
fn exit_codes() {
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], i32);
    let table: [Case<'_>; 15] = [
        (&["--help"], &[], 0),
        (&["serve", "--help"], &[], 0),
        (&["--version"], &[], 0),
        (&["version"], &[], 0),
        (&[], &[], 2),
        (&["zebra"], &[], 2),
        (&["serve", "--zebra"], &[], 2),
        (&["serve", "--bus", "zebra"], &[], 2),
        (&["check"], &GOOD, 0),
        (&["check"], &[], 78),
        (&["config"], &GOOD, 0),
        (&["config"], &[], 78),
        (&["serve"], &[], 78),
        (&["serve", "--bus", "nats"], &GOOD, 78),
        (&["check", "--config", "/no/such/file"], &GOOD, 78),
    ];
    for (arguments, environment, expected) in table {
        let output = program(arguments, environment);
        assert_eq!(code(&output), expected, "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn help_lists_verbs_exit_codes_and_variables() {
    let output = program(&["--help"], &[]);
    let help = text(&output.stdout);
    let words = [
        "serve",
        "check",
        "config",
        "healthcheck",
        "version",
        "--config",
        "ATTIO_BRIDGE_CONFIG",
        "78 configuration",
        "ATTIO_WEBHOOK_SECRET",
        "ATTIO_WEBHOOK_SECRET_PREVIOUS",
        "ATTIO_API_KEY",
        "RUST_LOG",
        "NO_COLOR",
    ];
    for word in words {
        assert!(help.contains(word), "{word} is not in the help:\n{help}");
    }
    assert!(output.stderr.is_empty());
    assert!(program(&[], &[]).stdout.is_empty(), "unrequested help is a message");
}

#[test]
fn data_goes_to_stdout_and_messages_to_stderr() {
    let output = program(&["config"], &GOOD);
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("environment ATTIO_BRIDGE__BUS__TYPE"));
    assert!(!text(&output.stdout).contains(SECRET));
    let output = program(&["check"], &[]);
    assert!(output.stdout.is_empty());
    assert!(text(&output.stderr).contains("bus.type: required"));
}

#[test]
fn config_and_version_print_json() {
    let output = program(&["config", "--json"], &GOOD);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["http.listen"]["value"], "0.0.0.0:8080");
    assert_eq!(json["http.listen"]["from"], "default");
    assert_eq!(json["sources.attio.secrets.default"]["value"], "***");
    let output = program(&["version", "--json"], &[]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert!(json["revision"].is_string() && json["librdkafka"].is_string());
}

#[test]
fn flags_override_variables_and_are_named_in_errors() {
    let environment = [GOOD[0], GOOD[1], ("ATTIO_BRIDGE__HTTP__LISTEN", "127.0.0.1:0")];
    let output = program(&["serve", "--listen", "nowhere", "--admin-listen", "nowhere-else"], &environment);
    let message = text(&output.stderr);
    assert_eq!(code(&output), 78, "{message}");
    assert!(message.contains("(flag --listen)") && message.contains("(flag --admin-listen)"), "{message}");
}

#[test]
fn config_file_from_the_environment() {
    let output = program(&["check"], &[("ATTIO_BRIDGE_CONFIG", "/no/such/file")]);
    assert_eq!(code(&output), 78);
    let message = text(&output.stderr);
    assert!(
        message.contains("/no/such/file") && message.contains("environment ATTIO_BRIDGE_CONFIG"),
        "{message}"
    );
}

/// Answers one request with a status and a body; returns the address and the request.
fn answer_once(status: &'static str, body: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = [0; 1024];
        let read = stream.read(&mut request).expect("a request");
        let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        text(&request[..read])
    });
    (address, asked)
}

#[test]
fn healthcheck_requests_readyz_of_the_admin_listener() {
    for (status, expected) in [("200 OK", 0), ("503 Service Unavailable", 1)] {
        let (address, asked) = answer_once(status, "");
        let every = address.replace("127.0.0.1", "0.0.0.0");
        let variables = [("ATTIO_BRIDGE__ADMIN__LISTEN", &*every), ("HTTP_PROXY", "http://127.0.0.1:1")];
        let output = program(&["healthcheck"], &variables);
        assert_eq!(code(&output), expected);
        assert_eq!(text(&output.stderr).lines().count(), 1, "{}", text(&output.stderr));
        assert!(output.stdout.is_empty());
        let request = asked.join().expect("a request");
        assert!(request.starts_with("GET /readyz HTTP/1.1\r\n"), "{request}");
    }
}

#[test]
fn a_body_without_an_end_is_an_error() {
    for verb in [&["sign", "/dev/zero"][..], &["explain", "/dev/zero"]] {
        let output = program(verb, &GOOD);
        assert!(!output.status.success(), "{verb:?}");
        assert!(text(&output.stderr).contains("larger than 256 MiB"), "{verb:?}: {}", text(&output.stderr));
    }
}

#[test]
fn healthcheck_prints_why_the_bridge_is_not_ready() {
    let (address, asked) =
        answer_once("503 Service Unavailable", "bus: kafka: no topic attio.record \u{1b}[2J\n");
    let output = program(&["healthcheck", "--url", &format!("http://{address}/readyz")], &[]);
    assert_eq!(code(&output), 1);
    let message = text(&output.stderr);
    assert!(message.contains("answered 503: bus: kafka: no topic attio.record"), "{message}");
    assert!(!message.contains('\u{1b}'), "{message}");
    asked.join().expect("a request");
}

#[test]
fn healthcheck_with_url_and_without_an_answer() {
    let (address, asked) = answer_once("200 OK", "");
    let output = program(&["healthcheck", "--url", &format!("http://{address}/livez")], &[]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert!(asked.join().expect("a request").starts_with("GET /livez "));
    let output = program(&["healthcheck", "--url", &format!("http://{address}/livez")], &[]);
    assert_eq!(code(&output), 1);
    assert!(text(&output.stderr).contains("did not answer"));
    assert_eq!(code(&program(&["healthcheck", "--url", "ftp://x"], &[])), 2);
}

/// Runs the program with its standard output at a file.
fn into_file(arguments: &[&str], file: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_attio-bridge"));
    let file = std::fs::OpenOptions::new()
        .write(file != "/dev/zero")
        .read(true)
        .open(file)
        .expect("it can be opened");
    command.args(arguments).env_clear().envs(variables.iter().copied()).stdout(file);
    command.stdin(std::process::Stdio::null()).output().expect("the program runs")
}

#[test]
fn data_that_cannot_be_written_is_a_failure() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a written file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (body, head) =
        (write("body", "{}"), write("head", "POST /webhooks/attio HTTP/1.1\r\nHost: a\r\n\r\n"));
    let (url, _server) = answer_once("200 OK", "");
    let url = format!("http://{url}/webhooks/attio");
    let table: [&[&str]; 20] = [
        &["--help"],
        &["-h"],
        &["--version"],
        &["help", "serve"],
        &["serve", "--help"],
        &["webhooks", "list", "--help"],
        &["version"],
        &["version", "--json"],
        &["config"],
        &["config", "--json"],
        &["config", "--schema"],
        &["check"],
        &["check", "--json"],
        &["check", "--connect"],
        &["completions", "bash"],
        &["man"],
        &["sign", &body],
        &["sign", &body, "--json"],
        &["send", &url, &body],
        &["explain", "--headers", &head, "--body", &body],
    ];
    for arguments in table {
        let output = into_file(arguments, "/dev/full", &GOOD);
        let message = text(&output.stderr);
        assert_ne!(code(&output), 0, "{arguments:?}: {message}");
        let told = "error: cannot write to standard output: No space left on device\n";
        assert!(message.ends_with(told), "{arguments:?}: {message}");
    }
    let kafka =
        [GOOD[0], ("ATTIO_BRIDGE__BUS__TYPE", "kafka"), ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", "k:1")];
    for arguments in [&["topics"][..], &["topics", "--json"], &["topics", "--format", "strimzi"]] {
        let output = into_file(arguments, "/dev/full", &kafka);
        assert_eq!(code(&output), 1, "{arguments:?}: {}", text(&output.stderr));
    }
    // Not open for writing.
    let output = into_file(&["config"], "/dev/zero", &GOOD);
    assert_eq!(code(&output), 1);
    assert!(text(&output.stderr).contains("cannot write to standard output: Bad file descriptor\n"));
}

#[test]
fn closed_pipe_is_no_failure() {
    let program = env!("CARGO_BIN_EXE_attio-bridge");
    for verb in ["--help", "config", "config --schema", "man", "completions bash"] {
        let script =
            format!("set -o pipefail; '{program}' {verb} | true; '{program}' {verb} | sed q > /dev/null");
        let mut command = std::process::Command::new("bash");
        let output = command.args(["-c", &script]).env_clear().envs(GOOD).output().expect("bash runs");
        assert_eq!((code(&output), text(&output.stderr)), (0, String::new()), "{verb}");
    }
}

#[test]
fn help_of_a_verb_by_the_verb_help() {
    for words in [&["check"][..], &["webhooks"], &["webhooks", "list"], &["quarantine", "show"]] {
        let by_verb = program(&[&["help"], words].concat(), &[]);
        let by_flag = program(&[words, &["--help"]].concat(), &[]);
        assert_eq!(code(&by_verb), 0, "{words:?}: {}", text(&by_verb.stderr));
        assert_eq!(text(&by_verb.stdout), text(&by_flag.stdout), "{words:?}");
    }
    assert_eq!(program(&["help"], &[]).stdout, program(&["--help"], &[]).stdout);
}

#[test]
fn misspelled_verbs_are_suggested() {
    let table: [(&[&str], Option<&str>); 12] = [
        (&["dve"], Some("dev")),
        (&["sgin"], Some("sign")),
        (&["tial"], Some("tail")),
        (&["serv"], Some("serve")),
        (&["Check"], Some("check")),
        (&["health"], Some("healthcheck")),
        (&["topic", "--json"], Some("topics")),
        (&["webhooks", "lsit"], Some("list")),
        (&["quarantine", "shwo", "1"], Some("show")),
        (&["--config", "x", "wacth"], Some("watch")),
        (&["help", "dve"], Some("dev")),
        (&["zebra"], None),
    ];
    for (arguments, meant) in table {
        let output = program(arguments, &[]);
        let message = text(&output.stderr);
        assert_eq!(code(&output), 2, "{arguments:?}: {message}");
        let tip = message.lines().find(|line| line.contains("tip: "));
        let expected = meant.map(|verb| format!("'{verb}'"));
        assert_eq!(tip.is_some(), meant.is_some(), "{arguments:?}: {message}");
        assert!(
            expected.is_none_or(|verb| tip.is_some_and(|tip| tip.contains(&verb))),
            "{arguments:?}: {message}"
        );
    }
}

#[test]
fn check_prints_json_with_and_without_problems() {
    let json = |output: &Output| -> serde_json::Value {
        assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let good = program(&["check", "--json"], &GOOD);
    assert_eq!(code(&good), 0);
    assert_eq!(json(&good), serde_json::json!({ "result": "ok", "problems": [], "warnings": [] }));

    let warned = [GOOD[0], GOOD[1], ("ATTIO_BRIDGE_LOG_LEVEL", "debug")];
    for (arguments, expected) in [(&["check", "--json"][..], 0), (&["check", "--json", "--strict"], 3)] {
        let output = program(arguments, &warned);
        assert_eq!(code(&output), expected, "{arguments:?}");
        let found = json(&output);
        assert_eq!(found["result"], "warning");
        assert_eq!(found["warnings"][0]["key"], "ATTIO_BRIDGE_LOG_LEVEL");
        assert_eq!(found["warnings"][0]["from"], "environment ATTIO_BRIDGE_LOG_LEVEL");
    }
    assert_eq!(code(&program(&["check", "--strict"], &warned)), 3);
    assert_eq!(code(&program(&["check", "--strict"], &GOOD)), 0);

    let bad = [GOOD[0], ("ATTIO_BRIDGE__BUS__TYPE", "zebra")];
    for arguments in [&["check", "--json"][..], &["check", "--json", "--connect"]] {
        let output = program(arguments, &bad);
        assert_eq!(code(&output), 78, "{arguments:?}");
        let found = json(&output);
        assert_eq!((&found["result"], &found["problems"][0]["key"]), (&"failed".into(), &"bus.type".into()));
        let message = found["problems"][0]["message"].as_str().expect("a text");
        assert!(message.starts_with("expects one of \"kafka\""), "{message}");
    }
    let connected = json(&program(&["check", "--json", "--connect"], &GOOD));
    assert_eq!((&connected["bus"], &connected["result"]), (&"stdout".into(), &"ok".into()));
    assert_eq!(connected["checks"].as_array().map(Vec::len), Some(1));
}

/// `check --connect` on a terminal of so many columns; the program is given a broker that is not there.
fn check_on_terminal(columns: usize, variables: &[(&str, &str)]) -> String {
    let typed =
        format!("stty cols {columns} rows 50 && '{}' check --connect", env!("CARGO_BIN_EXE_attio-bridge"));
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &typed, "/dev/null"]).stdin(std::process::Stdio::null());
    script.env_clear().env("PATH", std::env::var_os("PATH").expect("there is a path"));
    let output = script.envs(variables.iter().copied()).output().expect("script, of util-linux, runs");
    assert_eq!(code(&output), 3, "{output:?}");
    text(&output.stdout).replace("\r\n", "\n")
}

#[test]
fn check_connect_is_as_wide_as_its_terminal_and_one_line_a_row_in_a_pipe() {
    let variables = [
        GOOD[0],
        ("ATTIO_BRIDGE__BUS__TYPE", "kafka"),
        ("ATTIO_BRIDGE__KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1"),
    ];
    let piped = program(&["check", "--connect"], &variables);
    assert_eq!(code(&piped), 3, "{}", text(&piped.stderr));
    let piped = text(&piped.stdout);
    let rows: Vec<_> = piped.lines().skip(2).take_while(|line| !line.is_empty()).collect();
    assert!(!rows.is_empty() && rows.iter().all(|row| !row.starts_with(' ')), "{piped}");
    assert!(rows.iter().any(|row| row.chars().count() > 80), "long enough to be wrapped: {piped}");
    assert!(!piped.contains('\u{1b}') && !piped.contains("os error"), "{piped}");
    for columns in [60, 80, 200] {
        let shown = check_on_terminal(columns, &[&variables[..], &[("NO_COLOR", "1")]].concat());
        assert!(shown.lines().all(|line| line.chars().count() <= columns), "{columns}: {shown}");
        let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
        assert_eq!(words(&shown), words(&piped), "{columns}");
    }
    assert!(check_on_terminal(80, &variables).contains("\u{1b}[31mfailed"));
}
