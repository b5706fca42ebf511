//! Attio's score limit on queries: one for all apps of a workspace, so that it can be used up by others.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::scene::{SETTLE, Scene};
use super::trouble::tell_together;
use crate::support::attio::KEY;
use crate::support::faults::Seen;
use crate::support::wait::eventually_blocking;

/// The most queries within ten seconds.
const MOST: usize = 4;

/// What another app asks for, and nobody else here.
const OF_THE_OTHER: &str = "/v2/objects/companies/records/query";

/// Whether the query of another app is answered.
fn other_app_asks(scene: &Scene) -> bool {
    let url = scene.attio.url();
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
    let head = format!(
        "POST {OF_THE_OTHER} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\nconnection: close"
    );
    write!(stream, "{head}\r\ncontent-length: 2\r\n\r\n{{}}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.starts_with("HTTP/1.1 200")
}

#[test]
fn score_that_another_app_has_used_up_is_waited_for() {
    let scene = Scene::kafka();
    scene.attio.store().score.most = MOST;
    let _program = scene.run();
    // Two are read with one query. One is read alone, which has no score.
    let ids = ["Ada", "Grace"].map(|name| scene.person(name));
    let limited = || scene.metrics().get("state_rate_limited_total", &[]);
    eventually_blocking("it is refused again and again", || {
        while other_app_asks(&scene) {}
        tell_together(&scene, "record.updated", &ids);
        std::thread::sleep(SETTLE);
        limited() >= 2.0
    });
    for (id, name) in ids.iter().zip(["Ada Lovelace", "Grace Hopper"]) {
        scene.rename(id, name);
        scene.tell("record.updated", id);
    }
    scene.eventually_named(&ids[0], "Ada Lovelace");
    scene.eventually_named(&ids[1], "Grace Hopper");
    scene.eventually_done();

    let mut asked = scene.attio.seen();
    asked.retain(|seen| seen.target != OF_THE_OTHER);
    let refused = asked.iter().filter(|seen| seen.status == 429).count() as f64;
    let reads = scene.metrics().get("state_reads_total", &[("kind", "record"), ("result", "rate_limited")]);
    assert_eq!((limited(), reads), (refused, refused));
    assert_eq!(scene.attio.store().rate.refused, 0, "it is not the score that is used up");
    for pair in asked.windows(2) {
        let [Seen { status: 429, retry_after, .. }, next] = pair else { continue };
        let until = retry_after.expect("an HTTP date");
        assert!(next.at >= until, "asked before it may: {pair:?}");
    }
}
