//! One topic: what it is, and whether it takes writes now.

use std::sync::Arc;

use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::metadata::Metadata;

use super::make::Making;
use super::makes;
use crate::bus::inspect::{Level, Report};
use crate::bus::kafka::options;
use crate::bus::kafka::topics::{Found, found};

/// A topic as the cluster tells of it.
#[derive(Clone, Debug)]
pub(super) struct Topic {
    pub name: Arc<str>,
    pub found: Found,
    /// Why nothing more is known.
    pub problem: Option<String>,
    pub partitions: usize,
    /// The least of all partitions.
    pub replication: usize,
    /// The least of all partitions.
    pub in_sync: usize,
    pub leaderless: usize,
    /// Absent where the user may not see them.
    pub settings: Option<Settings>,
    /// Where it is missing: whether the bridge could make it.
    pub making: Making,
}

/// What only an administrator's request tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub min_insync_replicas: u64,
    pub max_message_bytes: u64,
}

impl Topic {
    /// Reads the answer to a question about this topic.
    pub(super) fn new(name: &Arc<str>, answer: Result<&Metadata, String>) -> Self {
        let nothing = |found, problem| Self {
            name: name.clone(),
            found,
            problem,
            partitions: 0,
            replication: 0,
            in_sync: 0,
            leaderless: 0,
            settings: None,
            making: Making::default(),
        };
        let metadata = match answer {
            Ok(metadata) => metadata,
            Err(problem) => return nothing(Found::NotYet, Some(problem)),
        };
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == &**name) else {
            return nothing(Found::Missing, None);
        };
        if let Some(code) = topic.error().map(Code::from) {
            return nothing(found(code), Some(code.to_string()));
        }
        let partitions = topic.partitions();
        Self {
            partitions: partitions.len(),
            replication: partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or(0),
            in_sync: partitions.iter().map(|partition| partition.isr().len()).min().unwrap_or(0),
            leaderless: partitions.iter().filter(|partition| partition.leader() < 0).count(),
            ..nothing(Found::There, None)
        }
    }

    /// The row of this topic.
    pub(super) fn tell(&self, options: &options::Topics, report: &mut Report) {
        let (level, detail) = match self.found {
            Found::There => self.state(),
            Found::Missing if makes(options.ensure) => self.making.state(),
            Found::Missing => {
                let advice = "missing: create it, or set kafka.topics.ensure to \"create\"";
                (Level::Failed, advice.to_owned())
            }
            Found::Forbidden => {
                let advice = "not authorised: grant Write and Describe on it (it may be missing, too)";
                (Level::Failed, advice.to_owned())
            }
            Found::Leaderless(_) | Found::NotYet => {
                let problem = self.problem.as_deref().unwrap_or("not ready");
                (Level::Failed, format!("the cluster cannot tell: {problem}"))
            }
        };
        report.add(format!("topic {}", self.name), level, detail);
    }

    fn state(&self) -> (Level, String) {
        let Self { partitions, replication, in_sync, leaderless, .. } = self;
        let mut facts = format!("partitions {partitions}, replication {replication}");
        if let Some(Settings { min_insync_replicas, max_message_bytes }) = self.settings {
            facts += &format!(
                ", min.insync.replicas {min_insync_replicas}, max.message.bytes {max_message_bytes}"
            );
        }
        if *leaderless > 0 {
            return (
                Level::Failed,
                format!("{facts}: {leaderless} partitions have no leader: brokers are away"),
            );
        }
        // The broker asks for no more than there are replicas.
        let least = self.settings.map_or(1, |settings| settings.min_insync_replicas).min(*replication as u64);
        if (*in_sync as u64) < least {
            let why = format!("{facts}: only {in_sync} replicas are in sync, so writes are refused now");
            return (Level::Failed, why);
        }
        if in_sync < replication {
            return (
                Level::Warning,
                format!("{facts}: only {in_sync} replicas are in sync: is a broker away?"),
            );
        }
        (Level::Ok, facts)
    }
}

/// The names of some topics, or `every topic`.
pub(super) fn names(topics: &[&Topic], all: usize) -> String {
    if topics.len() == all && all > 1 {
        return "every topic".into();
    }
    topics.iter().map(|topic| &*topic.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A healthy topic.
    pub(in crate::bus::kafka::inspect) fn topic(replication: usize, least: u64) -> Topic {
        let settings = Settings { min_insync_replicas: least, max_message_bytes: 1_048_588 };
        Topic {
            name: "attio.record".into(),
            found: Found::There,
            problem: None,
            partitions: 6,
            replication,
            in_sync: replication,
            leaderless: 0,
            settings: Some(settings),
            making: Making::default(),
        }
    }

    #[test]
    fn what_stops_writes_now_has_failed() {
        let level = |topic: Topic| topic.state().0;
        assert_eq!(level(topic(3, 2)), Level::Ok);
        assert_eq!(level(Topic { in_sync: 2, ..topic(3, 2) }), Level::Warning);
        assert_eq!(level(Topic { in_sync: 1, ..topic(3, 2) }), Level::Failed);
        assert_eq!(level(Topic { leaderless: 1, ..topic(3, 2) }), Level::Failed);
        assert_eq!(level(topic(1, 2)), Level::Ok, "the broker caps it at the replicas there are");
    }
}
