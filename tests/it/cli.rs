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
