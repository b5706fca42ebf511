//! Requests that are cut off at any byte: nothing of them is published, every complete head is counted as a
//! delivery, and no task is left.

use fastrand::Rng;
use tokio::runtime::Handle;

use crate::support::bridge::Bridge;
use crate::support::fixtures;
use crate::support::request::Request;
use crate::support::stress;
use crate::support::wait::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_truncated_at_any_byte_publishes_nothing_and_is_counted() {
    let (seed, cuts) = (Rng::new().u64(..), stress(1_000, 10_000));
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let bodies = fixtures::deliveries();
    let bridge = Bridge::start().await;
    assert_eq!(bridge.ask(&Request::unsigned("{}")).await.status, 401);
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let mut before = usize::MAX;
    eventually("the number of tasks is stable", || {
        let now = tasks();
        let rest = now == std::mem::replace(&mut before, now);
        async move { rest }
    })
    .await;
    let mut complete_heads = 0;
    for at in 0..cuts {
        let (_, body) = &bodies[rng.usize(0..bodies.len())];
        let mut request = Request::keyed(&at.to_string(), body);
        if rng.bool() {
            request = request.chunked(1 + rng.usize(0..200));
        }
        if rng.bool() {
            // Answered with a 100, which a client that is gone does not receive.
            request = request.header("Expect", "100-continue");
        }
        let bytes = request.bytes();
        let mut client = bridge.connect().await;
        let cut = rng.usize(0..bytes.len());
        client.write(&bytes[..cut]).await;
        complete_heads += usize::from(cut >= request.head().len());
        match rng.u8(0..3) {
            0 => drop(client),
            1 => client.reset(),
            _ => {
                client.half_close().await;
                while let Some(answer) = client.try_receive().await {
                    assert!(
                        answer.status == 100 || answer.status_and_reason() == (400, "bad_framing".into()),
                        "{answer:?}"
                    );
                }
                client.closed().await;
            }
        }
    }
    eventually("no task is left", || async { tasks() <= before }).await;
    assert_eq!(bridge.bus.attempts(), 0, "nothing was published");
    let metrics = bridge.metrics().await;
    let counted = |reason| metrics.sum("deliveries_total", &[("source", "attio"), ("reason", reason)]);
    assert_eq!(counted("signature_missing"), 1.0);
    assert_eq!(counted("bad_framing"), complete_heads as f64, "a reset connection is counted too");
    assert_eq!(metrics.sum("events_received_total", &[]) + metrics.get("events_in_flight", &[]), 0.0);
    assert_eq!(bridge.ask(&Request::keyed("k", &bodies[0].1)).await.status, 200);
    bridge.stop().await.unwrap();
}

#[tokio::test]
async fn request_reset_before_its_100_continue_is_counted() {
    const RESETS: usize = 200;
    let bridge = Bridge::start().await;
    for at in 0..RESETS {
        let request = Request::keyed(&at.to_string(), "{}").header("Expect", "100-continue");
        let mut client = bridge.connect().await;
        client.write(&request.head()).await;
        client.reset();
    }
    bridge.until("deliveries_total", &[("source", "attio"), ("reason", "bad_framing")], RESETS as f64).await;
}
