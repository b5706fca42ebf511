//! The topics: whether they exist, and creating those that are missing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::end_offsets::EndOffsets;
use super::options::without_publishing;
use super::options::{Ensure, Topics};

/// How long one round of metadata requests may take; the monitor does nothing else meanwhile.
pub(super) const ROUND: Duration = Duration::from_secs(2);
/// How long the broker may take to create topics.
const CREATION: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopicState {
    Ready,
    Missing,
    Forbidden,
    /// This partition of it has no leader.
    Leaderless(i32),
    /// It has no partitions yet, or its state is unknown.
    Unknown,
}

/// The end of every partition of the topics that exist, and whether the brokers told all of them in time.
pub(super) fn end_offsets<C: ClientContext>(client: &Client<C>, topics: &[Arc<str>]) -> (EndOffsets, bool) {
    let deadline = Instant::now() + ROUND;
    let left = || deadline.saturating_duration_since(Instant::now());
    let (mut ends, mut complete) = (HashMap::new(), true);
    for topic in topics {
        let Ok(metadata) = client.fetch_metadata(Some(topic), left()) else { return (ends, false) };
        let Some(found) = metadata.topics().iter().find(|found| found.name() == &**topic) else { continue };
        let end = |at| {
            let end = client.fetch_watermarks(topic, at, left()).map(|(_, end)| end);
            complete &= end.is_ok();
            end.unwrap_or(0)
        };
        let partitions = i32::try_from(found.partitions().len()).unwrap_or(i32::MAX);
        ends.insert(topic.to_string(), (0..partitions).map(end).collect());
    }
    (ends, complete)
}

/// Fetches the metadata of one topic, which also refreshes the client's cache.
pub(super) fn fetch<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    within: Duration,
) -> Result<TopicState, KafkaError> {
    let metadata = client.fetch_metadata(Some(topic), within)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let Some(found) = found else { return Ok(TopicState::Missing) };
    let partitions = found.partitions();
    let leaderless = partitions.iter().find(|part| part.leader() < 0 || part.error().is_some());
    Ok(match (found.error().map(Code::from), leaderless) {
        (None, None) if partitions.is_empty() => TopicState::Unknown,
        (None, None) => TopicState::Ready,
        (None, Some(partition)) => TopicState::Leaderless(partition.id()),
        (Some(code), _) => state_of(code),
    })
}

pub(super) const fn state_of(code: Code) -> TopicState {
    match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::InvalidTopic => TopicState::Missing,
        Code::TopicAuthorizationFailed => TopicState::Forbidden,
        _ => TopicState::Unknown,
    }
}

/// Checks that every topic exists, and creates missing ones where configured. Each topic is requested by
/// name: a list of all topics leaves out those that the user may not see, and can be long.
pub(super) struct TopicReconciler {
    pub topics: Vec<Arc<str>>,
    options: Topics,
    /// Found ready in an earlier round, which may be too short for all topics.
    ready: BTreeSet<Arc<str>>,
    /// As of the last round, each with one of its leaderless partitions, or none if the state is unknown: a new topic
    /// has partitions before they have leaders.
    leaderless: BTreeMap<Arc<str>, Option<i32>>,
    logged: Option<Problems>,
    creation_error: Option<String>,
}

/// The topics that keep the bridge unready: missing, forbidden, without a leader.
type Problems = [String; 3];

impl TopicReconciler {
    pub(super) fn new(topics: Vec<Arc<str>>, options: Topics) -> Self {
        let (ready, leaderless) = Default::default();
        Self { topics, options, ready, leaderless, logged: None, creation_error: None }
    }

    pub(super) fn restart(&mut self) {
        *self = Self::new(std::mem::take(&mut self.topics), self.options.clone());
    }

    pub(super) fn problem(&self) -> Option<String> {
        let kinds = ["topics are missing", "not authorised on topics", "topics without a leader"];
        let kinds = kinds.iter().zip(self.logged.as_ref()?).filter(|(_, names)| !names.is_empty());
        let text = kinds.map(|(what, names)| format!("{what}: {names}")).collect::<Vec<_>>().join("; ");
        (!text.is_empty()).then_some(text)
    }

    /// One round; true when every topic is ready, or none is to be checked.
    pub(super) fn round<C: ClientContext>(
        &mut self,
        client: &Client<C>,
        config: &ClientConfig,
    ) -> Result<bool, KafkaError> {
        if self.options.ensure == Ensure::Off {
            return Ok(true);
        }
        let deadline = Instant::now() + ROUND;
        let (mut missing, mut forbidden, mut leaderless) =
            (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        let mut waiting = false;
        for topic in &self.topics {
            if self.ready.contains(topic) {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // The next round requests the rest.
                waiting = true;
                leaderless.extend(self.leaderless.get(topic).map(|partition| (topic.clone(), *partition)));
                continue;
            }
            let name = topic.clone();
            match fetch(client, topic, left)? {
                TopicState::Ready => drop(self.ready.insert(name)),
                TopicState::Missing => drop(missing.insert(name)),
                TopicState::Forbidden => drop(forbidden.insert(name)),
                TopicState::Leaderless(partition) => drop(leaderless.insert(name, Some(partition))),
                TopicState::Unknown => drop(leaderless.insert(name, None)),
            }
        }
        waiting |= !leaderless.is_empty();
        let before = std::mem::replace(&mut self.leaderless, leaderless);
        let lasting = self.leaderless.iter().filter(|(topic, _)| before.contains_key(*topic));
        let lasting = lasting.map(|(topic, partition)| match partition {
            Some(partition) => format!("{topic} (partition {partition})"),
            None => topic.to_string(),
        });
        let lasting = lasting.collect::<Vec<_>>().join(", ");
        if !missing.is_empty() && self.options.ensure == Ensure::Create {
            self.create(&missing, config);
            waiting = true;
            // What was created is not a problem, and what could not be created is logged.
            missing.clear();
        }
        let problems = [join(&missing), join(&forbidden), lasting];
        let ready = problems.iter().all(String::is_empty) && !waiting;
        if ready {
            tracing::info!(topics = self.topics.len(), "kafka: every topic exists");
        }
        if self.logged.as_ref() != Some(&problems) {
            log(&problems);
            self.logged = Some(problems);
        }
        Ok(ready)
    }

    fn create(&mut self, missing: &BTreeSet<Arc<str>>, config: &ClientConfig) {
        let problem = match create(missing, &self.options, config, Create::Commit) {
            Err(error) => Some(error.to_string()),
            Ok(refused) => refused.first().map(|(_, code)| {
                let each = refused.iter().map(|(topic, code)| format!("{topic}: {code}"));
                format!("{}: {}", each.collect::<Vec<_>>().join("; "), creation_advice(*code))
            }),
        };
        match &problem {
            None => tracing::info!(topics = join(missing), "kafka: topics created"),
            Some(problem) if self.creation_error.as_ref() != Some(problem) => {
                tracing::error!(problem, "kafka: cannot create topics; retrying every second");
            }
            Some(_) => {}
        }
        self.creation_error = problem;
    }
}

fn log([missing, forbidden, leaderless]: &Problems) {
    if !missing.is_empty() {
        tracing::error!(
            topics = missing,
            "kafka: topics are missing: create them, or set kafka.topics.ensure to \"create\"; their events \
             are answered 503 until they exist"
        );
    }
    if !forbidden.is_empty() {
        tracing::error!(
            topics = forbidden,
            "kafka: not authorised on topics: grant Write and Describe on them to the user of this client; \
             their events are answered 503 until then"
        );
    }
    if !leaderless.is_empty() {
        tracing::warn!(
            topics = leaderless,
            "kafka: partitions have no leader: check which brokers are down; their events are answered 503 \
             until they have one"
        );
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Create {
    Commit,
    /// The broker only validates the request, within a time.
    Validate(Duration),
}

/// Creates topics or validates their creation; returns those that the broker refuses. One that another
/// replica has just created is not an error.
pub(super) fn create(
    missing: &BTreeSet<Arc<str>>,
    options: &Topics,
    config: &ClientConfig,
    mode: Create,
) -> Result<Vec<(String, Code)>, KafkaError> {
    create_with(missing, options, &settings(options), config, mode)
}

/// The same, with these settings.
pub(super) fn create_with(
    missing: &BTreeSet<Arc<str>>,
    options: &Topics,
    settings: &[(&'static str, String)],
    config: &ClientConfig,
    mode: Create,
) -> Result<Vec<(String, Code)>, KafkaError> {
    const BROKER_DEFAULT: i32 = -1;
    let partitions = options.partitions.unwrap_or(BROKER_DEFAULT);
    let replicas = options.replication_factor.unwrap_or(BROKER_DEFAULT);
    let topic = |name| {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
        settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
    };
    let topics: Vec<_> = missing.iter().map(|name| topic(&**name)).collect();
    let admin: AdminClient<DefaultClientContext> = without_publishing(config).create()?;
    let (within, validate_only) = match mode {
        Create::Commit => (CREATION, false),
        Create::Validate(within) => (within, true),
    };
    let limits = AdminOptions::new().operation_timeout(Some(within)).request_timeout(Some(within));
    let created = block_on(admin.create_topics(&topics, &limits.validate_only(validate_only)))?;
    let refused = created.into_iter().filter_map(Result::err);
    Ok(refused.filter(|(_, code)| *code != Code::TopicAlreadyExists).collect())
}

pub(super) fn creation_advice(code: Code) -> &'static str {
    match code {
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            "grant Create on the topics to the user of this client, or create them yourself: `attio-bridge topics` \
             prints how"
        }
        _ => "check kafka.topics.*, or create them yourself: `attio-bridge topics` prints how",
    }
}

/// The settings of a topic that is created.
pub fn settings(options: &Topics) -> Vec<(&'static str, String)> {
    let in_sync = options.min_insync_replicas.map(|count| ("min.insync.replicas", count.to_string()));
    let retention = options.retention.map(|time| ("retention.ms", time.as_millis().to_string()));
    // A cluster's default may be compaction, which deletes acknowledged events.
    let policy = Some(("cleanup.policy", "delete".to_owned()));
    policy.into_iter().chain(in_sync).chain(retention).collect()
}

/// The settings of a state topic: the newest record of each key stays.
pub fn compacted_settings(options: &Topics) -> Vec<(&'static str, String)> {
    let in_sync = options.min_insync_replicas.map(|count| ("min.insync.replicas", count.to_string()));
    [("cleanup.policy", "compact".to_owned())].into_iter().chain(in_sync).collect()
}

pub(super) fn block_on<T>(future: impl Future<Output = Result<T, KafkaError>>) -> Result<T, KafkaError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    // Without a runtime no request was sent.
    runtime.map_err(|error| KafkaError::AdminOpCreation(error.to_string()))?.block_on(future)
}

fn join(names: &BTreeSet<Arc<str>>) -> String {
    names.iter().map(|name| &**name).collect::<Vec<_>>().join(", ")
}
