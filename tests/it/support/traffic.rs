//! Deliveries that are sent one after the other, and which of them were answered 200.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::client::Client;
use super::request::Request;
use super::wait::eventually;

/// Between two deliveries.
const PAUSE: Duration = Duration::from_millis(5);

/// A sender in the background. Each delivery holds one event of a task of its own.
pub struct Traffic {
    over: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    sender: JoinHandle<BTreeSet<String>>,
}

impl Traffic {
    pub fn start(address: SocketAddr) -> Self {
        let (over, accepted, refused) = <(Arc<AtomicBool>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let (stop, yes, no) = (Arc::clone(&over), Arc::clone(&accepted), Arc::clone(&refused));
        let sender = tokio::spawn(async move {
            let (mut stored, mut client) = (BTreeSet::new(), Client::connect(address).await);
            for at in 0.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let task = format!("task-{at}");
                let body = format!(
                    r#"{{"event_type":"task.created","id":{{"workspace_id":"w","task_id":"{task}"}}}}"#
                );
                match client.ask(&Request::keyed(&task, body)).await.status {
                    200 => {
                        stored.insert(task);
                        yes.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(PAUSE).await;
                    }
                    status => {
                        assert_eq!(status, 503, "{task}");
                        no.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(4 * PAUSE).await;
                    }
                }
            }
            stored
        });
        Self { over, accepted, refused, sender }
    }

    /// How many were answered 503.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    /// Waits until more of them are answered 200.
    pub async fn goes_on(&self) {
        let before = self.accepted.load(Ordering::SeqCst);
        // One may have been answered before what the test has just done.
        let count = || async { self.accepted.load(Ordering::SeqCst) > before + 1 };
        eventually("deliveries are accepted", count).await;
    }

    /// Waits until one more is answered 503.
    pub async fn is_refused(&self) {
        let before = self.refused();
        eventually("a delivery is refused", || async { self.refused() > before }).await;
    }

    /// Ends it; the keys of the events that were answered 200.
    pub async fn stop(self) -> BTreeSet<String> {
        self.over.store(true, Ordering::SeqCst);
        self.sender.await.expect("every answer is 200 or 503")
    }
}
