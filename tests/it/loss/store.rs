//! The store of a run.

use super::options::{self, Bus};
use crate::support::shared_store::{Kind, PATIENT, SharedStore};

/// What the bridges share.
pub enum Store {
    Nothing,
    /// A bucket on the NATS server of the bus, which fails with it: `[nats]` names one set of servers.
    OnTheBus,
    /// A server of its own.
    Own(SharedStore),
}

impl Store {
    pub fn start(kind: options::Store, bus: Bus) -> Self {
        let kind = match (kind, bus) {
            (options::Store::Memory, _) => return Self::Nothing,
            (options::Store::NatsKv, Bus::Nats) => return Self::OnTheBus,
            (options::Store::NatsKv, Bus::Kafka) => Kind::NatsKv,
            (options::Store::Redis, _) => Kind::Redis,
            (options::Store::Valkey, _) => Kind::Valkey,
        };
        Self::Own(SharedStore::start(kind))
    }

    /// The variables of the bridges.
    pub fn variables(&self, bus: Bus) -> Vec<(String, String)> {
        let mut variables = match self {
            Self::Nothing => return Vec::new(),
            Self::OnTheBus => {
                vec![("ATTIO_BRIDGE__DEDUP__STORE", "nats-kv".to_owned()), (PATIENT.0, PATIENT.1.to_owned())]
            }
            Self::Own(store) => store.variables(),
        };
        // The claims of a bridge that is killed end soon: Attio's sender waits for minutes, ours does not.
        let timeout = match bus {
            Bus::Kafka => "ATTIO_BRIDGE__KAFKA__PUBLISH_TIMEOUT",
            Bus::Nats => "ATTIO_BRIDGE__NATS__PUBLISH_TIMEOUT",
        };
        variables.push((timeout, "3s".to_owned()));
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}
