//! Signed bodies that are deep, long, crowded or compressed are parsed in bounded memory or refused.

use crate::support::bridge::Bridge;
use crate::support::client::Client;
use crate::support::memory::Answer;
use crate::support::request::Request;
use crate::support::served::Served;

/// Bodies that have crashed other parsers, each with the reason of its answer.
fn bodies() -> Vec<(&'static str, String, &'static str)> {
    let event = |member: &str| format!(r#"{{"event_type":"x.y","m":{member}}}"#);
    let nested = |open: &str, inner: &str, close: &str, depth: usize| {
        event(&format!("{}{inner}{}", open.repeat(depth), close.repeat(depth)))
    };
    let keys = |name: &dyn Fn(usize) -> String| {
        let members: Vec<_> = (0..90_000).map(|at| format!("\"{}\":0", name(at))).collect();
        format!("{{{}}}", members.join(","))
    };
    // Hash collisions in other languages: equal lengths, equal sums.
    let alike = |at: usize| format!("{:020b}", at).replace('0', "Aa").replace('1', "BB");
    vec![
        ("63 levels in an event", nested("[", "", "]", 63), "accepted"),
        ("64 levels in an event", nested("[", "", "]", 64), "quarantined"),
        ("65 levels alone", format!("{}{}", "[".repeat(65), "]".repeat(65)), "quarantined"),
        ("a million levels", nested("[", "", "]", 1_000_000), "quarantined"),
        ("a million objects", nested("{\"a\":", "0", "}", 500_000), "quarantined"),
        ("a million levels without an end", "[".repeat(2_000_000), "quarantined"),
        ("levels without an end in an event", event(&"[{\"a\":".repeat(300_000)), "quarantined"),
        ("512 KiB of numbers", event(&format!("[{}0]", "0,".repeat(262_144))), "accepted"),
        ("512 KiB of numbers alone", "0,".repeat(262_144), "quarantined"),
        ("a number of a million digits", event(&"7".repeat(1_000_000)), "accepted"),
        ("a text of a million escapes", event(&format!("\"{}\"", "\\u0000".repeat(300_000))), "accepted"),
        ("90,000 keys", event(&keys(&|at| format!("k{at}"))), "accepted"),
        ("90,000 times one key", event(&keys(&|_| "k".into())), "accepted"),
        ("90,000 keys alike", event(&keys(&alike)), "accepted"),
        ("90,000 keys beside the type", keys(&|at| format!("k{at}")), "quarantined"),
        (
            "90,000 keys in an id",
            format!(r#"{{"event_type":"x.y","id":{}}}"#, keys(&|at| format!("k{at}"))),
            "accepted",
        ),
        (
            "90,000 ids",
            format!(r#"{{"event_type":"x.y","id":{}}}"#, keys(&|at| format!("k{at}_id"))),
            "accepted",
        ),
        (
            "90,000 times what may be there once",
            keys(&|at| if at < 45_000 { "events" } else { "webhook_id" }.into()),
            "quarantined",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pathological_json_is_parsed_in_bounded_memory() {
    let mut served = Served::start(&[
        ("ATTIO_BRIDGE__BUS__TYPE", "stdout"),
        ("ATTIO_BRIDGE__HTTP__MAX_BODY_BYTES", "8388608"),
    ]);
    let mut out = served.stdout();
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    let mut client = Client::connect(served.http).await;
    for (name, body, reason) in bodies() {
        let (before, bytes) = (served.cpu_seconds(), body.len());
        let answer = client.ask(&Request::keyed(name, body)).await;
        assert_eq!(answer.status_and_reason(), (200, reason.into()), "{name}");
        println!("{name}: {bytes} bytes, {:.2} s of CPU", served.cpu_seconds() - before);
    }
    let peak = served.peak_mib();
    println!("peak {peak} MiB");
    assert!(peak < 128, "{peak} MiB: no tree is built of what is only passed on");
}

#[tokio::test]
async fn compressed_bodies_are_refused_and_never_decompressed() {
    let bridge = Bridge::start().await;
    bridge.bus.answer(Answer::Acknowledge);
    // An empty gzip member, and a deflate bomb's beginning: neither is decompressed.
    let bodies: [&[u8]; 2] = [
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        b"x\x9c\xed\xc1\x01",
    ];
    for body in bodies {
        for coding in ["gzip", "x-gzip", "deflate", "br", "zstd", "compress", "gzip, gzip"] {
            let request = Request::keyed("k", body).header("Content-Encoding", coding);
            assert_eq!(
                bridge.ask(&request).await.status_and_reason(),
                (415, "unsupported_media_type".into()),
                "{coding}"
            );
        }
        let request = Request::keyed("k", body).header("Transfer-Encoding", "gzip, chunked");
        assert_eq!(bridge.ask(&request).await.status_and_reason(), (400, "bad_framing".into()));
    }
    assert_eq!(bridge.bus.attempts(), 0);
}
