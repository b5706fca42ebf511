//! Bridges in this process that publish to one bus in memory and share one store.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use attio_bridge::cloudevent::Attribute;
use futures_util::future::join_all;
use tokio::task::JoinSet;

use super::bridge::{Bridge, config};
use super::client::Client;
use super::memory::Memory;
use super::request::Request;
use super::shared_store::SharedStore;
use super::wait::eventually;

/// Senders of [`Replicas::under_load`].
const SENDERS: usize = 6;
/// The ids that they send before something happens, and after it.
const CALM: usize = 150;
/// The ids that a replica publishes on its own memory until it counts as [`Replicas::until_alone`].
const ALONE: f64 = 20.0;

pub struct Replicas {
    pub store: SharedStore,
    pub bus: Arc<Memory>,
    pub bridges: Vec<Bridge>,
}

impl Replicas {
    /// So many replicas, whose store answers.
    pub async fn start(store: SharedStore, count: usize, more: &[(&str, &str)]) -> Self {
        let mut replicas = Self { store, bus: Memory::new(), bridges: Vec::new() };
        for _ in 0..count {
            let bridge = replicas.another(more).await;
            replicas.bridges.push(bridge);
        }
        replicas
    }

    /// One more of them, whose store answers.
    pub async fn another(&self, more: &[(&str, &str)]) -> Bridge {
        let bridge = self.another_without_waiting(more).await;
        bridge.until("dedup_store_up", &[], 1.0).await;
        bridge
    }

    pub async fn another_without_waiting(&self, more: &[(&str, &str)]) -> Bridge {
        self.onto(&self.bus, more).await
    }

    /// One onto a bus of its own, with the same store.
    pub async fn onto(&self, bus: &Arc<Memory>, more: &[(&str, &str)]) -> Bridge {
        let own = self.store.variables();
        let mut variables: Vec<_> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
        variables.extend_from_slice(more);
        Bridge::over(Arc::clone(bus), config(&variables)).await
    }

    /// The number of stored copies by dedup key.
    pub fn copies(&self) -> BTreeMap<String, usize> {
        self.bus.stored().into_iter().fold(BTreeMap::new(), |mut copies, message| {
            *copies.entry(message.dedup_key).or_default() += 1;
            copies
        })
    }

    /// The key of the event that was stored last.
    pub fn last_key(&self) -> String {
        self.bus.stored().last().expect("something is stored").dedup_key.clone()
    }

    /// Waits until the store answers every replica.
    pub async fn until_shared(&self) {
        for bridge in &self.bridges {
            bridge.until("dedup_store_up", &[], 1.0).await;
        }
    }

    /// Waits until every replica has published some more ids without the store.
    pub async fn until_alone(&self) {
        for bridge in &self.bridges {
            let before = unanswered(bridge).await;
            let alone = || async { unanswered(bridge).await >= before + ALONE };
            eventually("it goes on without the store", alone).await;
        }
    }

    /// Sends new ids, each to every replica at the same moment until all have answered 200, before, while and after
    /// something happens to the store. Asserts that each is stored, that each replica has published it at most once, and
    /// that only ids that were open meanwhile, or while a claim had no answer, have a second copy. Returns how
    /// many have so many copies.
    pub async fn under_load(&self, happens: impl AsyncFnOnce()) -> BTreeMap<usize, usize> {
        let (next, end) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(usize::MAX)));
        let mut senders = JoinSet::new();
        for _ in 0..SENDERS {
            let mut clients = join_all(self.bridges.iter().map(Bridge::connect)).await;
            let (next, end) = (Arc::clone(&next), Arc::clone(&end));
            senders.spawn(async move {
                let mut sent = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end.load(Ordering::Relaxed) {
                        return sent;
                    }
                    let (id, from) = (format!("id-{number}"), Instant::now());
                    let request = event(&id);
                    join_all(clients.iter_mut().map(|client| until_acknowledged(client, &request))).await;
                    sent.push((id, from..Instant::now()));
                    // An outage of seconds is not to fill the memory.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
        let load = async {
            eventually("ids are sent", || async { next.load(Ordering::Relaxed) >= CALM }).await;
            let from = Instant::now();
            happens().await;
            self.until_shared().await;
            let meanwhile = from..Instant::now();
            end.store(next.load(Ordering::Relaxed) + CALM, Ordering::Relaxed);
            (meanwhile, senders.join_all().await)
        };
        tokio::pin!(load);
        let mut unanswered = Unanswered { before: 0.0, since: Instant::now(), times: Vec::new() };
        let (meanwhile, sent) = loop {
            tokio::select! {
                done = &mut load => break done,
                () = unanswered.look(&self.bridges) => {}
            }
        };
        unanswered.look(&self.bridges).await;
        unanswered.times.push(meanwhile);
        let mut copies: BTreeMap<String, usize> = BTreeMap::new();
        for message in self.bus.stored() {
            let id = message.event.get(Attribute::CorrelationId).expect("every delivery has a key");
            *copies.entry(id.to_owned()).or_default() += 1;
        }
        let (mut counts, mut calm) = (BTreeMap::new(), 0);
        for (id, open) in sent.into_iter().flatten() {
            let copies = copies.get(&id).copied().unwrap_or_default();
            let times = &unanswered.times;
            let met = times.iter().any(|time| time.start <= open.end && open.start <= time.end);
            assert!((1..=self.bridges.len()).contains(&copies), "{id} is stored {copies} times");
            assert!(met || copies == 1, "{id} is stored {copies} times, though every claim had an answer");
            calm += usize::from(!met);
            *counts.entry(copies).or_default() += 1;
        }
        assert!(calm > 0, "no id was sent while the store was there");
        counts
    }
}

/// The times in which claims had no answer of the store.
struct Unanswered {
    before: f64,
    since: Instant,
    times: Vec<Range<Instant>>,
}

impl Unanswered {
    async fn look(&mut self, bridges: &[Bridge]) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = Instant::now();
        let count: f64 = join_all(bridges.iter().map(unanswered)).await.into_iter().sum();
        if count > self.before {
            self.times.push(self.since..Instant::now());
        }
        (self.before, self.since) = (count, now);
    }
}

/// The claims that had no answer of the store, or were not sent to it.
async fn unanswered(bridge: &Bridge) -> f64 {
    let metrics = bridge.metrics().await;
    let of = |result| metrics.get("dedup_store_requests_total", &[("result", result)]);
    of("failed") + of("skipped")
}

/// Sends a delivery until it is answered 200, meanwhile by nothing but 503; returns the reason of the 200.
pub async fn until_acknowledged(client: &mut Client, request: &Request) -> String {
    loop {
        let answer = client.ask(request).await;
        match answer.status {
            200 => return answer.reason(),
            503 => tokio::time::sleep(Duration::from_millis(20)).await,
            _ => panic!("neither 200 nor 503: {answer:?}"),
        }
    }
}

/// A delivery of one event, the same for the same key.
pub fn event(key: &str) -> Request {
    Request::keyed(key, r#"{"event_type":"task.created","id":{"workspace_id":"w","task_id":"t"}}"#)
}

/// A delivery of these events.
pub fn batch(key: &str, ids: Range<usize>) -> Request {
    let event = |at| {
        format!(
            r#"{{"event_type":"task.updated","id":{{"event_id":"e{at}","workspace_id":"w","task_id":"t"}},"created_at":"2026-01-01T00:00:00Z"}}"#
        )
    };
    let events = ids.map(event).collect::<Vec<_>>().join(",");
    Request::keyed(key, format!(r#"{{"webhook_id":"w","events":[{events}]}}"#))
}

/// Waits until a bridge has counted so many requests with this result.
pub async fn until(bridge: &Bridge, result: &str, count: f64) {
    bridge.until("dedup_store_requests_total", &[("result", result)], count).await;
}

pub async fn count(bridge: &Bridge, result: &str) -> f64 {
    bridge.metric("dedup_store_requests_total", &[("result", result)]).await
}
