//! `explain`: each common mistake behind a 401 is diagnosed, and an explained event is what `serve`
//! publishes.

use std::process::Output;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::setup::Setup;
use crate::support::program::run_bare;
use crate::support::request::{Request, SECRET, sign};

const OTHER: &str = "another secret, of the source named other";

/// When the requests were received, and the same in Unix seconds.
const AT: &str = "2026-11-24T10:00:00Z";
const AT_SECONDS: i64 = 1_795_514_400;

const BODY: &str = "{\"webhook_id\":\"w\",\"events\":[{\"event_type\":\"task.created\",\"id\":{\"workspace_id\":\"ws\",\"task_id\":\"t-\u{eb}\"},\"n\":1.50}]}";

const GOOD: &str = r#"{"webhook_id":"w","events":[{"event_type":"task.created","id":{"workspace_id":"ws","task_id":"t1"}}]}"#;

fn configuration(setup: &Setup, more: &str) -> String {
    let text = format!(
        "[sources.attio]\nsecrets = [{{ label = \"now\", value = \"{SECRET}\" }}]\n\
         [sources.other]\nsecrets = [{{ label = \"theirs\", value = \"{OTHER}\" }}]\n\
         [bus]\ntype = \"kafka\"\n[kafka]\nbootstrap_servers = \"127.0.0.1:1\"\n{more}"
    );
    setup.write("config.toml", &text).display().to_string()
}

/// A dump of a request to source `attio`.
fn dump(request: &Request) -> Vec<u8> {
    let mut bytes = format!("POST {} HTTP/1.1\r\n", request.path).into_bytes();
    for (name, value) in &request.headers {
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&request.body);
    bytes
}

fn run(arguments: &[&str]) -> Output {
    run_bare(&[&["explain"], arguments].concat(), &[])
}

fn explained(setup: &Setup, more: &str, dump: &[u8]) -> (Option<i32>, Value) {
    let config = configuration(setup, more);
    let file = setup.folder().join("request.txt");
    std::fs::write(&file, dump).unwrap();
    let output = run(&["--config", &config, "--at", AT, "--json", &file.display().to_string()]);
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(!report.contains(SECRET) && !report.contains(OTHER), "the report has a secret: {report}");
    let json = serde_json::from_str(&report)
        .unwrap_or_else(|error| panic!("{error}: {report}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), json)
}

fn signature(value: impl Into<String>) -> Request {
    Request::unsigned(GOOD).header("Attio-Signature", value.into())
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn sign_with(key: &[u8], body: &str) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(body.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Signed over one body, sent with another.
fn altered(signed: &str, sent: &str) -> Request {
    Request::unsigned(sent).header("Attio-Signature", sign(SECRET, &[signed.as_bytes()]))
}

#[test]
fn each_common_mistake_is_diagnosed() {
    let good = sign(SECRET, &[GOOD.as_bytes()]);
    let base64 = STANDARD.encode(hex(&good));
    let seconds = AT_SECONDS.to_string();
    let stamped = |timestamp: &str| sign(SECRET, &[timestamp.as_bytes(), b".", GOOD.as_bytes()]);
    let old = (AT_SECONDS - 3600).to_string();
    let compact: Value = serde_json::from_str(BODY).unwrap();
    let pretty = serde_json::to_string_pretty(&compact).unwrap();
    let pretty_compact = serde_json::to_string(&compact).unwrap();
    let spaced = "{\"a\": [1, 2], \"b\": \"\\u00eb\"}";
    let table: Vec<(&str, Request, &str)> = vec![
        (
            "another source's secret",
            signature(sign(OTHER, &[GOOD.as_bytes()])),
            "secret `theirs` of source `other`",
        ),
        ("decoded secret", signature(sign_with(&hex(SECRET), GOOD)), "decoded as hex"),
        (
            "secret with a line end",
            signature(sign(&format!("{SECRET}\n"), &[GOOD.as_bytes()])),
            "with a line end",
        ),
        ("prefix", signature(format!("sha256={good}")), "`sha256=`"),
        ("prefix v1", signature(format!("v1={good}")), "`v1=`"),
        ("base64", signature(base64), "base64"),
        ("quotes", signature(format!("\"{good}\"")), "quotes"),
        (
            "another header",
            Request::unsigned(GOOD).header("X-Webhook-Signature", good.clone()),
            "header X-Webhook-Signature",
        ),
        ("a line end added", altered(GOOD, &format!("{GOOD}\n")), "line end was added"),
        ("a line end lost", altered(&format!("{GOOD}\n"), GOOD), "line end of the body was removed"),
        ("CR LF", altered("{\n}", "{\r\n}"), "changed to CR LF"),
        ("LF", altered("{\r\n}", "{\n}"), "changed to LF"),
        ("a mark added", altered(GOOD, &format!("\u{feff}{GOOD}")), "mark was added"),
        ("a mark lost", altered(&format!("\u{feff}{GOOD}"), GOOD), "mark of the body was removed"),
        ("made pretty", altered(&pretty_compact, &pretty), "parsed and serialized again"),
        ("made compact", altered(&pretty, &pretty_compact), "parsed and serialized again"),
        ("of Python", altered(spaced, "{\"a\":[1,2],\"b\":\"\u{eb}\"}"), "parsed and serialized again"),
        (
            "stale",
            Request::unsigned(GOOD)
                .header("X-Attio-Timestamp", old.clone())
                .header("X-Attio-Signature", stamped(&old)),
            "3600 s old",
        ),
        (
            "a timestamp beside Attio's scheme",
            signature(good.clone()).header("X-Attio-Timestamp", seconds.clone()),
            "over the body alone",
        ),
    ];
    for (name, request, words) in table {
        let setup = Setup::empty();
        let (code, report) = explained(&setup, "", &dump(&request));
        assert_eq!((code, &report["verifies"]), (Some(3), &Value::Bool(false)), "{name}: {report:#}");
        let mistakes =
            report["mistakes"].as_array().unwrap_or_else(|| panic!("{name}: nothing found: {report:#}"));
        assert_eq!(mistakes.len(), 1, "{name}: {mistakes:?}");
        assert!(mistakes[0].as_str().unwrap().contains(words), "{name}: {mistakes:?}");
    }
}

#[test]
fn source_with_the_other_scheme_is_diagnosed() {
    let setup = Setup::empty();
    let good = signature(sign(SECRET, &[GOOD.as_bytes()]));
    let config = setup.write(
        "config.toml",
        format!(
            "[sources.attio]\nscheme = \"timestamped\"\nsecrets = [{{ label = \"now\", value = \"{SECRET}\" }}]\n\
             [bus]\ntype = \"stdout\"\n"
        ),
    );
    let file = setup.write("request.txt", std::str::from_utf8(&dump(&good)).unwrap());
    let output = run(&["--config", config.to_str().unwrap(), file.to_str().unwrap()]);
    let report = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(report.contains("timestamp_missing") && report.contains("set it to \"attio\""), "{report}");
}

#[test]
fn two_mistakes_are_both_diagnosed() {
    let setup = Setup::empty();
    let signed = sign(OTHER, &[GOOD.as_bytes()]);
    let request = Request::unsigned(format!("{GOOD}\n")).header("Attio-Signature", signed);
    let (_, report) = explained(&setup, "", &dump(&request));
    assert_eq!(report["mistakes"].as_array().unwrap().len(), 2, "{report:#}");
    assert_eq!(report["events"][0]["message"]["topic"], "attio.task");
}

#[test]
fn unknown_secret_has_no_diagnosis() {
    let setup = Setup::empty();
    let request = signature(sign("a secret of another bridge", &[GOOD.as_bytes()]));
    let (code, report) = explained(&setup, "", &dump(&request));
    assert_eq!((code, &report["mistakes"]), (Some(3), &Value::Null), "{report:#}");
    assert_eq!(report["holds"], serde_json::json!(["task.created"]));
    assert_eq!(report["reason"], "signature_mismatch");
}

#[test]
fn genuine_request_shows_where_each_event_goes() {
    let setup = Setup::empty();
    let body = r#"{"webhook_id":"w","events":[{"event_type":"task.created","id":{"workspace_id":"ws","task_id":"t1"}},{"id":{}},{"event_type":"note.created","id":{"note_id":"n"}}]}"#;
    let more = "[sources.attio.filter.exclude]\ntypes = [\"note.*\"]\n";
    let (code, report) = explained(&setup, more, &dump(&Request::keyed("k", body)));
    assert_eq!((code, &report["verifies"], &report["secret"]), (Some(3), &true.into(), &"now".into()));
    let results: Vec<_> = report["events"].as_array().unwrap().iter().map(|event| &event["result"]).collect();
    assert_eq!(results, ["published", "quarantined", "filtered"]);
    let [first, broken, _] = &report["events"].as_array().unwrap()[..] else { panic!("{report:#}") };
    assert_eq!(first["message"]["key"], "t1");
    assert_eq!(first["message"]["headers"]["content-type"], "application/cloudevents+json; charset=utf-8");
    assert_eq!(broken["message"]["topic"], "attio.quarantine");
    assert_eq!(broken["unusable"], "no_event_type");
}

#[test]
fn message_headers_follow_the_content_mode() {
    let setup = Setup::empty();
    let config = configuration(&setup, "").replace("config.toml", "binary.toml");
    let text = std::fs::read_to_string(setup.folder().join("config.toml")).unwrap();
    std::fs::write(&config, text.replace("[bus]\n", "[bus]\ncontent_mode = \"binary\"\n")).unwrap();
    let file = setup.folder().join("request.txt");
    std::fs::write(&file, dump(&Request::keyed("k", GOOD))).unwrap();
    let output = run(&["--config", &config, "--json", file.to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let message = &report["events"][0]["message"];
    assert_eq!(message["headers"]["ce_type"], "com.attio.task.created");
    assert!(message["payload"].as_str().unwrap().starts_with("{\"event_type\""), "{message:#}");
    let nats = text.replace("type = \"kafka\"\n", "type = \"nats\"\ncontent_mode = \"binary\"\n");
    let nats = nats.replace("[kafka]\nbootstrap_servers = \"127.0.0.1:1\"\n", "");
    let nats = format!("{nats}[nats]\nservers = [\"127.0.0.1:1\"]\nstream.name = \"OURS\"\n");
    std::fs::write(&config, nats).unwrap();
    let output = run(&["--config", &config, "--json", file.to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let headers = &report["events"][0]["message"]["headers"];
    assert_eq!(
        (&headers["ce-partitionkey"], &headers["Nats-Expected-Stream"]),
        (&"t1".into(), &"OURS".into())
    );
    assert_eq!(headers["Nats-Msg-Id"].as_str().map(str::len), Some(32), "{headers}");
}

#[test]
fn headers_and_body_in_separate_files_and_archive_entries() {
    let setup = Setup::empty();
    let config = configuration(&setup, "");
    let request = Request::keyed("k", GOOD);
    let headers: String = request
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value)))
        .collect();
    let (head, body) = (setup.write("headers.txt", &headers), setup.write("body.json", GOOD));
    let [head, body] = [head, body].map(|path| path.display().to_string());
    let apart = run(&["--config", &config, "--headers", &head, "--body", &body, "--source", "attio"]);
    assert_eq!(apart.status.code(), Some(0), "{apart:?}");
    let unnamed = run(&["--config", &config, "--headers", &head, "--body", &body]);
    assert_eq!(unnamed.status.code(), Some(1));
    let said = String::from_utf8(unnamed.stderr).unwrap();
    assert!(said.contains("--source") && said.contains("attio, other"), "{said}");
    let of_archive: Vec<Value> = request
        .headers
        .iter()
        .map(|(name, value)| serde_json::json!({ "name": name, "value": String::from_utf8_lossy(value) }))
        .collect();
    let entry = serde_json::json!({ "request": { "method": "POST", "url": "https://h.test/webhooks/attio",
        "headers": of_archive, "postData": { "mimeType": "application/json", "text": GOOD } } });
    let archive = serde_json::json!({ "log": { "entries": [entry] } }).to_string();
    let archive = setup.write("request.har", &archive).display().to_string();
    assert_eq!(run(&["--config", &config, &archive]).status.code(), Some(0));
    let none = run(&["--config", &config, "--entry", "2", &archive]);
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("1 entries"), "{none:?}");
}

#[test]
fn reserialized_json_is_named_even_if_it_cannot_be_undone() {
    let attio = r#"{"webhook_id":"w","events":[{"event_type":"task.created","id":{"workspace_id":"ws","task_id":"t"},"n":1.5,"name":"\u00eb/","actor":{"type":"system","id":null}}]}"#;
    let attio = attio.replace("\\u00eb", "\u{eb}");
    let sorted = serde_json::from_str::<Value>(&attio).unwrap();
    let changed = [
        ("sorted", sorted.to_string()),
        ("sorted and pretty", serde_json::to_string_pretty(&sorted).unwrap()),
        (
            "sorted, spaced, escaped",
            sorted.to_string().replace("\":", "\": ").replace(",\"", ", \"").replace('\u{eb}', "\\u00eb"),
        ),
        ("numbers", attio.replace("1.5", "1.50")),
        ("exponents", attio.replace("1.5", "15e-1")),
        ("escaped slash", attio.replace("\u{eb}/", "\u{eb}\\/")),
        ("mixed escapes", attio.replace("task.created", "task\\u002ecreated").replace(":\"t\"", ": \"t\"")),
        ("odd white space", attio.replace("\"n\":", "\"n\"  :\t")),
        (
            "other order",
            attio.replace(r#""workspace_id":"ws","task_id":"t""#, r#""task_id":"t","workspace_id":"ws""#),
        ),
    ];
    for (name, sent) in changed {
        let setup = Setup::empty();
        let (code, report) = explained(&setup, "", &dump(&altered(&attio, &sent)));
        assert_eq!(code, Some(3), "{name}: {report:#}");
        let said = format!("{} {}", report["mistakes"], report["notes"]);
        assert!(said.contains("changed on the way: re-serialised JSON"), "{name}: {report:#}");
        assert!(said.contains("raw bytes"), "{name}: {report:#}");
    }
}

#[test]
fn secret_with_a_byte_order_mark_or_invisible_characters_is_diagnosed() {
    let configured = |setup: &Setup, secret: &str| {
        let text = format!(
            "[sources.attio]\nsecrets = [{{ label = \"now\", value = \"{secret}\" }}]\n[bus]\ntype = \"stdout\"\n"
        );
        setup.write("config.toml", &text).display().to_string()
    };
    let marked = format!("\u{feff}{SECRET}");
    let setup = Setup::empty();
    let output = run(&["--config", &configured(&setup, &marked), "request.txt"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(78) && said.contains("byte order mark"), "{said}");
    let table = [
        (SECRET.to_owned(), marked),
        (format!("{SECRET}\u{200b}"), SECRET.to_owned()),
        (format!("\u{a0}{SECRET}"), SECRET.to_owned()),
    ];
    for (ours, theirs) in table {
        let setup = Setup::empty();
        let config = configured(&setup, &ours);
        let file = setup.folder().join("request.txt");
        std::fs::write(&file, dump(&signature(sign(&theirs, &[GOOD.as_bytes()])))).unwrap();
        let output = run(&["--config", &config, "--json", file.to_str().unwrap()]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mistakes = report["mistakes"].as_array().unwrap_or_else(|| panic!("{ours:?}: {report:#}"));
        assert!(mistakes[0].as_str().unwrap().contains("secret `now` of source `attio`"), "{mistakes:?}");
    }
}

#[test]
fn tried_secrets_are_named_and_a_bare_body_has_a_hint() {
    let setup = Setup::empty();
    let secret = setup.write("attio.secret", SECRET).display().to_string();
    let config = setup.write("config.toml", format!(
        "[sources.attio]\nsecrets = [{{ label = \"now\", file = \"{secret}\" }}, {{ label = \"old\", value = \"{OTHER}\" }}]\n[bus]\ntype = \"stdout\"\n"
    ));
    let config = config.display().to_string();
    let request = dump(&signature(sign("a secret of another bridge", &[GOOD.as_bytes()])));
    let file = setup.folder().join("request.txt");
    std::fs::write(&file, request).unwrap();
    let output = run(&["--config", &config, file.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&format!("secret `now` of source attio, file {secret}\n")), "{text}");
    assert!(text.contains("secret `old` of source attio\n") && !text.contains("re-serialised"), "{text}");
    let body = setup.write("body.json", GOOD).display().to_string();
    let output = run(&["--config", &config, &body]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("--headers FILE --body FILE"), "{said}");
}

/// Characters that move the cursor, hide text or change its direction, one of each kind.
const UNSAFE: [char; 10] = [
    '\u{1b}', '\u{7}', '\u{7f}', '\u{9b}', '\u{202e}', '\u{2066}', '\u{200f}', '\u{200b}', '\u{2028}',
    '\u{feff}',
];

fn assert_printable(what: &str, output: &Output) {
    for text in [&output.stdout, &output.stderr] {
        let text = std::str::from_utf8(text).expect("UTF-8");
        let found = text.chars().find(|c| UNSAFE.contains(c) || (c.is_control() && *c != '\n'));
        assert_eq!(found, None, "{what}: {text:?}");
    }
}

#[test]
fn text_of_an_unsigned_request_is_escaped_in_text_json_and_errors() {
    let setup = Setup::empty();
    let config = configuration(&setup, "");
    let hostile: String = UNSAFE.iter().collect();
    let event = serde_json::json!({ "webhook_id": "w", "events": [{ "event_type": format!("a{hostile}"), "id": {} }] });
    // serde_json leaves DEL, C1 and everything outside ASCII as it is.
    let body = event.to_string();
    let unsigned = Request::unsigned(body.clone()).header("X-Sig\u{9b}nature", "00");
    let file = setup.folder().join("request.txt");
    let path = file.display().to_string();
    for request in [unsigned, Request::keyed("k", body.clone())] {
        std::fs::write(&file, dump(&request)).unwrap();
        for more in [&[][..], &["--json"]] {
            let output = run(&[&["--config", &config, &path], more].concat());
            assert_printable("a request", &output);
            assert!(String::from_utf8_lossy(&output.stdout).contains("\\u202e"), "{output:?}");
        }
    }
    std::fs::write(&file, format!("POST /webhooks/a{hostile} HTTP/1.1\r\nA: b\r\n\r\n{{}}")).unwrap();
    let output = run(&["--config", &config, &path]);
    assert_eq!(output.status.code(), Some(1));
    assert_printable("the path", &output);
}

/// The same request, explained and served: one CloudEvent, byte for byte.
#[tokio::test(flavor = "multi_thread")]
async fn explained_event_is_byte_for_byte_what_serve_publishes() {
    use crate::support::bridge::Bridge;
    let bridge = Bridge::start().await;
    let request = Request::keyed("k", GOOD);
    assert_eq!(bridge.ask(&request).await.status, 200);
    let published = bridge.bus.stored();
    let event = &published[0].event;
    let recorded = event.get(attio_bridge::cloudevent::Attribute::RecordedTime).unwrap();
    let setup = Setup::empty();
    let config = configuration(&setup, "");
    let file = setup.folder().join("request.txt");
    std::fs::write(&file, dump(&request)).unwrap();
    let output = run(&["--config", &config, "--at", recorded, "--json", file.to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let payload = report["events"][0]["message"]["payload"].as_str().unwrap();
    assert_eq!(payload.as_bytes(), attio_bridge::cloudevent::structured::encode(event));
    assert_eq!(report["events"][0]["message"]["topic"], &*published[0].destination.address);
}
