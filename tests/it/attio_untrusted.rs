//! Answers of Attio's API are not trusted: an echoed key is not shown, escape sequences reach no terminal, values do
//! not become configuration, and neither pages nor bodies without end are read.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use data_encoding::BASE64;
use serde_json::{Value, json};

use crate::support::attio::{Attio, KEY, Ran, program};
use crate::support::faults::Fault;

const URL: &str = "https://hooks.example.com/webhooks/attio";

/// Escape sequences, DEL, C1, bidirectional and invisible characters, and line ends.
const HOSTILE: &str =
    "a\u{1b}[31m\u{1b}]0;t\u{7}\u{7f}\u{9b}2J\u{202e}\u{2066}\u{200f}\u{200b}\u{2028}\u{feff}\r\nerror: b";

#[track_caller]
fn assert_printable(what: &str, ran: &Ran) {
    for text in [&ran.stdout, &ran.stderr] {
        let is_unsafe = |c: char| (c.is_control() && c != '\n') || (HOSTILE.contains(c) && !c.is_ascii());
        assert_eq!(text.chars().find(|c| is_unsafe(*c)), None, "{what}: {text:?}");
        assert!(!text.lines().any(|line| line == "error: b"), "{what}: {text:?}");
    }
}

fn error_body(text: &str) -> String {
    json!({ "status_code": 400, "type": text, "code": text, "message": text,
            "validation_errors": [{ "code": text, "path": ["data", text], "message": text }] })
    .to_string()
}

#[test]
fn error_that_echoes_the_key_does_not_show_it() {
    let attio = Attio::start();
    let percent: String = KEY.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let basic = format!("Basic {}", BASE64.encode(format!("{KEY}:").as_bytes()));
    // A request that is tried again logs why.
    let retried: &[u16] = &[429, 503];
    for (echo, more) in [
        (KEY.to_owned(), retried),
        (format!("Authorization: Bearer {KEY}"), &[]),
        (percent, &[]),
        (basic.clone(), &[]),
    ] {
        for status in [400, 401, 403, 404, 409].iter().chain(more).copied() {
            attio.faults(std::iter::repeat_n(Fault::Answer(status, error_body(&echo)), 12));
            let hasty = [("ATTIO_BRIDGE__ATTIO__TIMEOUT", "2s"), ("RUST_LOG", "trace")];
            let ran =
                attio.with(&hasty, &["delete", "b3c0de10-0000-4000-8000-000000000000", "--yes", "--json"]);
            attio.no_more_faults();
            let all = ran.stdout + &ran.stderr;
            assert!(all.contains("[API key]"), "{status}: {all}");
            assert!(
                !all.contains(KEY) && !all.contains(&echo) && !all.contains(&basic[6..]),
                "{status}: {all}"
            );
        }
    }
    // In a good answer too.
    let mut listed = listed(URL);
    listed["data"][0]["target_url"] = format!("{URL}?key={KEY}").into();
    listed["data"][0]["status"] = KEY.into();
    for arguments in [&["list"][..], &["list", "--json"], &["import"]] {
        attio.faults([Fault::Answer(200, listed.to_string())]);
        let ran = attio.webhooks(arguments).expect(0);
        assert!(!ran.stdout.contains(KEY) && ran.stdout.contains("[API key]"), "{}", ran.stdout);
    }
}

/// A page with one webhook, whose texts are all this.
fn listed(text: &str) -> Value {
    json!({ "data": [{
        "id": { "workspace_id": text, "webhook_id": text }, "target_url": text, "status": text, "created_at": text,
        "subscriptions": [
            { "event_type": text, "filter": null },
            { "event_type": "note.created", "filter": { text: text } },
            { "event_type": "task.created", "filter": { "$and": [
                { "field": text, "operator": "equals", "value": text }] } },
        ],
    }] })
}

#[test]
fn texts_of_the_api_are_escaped_in_tables_json_and_errors() {
    let attio = Attio::start();
    let config = attio.write(
        "config.toml",
        &format!(
            "[sources.attio]\n[[webhooks]]\nname = \"a\"\nsource = \"attio\"\ntarget_url = \"{URL}\"\n\
             subscriptions = [{{ event_type = \"note.created\" }}]\n"
        ),
    );
    let mut at_url = listed(HOSTILE);
    at_url["data"][0]["target_url"] = URL.into();
    for page in [listed(HOSTILE), at_url] {
        for arguments in
            [&["list"][..], &["list", "--json"], &["get", "a"], &["plan"], &["plan", "--json"], &["import"]]
        {
            attio.faults([Fault::Answer(200, page.to_string())]);
            let ran = attio.configured(&config, arguments).expect(0);
            assert_printable(&format!("{arguments:?}"), &ran);
            assert!(ran.stdout.to_lowercase().contains("202e"), "{arguments:?}: {}", ran.stdout);
        }
    }
    for status in [400, 403, 409, 503] {
        attio.faults(std::iter::repeat_n(Fault::Answer(status, error_body(HOSTILE)), 12));
        let ran = attio.webhooks(&["list"]).expect(1);
        attio.no_more_faults();
        assert_printable(&format!("{status}"), &ran);
    }
    let whoami = json!({ "active": true, "workspace_name": HOSTILE, "scope": HOSTILE });
    attio.faults([Fault::Answer(403, error_body("x")), Fault::Answer(200, whoami.to_string())]);
    assert_printable("the workspace's name", &attio.webhooks(&["list"]).expect(1));
}

#[test]
fn imported_values_do_not_become_other_configuration() {
    let attio = Attio::start();
    let value = "a\"\n]\n[http]\nlisten = \"0.0.0.0:1\"\n#\\\u{7f}\u{9b}\u{202e}\u{e0041}'''\"\"\"\r";
    attio.faults([Fault::Answer(200, listed(value).to_string())]);
    let imported = attio.webhooks(&["import"]).expect(0).stdout;
    let table: toml::Table = toml::from_str(&imported).unwrap_or_else(|error| panic!("{error}: {imported}"));
    assert_eq!(table.keys().collect::<Vec<_>>(), ["webhooks"], "{imported}");
    let webhook = &table["webhooks"][0];
    assert_eq!(webhook["target_url"].as_str(), Some(value));
    assert_eq!(webhook["subscriptions"][0]["event_type"].as_str(), Some(value));
    assert_eq!(webhook["subscriptions"][1]["filter"][value].as_str(), Some(value));
}

/// A server that answers each request by its path; what it answers is a head without `Content-Length` and a body.
fn serve(answer: impl Fn(&str, &mut TcpStream) -> std::io::Result<()> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let path = lines.next().and_then(|line| line.split(' ').nth(1).map(str::to_owned));
            lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
            // The client may have seen enough.
            let _ = answer(&path.unwrap_or_default(), &mut stream);
        }
    });
    address
}

fn list_from(server: SocketAddr) -> Ran {
    let url = format!("http://{server}");
    program(&["webhooks", "list"], &[("ATTIO_API_KEY", KEY), ("ATTIO_BRIDGE__ATTIO__API_URL", &url)])
}

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";

#[test]
fn pages_without_end_are_an_error() {
    let server = serve(|path, stream| {
        let page = listed(path).to_string();
        write!(stream, "{HEAD}{page}")
    });
    list_from(server).expect(1).mentions(&["GET /v2/webhooks", "no end after 100 pages", "attio.api_url"]);
}

#[test]
fn body_without_end_is_an_error() {
    let server = serve(|_, stream| {
        write!(stream, "{HEAD}{{\"data\":[\"")?;
        loop {
            stream.write_all(&[b'x'; 1 << 16])?;
        }
    });
    list_from(server).expect(1).mentions(&["GET /v2/webhooks", "more than", "bytes"]);
}

#[test]
fn redirect_is_not_followed_with_the_key() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    other.set_nonblocking(true).unwrap();
    let to = other.local_addr().unwrap();
    for status in [301, 302, 303, 307, 308] {
        let server = serve(move |_, stream| {
            write!(
                stream,
                "HTTP/1.1 {status} x\r\nLocation: http://{to}/{KEY}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
        });
        let ran = list_from(server).expect(1).mentions(&["a redirect", "attio.api_url"]);
        assert!(!ran.stderr.contains(KEY), "{}", ran.stderr);
    }
    assert!(other.accept().is_err(), "nobody was asked");
}
