//! Replayed requests: whatever is replayed under whatever key, every real event is published and nothing else.

use std::collections::BTreeSet;

use attio_bridge::cloudevent::Data;
use fastrand::Rng;

use crate::support::bridge::Bridge;
use crate::support::request::{Request, SECRET, sign};
use crate::support::stress;

/// A true delivery: key and body belong together. Every third body is one that was sent before.
fn honest(at: usize) -> (String, String) {
    let what = if at.is_multiple_of(3) { 0 } else { at };
    (format!("key{at}"), format!(r#"{{"webhook_id":"w","events":[{{"event_type":"x.y","what":{what}}}]}}"#))
}

#[tokio::test]
async fn no_replay_under_any_key_suppresses_a_real_event() {
    let (seed, deliveries) = (Rng::new().u64(..), stress(300, 5_000));
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let bridge = Bridge::start().await;
    let mut client = bridge.connect().await;
    for at in 0..deliveries {
        // The attacker knows every key in advance, and every body that was sent.
        for _ in 0..rng.usize(0..4) {
            let (_, captured) = honest(rng.usize(0..=at));
            let (key, _) = honest(rng.usize(0..deliveries));
            let request = match rng.u8(0..4) {
                // A delivery that was captured, under another key.
                0 if at > 0 => Request::keyed(&key, honest(rng.usize(0..at)).1),
                1 => Request::unsigned(&captured)
                    .header("Attio-Signature", sign("not the secret at all", &[captured.as_bytes()]))
                    .header("Idempotency-Key", key),
                2 => Request::unsigned(captured + " ")
                    .header("Attio-Signature", sign(SECRET, &[honest(at).1.as_bytes()]))
                    .header("Idempotency-Key", key),
                _ => Request::unsigned("{}").header("Idempotency-Key", key),
            };
            let answer = client.ask(&request).await;
            assert!(matches!(answer.status, 200 | 401), "{answer:?}");
        }
        let (key, body) = honest(at);
        let answer = client.ask(&Request::keyed(&key, &body)).await;
        assert_eq!(answer.status, 200);
        let body = answer.json();
        assert_eq!(body["published"].as_u64().unwrap() + body["duplicates"].as_u64().unwrap(), 1, "{body}");
    }
    let published: BTreeSet<(String, Vec<u8>)> = bridge
        .bus
        .stored()
        .iter()
        .map(|message| {
            let (_, key) =
                message.event.attributes().find(|(name, _)| name.name() == "correlationid").unwrap();
            let Data::Json(data) = message.event.data() else { panic!("quarantined") };
            (key.to_owned(), data.to_vec())
        })
        .collect();
    for at in 0..deliveries {
        let (key, body) = honest(at);
        let event = body.split_once('[').unwrap().1.trim_end_matches("]}").as_bytes().to_vec();
        assert!(published.contains(&(key, event)), "delivery {at} is on the bus");
    }
    assert_eq!(published.len(), bridge.bus.stored().len(), "each once");
}
