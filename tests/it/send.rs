//! The verb `send`, run as a program.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use attio_bridge::catalog::EVENT_TYPES;
use serde_json::{Value, json};

use crate::setup::Setup;
use crate::support::certificates::Certificates;
use crate::support::ports::free_address;
use crate::support::request::SECRET;
use crate::support::served::Served;
use crate::support::tls;

const OTHER: &str = "a secret that the bridge does not have";

fn run(arguments: &[&str], secret: &str) -> Output {
    trusting(None, arguments, secret)
}

/// Trusts only the certificate authorities in a file.
fn trusting(authorities: Option<&Path>, arguments: &[&str], secret: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_attio-bridge"))
        .args(["send", "--secret-env", "SECRET"])
        .args(arguments)
        .env_clear()
        .env("SECRET", secret)
        .envs(authorities.map(|file| ("SSL_CERT_FILE", file)))
        .stdin(Stdio::null())
        .output()
        .expect("the program runs")
}

/// The exit code and the JSON. Standard error is empty, because it is not a terminal.
fn sent(arguments: &[&str], secret: &str) -> (Option<i32>, Value) {
    let output = run(&[arguments, &["--json"]].concat(), secret);
    assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    let printed = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    (output.status.code(), printed)
}

fn bridge() -> (Served, String) {
    let mut bridge = Served::start(&[("ATTIO_BRIDGE__BUS__TYPE", "stdout")]);
    let mut events = bridge.stdout();
    // Events are acknowledged only while the pipe is read.
    std::thread::spawn(move || std::io::copy(&mut events, &mut std::io::sink()));
    let url = format!("http://{}/webhooks/attio", bridge.http);
    (bridge, url)
}

/// The number of deliveries with this answer.
fn count(printed: &Value, status: u16, reason: &str) -> u64 {
    let answers = printed["answers"].as_array().unwrap().iter();
    let mut alike = answers.filter(|answer| answer["status"] == status && answer["reason"] == reason);
    alike.next().map_or(0, |answer| answer["count"].as_u64().unwrap())
}

#[test]
fn every_type_is_accepted_in_both_schemes() {
    let (_bridge, url) = bridge();
    let all: Vec<&str> = EVENT_TYPES.iter().map(|entry| entry.name).collect();
    let all = all.join(",");
    for scheme in ["attio", "timestamped"] {
        let (code, printed) = sent(&[&url, "--event", &all, "--scheme", scheme], SECRET);
        assert_eq!(code, Some(0), "{printed}");
        assert_eq!(count(&printed, 200, "accepted"), EVENT_TYPES.len() as u64, "{scheme}: {printed}");
    }
    let output = run(&[&url, "--event", "record.update"], SECRET);
    assert_eq!(output.status.code(), Some(2), "a type that is none: {output:?}");
}

#[test]
fn generated_deliveries_have_the_requested_shares() {
    let (_bridge, url) = bridge();
    let shares = ["--count", "100", "--duplicates", "20", "--batches", "10", "--broken", "5"];
    for concurrency in ["1", "8"] {
        let (code, printed) =
            sent(&[&[url.as_str(), "--concurrency", concurrency], &shares[..]].concat(), SECRET);
        assert_eq!(code, Some(0), "{printed}");
        assert_eq!((&printed["deliveries"], &printed["attempts"]), (&json!(100), &json!(100)), "{printed}");
        // A broken delivery may be the one that is repeated.
        let quarantined = count(&printed, 200, "quarantined");
        assert_eq!(count(&printed, 200, "duplicate"), 20, "{printed}");
        assert_eq!((quarantined, count(&printed, 200, "accepted")), (5, 75), "{printed}");
        let latency = |name: &str| printed["latency_ms"][name].as_f64().unwrap();
        assert!(latency("p50") <= latency("p99") && latency("p99") <= latency("max"), "{printed}");
    }
    let too_many = run(&[&url, "--count", "1", "--duplicates", "60", "--batches", "60"], SECRET);
    assert_eq!(too_many.status.code(), Some(2), "{too_many:?}");
}

#[test]
fn files_and_folders_are_sent_byte_for_byte() {
    let (_bridge, url) = bridge();
    let setup = Setup::empty();
    let event =
        |id: &str| format!("{{\"event_type\":\"task.created\",\r\n\"id\":{{\"task_id\":\"{id}\"}} }}\n\n");
    setup.write("a.json", event("t1"));
    setup.write("b.json", event("t2"));
    setup.write("notes.txt", "not sent");
    let more = setup.write("more.body", event("t3")).display().to_string();
    let folder = setup.folder().display().to_string();
    let (code, printed) = sent(&[&url, &folder, &more], SECRET);
    assert_eq!((code, count(&printed, 200, "accepted")), (Some(0), 3), "{printed}");
    let output = run(&[&url, "/no/such/file"], SECRET);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/file cannot be read"), "{output:?}");
}

#[test]
fn refusals_are_counted_by_status_and_reason() {
    let (_bridge, url) = bridge();
    let output = run(&[&url, "--event", "record.updated,note.created"], OTHER);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let row = table.lines().find(|line| line.starts_with("401")).unwrap_or_else(|| panic!("{table}"));
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["401", "unauthorized", "2"]);
    assert!(
        table.contains("p99") && table.contains("401: ") && table.contains("attio-bridge explain"),
        "{table}"
    );
    let total = table.lines().find(|line| line.starts_with("total: 2 deliveries in ")).expect("a total");
    assert!(total.ends_with("/s"), "{total}");
    assert!(!table.contains(OTHER) && !table.contains(SECRET));
}

#[test]
fn answers_that_need_it_name_the_next_step() {
    let (_bridge, url) = bridge();
    let (other, _heard) = answering(&["503 Service Unavailable"]);
    let table = [
        (url.replace("/attio", "/other"), "404: ", "/webhooks/SOURCE"),
        (url.replace("/webhooks/attio", "/"), "404: ", "/webhooks/SOURCE"),
        (format!("http://{other}/"), "503: ", "--retry"),
        (format!("http://{}/", free_address()), "no answer: ", "healthcheck"),
    ];
    for (url, status, step) in table {
        let output = run(&[&url, "--event", "record.updated"], SECRET);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.starts_with(status)).unwrap_or_else(|| panic!("{text}"));
        assert!(line.contains(step), "{line}");
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    }
}

#[test]
fn refused_connection_exits_1() {
    let url = format!("http://{}/", free_address());
    let (code, printed) = sent(&[&url, "--event", "record.created"], SECRET);
    assert_eq!(code, Some(1), "{printed}");
    assert_eq!(printed["answers"][0]["status"], Value::Null);
    assert!(printed["answers"][0]["reason"].as_str().unwrap().contains("not reached"), "{printed}");
    for url in ["ftp://example.com/", "127.0.0.1:8080"] {
        let output = run(&[url, "--event", "record.created"], SECRET);
        assert_eq!(output.status.code(), Some(2), "{url}: {output:?}");
    }
}

#[test]
fn tls_certificate_is_verified_before_sending() {
    let certificates = Certificates::make();
    let [authority, other_ca, nothing] =
        ["ca.pem", "other-ca.pem", "none.pem"].map(|name| certificates.path(name));
    let server = |name: &str| tls::serve(&certificates.path(name), r#"{"reason":"accepted"}"#);
    let send = |url: &str, authorities: &Path| {
        let arguments = [url, "--event", "record.created", "--json"];
        let output = trusting(Some(authorities), &arguments, SECRET);
        let printed = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        (output.status.code(), printed, String::from_utf8(output.stderr).expect("text"))
    };
    let good = server("server.pem");
    let (code, printed, said) = send(&good, &authority);
    assert_eq!((code, count(&printed, 200, "accepted")), (Some(0), 1), "{printed} {said}");
    let table = [
        (&good, &other_ca, "UnknownIssuer"),
        (&server("foreign.pem"), &authority, "UnknownIssuer"),
        (&server("elsewhere.pem"), &authority, "certificate not valid for name \"localhost\""),
    ];
    for (url, authorities, cause) in table {
        let (code, printed, said) = send(url, authorities);
        assert_eq!((code, &printed["attempts"]), (Some(1), &json!(1)), "{cause}: {printed} {said}");
        let reason = printed["answers"][0]["reason"].as_str().expect("a reason");
        assert!(reason.starts_with("not reached: invalid peer certificate: "), "{reason}");
        assert!(reason.contains(cause), "{cause}: {reason}");
    }
    let (code, _, said) = send(&good, &nothing);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no certificate authorities: ") && said.contains("SSL_CERT_FILE"), "{said}");
}

/// A server that gives these answers, one per connection; and the requests that it got.
fn answering(answers: &'static [&'static str]) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let requests = Arc::clone(&heard);
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut request, mut piece) = (Vec::new(), [0; 4096]);
            // Generated bodies end with their envelope.
            while !request.ends_with(b"]}") {
                let read = stream.read(&mut piece).unwrap();
                request.extend_from_slice(&piece[..read]);
            }
            requests.lock().unwrap().push(String::from_utf8(request).unwrap());
            let head = format!("HTTP/1.1 {answer}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
        }
    });
    (address, heard)
}

fn header(request: &str, name: &str) -> String {
    let prefix = format!("{name}: ");
    let mut lines = request.lines();
    let found = lines.find_map(|line| line.to_lowercase().strip_prefix(&prefix).map(str::to_owned));
    found.unwrap_or_else(|| panic!("{name} in {request}"))
}

#[test]
fn retries_have_the_same_key_until_2xx() {
    let (address, heard) = answering(&["503 Service Unavailable", "302 Found", "202 Accepted"]);
    let url = format!("http://{address}/x?y=1");
    let (code, printed) = sent(&[&url, "--event", "record.created", "--retry"], SECRET);
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!((&printed["attempts"], count(&printed, 202, "")), (&json!(3), 1), "{printed}");
    let heard = heard.lock().unwrap();
    assert!(heard.iter().all(|request| request.starts_with("POST /x?y=1 HTTP/1.1\r\n")), "{heard:?}");
    for name in ["idempotency-key", "attio-signature"] {
        assert!(heard.iter().all(|request| header(request, name) == header(&heard[0], name)), "{heard:?}");
    }
}

#[test]
fn retries_are_limited_and_off_by_default() {
    let (address, _heard) = answering(&["500 Oh", "500 Oh", "500 Oh"]);
    let url = format!("http://{address}/");
    let (code, printed) = sent(&[&url, "--event", "record.created"], SECRET);
    assert_eq!((code, &printed["attempts"]), (Some(3), &json!(1)), "{printed}");
    let (code, printed) = sent(&[&url, "--event", "record.created", "--retry=1"], SECRET);
    assert_eq!((code, &printed["attempts"], count(&printed, 500, "")), (Some(3), &json!(2), 1), "{printed}");
}
