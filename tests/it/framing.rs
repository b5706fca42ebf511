//! Ambiguous heads and bodies over real sockets: refused with the bridge's own answer, counted, and nothing after
//! them is read.

use attio_bridge::pipeline::outcome::Reason;
use fastrand::Rng;

use crate::answers::check;
use crate::support::bridge::Bridge;
use crate::support::client::Client;
use crate::support::request::{Request, SECRET, sign};
use crate::support::{full_tier, scrape::Scrape};

const EMPTY: &str = r#"{"webhook_id":"w","events":[]}"#;

/// A signed delivery that must never be processed: it follows, or is inside, what is refused.
fn hidden() -> Request {
    Request::keyed("hidden", r#"{"event_type":"hidden.reached"}"#)
}

fn refusals(scrape: &Scrape) -> f64 {
    scrape.sum("deliveries_total", &[("reason", "bad_framing")])
}

/// Sends a bad request and a good one after it, in pieces that end at `cuts`, and expects one answer, a 400.
async fn refused(bridge: &Bridge, client: &mut Client, bad: &[u8], cuts: &[usize], what: &str) {
    let all = [bad, &hidden().bytes()].concat();
    let mut from = 0;
    for &cut in cuts.iter().chain(&[all.len()]) {
        client.write(&all[from..cut]).await;
        tokio::task::yield_now().await;
        from = cut;
    }
    let answer = client.try_receive().await.unwrap_or_else(|| panic!("no answer to {what}"));
    assert_eq!(answer.status, 400, "{what}: {answer:?}");
    check(Reason::BadFraming, &answer);
    assert!(client.try_receive().await.is_none(), "the request after it has no answer: {what}");
    assert_eq!(bridge.bus.attempts(), 0, "{what}");
}

#[tokio::test]
async fn ambiguous_framing_is_refused_and_the_connection_closed() {
    let bridge = Bridge::start().await;
    let length = EMPTY.len();
    let signature = sign(SECRET, &[EMPTY.as_bytes()]);
    let host = "Host: a\r\n";
    let table = [
        ("no host", String::new(), "HTTP/1.1"),
        ("two hosts", "Host: a\r\nHost: b\r\n".into(), "HTTP/1.1"),
        ("the same host twice", "Host: a\r\nhOST: a\r\n".into(), "HTTP/1.1"),
        ("two lengths", format!("{host}Content-Length: {length}\r\nContent-Length: 1\r\n"), "HTTP/1.1"),
        ("the same length twice", format!("{host}Content-Length: {length}\r\n").repeat(2), "HTTP/1.1"),
        ("a list of lengths", format!("{host}Content-Length: {length}, {length}\r\n"), "HTTP/1.1"),
        ("a signed length", format!("{host}Content-Length: +{length}\r\n"), "HTTP/1.1"),
        ("a negative length", format!("{host}Content-Length: -1\r\n"), "HTTP/1.1"),
        ("a hexadecimal length", format!("{host}Content-Length: 0x1\r\n"), "HTTP/1.1"),
        ("an empty length", format!("{host}Content-Length:\r\n"), "HTTP/1.1"),
        ("a length with a space", format!("{host}Content-Length: 1 1\r\n"), "HTTP/1.1"),
        ("a coding and chunked", format!("{host}Transfer-Encoding: gzip, chunked\r\n"), "HTTP/1.1"),
        ("a coding alone", format!("{host}Transfer-Encoding: gzip\r\n"), "HTTP/1.1"),
        ("identity", format!("{host}Transfer-Encoding: identity\r\n"), "HTTP/1.1"),
        ("an empty coding", format!("{host}Transfer-Encoding:\r\n"), "HTTP/1.1"),
        ("xchunked", format!("{host}Transfer-Encoding: xchunked\r\n"), "HTTP/1.1"),
        ("chunked twice", format!("{host}Transfer-Encoding: chunked, chunked\r\n"), "HTTP/1.1"),
        ("two codings", format!("{host}Transfer-Encoding: chunked\r\n").repeat(2), "HTTP/1.1"),
        ("a folded header", format!("{host}X-A: b\r\n c\r\n"), "HTTP/1.1"),
        ("a folded coding", format!("{host}Transfer-Encoding:\r\n chunked\r\n"), "HTTP/1.1"),
        ("a space before the first header", format!(" {host}"), "HTTP/1.1"),
        ("a space before the colon", "Host : a\r\n".into(), "HTTP/1.1"),
        ("a header without a name", format!("{host}: a\r\n"), "HTTP/1.1"),
        ("a header without a colon", format!("{host}X-A\r\n"), "HTTP/1.1"),
        ("a name that is none", format!("{host}X(A): b\r\n"), "HTTP/1.1"),
        ("a bare line feed", format!("{host}X-A: b\nX-B: c\r\n"), "HTTP/1.1"),
        ("a bare carriage return", format!("{host}X-A: b\rX-B: c\r\n"), "HTTP/1.1"),
        ("two carriage returns", format!("{host}X-A: b\r\r\n"), "HTTP/1.1"),
        ("a zero byte", format!("{host}X-A: b\0\r\n"), "HTTP/1.1"),
        ("HTTP/1.2", host.into(), "HTTP/1.2"),
        ("HTTP/2.0", host.into(), "HTTP/2.0"),
        ("HTTP in small letters", host.into(), "http/1.1"),
        ("two spaces", host.into(), " HTTP/1.1"),
        ("a word too many", host.into(), "x HTTP/1.1"),
    ];
    let count = table.len();
    for (what, headers, version) in table {
        let framed = headers.contains("-Length") || headers.contains("-Encoding");
        let ours = if framed { String::new() } else { format!("Content-Length: {length}\r\n") };
        let request = format!(
            "POST /webhooks/attio {version}\r\n{headers}{ours}Attio-Signature: {signature}\r\n\r\n{EMPTY}"
        );
        refused(&bridge, &mut bridge.connect().await, request.as_bytes(), &[], what).await;
    }
    let scrape = bridge.metrics().await;
    assert_eq!(refusals(&scrape), count as f64);
    assert_eq!(scrape.sum("deliveries_total", &[]), count as f64);
    assert_eq!(scrape.sum("events_received_total", &[]), 0.0);
}

/// A delivery in HTTP/1.0: its header fields apart from the signature, and its method.
fn http_10(method: &str, fields: &str) -> Vec<u8> {
    let signature = sign(SECRET, &[EMPTY.as_bytes()]);
    let head = format!("{method} /webhooks/attio HTTP/1.0\r\n{fields}Attio-Signature: {signature}\r\n\r\n");
    let body = if fields.contains("chunked") {
        format!("{:x}\r\n{EMPTY}\r\n0\r\n\r\n", EMPTY.len())
    } else if method == "GET" {
        String::new()
    } else {
        EMPTY.into()
    };
    [head, body].concat().into_bytes()
}

#[tokio::test]
async fn http_10_with_a_content_length_is_served_and_the_connection_is_closed() {
    let bridge = Bridge::start().await;
    let length = format!("Content-Length: {}\r\n", EMPTY.len());
    let table = [
        ("one Host", "POST", format!("Host: a\r\n{length}"), 200),
        ("no Host", "POST", length.clone(), 200),
        ("as nginx sends it", "POST", format!("Host: a\r\nConnection: close\r\n{length}"), 200),
        ("keep-alive", "POST", format!("Host: a\r\nConnection: keep-alive\r\n{length}"), 200),
        ("PUT", "PUT", length.clone(), 405),
        ("GET without a length", "GET", "Host: a\r\n".into(), 405),
        ("no signature", "POST", format!("{length}Attio-Signature: x\r\n"), 401),
    ];
    for (what, method, fields, status) in table {
        let mut client = bridge.connect().await;
        // A second request on the connection is never read.
        client.write(&[http_10(method, &fields), hidden().bytes()].concat()).await;
        let answer = client.receive().await;
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert!(answer.closes(), "{what}: {answer:?}");
        assert!(client.try_receive().await.is_none(), "{what}");
    }
    assert_eq!(bridge.bus.attempts(), 0);
    let counted = bridge.metric("deliveries_total", &[("source", "attio"), ("reason", "empty")]).await;
    assert_eq!(counted, 4.0);
}

#[tokio::test]
async fn ambiguous_http_10_is_refused_with_an_error_that_names_the_version() {
    let bridge = Bridge::start().await;
    let length = format!("Content-Length: {}\r\n", EMPTY.len());
    let table = [
        ("no length", "POST", "Host: a\r\n".into()),
        ("two lengths", "POST", length.repeat(2)),
        ("two hosts", "POST", format!("Host: a\r\nHost: a\r\n{length}")),
        ("chunked", "POST", "Host: a\r\nTransfer-Encoding: chunked\r\n".into()),
        ("chunked with a length", "POST", format!("Transfer-Encoding: chunked\r\n{length}")),
        ("a coding", "POST", format!("Transfer-Encoding: gzip\r\n{length}")),
        ("a signed length", "POST", "Content-Length: +1\r\n".into()),
    ];
    let count = table.len() as f64;
    for (what, method, fields) in table {
        let mut client = bridge.connect().await;
        client.write(&[http_10(method, &fields), hidden().bytes()].concat()).await;
        let answer = client.receive().await;
        check(Reason::BadFraming, &answer);
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains("HTTP/1.0"), "{what}: {error}");
        assert!(client.try_receive().await.is_none(), "{what}");
    }
    assert_eq!(refusals(&bridge.metrics().await), count);
    assert_eq!(bridge.bus.attempts(), 0);
}

#[tokio::test]
async fn content_length_beside_transfer_encoding_is_refused() {
    let bridge = Bridge::start().await;
    let signature = sign(SECRET, &[EMPTY.as_bytes()]);
    let both = ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"];
    for [first, second] in [[both[0], both[1]], [both[1], both[0]]] {
        let request = format!(
            "POST /webhooks/attio HTTP/1.1\r\nHost: a\r\n{first}{second}Attio-Signature: {signature}\r\n\r\n\
             {:x}\r\n{EMPTY}\r\n0\r\n\r\n",
            EMPTY.len()
        );
        refused(&bridge, &mut bridge.connect().await, request.as_bytes(), &[], first).await;
    }
    let labels = [("source", "attio"), ("reason", "bad_framing")];
    assert_eq!(bridge.metric("deliveries_total", &labels).await, 2.0, "the path is known, so the source is");
}

#[tokio::test]
async fn bytes_that_are_not_http_are_refused_at_once() {
    let bridge = Bridge::start().await;
    let table: [&[u8]; 9] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\r\n",
        b"\r\n",
        b"\n",
        b" POST /webhooks/attio HTTP/1.1\r\n",
        b"POST /webhooks/attio HTTP/1.1\n",
        b"POST  HTTP/1.1\r\n",
        b"POST /webhooks/\xe9 HTTP/1.1\r\n",
    ];
    for bytes in table {
        let mut client = bridge.connect().await;
        client.write(bytes).await;
        check(Reason::BadFraming, &client.receive().await);
        client.closed().await;
    }
    let labels = [("source", "none"), ("reason", "bad_framing")];
    assert_eq!(bridge.metric("deliveries_total", &labels).await, table.len() as f64);
}

#[tokio::test]
async fn overflowing_content_length_is_413_and_overlong_field_name_is_431() {
    let bridge = Bridge::start().await;
    let good = Request::signed(EMPTY);
    let long = good.clone().header("Content-Length", "99999999999999999999999");
    check(Reason::BodyTooLarge, &bridge.ask(&long).await);
    check(Reason::HeadersTooLarge, &bridge.ask(&good.header(&"x".repeat(2000), "y")).await);
}

#[tokio::test]
async fn malformed_chunks_are_refused_and_nothing_after_them_is_read() {
    let bridge = Bridge::start().await;
    let head = Request::signed(EMPTY).chunked(1).head();
    let size = format!("{:x}", EMPTY.len());
    let table = [
        format!("{size}\n{EMPTY}\r\n0\r\n\r\n"),
        format!("{size}\r\n{EMPTY}\n0\r\n\r\n"),
        format!("{size}\r\n{EMPTY}0\r\n\r\n"),
        format!("0x{size}\r\n{EMPTY}\r\n0\r\n\r\n"),
        format!("+{size}\r\n{EMPTY}\r\n0\r\n\r\n"),
        format!("{size} \r\n{EMPTY}\r\n0\r\n\r\n"),
        format!("{size};a\nb\r\n{EMPTY}\r\n0\r\n\r\n"),
        format!("{size};{}\r\n{EMPTY}\r\n0\r\n\r\n", "x".repeat(20_000)),
        format!("{size}\r\n{EMPTY}\r\n0\r\nA: b\n\r\n"),
        format!("ffffffffffffffff{size}\r\n{EMPTY}\r\n0\r\n\r\n"),
        format!("{size}\r\n{EMPTY}\r\n0\r\n\n"),
    ];
    for body in &table {
        let bytes = [&head, body.as_bytes()].concat();
        refused(&bridge, &mut bridge.connect().await, &bytes, &[], body).await;
    }
    assert_eq!(refusals(&bridge.metrics().await), table.len() as f64);
}

#[tokio::test]
async fn pipelined_requests_may_mix_content_length_and_chunked() {
    let bridge = Bridge::start().await;
    let mut rng = Rng::with_seed(5);
    let mut client = bridge.connect().await;
    let mut pipelined = Vec::new();
    let mut sent = 0;
    for at in 0..120 {
        let body =
            format!(r#"{{"event_type":"x.y","at":{at},"filler":"{}"}}"#, "z".repeat(rng.usize(..6000)));
        let mut request = Request::keyed(&at.to_string(), body);
        request.chunk = rng.bool().then(|| rng.usize(1..4000));
        pipelined.extend(request.bytes());
        sent += 1;
        if rng.usize(..4) > 0 {
            continue;
        }
        // In pieces of any size.
        let mut rest = &pipelined[..];
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rng.usize(1..=rest.len()));
            client.write(piece).await;
            rest = more;
        }
        for _ in 0..std::mem::take(&mut sent) {
            assert_eq!(client.receive().await.status_and_reason(), (200, "accepted".into()));
        }
        pipelined.clear();
    }
}

/// Lines that invalidate a head wherever they are inserted.
const BREAKERS: [&str; 22] = [
    "Host: b\r\n",
    "Content-Length: 0\r\n",
    "content-length:7\r\n",
    "Transfer-Encoding: chunked\r\n",
    "transfer-encoding:\tchunked \r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding: \x0bchunked\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Transfer-Encoding\r\n",
    "X: y\n",
    "X: y\r",
    "X: y\n\r\n",
    "X: y\r\r\n",
    "X: y\r\nZ\0: y\r\n",
    " X: y\r\n",
    "\tX: y\r\n",
    "X : y\r\n",
    ": y\r\n",
    "X\r\n",
    "\n",
    "\r",
    "X: \x7f\r\n",
];

/// A good head invalidated between two lines or inside one; then a body that is a request itself.
fn broken(rng: &mut Rng) -> Vec<u8> {
    let mut request = Request::signed(hidden().bytes());
    if rng.bool() {
        request = request.chunked(rng.usize(1..200));
    }
    let mut head = request.head();
    let ends: Vec<usize> = (0..head.len() - 2).filter(|at| head[*at] == b'\n').map(|at| at + 1).collect();
    if rng.usize(..4) == 0 {
        // A control character anywhere before the end.
        let at = rng.usize(..*ends.last().unwrap() - 1);
        head.insert(at, rng.choice(*b"\0\x01\x08\x0b\x1b\x7f").unwrap());
    } else {
        let at = rng.choice(&ends).unwrap();
        let breaker = rng.choice(BREAKERS).unwrap();
        head.splice(at..at, breaker.bytes());
    }
    [head, request.framed_body()].concat()
}

#[tokio::test]
async fn generated_bad_heads_are_refused_and_smuggle_no_request() {
    let cases = if full_tier() { 10_000 } else { 2_000 };
    let bridge = Bridge::start().await;
    for seed in 0..cases {
        let mut rng = Rng::with_seed(seed);
        let mut client = bridge.connect().await;
        for _ in 0..rng.usize(..3) {
            assert_eq!(client.ask(&Request::signed(EMPTY)).await.status, 200);
        }
        let bad = broken(&mut rng);
        let mut cuts: Vec<usize> = (0..rng.usize(..4)).map(|_| rng.usize(..bad.len())).collect();
        cuts.sort_unstable();
        let what = format!("case {seed}: {:?}", String::from_utf8_lossy(&bad));
        refused(&bridge, &mut client, &bad, &cuts, &what).await;
    }
    assert_eq!(bridge.bus.attempts(), 0);
    assert_eq!(refusals(&bridge.metrics().await), f64::from(u32::try_from(cases).unwrap()));
    assert_eq!(
        bridge.ask(&hidden()).await.status_and_reason(),
        (200, "accepted".into()),
        "the bridge is alive"
    );
}

#[tokio::test]
async fn mutated_requests_get_only_answers_of_the_bridge() {
    let cases = if full_tier() { 10_000 } else { 1_000 };
    let bridge = Bridge::start().await;
    for seed in 0..cases {
        let mut rng = Rng::with_seed(seed);
        let mut bytes = Request::signed(EMPTY).bytes();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..bytes.len());
            match rng.u8(..3) {
                0 => bytes[at] = rng.u8(..),
                1 => bytes.insert(at, rng.choice(*b"\r\n\t :;,/%\"<>{}|\\^`0a").unwrap()),
                _ => drop(bytes.remove(at)),
            }
        }
        let mut client = bridge.connect().await;
        client.write(&bytes).await;
        client.half_close().await;
        while let Some(answer) = client.try_receive().await {
            assert!(!answer.reason().is_empty(), "case {seed}: {answer:?}");
        }
    }
    assert_eq!(bridge.bus.attempts(), 0);
    assert_eq!(bridge.ask(&Request::signed(EMPTY)).await.status, 200, "the bridge is alive");
}
