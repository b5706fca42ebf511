//! The topics: whether they exist, can be created and accept writes now, whether acknowledged events are durable on
//! them, and whether every message fits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::bus::inspect::{Ensure, Level, RETRIES, Report, Requirements};
use crate::bus::kafka::options::{AUTO_CREATE, MESSAGE_MAX_BYTES, Topics, allows_admin, without_publishing};
use crate::bus::kafka::topics::{Create, TopicState, block_on, create, creation_advice, state_of};

/// How long the broker may take for one request.
pub(super) const REQUEST: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub(super) struct Topic {
    pub name: Arc<str>,
    pub state: TopicState,
    /// Why nothing more is known.
    pub problem: Option<String>,
    pub partitions: usize,
    /// The smallest of all partitions.
    pub replication: usize,
    /// The smallest of all partitions.
    pub in_sync: usize,
    pub leaderless: usize,
    /// None if the user may not see them.
    pub settings: Option<Settings>,
    pub creation: (Level, String),
}

/// Settings that only an admin request returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub min_insync_replicas: u64,
    pub max_message_bytes: u64,
    pub cleanup_policy: String,
    /// -1: for ever.
    pub retention_ms: i64,
    /// Of each partition; -1: no limit.
    pub retention_bytes: i64,
    pub unclean_leader_election: bool,
    /// Redpanda's: acknowledged before it is on disk.
    pub write_caching: bool,
}

impl Topic {
    pub(super) fn fetch<C: ClientContext>(client: &Client<C>, name: &Arc<str>, within: Duration) -> Self {
        let unknown = |state, problem| Self {
            name: name.clone(),
            state,
            problem,
            partitions: 0,
            replication: 0,
            in_sync: 0,
            leaderless: 0,
            settings: None,
            creation: (
                Level::Ok,
                "missing: the bridge will create it (topics.ensure is \"create\")".to_owned(),
            ),
        };
        let metadata = match client.fetch_metadata(Some(name), within) {
            Ok(metadata) => metadata,
            Err(problem) => return unknown(TopicState::Unknown, Some(problem.to_string())),
        };
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == &**name) else {
            return unknown(TopicState::Missing, None);
        };
        if let Some(code) = topic.error().map(Code::from) {
            return unknown(state_of(code), Some(code.to_string()));
        }
        let partitions = topic.partitions();
        Self {
            partitions: partitions.len(),
            replication: partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or(0),
            in_sync: partitions.iter().map(|partition| partition.isr().len()).min().unwrap_or(0),
            leaderless: partitions.iter().filter(|partition| partition.leader() < 0).count(),
            ..unknown(TopicState::Ready, None)
        }
    }

    pub(super) fn report(&self, options: &Topics, report: &mut Report) {
        let (level, detail) = match self.state {
            TopicState::Ready => self.replicas(),
            TopicState::Missing if options.ensure == Ensure::Create => self.creation.clone(),
            TopicState::Missing => {
                let advice = "missing: create it (`attio-bridge topics` prints how), or set kafka.topics.ensure to \
                              \"create\"";
                (Level::Failed, advice.to_owned())
            }
            TopicState::Forbidden => {
                let advice = "not authorised: grant Write and Describe on it (it may be missing too)";
                (Level::Failed, advice.to_owned())
            }
            TopicState::Leaderless(_) | TopicState::Unknown => {
                let problem = self.problem.as_deref().unwrap_or("not ready");
                (Level::Failed, format!("no metadata: {problem}"))
            }
        };
        report.add(format!("topic {}", self.name), level, detail);
    }

    fn replicas(&self) -> (Level, String) {
        let Self { partitions, replication, in_sync, leaderless, .. } = self;
        let mut facts = format!("partitions {partitions}, replication {replication}");
        let mut least = 1;
        if let Some(Settings { min_insync_replicas, max_message_bytes, .. }) = &self.settings {
            facts += &format!(
                ", min.insync.replicas {min_insync_replicas}, max.message.bytes {max_message_bytes}"
            );
            least = *min_insync_replicas;
        }
        if *leaderless > 0 {
            let why = format!("{facts}: {leaderless} partitions have no leader: brokers are down");
            return (Level::Failed, why);
        }
        // The broker requires no more than there are replicas.
        if (*in_sync as u64) < least.min(*replication as u64) {
            let why = format!("{facts}: only {in_sync} replicas are in sync, so writes are refused now");
            return (Level::Failed, why);
        }
        if in_sync < replication {
            let why = format!("{facts}: only {in_sync} replicas are in sync: is a broker down?");
            return (Level::Warning, why);
        }
        (Level::Ok, facts)
    }

    /// What makes an ack of this topic worth less, and what to set.
    fn risks(&self) -> Vec<String> {
        let copies = self.replication as u64;
        let mut risks = Vec::new();
        if copies == 1 {
            risks.push(ONE_COPY.to_owned());
        }
        let Some(settings) = &self.settings else { return risks };
        let Settings { min_insync_replicas: least, cleanup_policy: policy, retention_bytes: bytes, .. } =
            settings;
        if copies != 1 && *least <= 1 {
            risks.push(
                "min.insync.replicas 1: an event that one broker alone acknowledged is lost with that broker; set it \
                 to 2"
                    .into(),
            );
        } else if copies != 1 && *least >= copies {
            risks.push(
                "min.insync.replicas equals the replication: no event is lost, but the loss of one broker stops \
                 all writes; use one replica more"
                    .into(),
            );
        }
        if policy.contains("compact") {
            risks.push(format!(
                "cleanup.policy {policy}: of the events with one key all but the last are deleted, and events \
                 without a key are refused; set cleanup.policy=delete"
            ));
        }
        let kept = u64::try_from(settings.retention_ms).map(Duration::from_millis);
        if let Some(kept) = kept.ok().filter(|kept| policy.contains("delete") && *kept < RETRIES) {
            risks.push(format!(
                "retention.ms {}: acknowledged events are deleted after {}, read or not, while Attio retries for \
                 3 days; set retention.ms to 259200000 (3 days) or more",
                settings.retention_ms,
                humantime::format_duration(kept)
            ));
        }
        if policy.contains("delete") && *bytes >= 0 {
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

pub(super) fn existing(topics: &[Topic]) -> Vec<&Topic> {
    topics.iter().filter(|topic| topic.state == TopicState::Ready).collect()
}

/// The names of some topics, or `every topic`.
pub(super) fn names(topics: &[&Topic], all: usize) -> String {
    if topics.len() == all && all > 1 {
        return "every topic".into();
    }
    topics.iter().map(|topic| &*topic.name).collect::<Vec<_>>().join(", ")
}

/// Has the broker validate the creation of missing topics, if the bridge would create them.
pub(super) fn validate_creation(
    topics: &mut [Topic],
    options: &Topics,
    config: &ClientConfig,
    left: Duration,
) {
    let mut missing: Vec<_> = topics.iter_mut().filter(|topic| topic.state == TopicState::Missing).collect();
    if missing.is_empty() || options.ensure != Ensure::Create {
        return;
    }
    let names: BTreeSet<Arc<str>> = missing.iter().map(|topic| Arc::clone(&topic.name)).collect();
    let refused = create(&names, options, config, Create::Validate(left.min(REQUEST)));
    let refused = refused.map(BTreeMap::from_iter);
    for topic in &mut missing {
        match &refused {
            Err(why) => {
                let text = format!(
                    "missing: the bridge will create it if the broker allows it, which is unknown: {why}"
                );
                topic.creation = (Level::Warning, text);
            }
            Ok(refused) => {
                if let Some(code) = refused.get(&*topic.name) {
                    let advice = creation_advice(*code);
                    let text =
                        format!("missing, and the broker would refuse to create it ({code}): {advice}");
                    topic.creation = (Level::Failed, text);
                }
            }
        }
    }
}

/// Reads the settings of every existing topic, if the user may see them.
pub(super) fn read_settings(topics: &mut [Topic], config: &ClientConfig, left: Duration) {
    let mut ready: Vec<_> = topics.iter_mut().filter(|topic| topic.state == TopicState::Ready).collect();
    let within = left.min(REQUEST);
    if ready.is_empty() || within.is_zero() || !allows_admin(config) {
        return;
    }
    let names: Vec<_> = ready.iter().map(|topic| topic.name.clone()).collect();
    let Ok(described) = describe(&names, config, within) else { return };
    for (topic, settings) in ready.iter_mut().zip(described) {
        topic.settings = settings;
    }
}

fn describe(
    names: &[Arc<str>],
    config: &ClientConfig,
    within: Duration,
) -> Result<Vec<Option<Settings>>, KafkaError> {
    let admin: AdminClient<DefaultClientContext> = without_publishing(config).create()?;
    let resources: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let limits = AdminOptions::new().operation_timeout(Some(within)).request_timeout(Some(within));
    let described = block_on(admin.describe_configs(&resources, &limits))?;
    let settings = described.into_iter().map(|resource| {
        let resource = resource.ok()?;
        let text = |name: &str| resource.get(name).and_then(|entry| entry.value.as_deref());
        let limit = |name: &str| text(name).and_then(|text| text.parse().ok()).unwrap_or(-1);
        Some(Settings {
            min_insync_replicas: text("min.insync.replicas")?.parse().ok()?,
            max_message_bytes: text("max.message.bytes")?.parse().ok()?,
            cleanup_policy: text("cleanup.policy").unwrap_or("delete").to_owned(),
            retention_ms: limit("retention.ms"),
            retention_bytes: limit("retention.bytes"),
            unclean_leader_election: text("unclean.leader.election.enable") == Some("true"),
            write_caching: text("write.caching") == Some("true"),
        })
    });
    Ok(settings.collect())
}

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

/// Reads the settings of the topics: what makes their acks worth less. None if no topic is seen. Settings that this user
/// may not see are left out, which `check --connect` says.
pub fn find_risks(config: &ClientConfig, requirements: &Requirements) -> Option<Vec<String>> {
    const WITHIN: Duration = Duration::from_secs(5);
    if !allows_admin(config) {
        return None;
    }
    let mut asking = without_publishing(config);
    // A request for metadata creates no topic. The client would warn that this property has no effect; it has.
    asking.set(AUTO_CREATE, "false").set("log_level", "0");
    let admin: Result<AdminClient<DefaultClientContext>, _> = asking.create();
    let admin = admin.ok()?;
    let deadline = Instant::now() + WITHIN;
    let mut topics = Vec::new();
    for name in &requirements.addresses {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        topics.push(Topic::fetch(admin.inner(), name, left));
    }
    read_settings(&mut topics, config, WITHIN);
    let existing = existing(&topics);
    let text = |(risk, of): (String, Vec<&Topic>)| format!("{}: {risk}", names(&of, existing.len()));
    (!existing.is_empty()).then(|| risks(&existing).into_iter().map(text).collect())
}

pub(super) fn report_durability(topics: &[Topic], config: &ClientConfig, report: &mut Report) {
    let existing = existing(topics);
    if existing.is_empty() {
        return;
    }
    let risks = risks(&existing);
    for (risk, of) in &risks {
        report.add("durability", Level::Warning, format!("{}: {risk}", names(of, existing.len())));
    }
    let unseen: Vec<_> = existing.iter().copied().filter(|topic| topic.settings.is_none()).collect();
    if !allows_admin(config) {
        let detail = "the topics' settings (cleanup.policy, retention, min.insync.replicas, max.message.bytes) cannot \
                      be read with a token; check them with the tools of the cluster";
        report.add("durability", Level::Warning, detail);
    } else if !unseen.is_empty() {
        let detail = format!(
            "{}: the topics' settings (cleanup.policy, retention, min.insync.replicas, max.message.bytes) are hidden \
             from this user; grant DescribeConfigs on the topics to have them checked",
            names(&unseen, existing.len())
        );
        report.add("durability", Level::Warning, detail);
    } else if risks.is_empty() {
        let detail = "no acknowledged event is lost with one broker or deleted early, and writes continue";
        report.add("durability", Level::Ok, detail);
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
            creation: (Level::Ok, String::new()),
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
            // Compression changes nothing: Kafka holds the limit against the uncompressed message too.
            config.set(MESSAGE_MAX_BYTES, client).set("compression.type", "zstd");
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
