//! What the bus tells others of its cluster: its id, and what its topics are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pipeline::publish::BrokerIdentity;

/// Between two requests for topics that do not exist yet.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Default)]
pub(super) struct Told {
    identity: Option<Arc<BrokerIdentity>>,
    /// When topics were last asked for what they are.
    asked: Option<Instant>,
}

impl Told {
    pub(super) fn identity(&self) -> Option<Arc<BrokerIdentity>> {
        self.identity.clone()
    }

    /// Those of the topics that are to be asked for now, because it is not known what they are.
    pub(super) fn unknown(&mut self, topics: &[Arc<str>]) -> Vec<Arc<str>> {
        if self.identity.is_some() && self.asked.is_some_and(|at| at.elapsed() < INTERVAL) {
            return Vec::new();
        }
        self.asked = Some(Instant::now());
        let unknown = |topic: &&Arc<str>| self.identity.as_ref().is_none_or(|known| !known.knows(topic));
        topics.iter().filter(unknown).cloned().collect()
    }

    /// These topics exist. Those of a broker before Kafka 2.8 have no id.
    pub(super) fn found(
        &mut self,
        cluster: Option<&str>,
        topics: &[Arc<str>],
        ids: &HashMap<String, String>,
    ) {
        let cluster = cluster.unwrap_or("without an id");
        let found = topics.iter().map(|topic| (topic.to_string(), String::new()));
        let before = self.identity.iter().filter_map(|known| known.addresses.clone()).flatten();
        let ids = ids.iter().map(|(topic, id)| (topic.clone(), id.clone()));
        let addresses: BTreeMap<_, _> = found.chain(before).chain(ids).collect();
        let brokers = format!("kafka {cluster}");
        self.identity = Some(Arc::new(BrokerIdentity { brokers, addresses: Some(addresses) }));
    }

    /// A topic has told its id.
    pub(super) fn has_id(&mut self, topic: &str, id: &str) {
        let addresses = self.identity.as_mut().and_then(|known| Arc::make_mut(known).addresses.as_mut());
        if let Some(addresses) = addresses {
            addresses.insert(topic.to_owned(), id.to_owned());
        }
    }
}
