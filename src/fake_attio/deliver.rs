//! Delivers the events of the workspace to the webhooks that subscribe to them.
//!
//! As documented at <https://docs.attio.com/rest-api/guides/webhooks>: two signature headers over the raw
//! body, one `Idempotency-Key` for all attempts, 5 s for an answer, success is 200 or 202, ten attempts with
//! exponential backoff within about three days, then the webhook is degraded but still gets deliveries,
//! and after seven more days it is inactive and gets none; 25 deliveries a second to one URL, the rest wait.
//!
//! Not documented, and chosen here: one event per delivery; a webhook that changes between two attempts
//! is sent to as it is then, and a deleted one is not; nothing makes a degraded webhook active again.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value as Json;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::post::{PostError, Poster, Reply};
use super::store::Store;
use super::webhook::Status;
use crate::signing::{Payload, Scheme, SignedRequest};

/// Last seen in Attio's API reference of 2023.
const USER_AGENT: &str = "Attio 2.0 (https://attio.com/developers/using-webhooks)";

/// Attempts of a delivery, the first included.
const ATTEMPTS: u32 = 10;

/// From the first attempt to the last.
const ALL_ATTEMPTS: Duration = Duration::from_secs(3 * 24 * 3600);

/// How long a webhook is degraded before it is inactive.
const DEGRADED: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How many times faster than Attio: divides the waits between attempts and the time of degradation.
    pub time_scale: f64,
    /// Deliveries per second to one target URL; Attio's limit is 25.
    pub per_second: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self { time_scale: 1.0, per_second: 25 }
    }
}

impl Timing {
    /// The wait after that many failed attempts, twice the one before; none after the last.
    fn retry_delay(&self, attempts: u32) -> Option<Duration> {
        let waits = ATTEMPTS - 1;
        let first = ALL_ATTEMPTS / ((1 << waits) - 1);
        (1..=waits).contains(&attempts).then(|| self.scaled(first * (1 << (attempts - 1))))
    }

    fn scaled(&self, time: Duration) -> Duration {
        time.div_f64(self.time_scale)
    }
}

/// Reserves the next slot of a target URL: when the delivery may be sent. Unused time is not saved up.
fn reserve(next: &mut Option<Instant>, now: Instant, timing: &Timing) -> Instant {
    let slot = next.map_or(now, |next| next.max(now));
    *next = Some(slot + Duration::from_secs(1) / timing.per_second);
    slot
}

pub type PostResult = Result<Reply, PostError>;

pub type Post = Arc<dyn Fn(String, SignedRequest) -> Posting + Send + Sync>;

pub type Posting = Pin<Box<dyn Future<Output = PostResult> + Send>>;

/// Posts to this address, whatever the URL's host is, and without TLS.
pub fn post_to(address: SocketAddr) -> Post {
    let poster = Poster::plain(USER_AGENT);
    Arc::new(move |url, request| {
        let rest = url.split_once("://").map_or(&*url, |(_, rest)| rest);
        let path = rest.find('/').map_or("/", |at| &rest[at..]);
        let (poster, url) = (poster.clone(), format!("http://{address}{path}"));
        Box::pin(async move { poster.post(&url, &request).await })
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub result: PostResult,
    /// The wait before the next attempt; none after the last.
    pub retry_in: Option<Duration>,
}

/// The attempts of one delivery as they are made. Ends after the last one; without any if the webhook is
/// deleted or inactive.
pub type Attempts = mpsc::Receiver<Attempt>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryCounts {
    pub delivered: usize,
    pub failed: usize,
    pub dropped: usize,
}

/// Delivers in the background until it is dropped.
pub struct Deliverer {
    shared: Arc<Shared>,
    _end: DropGuard,
}

struct Shared {
    store: Arc<Mutex<Store>>,
    post: Post,
    timing: Timing,
    slots: Mutex<HashMap<String, Option<Instant>>>,
    counts: Mutex<DeliveryCounts>,
    retrying: AtomicUsize,
    deliveries: TaskTracker,
    end: CancellationToken,
}

/// Counts a delivery that is attempted again, until it is dropped.
struct Retrying<'a>(&'a AtomicUsize);

impl<'a> Retrying<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Retrying<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Delivery {
    webhook_id: String,
    payload: Payload,
    attempts: mpsc::Sender<Attempt>,
}

impl Deliverer {
    pub fn new(store: Arc<Mutex<Store>>, post: Post, timing: Timing) -> Self {
        let (slots, counts, retrying) = (Mutex::default(), Mutex::default(), AtomicUsize::new(0));
        let deliveries = TaskTracker::new();
        deliveries.close();
        let end = CancellationToken::new();
        let _end = end.clone().drop_guard();
        Self {
            shared: Arc::new(Shared { store, post, timing, slots, counts, retrying, deliveries, end }),
            _end,
        }
    }

    /// Delivers an event, JSON as Attio writes it, to the webhooks that subscribe to it. Returns their number.
    pub fn publish(&self, event: &str) -> usize {
        self.shared.publish(event)
    }

    /// Delivers the events of changes to the workspace from now on.
    #[expect(
        clippy::disallowed_methods,
        reason = "a fake: whoever changes its workspace bounds the number of events"
    )]
    pub fn follow_api(&self) {
        let (events, mut received) = mpsc::unbounded_channel::<String>();
        self.shared.store.lock().events = Some(events);
        let (shared, end) = (Arc::clone(&self.shared), self.shared.end.clone());
        let following = async move {
            while let Some(event) = received.recv().await {
                shared.publish(&event);
            }
        };
        tokio::spawn(end.run_until_cancelled_owned(following));
    }

    /// Delivers this to a webhook, whatever it subscribes to.
    pub fn deliver(&self, webhook_id: &str, payload: Payload) -> Attempts {
        self.shared.deliver(webhook_id.to_owned(), payload)
    }

    pub async fn idle(&self) {
        self.shared.deliveries.wait().await;
    }

    /// How many deliveries have failed and will be attempted again.
    pub fn retrying(&self) -> usize {
        self.shared.retrying.load(Ordering::Relaxed)
    }

    pub fn counts(&self) -> DeliveryCounts {
        *self.shared.counts.lock()
    }
}

impl Shared {
    fn publish(self: &Arc<Self>, event: &str) -> usize {
        let json: Json = serde_json::from_str(event).unwrap_or_default();
        let webhook_ids: Vec<String> = {
            let store = self.store.lock();
            let matching = store.webhooks.iter().filter(|webhook| webhook.matches(&json));
            matching.map(|webhook| webhook.webhook_id.clone()).collect()
        };
        let count = webhook_ids.len();
        for webhook_id in webhook_ids {
            let payload = Payload::new(Scheme::Attio, envelope(&webhook_id, &[event]));
            self.deliver(webhook_id, payload);
        }
        count
    }

    fn deliver(self: &Arc<Self>, webhook_id: String, payload: Payload) -> Attempts {
        let (attempts, receiver) = mpsc::channel(ATTEMPTS as usize);
        let delivery = Arc::clone(self).run(Delivery { webhook_id, payload, attempts });
        self.deliveries.spawn(self.end.clone().run_until_cancelled_owned(delivery));
        receiver
    }

    async fn run(self: Arc<Self>, delivery: Delivery) {
        let mut retrying = None;
        for attempts in 1.. {
            let Some(result) = self.attempt(&delivery).await else {
                return self.counts.lock().dropped += 1;
            };
            let delivered = result.as_ref().is_ok_and(Reply::is_success);
            let retry_in = self.timing.retry_delay(attempts).filter(|_| !delivered);
            if delivered {
                self.counts.lock().delivered += 1;
            }
            // The channel has room for all attempts; its receiver may be gone.
            let _ = delivery.attempts.try_send(Attempt { result, retry_in });
            match retry_in {
                Some(wait) => {
                    retrying.get_or_insert_with(|| Retrying::new(&self.retrying));
                    tokio::time::sleep(wait).await;
                }
                None if delivered => return,
                None => break,
            }
        }
        drop(retrying);
        self.counts.lock().failed += 1;
        self.degrade(delivery.webhook_id);
    }

    /// One attempt; none if the webhook is deleted or inactive.
    async fn attempt(&self, delivery: &Delivery) -> Option<PostResult> {
        let (url, _) = self.sign(delivery)?;
        let slot = reserve(self.slots.lock().entry(url).or_default(), Instant::now(), &self.timing);
        tokio::time::sleep_until(slot.into()).await;
        let (url, request) = self.sign(delivery)?;
        Some((self.post)(url, request).await)
    }

    fn sign(&self, Delivery { webhook_id, payload, .. }: &Delivery) -> Option<(String, SignedRequest)> {
        let store = self.store.lock();
        let webhook = store.get(webhook_id).ok().filter(|webhook| webhook.status != Status::Inactive)?;
        Some((webhook.target_url.clone(), payload.sign(&webhook.secret, OffsetDateTime::now_utc())))
    }

    fn degrade(self: Arc<Self>, webhook_id: String) {
        if !self.change_status(&webhook_id, Status::Active, Status::Degraded) {
            return;
        }
        tokio::spawn(async move {
            let degraded = tokio::time::sleep(self.timing.scaled(DEGRADED));
            if self.end.run_until_cancelled(degraded).await.is_some() {
                self.change_status(&webhook_id, Status::Degraded, Status::Inactive);
            }
        });
    }

    /// Changes a status if it is as expected; false if not.
    fn change_status(&self, webhook_id: &str, from: Status, to: Status) -> bool {
        let mut store = self.store.lock();
        let as_expected = store.get(webhook_id).is_ok_and(|webhook| webhook.status == from);
        as_expected && store.set_status(webhook_id, to)
    }
}

/// Attio's envelope around events that are JSON already.
pub fn envelope(webhook_id: &str, events: &[&str]) -> String {
    format!("{{\"webhook_id\":{},\"events\":[{}]}}", Json::from(webhook_id), events.join(","))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::fake_attio::webhook::{Subscription, WebhookInput};

    /// Three days in about a quarter of a second.
    const FAST: Timing = Timing { time_scale: 1_000_000.0, per_second: 100_000 };

    const EVENT: &str = r#"{"event_type":"note.created","id":{"note_id":"n"}}"#;

    fn workspace(urls: &[&str]) -> Arc<Mutex<Store>> {
        let mut store = Store::new("key");
        for url in urls {
            let subscription = Subscription { event_type: "note.created".into(), filter: Json::Null };
            let input =
                WebhookInput { target_url: Some((*url).into()), subscriptions: Some(vec![subscription]) };
            store.create(input).unwrap();
        }
        Arc::new(Mutex::new(store))
    }

    type Posted = Arc<Mutex<Vec<(String, SignedRequest)>>>;

    /// Answers with these statuses in order, then with the last one; and records what was posted.
    fn answering(statuses: &'static [u16]) -> (Post, Posted) {
        let (next, posted) = (AtomicUsize::new(0), Posted::default());
        let record = Arc::clone(&posted);
        let post: Post = Arc::new(move |url, request| {
            record.lock().push((url, request));
            let index = next.fetch_add(1, Ordering::Relaxed).min(statuses.len() - 1);
            let reply = Reply { status: statuses[index], body: Bytes::new(), took: Duration::ZERO };
            Box::pin(async move { Ok(reply) })
        });
        (post, posted)
    }

    #[tokio::test]
    async fn failed_delivery_is_retried_with_the_same_key_until_200_or_202() {
        let (post, posted) = answering(&[503, 204, 202]);
        let store = workspace(&["https://a/x"]);
        let webhook_id = store.lock().webhooks[0].webhook_id.clone();
        let deliverer = Deliverer::new(store, post, FAST);
        let mut receiver = deliverer.deliver(&webhook_id, Payload::new(Scheme::Attio, "{}"));
        let mut attempts = Vec::new();
        while let Some(Attempt { result, retry_in }) = receiver.recv().await {
            attempts.push((result.unwrap().status, retry_in));
        }
        let expected = [(503, FAST.retry_delay(1)), (204, FAST.retry_delay(2)), (202, None)];
        assert_eq!(attempts, expected, "the earlier guide accepts no other 2xx");
        assert_eq!(deliverer.counts(), DeliveryCounts { delivered: 1, ..DeliveryCounts::default() });
        let posted = posted.lock();
        assert!(posted.iter().all(|one| *one == posted[0]), "all attempts are equal");
    }

    #[tokio::test]
    async fn webhook_is_degraded_after_ten_attempts_and_inactive_a_week_later() {
        let (post, posted) = answering(&[500]);
        let store = workspace(&["https://a/x"]);
        // The week of degradation takes two seconds.
        let timing = Timing { time_scale: 300_000.0, ..FAST };
        let deliverer = Deliverer::new(Arc::clone(&store), post, timing);
        deliverer.publish(EVENT);
        deliverer.idle().await;
        assert_eq!((posted.lock().len(), deliverer.counts().failed), (10, 1));
        assert_eq!(store.lock().webhooks[0].status, Status::Degraded);
        while store.lock().webhooks[0].status != Status::Inactive {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let before = posted.lock().len();
        deliverer.publish(EVENT);
        deliverer.idle().await;
        assert_eq!((posted.lock().len(), deliverer.counts().dropped), (before, 1));
    }

    fn key((_, request): &(String, SignedRequest)) -> String {
        let mut headers = request.headers.iter();
        headers.find(|(name, _)| *name == "Idempotency-Key").map(|(_, key)| key.clone()).unwrap()
    }

    #[tokio::test]
    async fn deleted_webhook_gets_no_retries() {
        let (post, posted) = answering(&[500]);
        let store = workspace(&["https://a/x", "https://b/x"]);
        let deliverer = Deliverer::new(Arc::clone(&store), post, Timing { time_scale: 10_000.0, ..FAST });
        assert_eq!(deliverer.publish(EVENT), 2);
        assert_eq!(deliverer.publish(r#"{"event_type":"note.deleted"}"#), 0);
        while posted.lock().len() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let keys: Vec<_> = posted.lock().iter().map(key).collect();
        assert_ne!(keys[0], keys[1], "each webhook gets a delivery of its own");
        store.lock().webhooks.clear();
        deliverer.idle().await;
        assert_eq!(deliverer.counts().dropped, 2);
    }

    #[test]
    fn ten_attempts_take_three_days_and_each_wait_doubles() {
        let waits: Vec<Duration> = (1..).map_while(|n| Timing::default().retry_delay(n)).collect();
        assert_eq!(waits.len(), 9);
        assert!(waits.windows(2).all(|two| two[1] == two[0] * 2), "{waits:?}");
        let total: Duration = waits.iter().sum();
        assert!(ALL_ATTEMPTS.abs_diff(total) < Duration::from_secs(1), "{total:?}");
        let fast = Timing { time_scale: 1000.0, ..Timing::default() };
        assert_eq!(fast.retry_delay(1), waits.first().map(|wait| wait.div_f64(1000.0)));
        assert_eq!(fast.scaled(DEGRADED), Duration::from_millis(604_800));
    }

    #[test]
    fn rate_limiter_allows_25_per_second_without_saving_up() {
        let (start, timing) = (Instant::now(), Timing::default());
        let mut next = None;
        let slots: Vec<Duration> = (0..51).map(|_| reserve(&mut next, start, &timing) - start).collect();
        assert_eq!(
            (slots[0], slots[25], slots[50]),
            (Duration::ZERO, Duration::from_secs(1), Duration::from_secs(2))
        );
        let later = start + Duration::from_secs(60);
        assert_eq!(reserve(&mut next, later, &timing), later);
        assert_eq!(reserve(&mut next, later, &timing), later + Duration::from_millis(40));
    }
}
