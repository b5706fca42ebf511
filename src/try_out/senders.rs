//! Who posts to the bridge: the fake Attio for its one webhook, and strangers.

use std::net::SocketAddr;

use tokio::sync::mpsc;

use super::SOURCE;
use super::planned::By;
use crate::fake_attio::FakeAttio;
use crate::fake_attio::deliver::{self, Attempt, Attempts, Deliverer, Post};
use crate::fake_attio::store::Store;
use crate::fake_attio::timing::Timing;
use crate::fake_attio::webhook::{Subscription, Webhook, WebhookInput};

/// So many timing faster than Attio: a try that failed is made again after a quarter of a second, and given
/// up after two minutes instead of three days.
const HURRY: f64 = 2000.0;

/// Deliveries in a second that are more than anybody here makes.
const UNLIMITED: u32 = 100_000;

/// Those who post.
pub struct Senders {
    deliverer: Deliverer,
    post: Post,
    webhook: Webhook,
}

impl Senders {
    /// Attio delivers to the bridge at that address what its webhook is given, and what happens through its
    /// API. How fast is up to the caller: the limit of 25 a second is not kept here.
    pub fn start(fake: &FakeAttio, webhook: Webhook, bridge: SocketAddr) -> Self {
        let post = deliver::post_to(bridge);
        let timing = Timing { time_scale: HURRY, per_second: UNLIMITED };
        let deliverer = Deliverer::new(fake.shared(), post.clone(), timing);
        deliverer.follow_api();
        Self { deliverer, post, webhook }
    }

    /// Posts it in the background.
    pub fn post(&self, by: &By) -> Attempts {
        let request = match by {
            By::Attio(mail) => return self.deliverer.deliver(&self.webhook.webhook_id, mail.clone()),
            By::Stranger(request) => request.clone(),
        };
        let target_url = self.webhook.target_url.clone();
        let trying = (self.post)(target_url, request);
        let (attempts, heard) = mpsc::channel(1);
        tokio::spawn(async move {
            // Nobody listens any more where the run was stopped.
            let _ = attempts.try_send(Attempt { result: trying.await, retry_in: None });
        });
        heard
    }
}

/// Makes the webhook: every type, and a public address that the deliverer does not mind.
pub fn webhook(store: &mut Store) -> Webhook {
    let all = store.event_types.iter();
    let subscriptions = all
        .map(|event_type| Subscription { event_type: event_type.clone(), filter: serde_json::Value::Null });
    let wanted = WebhookInput {
        target_url: Some(format!("https://attio-bridge.example.com/webhooks/{SOURCE}")),
        subscriptions: Some(subscriptions.collect()),
    };
    store.create(wanted).expect("the first webhook of a workspace is like no other")
}
