//! The fake's deliverer: what happens in the workspace goes to every webhook that asks for it.
//!
//! It does what Attio documents (<https://docs.attio.com/rest-api/guides/webhooks>): two signature headers
//! over the raw body, an `Idempotency-Key` that stays the same on every try, 5 s for an answer, 200 or 202
//! for success, ten tries with exponential backoff in about three days, then the webhook is degraded and
//! still delivered to, and after seven days of that it is inactive and gets nothing; 25 deliveries a
//! second to one target URL, what is too much waits.
//!
//! Not documented, and decided here: one event a delivery; a webhook that is changed between two tries is
//! tried as it is then, and one that is deleted is not tried again; nothing makes a degraded webhook
//! active again.

mod matching;
pub mod post;
pub mod times;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value as Json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::store::{Status, Store};
use crate::dev::body::envelope;
use post::{Parcel, Post};
use times::{Lane, Times};

/// How long a try may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// One try that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Try {
    /// Of which webhook.
    pub webhook_id: String,
    /// Its `Idempotency-Key`.
    pub key: String,
    /// What was answered; none where nothing was in time.
    pub status: Option<u16>,
}

/// What has become of the deliveries so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    /// Answered 200 or 202.
    pub delivered: usize,
    /// Every try failed.
    pub given_up: usize,
    /// The webhook was deleted or inactive before it was delivered.
    pub dropped: usize,
}

/// Delivers until it is dropped.
pub struct Deliverer {
    shared: Arc<Shared>,
    under_way: TaskTracker,
}

struct Shared {
    store: Arc<Mutex<Store>>,
    post: Post,
    times: Times,
    lanes: Mutex<HashMap<String, Lane>>,
    tries: Mutex<Vec<Try>>,
    fates: Mutex<Fates>,
    end: CancellationToken,
}

/// One delivery that is under way.
struct Delivery {
    webhook_id: String,
    event: Arc<str>,
    key: String,
}

impl Deliverer {
    /// Delivers what happens in that workspace. Nothing is sent yet.
    pub fn new(store: Arc<Mutex<Store>>, post: Post, times: Times) -> Self {
        let (lanes, tries, fates) = (Mutex::default(), Mutex::default(), Mutex::default());
        let shared =
            Arc::new(Shared { store, post, times, lanes, tries, fates, end: CancellationToken::new() });
        let under_way = TaskTracker::new();
        under_way.close();
        Self { shared, under_way }
    }

    /// Something happened: JSON as Attio writes an event. Then how many webhooks are told, in the background.
    pub fn happened(&self, event: &str) -> usize {
        let json: Json = serde_json::from_str(event).unwrap_or_default();
        let event: Arc<str> = event.into();
        let told: Vec<String> = {
            let store = self.shared.store.lock();
            let takes = store.webhooks.iter().filter(|webhook| matching::takes(webhook, &json));
            takes.map(|webhook| webhook.webhook_id.clone()).collect()
        };
        let count = told.len();
        for webhook_id in told {
            let delivery =
                Delivery { webhook_id, event: Arc::clone(&event), key: Uuid::new_v4().to_string() };
            let (shared, end) = (Arc::clone(&self.shared), self.shared.end.clone());
            self.under_way.spawn(async move {
                end.run_until_cancelled(shared.carry(delivery)).await;
            });
        }
        count
    }

    /// Waits until nothing is under way: everything is delivered, given up or dropped.
    pub async fn settled(&self) {
        self.under_way.wait().await;
    }

    /// Deliveries that are under way.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Every try so far.
    pub fn tries(&self) -> Vec<Try> {
        self.shared.tries.lock().clone()
    }

    /// What has become of the deliveries so far.
    pub fn fates(&self) -> Fates {
        *self.shared.fates.lock()
    }
}

impl Drop for Deliverer {
    fn drop(&mut self) {
        self.shared.end.cancel();
    }
}

impl Shared {
    async fn carry(self: Arc<Self>, delivery: Delivery) {
        for tries in 1.. {
            match self.attempt(&delivery).await {
                None => return self.fates.lock().dropped += 1,
                Some(Some(200 | 202)) => return self.fates.lock().delivered += 1,
                Some(_) => {}
            }
            let Some(wait) = self.times.after(tries) else { break };
            tokio::time::sleep(wait).await;
        }
        self.fates.lock().given_up += 1;
        self.degrade(delivery.webhook_id);
    }

    /// One try; none where there is no such webhook any more, or it gets nothing.
    async fn attempt(&self, delivery: &Delivery) -> Option<Option<u16>> {
        let url = self.parcel(delivery)?.target_url;
        let turn = self.lanes.lock().entry(url).or_default().turn(Instant::now(), &self.times);
        tokio::time::sleep_until(turn.into()).await;
        let parcel = self.parcel(delivery)?;
        let status = tokio::time::timeout(DEADLINE, (self.post)(parcel)).await.ok().flatten();
        let (webhook_id, key) = (delivery.webhook_id.clone(), delivery.key.clone());
        self.tries.lock().push(Try { webhook_id, key, status });
        Some(status)
    }

    /// The delivery to the webhook as it is now.
    fn parcel(&self, Delivery { webhook_id, event, key }: &Delivery) -> Option<Parcel> {
        let store = self.store.lock();
        let webhook = store.get(webhook_id).ok().filter(|webhook| webhook.status != Status::Inactive)?;
        let body = envelope(webhook_id, &[event]);
        Some(Parcel::new(&webhook.target_url, &webhook.secret, body, key))
    }

    fn degrade(self: Arc<Self>, webhook_id: String) {
        let was =
            |store: &Store, status| store.get(&webhook_id).is_ok_and(|webhook| webhook.status == status);
        let mut store = self.store.lock();
        if !was(&store, Status::Active) {
            return;
        }
        store.set_status(&webhook_id, Status::Degraded);
        drop(store);
        let shared = Arc::clone(&self);
        tokio::spawn(async move {
            let time = tokio::time::sleep(shared.times.degraded());
            if shared.end.run_until_cancelled(time).await.is_some() {
                let mut store = shared.store.lock();
                let still = store.get(&webhook_id).is_ok_and(|webhook| webhook.status == Status::Degraded);
                if still {
                    store.set_status(&webhook_id, Status::Inactive);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests;
