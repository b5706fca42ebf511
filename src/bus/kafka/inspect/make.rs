//! Whether the broker would make what is missing, found out without making anything: it can be asked to
//! look at the request alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::makes;
use super::topic::Topic;
use crate::bus::inspect::Level;
use crate::bus::kafka::options;
use crate::bus::kafka::topics::{Create, Found, advice, create};

/// How long the broker may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the broker says of making a topic.
#[derive(Clone, Debug, Default)]
pub(super) enum Making {
    /// It would make it.
    #[default]
    Allowed,
    /// It would not.
    Refused(Code),
    /// It says nothing.
    Unknown(String),
}

/// Asks about every topic that the bridge would make.
pub(super) fn ask(topics: &mut [Topic], options: &options::Topics, config: &ClientConfig, left: Duration) {
    let mut missing: Vec<_> = topics.iter_mut().filter(|topic| topic.found == Found::Missing).collect();
    if missing.is_empty() || !makes(options.ensure) {
        return;
    }
    let names: BTreeSet<Arc<str>> = missing.iter().map(|topic| Arc::clone(&topic.name)).collect();
    let refused = create(&names, options, config, Create::Look(left.min(PATIENCE)));
    let refused = refused.map(BTreeMap::from_iter);
    for topic in &mut missing {
        topic.making = match &refused {
            Err(error) => Making::Unknown(error.to_string()),
            Ok(refused) => refused.get(&*topic.name).copied().map_or(Making::Allowed, Making::Refused),
        };
    }
}

impl Making {
    /// The finding about a topic that is missing.
    pub(super) fn state(&self) -> (Level, String) {
        match self {
            Self::Allowed => {
                (Level::Ok, "missing: the bridge will make it (topics.ensure is \"create\")".to_owned())
            }
            Self::Refused(code) => (
                Level::Failed,
                format!("missing, and the broker would not make it ({code}): {}", advice(*code)),
            ),
            Self::Unknown(why) => (
                Level::Warning,
                format!("missing: the bridge will make it if the broker lets it, which is not known: {why}"),
            ),
        }
    }
}
