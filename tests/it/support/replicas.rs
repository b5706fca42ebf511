//! Bridges in this process that publish to one bus in memory and share one store.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bridge::{Bridge, config};
use super::memory::Memory;
use super::request::Request;
use super::shared_store::SharedStore;

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
}

/// A delivery of one event, the same for the same key.
pub fn event(key: &str) -> Request {
    Request::keyed(key, r#"{"event_type":"task.created","id":{"workspace_id":"w","task_id":"t"}}"#)
}

/// Waits until a bridge has counted so many requests with this result.
pub async fn until(bridge: &Bridge, result: &str, count: f64) {
    bridge.until("dedup_store_requests_total", &[("result", result)], count).await;
}

pub async fn count(bridge: &Bridge, result: &str) -> f64 {
    bridge.metric("dedup_store_requests_total", &[("result", result)]).await
}
