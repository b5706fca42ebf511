//! Log output that is not read: no delivery waits for it, and dropped lines are counted and reported.

use std::path::PathBuf;
use std::time::Instant;

use tokio::task::JoinSet;

use crate::support::client::Client;
use crate::support::request::Request;
use crate::support::served::Served;
use crate::support::wait::eventually;

/// More lines than the pipe and the queue hold.
const DELIVERIES: usize = 16_000;
const CLIENTS: usize = 8;

fn serve() -> Served {
    let mut served = Served::start(&[("ATTIO_BRIDGE__BUS__TYPE", "stdout")]);
    let mut out = served.stdout();
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    served
}

async fn deliver(served: &Served, count: usize) {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let address = served.http;
        clients.spawn(async move {
            let mut sender = Client::connect(address).await;
            for at in 0..count / CLIENTS {
                let body = format!(r#"{{"event_type":"x.y","at":"{client} {at}"}}"#);
                let answer = sender.ask(&Request::keyed(&format!("{client}-{at}"), body)).await;
                assert_eq!(answer.status_and_reason(), (200, "accepted".into()));
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_stderr_delays_no_delivery_and_dropped_lines_are_reported() {
    let mut served = serve();
    served.read_log(false);
    deliver(&served, DELIVERIES).await;
    served.read_log(true);
    const DROPPED: &str = "log lines were dropped: standard error was not read fast enough";
    eventually("the dropped lines are reported", || async { !served.logged(DROPPED).is_empty() }).await;
    let counted = served.metrics().await.get("log_dropped_total", &[]);
    served.signal("TERM");
    assert_eq!(served.ended().code(), Some(0));
    eventually("the last line arrives", || async {
        !served.logged("drained: no requests in flight").is_empty()
    })
    .await;
    let dropped: u64 = served.logged(DROPPED).iter().map(|line| line["lines"].as_u64().unwrap()).sum();
    let written = served.logged("delivery").len();
    assert_eq!(written as u64 + dropped, DELIVERIES as u64, "every line is written or reported as dropped");
    assert_eq!(counted, dropped as f64, "the metric agrees");
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_stderr_does_not_delay_a_stop() {
    let mut served = serve();
    served.read_log(false);
    deliver(&served, 2_000).await;
    served.signal("TERM");
    assert_eq!(served.ended().code(), Some(0));
}

/// How often the thread that writes the log has gone to sleep or waited.
fn log_thread_switches(served: &Served) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{}/task", served.pid())).unwrap();
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let threads = threads.map(|thread| thread.unwrap().path());
    let log = threads.into_iter().find(|thread| read(thread.join("comm")).trim() == "log").unwrap();
    let status = read(log.join("status"));
    let switches = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    switches.unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_thread_of_the_log_is_woken_at_most_200_times_per_second() {
    let served = serve();
    let (began, before) = (Instant::now(), log_thread_switches(&served));
    deliver(&served, DELIVERIES).await;
    // The slower the machine, the more wake-ups the bound allows.
    let allowed = began.elapsed().as_millis() as u64 / 5 + 1;
    let woken = log_thread_switches(&served) - before;
    assert!(woken <= allowed, "woken {woken} times for {DELIVERIES} lines, allowed are {allowed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_flushes_every_log_line() {
    let mut served = serve();
    deliver(&served, 2_000).await;
    served.signal("TERM");
    assert_eq!(served.ended().code(), Some(0));
    eventually("every line arrives", || async { served.logged("delivery").len() == 2_000 }).await;
    eventually("the last too", || async { !served.logged("drained: no requests in flight").is_empty() })
        .await;
}
