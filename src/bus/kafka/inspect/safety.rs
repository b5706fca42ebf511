//! Whether acknowledged events are safe on their topics, and whether they fit.

use super::topic::{Settings, Topic, names};
use crate::bus::inspect::{Level, Report, Requirements};
use crate::bus::kafka::topics::Found;

impl Topic {
    /// What the loss of one broker does here.
    fn danger(&self) -> Option<&'static str> {
        let Some(Settings { min_insync_replicas: least, .. }) = self.settings else {
            return (self.replication == 1).then_some(ONE_COPY);
        };
        match self.replication as u64 {
            1 => Some(ONE_COPY),
            _ if least <= 1 => Some(
                "min.insync.replicas 1: an event that one broker alone acknowledged is lost with it; set it to 2",
            ),
            copies if least >= copies => Some(
                "min.insync.replicas equals the replication: no event is lost, but the loss of one broker stops \
                 all writes; use one replica more",
            ),
            _ => None,
        }
    }
}

const ONE_COPY: &str = "replication 1: acknowledged events are lost with their one broker, and writes stop while it is \
                        away; use replication 3 with min.insync.replicas 2";

fn there(topics: &[Topic]) -> Vec<&Topic> {
    topics.iter().filter(|topic| topic.found == Found::There).collect()
}

/// Whether the loss of one broker can lose an acknowledged event.
pub(super) fn tell_durability(topics: &[Topic], report: &mut Report) {
    let there = there(topics);
    if there.is_empty() {
        return;
    }
    let mut dangers: Vec<(&str, Vec<&Topic>)> = Vec::new();
    for topic in &there {
        let Some(danger) = topic.danger() else { continue };
        match dangers.iter_mut().find(|(known, _)| *known == danger) {
            Some((_, topics)) => topics.push(topic),
            None => dangers.push((danger, vec![topic])),
        }
    }
    for (danger, of) in &dangers {
        report.add("durability", Level::Warning, format!("{}: {danger}", names(of, there.len())));
    }
    let unseen: Vec<_> = there.iter().copied().filter(|topic| topic.settings.is_none()).collect();
    if !unseen.is_empty() {
        let detail = format!(
            "{}: min.insync.replicas and max.message.bytes are not shown to this user; grant DescribeConfigs on \
             the topics to have them checked",
            names(&unseen, there.len())
        );
        report.add("durability", Level::Warning, detail);
    } else if dangers.is_empty() {
        report.add(
            "durability",
            Level::Ok,
            "no acknowledged event is lost with one broker, and writes go on",
        );
    }
}

/// Whether every topic takes the largest message that can go there.
pub(super) fn tell_sizes(topics: &[Topic], requirements: &Requirements, report: &mut Report) {
    let known: Vec<_> = topics.iter().filter_map(|topic| Some((topic, topic.settings?))).collect();
    let mut small = Vec::new();
    for (topic, settings) in &known {
        let largest = requirements.largest(&topic.name);
        if settings.max_message_bytes < largest as u64 {
            small.push(format!("{} takes {} of {largest} bytes", topic.name, settings.max_message_bytes));
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
        let detail = format!("every topic takes what http.max_body_bytes ({limit}) lets in, quarantine too");
        report.add("message size", Level::Ok, detail);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::bus::kafka::inspect::topic::tests::topic;

    #[test]
    fn the_loss_of_one_broker_is_thought_through() {
        let table = [
            (1, 1, Some("replication 1")),
            (3, 1, Some("min.insync.replicas 1")),
            (2, 2, Some("equals the replication")),
            (3, 3, Some("equals the replication")),
            (3, 2, None),
            (2, 1, Some("min.insync.replicas 1")),
        ];
        for (replication, least, danger) in table {
            let found = topic(replication, least).danger();
            match danger {
                Some(words) => assert!(found.is_some_and(|text| text.contains(words)), "{found:?}"),
                None => assert_eq!(found, None),
            }
        }
        let blind = Topic { settings: None, ..topic(1, 1) };
        assert_eq!(blind.danger(), Some(ONE_COPY));
    }

    #[test]
    fn a_topic_that_is_too_small_is_named_with_its_numbers() {
        let quarantine: Arc<str> = "attio.record".into();
        let mut requirements =
            Requirements { destinations: vec![], addresses: vec![], quarantine, max_body_bytes: 524_288 };
        let row = |requirements: &Requirements| {
            let mut report = Report::new("kafka", "");
            tell_sizes(&[topic(3, 2)], requirements, &mut report);
            report.checks.remove(0)
        };
        assert_eq!(row(&requirements).result, Level::Ok);
        requirements.max_body_bytes = 1_000_000;
        let found = row(&requirements);
        assert_eq!(found.result, Level::Warning);
        assert!(found.detail.contains("attio.record takes 1048588 of 1337432 bytes"), "{found:?}");
    }
}
