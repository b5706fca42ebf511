use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::*;
use crate::dev::attio::input::Wanted;
use crate::dev::attio::store::Subscription;

/// Three days in about a quarter of a second.
const FAST: Times = Times { hurry: 1_000_000.0, per_second: 100_000 };

const EVENT: &str = r#"{"event_type":"note.created","id":{"note_id":"n"}}"#;

fn workspace(urls: &[&str]) -> Arc<Mutex<Store>> {
    let mut store = Store::new("key");
    for url in urls {
        let subscription = Subscription { event_type: "note.created".into(), filter: Json::Null };
        let wanted = Wanted { target_url: Some((*url).into()), subscriptions: Some(vec![subscription]) };
        store.create(wanted).unwrap();
    }
    Arc::new(Mutex::new(store))
}

/// Answers with these statuses in turn, the last one for ever; and keeps what was posted.
fn answering(statuses: &'static [u16]) -> (Post, Arc<Mutex<Vec<Parcel>>>) {
    let (at, posted) = (AtomicUsize::new(0), Arc::new(Mutex::new(Vec::new())));
    let kept = Arc::clone(&posted);
    let post: Post = Arc::new(move |parcel| {
        kept.lock().push(parcel);
        let at = at.fetch_add(1, Ordering::Relaxed).min(statuses.len() - 1);
        let reply = Reply { status: statuses[at], body: Bytes::new(), took: Duration::ZERO };
        Box::pin(async move { Ok(reply) })
    });
    (post, posted)
}

#[tokio::test]
async fn a_delivery_that_fails_is_tried_again_under_the_same_key_until_it_is_taken() {
    let (post, posted) = answering(&[503, 204, 202]);
    let store = workspace(&["https://a/x"]);
    let webhook_id = store.lock().webhooks[0].webhook_id.clone();
    let deliverer = Deliverer::new(store, post, FAST);
    let mut heard = deliverer.deliver(&webhook_id, Mail::new(Scheme::Attio, "{}"));
    let mut attempts = Vec::new();
    while let Some(Attempt { result, again }) = heard.recv().await {
        attempts.push((result.unwrap().status, again));
    }
    let waits = [FAST.after(1), FAST.after(2), None];
    let statuses = [503, 204, 202];
    let expected: Vec<_> = statuses.into_iter().zip(waits).collect();
    assert_eq!(attempts, expected, "the earlier guide takes no other 2xx");
    assert_eq!(deliverer.fates(), Fates { delivered: 1, ..Fates::default() });
    let posted = posted.lock();
    assert!(posted.iter().all(|parcel| *parcel == posted[0]), "every try is the same");
}

#[tokio::test]
async fn after_ten_tries_a_webhook_is_degraded_and_then_inactive_and_gets_nothing() {
    let (post, posted) = answering(&[500]);
    let store = workspace(&["https://a/x"]);
    let deliverer = Deliverer::new(Arc::clone(&store), post, FAST);
    deliverer.happened(EVENT);
    deliverer.settled().await;
    assert_eq!((posted.lock().len(), deliverer.fates().given_up), (10, 1));
    assert_eq!(store.lock().webhooks[0].status, Status::Degraded);
    while store.lock().webhooks[0].status != Status::Inactive {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = posted.lock().len();
    deliverer.happened(EVENT);
    deliverer.settled().await;
    assert_eq!((posted.lock().len(), deliverer.fates().dropped), (before, 1));
}

fn key(parcel: &Parcel) -> String {
    let mut headers = parcel.headers.iter();
    headers.find(|(name, _)| *name == "Idempotency-Key").map(|(_, key)| key.clone()).unwrap()
}

#[tokio::test]
async fn a_webhook_that_is_deleted_is_not_tried_again() {
    let (post, posted) = answering(&[500]);
    let store = workspace(&["https://a/x", "https://b/x"]);
    let deliverer = Deliverer::new(Arc::clone(&store), post, Times { hurry: 10_000.0, ..FAST });
    assert_eq!(deliverer.happened(EVENT), 2);
    assert_eq!(deliverer.happened(r#"{"event_type":"note.deleted"}"#), 0);
    while posted.lock().len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let keys: Vec<_> = posted.lock().iter().map(key).collect();
    assert_ne!(keys[0], keys[1], "each webhook has deliveries of its own");
    store.lock().webhooks.clear();
    deliverer.settled().await;
    assert_eq!(deliverer.fates().dropped, 2);
}
