//! Looks whether the topics are there, and makes them where asked to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::client_config::without_publishing;
use super::options::{Ensure, Topics};

/// How long a round of questions to the broker may take, which holds up whatever else the monitor does.
pub(super) const ROUND: Duration = Duration::from_secs(2);

/// How long the broker may take to make topics.
const CREATION: Duration = Duration::from_secs(5);

/// What the broker says of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    There,
    Missing,
    Forbidden,
    /// It is there, and this partition of it has no leader.
    Leaderless(i32),
    /// It has no partitions yet, or the broker cannot say.
    NotYet,
}

/// What to ask a broker about to hear anything of it: no topic can have this name, so none is made.
pub(super) const NO_TOPIC: &str = "?";

/// Asks the broker about one topic, which also refreshes the client's own view of it.
pub(super) fn look<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    within: Duration,
) -> Result<Found, KafkaError> {
    let metadata = client.fetch_metadata(Some(topic), within)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let Some(found) = found else { return Ok(Found::Missing) };
    let partitions = found.partitions();
    let leaderless = partitions.iter().find(|part| part.leader() < 0 || part.error().is_some());
    Ok(match (found.error().map(Code::from), leaderless) {
        (None, None) if partitions.is_empty() => Found::NotYet,
        (None, None) => Found::There,
        (None, Some(partition)) => Found::Leaderless(partition.id()),
        (Some(code), _) => self::found(code),
    })
}

/// What an error about a topic means.
pub(super) const fn found(code: Code) -> Found {
    match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::InvalidTopic => Found::Missing,
        Code::TopicAuthorizationFailed => Found::Forbidden,
        _ => Found::NotYet,
    }
}

/// Sees to it that every topic is there. Each topic is asked about by its own name: a list of all
/// topics leaves out those the user may not see, and on a large cluster it is long.
pub(super) struct Keeper {
    topics: Vec<Arc<str>>,
    options: Topics,
    /// Those that were there when they were asked about: a round may be too short for all.
    there: BTreeSet<Arc<str>>,
    /// As found in the last round: a topic that was just made has partitions before they have leaders.
    leaderless: Leaderless,
    /// What was logged last, so that only changes are.
    said: Option<Trouble>,
    creation_error: Option<String>,
}

/// Topics that keep the bridge unready.
#[derive(Default, PartialEq, Eq)]
struct Trouble {
    missing: BTreeSet<Arc<str>>,
    forbidden: BTreeSet<Arc<str>>,
    leaderless: Leaderless,
}

/// Topics, each with one of its partitions that has no leader; without one where the broker cannot say.
type Leaderless = BTreeMap<Arc<str>, Option<i32>>;

impl Trouble {
    fn is_none(&self) -> bool {
        self.missing.is_empty() && self.forbidden.is_empty() && self.leaderless.is_empty()
    }

    fn leaderless(&self) -> String {
        let name = |(topic, partition): (&Arc<str>, &Option<i32>)| match partition {
            Some(partition) => format!("{topic} (partition {partition})"),
            None => topic.to_string(),
        };
        self.leaderless.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

impl Keeper {
    pub(super) fn new(topics: Vec<Arc<str>>, options: Topics) -> Self {
        let (there, leaderless) = (BTreeSet::new(), Leaderless::new());
        Self { topics, options, there, leaderless, said: None, creation_error: None }
    }

    /// Why the bridge is not ready, as the last round found it.
    pub(super) fn trouble(&self) -> Option<String> {
        let said = self.said.as_ref()?;
        let kinds = [
            ("topics are missing", join(&said.missing)),
            ("not authorised on topics", join(&said.forbidden)),
            ("topics without a leader", said.leaderless()),
        ];
        let kinds = kinds.iter().filter(|(_, names)| !names.is_empty());
        let text = kinds.map(|(what, names)| format!("{what}: {names}")).collect::<Vec<_>>().join("; ");
        (!text.is_empty()).then_some(text)
    }

    /// True where nobody wants to know.
    pub(super) fn is_off(&self) -> bool {
        self.options.ensure == Ensure::Off
    }

    /// One round: true when every topic is there.
    pub(super) fn round<C: ClientContext>(
        &mut self,
        client: &Client<C>,
        config: &ClientConfig,
    ) -> Result<bool, KafkaError> {
        let deadline = Instant::now() + ROUND;
        let (mut trouble, mut waiting, mut leaderless) = (Trouble::default(), false, Leaderless::new());
        for topic in &self.topics {
            if self.there.contains(topic) {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // What was found is dealt with, and the next round asks about the rest.
                waiting = true;
                leaderless
                    .extend(self.leaderless.get_key_value(topic).map(|(topic, at)| (topic.clone(), *at)));
                continue;
            }
            match look(client, topic, left)? {
                Found::There => drop(self.there.insert(topic.clone())),
                Found::Missing => drop(trouble.missing.insert(topic.clone())),
                Found::Forbidden => drop(trouble.forbidden.insert(topic.clone())),
                Found::Leaderless(partition) => drop(leaderless.insert(topic.clone(), Some(partition))),
                Found::NotYet => drop(leaderless.insert(topic.clone(), None)),
            }
        }
        waiting |= !leaderless.is_empty();
        let before = std::mem::replace(&mut self.leaderless, leaderless);
        let lasts = self.leaderless.iter().filter(|(topic, _)| before.contains_key(*topic));
        trouble.leaderless = lasts.map(|(topic, partition)| (topic.clone(), *partition)).collect();
        if !trouble.missing.is_empty() && self.options.ensure == Ensure::Create {
            self.create(&trouble.missing, config);
            waiting = true;
            // What was just made is no trouble, and what could not be made was logged.
            trouble.missing.clear();
        }
        let there = trouble.is_none() && !waiting;
        self.say(trouble, there);
        Ok(there)
    }

    /// Logs what is wrong, once a change.
    fn say(&mut self, now: Trouble, there: bool) {
        if there {
            tracing::info!(topics = self.topics.len(), "kafka: every topic is there");
        }
        if self.said.as_ref() == Some(&now) {
            return;
        }
        if !now.missing.is_empty() {
            tracing::error!(
                topics = join(&now.missing),
                "kafka: topics are missing: create them, or set kafka.topics.ensure to \"create\"; not ready \
                 until they are there"
            );
        }
        if !now.forbidden.is_empty() {
            tracing::error!(
                topics = join(&now.forbidden),
                "kafka: not authorised on topics: grant Write and Describe on them to the user of this \
                 client; not ready until then"
            );
        }
        if !now.leaderless.is_empty() {
            tracing::warn!(
                topics = now.leaderless(),
                "kafka: partitions have no leader: see which of the brokers are away; not ready until each \
                 partition has one"
            );
        }
        self.said = Some(now);
    }

    fn create(&mut self, missing: &BTreeSet<Arc<str>>, config: &ClientConfig) {
        let problem = match create(missing, &self.options, config, Create::Make) {
            Ok(refused) => match refused.first() {
                None => {
                    tracing::info!(topics = join(missing), "kafka: topics made");
                    None
                }
                Some((_, code)) => {
                    let each: Vec<_> =
                        refused.iter().map(|(topic, code)| format!("{topic}: {code}")).collect();
                    Some(format!("{}: {}", each.join("; "), advice(*code)))
                }
            },
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = &problem
            && self.creation_error.as_ref() != Some(problem)
        {
            tracing::error!(problem, "kafka: topics cannot be made; trying again every second");
        }
        self.creation_error = problem;
    }
}

/// What the broker is asked to do about topics that are missing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Create {
    /// To make them.
    Make,
    /// To say whether it would, within a time.
    Look(Duration),
}

/// Makes topics, or asks whether they would be made; then those that are refused, and why. One that
/// another replica has just made is fine.
pub(super) fn create(
    missing: &BTreeSet<Arc<str>>,
    options: &Topics,
    config: &ClientConfig,
    what: Create,
) -> Result<Vec<(String, Code)>, KafkaError> {
    let settings = settings(options);
    let topics: Vec<_> = missing.iter().map(|name| new_topic(name, options, &settings)).collect();
    let admin: AdminClient<DefaultClientContext> = without_publishing(config).create()?;
    let (within, look) = match what {
        Create::Make => (CREATION, false),
        Create::Look(within) => (within, true),
    };
    let limits = AdminOptions::new().operation_timeout(Some(within)).request_timeout(Some(within));
    let made = block_on(admin.create_topics(&topics, &limits.validate_only(look)))?;
    let refused = made.into_iter().filter_map(Result::err);
    Ok(refused.filter(|(_, code)| *code != Code::TopicAlreadyExists).collect())
}

/// What to do about topics that the broker does not make.
pub(super) fn advice(code: Code) -> &'static str {
    match code {
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            "grant Create on the topics to the user of this client, or create them yourself: `attio-bridge topics` \
             says how"
        }
        _ => "check kafka.topics.*, or create them yourself: `attio-bridge topics` says how",
    }
}

fn new_topic<'a>(name: &'a str, options: &Topics, settings: &'a [(&str, String)]) -> NewTopic<'a> {
    /// Leaves the number to the broker.
    const BROKERS_DEFAULT: i32 = -1;
    let partitions = options.partitions.unwrap_or(BROKERS_DEFAULT);
    let replicas = TopicReplication::Fixed(options.replication_factor.unwrap_or(BROKERS_DEFAULT));
    let topic = NewTopic::new(name, partitions, replicas);
    settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
}

/// What is set on a topic that is made.
pub(in crate::bus) fn settings(options: &Topics) -> Vec<(&'static str, String)> {
    let in_sync = options.min_insync_replicas.map(|count| ("min.insync.replicas", count.to_string()));
    let retention = options.retention.map(|time| ("retention.ms", time.as_millis().to_string()));
    in_sync.into_iter().chain(retention).collect()
}

pub(super) fn block_on<T>(future: impl Future<Output = Result<T, KafkaError>>) -> Result<T, KafkaError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    // Without a runtime nothing was asked of the broker; the next round tries again.
    runtime.map_err(|error| KafkaError::AdminOpCreation(error.to_string()))?.block_on(future)
}

fn join(names: &BTreeSet<Arc<str>>) -> String {
    names.iter().map(|name| &**name).collect::<Vec<_>>().join(", ")
}
