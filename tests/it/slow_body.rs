//! Clients that announce bodies and do not send them, or that occupy the admin listener: they do not keep permits
//! or connections from good clients.

use std::time::Duration;

use crate::support::bridge::Bridge;
use crate::support::client::Client;
use crate::support::memory::Answer;
use crate::support::request::Request;
use crate::support::wait::eventually;

const BODY: usize = 256 * 1024;
const PERMITS: usize = 4;

/// A good delivery of the largest size.
fn large(at: usize) -> Request {
    let mut body = format!(r#"{{"event_type":"x.y","at":{at}}}"#).into_bytes();
    body.resize(BODY, b' ');
    Request::keyed(&at.to_string(), body)
}

/// A bridge with few permits. A body keeps its reservation for an eighth of the body timeout.
async fn narrow(deliveries: usize, body_timeout: Duration) -> Bridge {
    Bridge::with(|config| {
        config.http.max_body_bytes = BODY;
        config.http.max_in_flight = deliveries;
        config.http.max_in_flight_bytes = PERMITS * BODY;
        config.http.body_timeout = body_timeout;
        config.http.answer_timeout = Duration::from_secs(60);
    })
    .await
}

/// Connections that have sent a head and three bytes of the body.
async fn announce(bridge: &Bridge, request: impl Fn(usize) -> Request, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for at in 0..count {
        let mut client = bridge.connect().await;
        client.write(&request(at).head()).await;
        client.write(b"   ").await;
        clients.push(client);
    }
    clients
}

#[tokio::test]
async fn request_without_signature_is_401_before_its_body_and_takes_no_permit() {
    let bridge = narrow(PERMITS, Duration::from_secs(8)).await;
    let unsigned = |at: usize| {
        let request = large(at).without("Attio-Signature");
        if at.is_multiple_of(2) { request } else { request.header("Attio-Signature", "x") }
    };
    for client in &mut announce(&bridge, unsigned, 10 * PERMITS).await {
        assert_eq!(client.receive().await.status_and_reason(), (401, "unauthorized".into()));
        assert_eq!(bridge.ask(&large(0)).await.status, 200, "a permit is free for a good one");
    }
    let metrics = bridge.metrics().await;
    for result in ["signature_missing", "signature_malformed"] {
        let half = (5 * PERMITS) as f64;
        assert_eq!(metrics.sum("deliveries_total", &[("reason", result)]), half);
        assert_eq!(metrics.sum("signature_verifications_total", &[("result", result)]), half);
    }
}

#[tokio::test]
async fn slow_bodies_give_up_their_reservation_to_prompt_ones() {
    for deliveries in [PERMITS, 100] {
        let bridge = narrow(deliveries, Duration::from_secs(2)).await;
        let forged =
            |at: usize| large(at).without("Attio-Signature").header("Attio-Signature", "0".repeat(64));
        let mut slow = announce(&bridge, forged, PERMITS).await;
        eventually("a good one is accepted while they wait", || async {
            bridge.ask(&large(0)).await.status == 200
        })
        .await;
        for client in &mut slow {
            assert_eq!(client.receive().await.status_and_reason(), (408, "body_timeout".into()));
        }
    }
}

#[tokio::test]
async fn slow_body_is_accepted_if_a_permit_is_free_when_it_completes() {
    let bridge = narrow(PERMITS, Duration::from_secs(8)).await;
    let mut slow = bridge.connect().await;
    let request = large(7);
    slow.write(&request.head()).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    slow.write(&request.body).await;
    assert_eq!(slow.receive().await.status_and_reason(), (200, "accepted".into()));

    let mut late = bridge.connect().await;
    late.write(&large(8).head()).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    // Meanwhile all permits are acquired.
    bridge.bus.answer(Answer::Late);
    let mut others = Vec::new();
    for at in 100..100 + PERMITS {
        let mut client = bridge.connect().await;
        client.send(&large(at)).await;
        others.push(client);
    }
    eventually("they are being published", || async { bridge.bus.waiting() == PERMITS }).await;
    late.write(&large(8).body).await;
    assert_eq!(late.receive().await.status_and_reason(), (503, "overloaded".into()));
    bridge.bus.release();
    for client in &mut others {
        assert_eq!(client.receive().await.status, 200);
    }
    bridge.bus.answer(Answer::Acknowledge);
    for at in 200..200 + 2 * PERMITS {
        assert_eq!(bridge.ask(&large(at)).await.status, 200, "every permit was returned");
    }
}

#[tokio::test]
async fn idle_connections_do_not_block_probes_of_the_admin_listener() {
    let bridge = Bridge::start().await;
    let mut probe = Request::unsigned("").method("GET").path("/livez");
    probe.headers.retain(|(name, _)| name == "Host");
    let mut idle = Vec::new();
    // As many as the listener accepts.
    for _ in 0..64 {
        let mut client = Client::connect(bridge.admin).await;
        assert_eq!(client.ask(&probe).await.status, 200);
        idle.push(client);
    }
    assert_eq!(bridge.admin("/livez").await.status, 200, "within the timeout of a client");
}
