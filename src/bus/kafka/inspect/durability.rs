//! Whether acknowledged events are durable on their topics, and whether every message fits.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

use super::topic::{Topic, existing, names, read_settings};
use crate::bus::inspect::{Level, RETRIES, Report, Requirements};
use crate::bus::kafka::options::{AUTO_CREATE, MESSAGE_MAX_BYTES, without_publishing};

impl Topic {
    /// What makes an ack of this topic worth less, and what to set.
    fn risks(&self) -> Vec<String> {
        let mut risks = Vec::new();
        let Some(settings) = &self.settings else {
            return if self.replication == 1 { vec![ONE_COPY.into()] } else { risks };
        };
        let least = settings.min_insync_replicas;
        match self.replication as u64 {
            1 => risks.push(ONE_COPY.into()),
            _ if least <= 1 => risks.push(
                "min.insync.replicas 1: an event that one broker alone acknowledged is lost with that broker; set it \
                 to 2"
                    .into(),
            ),
            copies if least >= copies => risks.push(
                "min.insync.replicas equals the replication: no event is lost, but the loss of one broker stops \
                 all writes; use one replica more"
                    .into(),
            ),
            _ => {}
        }
        let (policy, bytes) = (&settings.cleanup_policy, settings.retention_bytes);
        if policy.contains("compact") {
            risks.push(format!(
                "cleanup.policy {policy}: of the events with one key all but the last are deleted, and events \
                 without a key are refused; set cleanup.policy=delete"
            ));
        }
        let kept = u64::try_from(settings.retention_ms).map(Duration::from_millis);
        if policy.contains("delete") && kept.is_ok_and(|kept| kept < RETRIES) {
            let kept = humantime::format_duration(kept.unwrap_or_default());
            risks.push(format!(
                "retention.ms {}: acknowledged events are deleted after {kept}, read or not, while Attio retries for \
                 3 days; set retention.ms to 259200000 (3 days) or more",
                settings.retention_ms
            ));
        }
        if policy.contains("delete") && bytes >= 0 {
            risks.push(format!(
                "retention.bytes {bytes}: acknowledged events beyond that size of a partition are deleted, however \
                 young; set retention.bytes=-1"
            ));
        }
        if settings.unclean_leader_election {
            risks.push(
                "unclean.leader.election.enable true: acknowledged events are lost when a replica becomes leader \
                 that does not have them; set it to false"
                    .into(),
            );
        }
        if settings.write_caching {
            risks.push(
                "write.caching true: events are acknowledged before they are on any disk, and lost when the brokers \
                 fail together; set it to false"
                    .into(),
            );
        }
        risks
    }
}

const ONE_COPY: &str = "replication 1: acknowledged events are lost with their only broker, and writes stop while it is \
                        down; use replication 3 with min.insync.replicas 2";

/// Every risk with the topics that have it.
fn risks<'t>(topics: &[&'t Topic]) -> Vec<(String, Vec<&'t Topic>)> {
    let mut risks: Vec<(String, Vec<&Topic>)> = Vec::new();
    for topic in topics {
        for risk in topic.risks() {
            match risks.iter_mut().find(|(known, _)| *known == risk) {
                Some((_, topics)) => topics.push(topic),
                None => risks.push((risk, vec![topic])),
            }
        }
    }
    risks
}

/// Reads the settings of the topics: what makes their acks worth less. None if no topic is seen; settings that this user
/// may not see are left out, which `check --connect` says.
pub fn find_risks(config: &ClientConfig, requirements: &Requirements) -> Option<Vec<String>> {
    const WITHIN: Duration = Duration::from_secs(5);
    let mut asking = without_publishing(config);
    // A request for metadata creates no topic. The client would warn that this property has no effect; it has.
    asking.set(AUTO_CREATE, "false").set("log_level", "0");
    let admin: Result<AdminClient<DefaultClientContext>, _> = asking.create();
    let admin = admin.ok()?;
    let topic = |name: &Arc<str>| {
        let metadata = admin.inner().fetch_metadata(Some(name), WITHIN);
        Topic::new(name, metadata.as_ref().map_err(ToString::to_string))
    };
    let mut topics: Vec<_> = requirements.addresses.iter().map(topic).collect();
    read_settings(&mut topics, config, WITHIN);
    let existing = existing(&topics);
    let text = |(risk, of): (String, Vec<&Topic>)| format!("{}: {risk}", names(&of, existing.len()));
    (!existing.is_empty()).then(|| risks(&existing).into_iter().map(text).collect())
}

/// What can lose an acknowledged event.
pub(super) fn report_durability(topics: &[Topic], report: &mut Report) {
    let existing = existing(topics);
    if existing.is_empty() {
        return;
    }
    let risks = risks(&existing);
    for (risk, of) in &risks {
        report.add("durability", Level::Warning, format!("{}: {risk}", names(of, existing.len())));
    }
    let unseen: Vec<_> = existing.iter().copied().filter(|topic| topic.settings.is_none()).collect();
    if !unseen.is_empty() {
        let detail = format!(
            "{}: the topics' settings (cleanup.policy, retention, min.insync.replicas, max.message.bytes) are hidden \
             from this user; grant DescribeConfigs on the topics to have them checked",
            names(&unseen, existing.len())
        );
        report.add("durability", Level::Warning, detail);
    } else if risks.is_empty() {
        report.add(
            "durability",
            Level::Ok,
            "no acknowledged event is lost with one broker or deleted early, and writes continue",
        );
    }
}

/// Whether the client and every topic accept the largest message that can be published there.
pub(super) fn report_sizes(
    topics: &[Topic],
    requirements: &Requirements,
    config: &ClientConfig,
    report: &mut Report,
) {
    let mut small = Vec::new();
    let largest = requirements.largest(&requirements.quarantine);
    let client = config.get(MESSAGE_MAX_BYTES).and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    if client < largest {
        let key = "kafka.properties.message.max.bytes";
        small.push(format!("the client accepts {client} of {largest} bytes ({key}, at most 1000000000)"));
    }
    let known: Vec<_> = topics.iter().filter_map(|topic| Some((topic, topic.settings.as_ref()?))).collect();
    for (topic, settings) in &known {
        let largest = requirements.largest(&topic.name);
        if settings.max_message_bytes < largest as u64 {
            small.push(format!("{} accepts {} of {largest} bytes", topic.name, settings.max_message_bytes));
        }
    }
    let limit = requirements.max_body_bytes;
    if !small.is_empty() {
        let detail = format!(
            "{}: a delivery of http.max_body_bytes ({limit}) may not fit; raise max.message.bytes, or lower \
             http.max_body_bytes",
            small.join(", ")
        );
        report.add("message size", Level::Warning, detail);
    } else if !known.is_empty() {
        let detail = format!("every topic accepts what http.max_body_bytes ({limit}) allows, quarantine too");
        report.add("message size", Level::Ok, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::kafka::inspect::topic::{Creation, Settings};
    use crate::bus::kafka::topics::TopicState;

    /// A healthy topic.
    fn topic(replication: usize, least: u64) -> Topic {
        let settings = Settings {
            min_insync_replicas: least,
            max_message_bytes: 1_048_588,
            cleanup_policy: "delete".into(),
            retention_ms: 604_800_000,
            retention_bytes: -1,
            unclean_leader_election: false,
            write_caching: false,
        };
        Topic {
            name: "attio.record".into(),
            state: TopicState::Ready,
            problem: None,
            partitions: 6,
            replication,
            in_sync: replication,
            leaderless: 0,
            settings: Some(settings),
            creation: Creation::default(),
        }
    }

    #[test]
    fn topics_that_refuse_writes_now_fail() {
        let level = |topic: Topic| topic.replicas().0;
        assert_eq!(level(topic(3, 2)), Level::Ok);
        assert_eq!(level(Topic { in_sync: 2, ..topic(3, 2) }), Level::Warning);
        assert_eq!(level(Topic { in_sync: 1, ..topic(3, 2) }), Level::Failed);
        assert_eq!(level(Topic { leaderless: 1, ..topic(3, 2) }), Level::Failed);
        assert_eq!(level(topic(1, 2)), Level::Ok, "the broker caps it at the replicas there are");
    }

    #[test]
    fn replication_and_min_insync_replicas_decide_what_the_loss_of_one_broker_does() {
        let table = [
            (1, 1, Some("replication 1")),
            (3, 1, Some("min.insync.replicas 1")),
            (2, 2, Some("equals the replication")),
            (3, 3, Some("equals the replication")),
            (3, 2, None),
            (2, 1, Some("min.insync.replicas 1")),
        ];
        for (replication, least, risk) in table {
            let found = topic(replication, least).risks();
            match risk {
                Some(words) => assert!(found.len() == 1 && found[0].contains(words), "{found:?}"),
                None => assert!(found.is_empty(), "{found:?}"),
            }
        }
        let hidden = Topic { settings: None, ..topic(1, 1) };
        assert_eq!(hidden.risks(), [ONE_COPY]);
    }

    #[test]
    fn settings_that_delete_acknowledged_events_are_risks() {
        type Change = fn(&mut Settings);
        let with = |change: Change| {
            let mut topic = topic(3, 2);
            topic.settings.iter_mut().for_each(change);
            topic.risks()
        };
        let table: [(Change, &[&str]); 8] = [
            (
                |s| s.cleanup_policy = "compact".into(),
                &["cleanup.policy compact", "set cleanup.policy=delete"],
            ),
            (|s| s.cleanup_policy = "compact,delete".into(), &["cleanup.policy compact,delete"]),
            (|s| s.retention_ms = 86_400_000, &["deleted after 1day", "set retention.ms"]),
            (|s| s.retention_ms = 0, &["deleted after 0s"]),
            (|s| s.retention_bytes = 1 << 30, &["retention.bytes 1073741824", "set retention.bytes=-1"]),
            (|s| s.unclean_leader_election = true, &["unclean.leader.election.enable", "set it to false"]),
            (|s| s.write_caching = true, &["write.caching", "set it to false"]),
            (|s| s.retention_ms = -1, &[]),
        ];
        for (change, words) in table {
            let found = with(change);
            assert_eq!(found.len(), usize::from(!words.is_empty()), "{found:?}");
            assert!(words.iter().all(|word| found[0].contains(word)), "{found:?}");
        }
    }

    #[test]
    fn limits_below_the_largest_message_are_reported() {
        let quarantine: Arc<str> = "attio.record".into();
        let mut requirements =
            Requirements { destinations: vec![], addresses: vec![], quarantine, max_body_bytes: 524_288 };
        let row = |requirements: &Requirements, client: &str| {
            let mut report = Report::new("kafka", "");
            let mut config = ClientConfig::new();
            config.set(MESSAGE_MAX_BYTES, client);
            report_sizes(&[topic(3, 2)], requirements, &config, &mut report);
            report.checks.remove(0)
        };
        assert_eq!(row(&requirements, "1000000").result, Level::Ok);
        let found = row(&requirements, "700000");
        assert_eq!(found.result, Level::Warning);
        assert!(found.detail.contains("the client accepts 700000 of 703148 bytes"), "{found:?}");
        requirements.max_body_bytes = 1_000_000;
        let found = row(&requirements, "8388608");
        assert_eq!(found.result, Level::Warning);
        assert!(found.detail.contains("attio.record accepts 1048588 of 1337432 bytes"), "{found:?}");
    }
}
