//! The topics: whether they exist, can be created, and accept writes now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use crate::bus::inspect::{Level, Report};
use crate::bus::kafka::options::without_publishing;
use crate::bus::kafka::options::{Ensure, Topics};
use crate::bus::kafka::topics::{Create, TopicState, block_on, create, creation_advice, state_of};

/// How long the broker may take for one request.
const REQUEST: Duration = Duration::from_secs(2);

/// A topic on the cluster.
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
    /// Whether the broker would create it if it is missing.
    pub creation: Creation,
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
    /// From the metadata of this topic.
    pub(super) fn new(name: &Arc<str>, answer: Result<&Metadata, String>) -> Self {
        let unknown = |state, problem| Self {
            name: name.clone(),
            state,
            problem,
            partitions: 0,
            replication: 0,
            in_sync: 0,
            leaderless: 0,
            settings: None,
            creation: Creation::default(),
        };
        let metadata = match answer {
            Ok(metadata) => metadata,
            Err(problem) => return unknown(TopicState::Unknown, Some(problem)),
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

    /// Adds the row of this topic.
    pub(super) fn report(&self, options: &Topics, report: &mut Report) {
        let (level, detail) = match self.state {
            TopicState::Ready => self.replicas(),
            TopicState::Missing if options.ensure == Ensure::Create => self.creation.finding(),
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

    pub(super) fn replicas(&self) -> (Level, String) {
        let Self { partitions, replication, in_sync, leaderless, .. } = self;
        let mut facts = format!("partitions {partitions}, replication {replication}");
        if let Some(Settings { min_insync_replicas, max_message_bytes, .. }) = &self.settings {
            facts += &format!(
                ", min.insync.replicas {min_insync_replicas}, max.message.bytes {max_message_bytes}"
            );
        }
        if *leaderless > 0 {
            return (
                Level::Failed,
                format!("{facts}: {leaderless} partitions have no leader: brokers are down"),
            );
        }
        // The broker requires no more than there are replicas.
        let least = self
            .settings
            .as_ref()
            .map_or(1, |settings| settings.min_insync_replicas)
            .min(*replication as u64);
        if (*in_sync as u64) < least {
            let why = format!("{facts}: only {in_sync} replicas are in sync, so writes are refused now");
            return (Level::Failed, why);
        }
        if in_sync < replication {
            return (
                Level::Warning,
                format!("{facts}: only {in_sync} replicas are in sync: is a broker down?"),
            );
        }
        (Level::Ok, facts)
    }
}

/// The topics that exist.
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

/// Whether the broker would create a topic.
#[derive(Clone, Debug, Default)]
pub(super) enum Creation {
    /// It would.
    #[default]
    Allowed,
    /// It would not.
    Refused(Code),
    /// It did not answer.
    Unknown(String),
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
        topic.creation = match &refused {
            Err(error) => Creation::Unknown(error.to_string()),
            Ok(refused) => refused.get(&*topic.name).copied().map_or(Creation::Allowed, Creation::Refused),
        };
    }
}

impl Creation {
    /// The finding about a missing topic.
    fn finding(&self) -> (Level, String) {
        match self {
            Self::Allowed => {
                (Level::Ok, "missing: the bridge will create it (topics.ensure is \"create\")".to_owned())
            }
            Self::Refused(code) => (
                Level::Failed,
                format!(
                    "missing, and the broker would refuse to create it ({code}): {}",
                    creation_advice(*code)
                ),
            ),
            Self::Unknown(why) => (
                Level::Warning,
                format!(
                    "missing: the bridge will create it if the broker allows it, which is unknown: {why}"
                ),
            ),
        }
    }
}

/// Reads the settings of every existing topic, if the user may see them.
pub(super) fn read_settings(topics: &mut [Topic], config: &ClientConfig, left: Duration) {
    let mut ready: Vec<_> = topics.iter_mut().filter(|topic| topic.state == TopicState::Ready).collect();
    let within = left.min(REQUEST);
    if ready.is_empty() || within.is_zero() {
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
    Ok(described
        .into_iter()
        .map(|resource| {
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
        })
        .collect())
}

/// The broker's error for each topic; `None` where it accepted the message.
pub(super) type Answers = BTreeMap<Arc<str>, Option<Code>>;

#[derive(Default)]
struct Deliveries(Mutex<Vec<(usize, Option<Code>)>>);

impl ClientContext for Deliveries {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, _: KafkaError, _: &str) {}
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, topic: usize) {
        let code =
            result.as_ref().err().map(|(error, _)| error.rdkafka_error_code().unwrap_or(Code::Unknown));
        self.0.lock().push((topic, code));
    }
}

/// Checks for every existing topic whether the user may write, without writing.
///
/// Each topic gets a message that requires the acks of 2 replicas, a number that Kafka refuses since 0.9.
/// The broker checks permissions first: `TOPIC_AUTHORIZATION_FAILED` without Write, else
/// `INVALID_REQUIRED_ACKS`. Nothing is stored in either case.
pub(super) fn check_write_permission(topics: &[Topic], config: &ClientConfig, left: Duration) -> Answers {
    let ready = existing(topics);
    let within = left.min(REQUEST);
    let Some(producer) = producer(config, within).filter(|_| !ready.is_empty()) else {
        return Answers::new();
    };
    for (at, topic) in ready.iter().enumerate() {
        let record: BaseRecord<'_, str, str, usize> = BaseRecord::with_opaque_to(&topic.name, at);
        let sent = producer.send(record.key("check").payload("attio-bridge check --connect"));
        if let Err((error, _)) = sent {
            let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
            producer.context().0.lock().push((at, Some(code)));
        }
    }
    let deadline = Instant::now() + within;
    while producer.context().0.lock().len() < ready.len() && Instant::now() < deadline {
        producer.poll(Duration::from_millis(20));
    }
    let notes = producer.context().0.lock();
    notes.iter().map(|(at, code)| (ready[*at].name.clone(), *code)).collect()
}

fn producer(config: &ClientConfig, within: Duration) -> Option<BaseProducer<Deliveries>> {
    let mut config = config.clone();
    config
        .remove("enable.idempotence")
        .remove("statistics.interval.ms")
        .set("acks", "2")
        .set("retries", "0")
        .set("linger.ms", "0")
        .set("message.timeout.ms", within.as_millis().max(1).to_string());
    BaseProducer::from_config_and_context(&config, Deliveries::default()).ok()
}

/// Adds the row of permissions.
pub(super) fn report_write_permission(topics: &[Topic], answers: &Answers, report: &mut Report) {
    let ready = existing(topics);
    if ready.is_empty() {
        return;
    }
    let (mut denied, mut unknown, mut error) = (Vec::new(), Vec::new(), None);
    for topic in &ready {
        match answers.get(&topic.name) {
            Some(Some(Code::InvalidRequiredAcks) | None) => {}
            Some(Some(Code::TopicAuthorizationFailed)) => denied.push(*topic),
            answer => {
                error = error.or(answer.copied().flatten());
                unknown.push(*topic);
            }
        }
    }
    if !denied.is_empty() {
        let names = names(&denied, ready.len());
        let detail = format!("not allowed on {names}: grant Write to the user of this client");
        report.add("permission to write", Level::Failed, detail);
    }
    if !unknown.is_empty() {
        let error = error.map_or("no answer in time".to_owned(), |code| code.to_string());
        let detail = format!("unknown for {}: {error}", names(&unknown, ready.len()));
        report.add("permission to write", Level::Warning, detail);
    }
    if denied.is_empty() && unknown.is_empty() {
        let detail = format!("allowed on {}; nothing was written", names(&ready, ready.len()));
        report.add("permission to write", Level::Ok, detail);
    }
}
