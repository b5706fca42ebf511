//! Whether acknowledged events are durable on their topics, and whether every message fits.

use rdkafka::config::ClientConfig;

use super::topic::{Settings, Topic, existing, names};
use crate::bus::inspect::{Level, Report, Requirements};
use crate::bus::kafka::client_config::MESSAGE_MAX_BYTES;

impl Topic {
    /// What the loss of one broker does to this topic.
    fn risk(&self) -> Option<&'static str> {
        let Some(Settings { min_insync_replicas: least, .. }) = self.settings else {
            return (self.replication == 1).then_some(ONE_COPY);
        };
        match self.replication as u64 {
            1 => Some(ONE_COPY),
            _ if least <= 1 => Some(
                "min.insync.replicas 1: an event that one broker alone acknowledged is lost with that broker; set it to 2",
            ),
            copies if least >= copies => Some(
                "min.insync.replicas equals the replication: no event is lost, but the loss of one broker stops \
                 all writes; use one replica more",
            ),
            _ => None,
        }
    }
}

const ONE_COPY: &str = "replication 1: acknowledged events are lost with their only broker, and writes stop while it is \
                        down; use replication 3 with min.insync.replicas 2";

/// Whether the loss of one broker can lose an acknowledged event.
pub(super) fn report_durability(topics: &[Topic], report: &mut Report) {
    let existing = existing(topics);
    if existing.is_empty() {
        return;
    }
    let mut risks: Vec<(&str, Vec<&Topic>)> = Vec::new();
    for topic in &existing {
        let Some(risk) = topic.risk() else { continue };
        match risks.iter_mut().find(|(known, _)| *known == risk) {
            Some((_, topics)) => topics.push(topic),
            None => risks.push((risk, vec![topic])),
        }
    }
    for (risk, of) in &risks {
        report.add("durability", Level::Warning, format!("{}: {risk}", names(of, existing.len())));
    }
    let unseen: Vec<_> = existing.iter().copied().filter(|topic| topic.settings.is_none()).collect();
    if !unseen.is_empty() {
        let detail = format!(
            "{}: min.insync.replicas and max.message.bytes are hidden from this user; grant DescribeConfigs on \
             the topics to have them checked",
            names(&unseen, existing.len())
        );
        report.add("durability", Level::Warning, detail);
    } else if risks.is_empty() {
        report.add(
            "durability",
            Level::Ok,
            "no acknowledged event is lost with one broker, and writes continue",
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
    let known: Vec<_> = topics.iter().filter_map(|topic| Some((topic, topic.settings?))).collect();
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
    use std::sync::Arc;

    use super::*;
    use crate::bus::kafka::inspect::topic::Creation;
    use crate::bus::kafka::topics::TopicState;

    /// A healthy topic.
    fn topic(replication: usize, least: u64) -> Topic {
        let settings = Settings { min_insync_replicas: least, max_message_bytes: 1_048_588 };
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
            let found = topic(replication, least).risk();
            match risk {
                Some(words) => assert!(found.is_some_and(|text| text.contains(words)), "{found:?}"),
                None => assert_eq!(found, None),
            }
        }
        let hidden = Topic { settings: None, ..topic(1, 1) };
        assert_eq!(hidden.risk(), Some(ONE_COPY));
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
