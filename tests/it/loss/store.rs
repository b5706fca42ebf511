//! The store of a run.

use super::options::{self, Bus};
use crate::support::shared_store::{Kind, SharedStore};

/// A store of its own, or none.
pub struct Store(Option<SharedStore>);

impl Store {
    pub fn start(kind: options::Store) -> Self {
        let kind = match kind {
            options::Store::Memory => return Self(None),
            options::Store::Redis => Kind::Redis,
            options::Store::Valkey => Kind::Valkey,
            options::Store::NatsKv => Kind::NatsKv,
        };
        Self(Some(SharedStore::start(kind)))
    }

    /// The variables of the bridges.
    pub fn variables(&self, bus: Bus) -> Vec<(String, String)> {
        let Some(store) = &self.0 else { return Vec::new() };
        assert!(
            bus == Bus::Kafka || !matches!(store, SharedStore::Nats(_)),
            "[nats] names one set of servers: on NATS the bucket is on the broker itself"
        );
        let own = store.variables().into_iter().map(|(name, value)| (name.to_owned(), value));
        // The claims of a bridge that is killed end soon: Attio's sender waits for minutes, ours does not.
        let timeout = match bus {
            Bus::Kafka => "ATTIO_BRIDGE__KAFKA__PUBLISH_TIMEOUT",
            Bus::Nats => "ATTIO_BRIDGE__NATS__PUBLISH_TIMEOUT",
        };
        own.chain([(timeout.to_owned(), "3s".to_owned())]).collect()
    }
}
