//! The fake's deliverer: what happens in the workspace goes to every webhook that asks for it.
//!
//! It does what Attio documents (<https://docs.attio.com/rest-api/guides/webhooks>): two signature headers
//! over the raw body, an `Idempotency-Key` that stays the same on every try, 5 s for an answer, 200 or 202
//! for success, ten tries with exponential backoff in about three days, then the webhook is degraded and
//! still delivered to, and after seven days of that it is inactive and gets nothing; 25 deliveries a
//! second to one target URL, what is too much waits.
//!
//! Not documented, and decided here: one event a delivery of what happens; a webhook that is changed between two tries is
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
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::store::{Status, Store};
use crate::dev::body::envelope;
use crate::dev::mail::Mail;
use crate::dev::post::{Lost, Reply};
use crate::dev::stamp::Scheme;
use post::{Parcel, Post};
use times::{Lane, TRIES, Times};

/// Happenings of the workspace that may wait to be heard of.
const HAPPENINGS: usize = 64;

/// One try of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What was answered, or why nothing was.
    pub result: Result<Reply, Lost>,
    /// How long until the next one; none after the last.
    pub again: Option<Duration>,
}

/// The tries of one delivery as they are made. It ends with the last one; without any where the webhook is
/// deleted or inactive.
pub type Attempts = mpsc::Receiver<Attempt>;

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
}

struct Shared {
    store: Arc<Mutex<Store>>,
    post: Post,
    times: Times,
    lanes: Mutex<HashMap<String, Lane>>,
    fates: Mutex<Fates>,
    under_way: TaskTracker,
    end: CancellationToken,
}

/// One delivery that is under way.
struct Delivery {
    webhook_id: String,
    mail: Mail,
    attempts: mpsc::Sender<Attempt>,
}

impl Deliverer {
    /// Delivers what happens in that workspace. Nothing is sent yet.
    pub fn new(store: Arc<Mutex<Store>>, post: Post, times: Times) -> Self {
        let (lanes, fates, under_way) = (Mutex::default(), Mutex::default(), TaskTracker::new());
        under_way.close();
        let end = CancellationToken::new();
        Self { shared: Arc::new(Shared { store, post, times, lanes, fates, under_way, end }) }
    }

    /// Something happened: JSON as Attio writes an event. Then how many webhooks are told, in the background.
    pub fn happened(&self, event: &str) -> usize {
        self.shared.happened(event)
    }

    /// Hears from now on of what is done through the API too.
    pub fn listen(&self) {
        let (happenings, mut heard) = mpsc::channel::<String>(HAPPENINGS);
        self.shared.store.lock().happenings = Some(happenings);
        let (shared, end) = (Arc::clone(&self.shared), self.shared.end.clone());
        let listening = async move {
            while let Some(event) = heard.recv().await {
                shared.happened(&event);
            }
        };
        tokio::spawn(end.run_until_cancelled_owned(listening));
    }

    /// Delivers this to a webhook in the background, whatever the webhook has subscribed to.
    pub fn deliver(&self, webhook_id: &str, mail: Mail) -> Attempts {
        self.shared.deliver(webhook_id.to_owned(), mail)
    }

    /// Waits until nothing is under way: everything is delivered, given up or dropped.
    pub async fn settled(&self) {
        self.shared.under_way.wait().await;
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
    fn happened(self: &Arc<Self>, event: &str) -> usize {
        let json: Json = serde_json::from_str(event).unwrap_or_default();
        let told: Vec<String> = {
            let store = self.store.lock();
            let takes = store.webhooks.iter().filter(|webhook| matching::takes(webhook, &json));
            takes.map(|webhook| webhook.webhook_id.clone()).collect()
        };
        let count = told.len();
        for webhook_id in told {
            let mail = Mail::new(Scheme::Attio, envelope(&webhook_id, &[event]));
            self.deliver(webhook_id, mail);
        }
        count
    }

    fn deliver(self: &Arc<Self>, webhook_id: String, mail: Mail) -> Attempts {
        let (attempts, heard) = mpsc::channel(TRIES as usize);
        let delivery = Delivery { webhook_id, mail, attempts };
        let carried = Arc::clone(self).carry(delivery);
        self.under_way.spawn(self.end.clone().run_until_cancelled_owned(carried));
        heard
    }

    async fn carry(self: Arc<Self>, delivery: Delivery) {
        for tries in 1.. {
            let Some(result) = self.attempt(&delivery).await else {
                return self.fates.lock().dropped += 1;
            };
            let good = result.as_ref().is_ok_and(Reply::is_good);
            let again = self.times.after(tries).filter(|_| !good);
            if good {
                self.fates.lock().delivered += 1;
            }
            // There is room for all of them, and not everybody wants to hear of it.
            let _ = delivery.attempts.try_send(Attempt { result, again });
            match again {
                Some(wait) => tokio::time::sleep(wait).await,
                None if good => return,
                None => break,
            }
        }
        self.fates.lock().given_up += 1;
        self.degrade(delivery.webhook_id);
    }

    /// One try; none where there is no such webhook any more, or it gets nothing.
    async fn attempt(&self, delivery: &Delivery) -> Option<Result<Reply, Lost>> {
        let url = self.parcel(delivery)?.target_url;
        let turn = self.lanes.lock().entry(url).or_default().turn(Instant::now(), &self.times);
        tokio::time::sleep_until(turn.into()).await;
        let parcel = self.parcel(delivery)?;
        Some((self.post)(parcel).await)
    }

    /// The delivery to the webhook as it is now.
    fn parcel(&self, Delivery { webhook_id, mail, .. }: &Delivery) -> Option<Parcel> {
        let store = self.store.lock();
        let webhook = store.get(webhook_id).ok().filter(|webhook| webhook.status != Status::Inactive)?;
        Some(Parcel::new(&webhook.target_url, &webhook.secret, mail))
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
