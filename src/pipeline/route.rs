//! Routes events to addresses, by a closed table built at start.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::publish::Destination;
use crate::catalog::{Category, EVENT_TYPES, EventType, Kind};

/// How addresses are formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The first part of every address that is not given below.
    pub prefix: String,
    /// Addresses of single categories, without the prefix.
    pub categories: BTreeMap<Category, String>,
}

/// Whether a text is a valid address, on Kafka and NATS alike: tokens of `[A-Za-z0-9_-]` joined by dots, at most
/// 200 characters (a subject adds the action).
pub fn is_address(text: &str) -> bool {
    let token = |token: &str| {
        !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    };
    text.len() <= 200 && text.split('.').all(token)
}

/// The action of events whose action is not in the catalog, and the category of those without one.
const UNKNOWN: &str = "unknown";

/// The last part of the quarantine address.
const QUARANTINE: &str = "quarantine";

/// Every destination. No text from a request becomes part of one.
pub struct Routes {
    known: BTreeMap<&'static str, Arc<Destination>>,
    unknown_action: BTreeMap<Category, Arc<Destination>>,
    unknown: Arc<Destination>,
    quarantine: Arc<Destination>,
}

impl Routes {
    pub fn new(options: &Options) -> Self {
        let Options { prefix, categories } = options;
        let address = |category: Category| match categories.get(&category) {
            Some(address) => Arc::from(address.as_str()),
            None => Arc::from(format!("{prefix}.{category}")),
        };
        let addresses: BTreeMap<Category, Arc<str>> =
            Category::ALL.into_iter().map(|category| (category, address(category))).collect();
        let with_action = |category: &Category, action: &str| {
            let address = Arc::clone(&addresses[category]);
            let subject = format!("{address}.{action}").into();
            Arc::new(Destination { address, subject })
        };
        let alone = |name: &str| {
            let address: Arc<str> = format!("{prefix}.{name}").into();
            Arc::new(Destination { subject: Arc::clone(&address), address })
        };
        let known = |entry: &EventType| (entry.name, with_action(&entry.category, entry.action));
        Self {
            known: EVENT_TYPES.iter().map(known).collect(),
            unknown_action: addresses.keys().map(|c| (*c, with_action(c, UNKNOWN))).collect(),
            unknown: alone(UNKNOWN),
            quarantine: alone(QUARANTINE),
        }
    }

    pub fn event(&self, kind: Kind) -> &Arc<Destination> {
        match kind {
            Kind::Known(entry) => &self.known[entry.name],
            Kind::UnknownAction(category) => &self.unknown_action[&category],
            Kind::Unknown => &self.unknown,
        }
    }

    pub fn quarantine(&self) -> &Arc<Destination> {
        &self.quarantine
    }

    pub fn destinations(&self) -> Vec<Arc<Destination>> {
        let single = [&self.unknown, &self.quarantine];
        self.known.values().chain(self.unknown_action.values()).chain(single).map(Arc::clone).collect()
    }

    /// The destinations of a category, of `unknown` or of `quarantine`; none for any other name.
    pub fn of_category(&self, name: &str) -> Vec<Arc<Destination>> {
        let known = EVENT_TYPES.iter().filter(|entry| entry.category.as_str() == name);
        let known = known.map(|entry| &self.known[entry.name]);
        let other = self.unknown_action.iter().filter(|(category, _)| category.as_str() == name);
        let single = [(UNKNOWN, &self.unknown), (QUARANTINE, &self.quarantine)];
        let single = single.into_iter().filter(|(known, _)| *known == name).map(|(_, to)| to);
        known.chain(other.map(|(_, to)| to)).chain(single).map(Arc::clone).collect()
    }

    /// Every address once: the topics that must exist.
    pub fn addresses(&self) -> Vec<Arc<str>> {
        let mut addresses: Vec<_> = self.destinations().iter().map(|to| Arc::clone(&to.address)).collect();
        addresses.sort();
        addresses.dedup();
        addresses
    }
}
