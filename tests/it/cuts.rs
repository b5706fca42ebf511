//! Requests that are cut off at any byte: nothing of them is published and no task stays behind.

use fastrand::Rng;
use tokio::runtime::Handle;

use crate::support::bridge::Bridge;
use crate::support::client::eventually;
use crate::support::fixtures;
use crate::support::request::Request;
use crate::support::stress;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_cut_at_any_byte_publishes_nothing_and_leaves_no_task() {
    let (seed, cuts) = (Rng::new().u64(..), stress(1_000, 10_000));
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let bodies = fixtures::deliveries();
    let bridge = Bridge::start().await;
    assert_eq!(bridge.ask(&Request::unsigned("{}")).await.status, 401);
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let mut before = usize::MAX;
    eventually("the tasks of the start are at rest", || {
        let now = tasks();
        let rest = now == std::mem::replace(&mut before, now);
        async move { rest }
    })
    .await;
    for at in 0..cuts {
        let (_, body) = &bodies[rng.usize(0..bodies.len())];
        let mut request = Request::keyed(&at.to_string(), body);
        if rng.bool() {
            request = request.chunked(1 + rng.usize(0..200));
        }
        let bytes = request.bytes();
        let mut client = bridge.connect().await;
        client.write(&bytes[..rng.usize(0..bytes.len())]).await;
        match rng.u8(0..3) {
            0 => drop(client),
            1 => client.reset(),
            _ => {
                client.half_close().await;
                if let Some(answer) = client.try_receive().await {
                    assert_eq!(answer.told(), (400, "bad_framing".into()));
                }
                client.closed().await;
            }
        }
    }
    eventually("no task is left", || async { tasks() <= before }).await;
    assert_eq!(bridge.bus.attempts(), 0, "nothing was published");
    let metrics = bridge.metrics().await;
    assert_eq!(metrics.sum("events_received_total", &[]) + metrics.get("events_in_flight", &[]), 0.0);
    assert_eq!(bridge.ask(&Request::keyed("k", &bodies[0].1)).await.status, 200);
    bridge.stop().await.unwrap();
}
