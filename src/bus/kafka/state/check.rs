//! Looks at the state topics, and at what a user may do. It publishes nothing and fences nobody.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::topic_partition_list::TopicPartitionList;

use super::newest::AGE;
use super::transaction::producer_config;
use crate::bus::error::StartError;
use crate::bus::inspect::{Ensure, Level, Row};
use crate::bus::kafka::options::{NO_STATES, Options, without_publishing};
use crate::bus::kafka::read::consumer_config;
use crate::bus::kafka::topics::{TopicState, block_on, fetch};
use crate::bus::state::{Needs, StateError};

/// One request.
const REQUEST: Duration = Duration::from_secs(3);
/// One on which a start waits.
const PATIENT_REQUEST: Duration = Duration::from_secs(10);

type Found = (Level, String);

/// Those of the topics that exist. Of each it has to be known.
pub(in crate::bus) async fn existing(
    options: Options,
    topics: Vec<Arc<str>>,
) -> Result<Vec<Arc<str>>, StateError> {
    if options.oauth.is_some() {
        return Err(StartError::setting_of("kafka.sasl_mechanism", NO_STATES).into());
    }
    let found = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer =
            consumer_config(&options, "attio-bridge-check")?.create().map_err(passing)?;
        let mut existing = Vec::new();
        for topic in topics {
            match fetch(consumer.client(), &topic, PATIENT_REQUEST).map_err(passing)? {
                TopicState::Missing => {}
                TopicState::Ready => existing.push(topic),
                TopicState::Forbidden => {
                    return Err(StateError::Passing(format!(
                        "topic {topic}: not authorised: grant Describe, Read and Write"
                    )));
                }
                TopicState::Leaderless(_) | TopicState::Unknown => {
                    return Err(StateError::Passing(format!(
                        "topic {topic}: its partitions have no leader yet"
                    )));
                }
            }
        }
        Ok(existing)
    });
    found.await.unwrap_or_else(|error| Err(StateError::Lasting(error.to_string())))
}

fn passing(error: KafkaError) -> StateError {
    StateError::Passing(error.to_string())
}

/// `check --connect` for `state`: the state topics, the group and the transactional id.
pub(in crate::bus) async fn inspect(options: Options, needs: Needs) -> Vec<Row> {
    if options.oauth.is_some() {
        return vec![row("state".into(), (Level::Failed, NO_STATES.into()))];
    }
    let inspected = tokio::task::spawn_blocking(move || rows(&options, &needs)).await;
    inspected.unwrap_or_else(|error| vec![row("state".into(), (Level::Failed, error.to_string()))])
}

fn row(check: String, (result, detail): Found) -> Row {
    Row { check, result, detail }
}

fn rows(options: &Options, Needs { writer, events }: &Needs) -> Vec<Row> {
    let mut rows: Vec<_> = writer
        .addresses
        .iter()
        .map(|address| {
            let found = topic(options, address);
            row(format!("state topic {address}"), found.unwrap_or_else(|error| (Level::Failed, error)))
        })
        .collect();
    let asked = events.first().map(|to| group(options, &writer.group, &to.address));
    rows.extend(asked.map(|found| row(format!("state group {}", writer.group), found)));
    let name = format!("{}-check", writer.group);
    rows.push(row(format!("state transactions {}", writer.group), transactions(options, &name)));
    rows
}

fn topic(options: &Options, address: &Arc<str>) -> Result<Found, String> {
    let text = |error: KafkaError| error.to_string();
    let config = consumer_config(options, "attio-bridge-check").map_err(|error| error.to_string())?;
    let consumer: BaseConsumer = config.create().map_err(text)?;
    let advice = "create it, as `attio-bridge topics` prints it, or set kafka.topics.ensure to \"create\"";
    match fetch(consumer.client(), address, REQUEST).map_err(text)? {
        TopicState::Ready => {}
        TopicState::Missing if options.topics.ensure == Ensure::Create => {
            return Ok((Level::Warning, "does not exist yet: `state run` creates it".into()));
        }
        TopicState::Missing => return Ok((Level::Failed, format!("does not exist: {advice}"))),
        TopicState::Forbidden => {
            return Ok((Level::Failed, "not authorised: grant Describe, Read and Write".into()));
        }
        TopicState::Leaderless(partition) => {
            return Ok((Level::Failed, format!("partition {partition} has no leader")));
        }
        TopicState::Unknown => return Ok((Level::Failed, "it has no partitions yet".into())),
    }
    let config = without_publishing(&producer_config(options, "check").map_err(|error| error.to_string())?);
    Ok(match settings(config, address) {
        Some((policy, retention)) if policy == "compact" && retention >= AGE.as_millis() => {
            (Level::Ok, "compacted".into())
        }
        Some((policy, retention)) if policy == "compact" => (
            Level::Failed,
            format!(
                "delete.retention.ms is {retention}: a state that was held up for longer may follow a tombstone: set it \
                 to {} at least",
                AGE.as_millis()
            ),
        ),
        Some((policy, _)) => (
            Level::Failed,
            format!("cleanup.policy is {policy}, which deletes states by age: set it to compact"),
        ),
        None => (
            Level::Warning,
            "its settings cannot be read: grant DescribeConfigs to the user of this check".into(),
        ),
    })
}

/// The topic's `cleanup.policy` and `delete.retention.ms`; none if they may not be read.
fn settings(mut config: rdkafka::ClientConfig, address: &str) -> Option<(String, u128)> {
    config.remove("transactional.id").remove("transaction.timeout.ms");
    let admin: AdminClient<DefaultClientContext> = config.create().ok()?;
    let limits = AdminOptions::new().request_timeout(Some(REQUEST));
    let described = block_on(admin.describe_configs([&ResourceSpecifier::Topic(address)], &limits)).ok()?;
    let found = described.into_iter().next()?.ok()?;
    let value = |name: &str| found.get(name)?.value.clone();
    Some((value("cleanup.policy")?, value("delete.retention.ms")?.parse().ok()?))
}

fn group(options: &Options, group: &str, topic: &str) -> Found {
    let asked = consumer_config(options, group).map_err(|error| error.to_string()).and_then(|config| {
        let consumer: BaseConsumer = config.create().map_err(|error: KafkaError| error.to_string())?;
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, 0);
        consumer.committed_offsets(list, REQUEST).map_err(|error| error.to_string())
    });
    match asked {
        Ok(_) => (Level::Ok, "its positions can be read".into()),
        Err(error) => {
            (Level::Failed, format!("{error}: grant Read on the group, as `attio-bridge topics` prints it"))
        }
    }
}

fn transactions(options: &Options, name: &str) -> Found {
    let asked = producer_config(options, name).map_err(|error| error.to_string()).and_then(|config| {
        let producer: BaseProducer = config.create().map_err(|error| error.to_string())?;
        producer.init_transactions(REQUEST).map_err(|error| error.to_string())
    });
    match asked {
        Ok(()) => (Level::Ok, "ids that begin with it may be used".into()),
        Err(error) => (
            Level::Failed,
            format!(
                "{error}: grant Describe and Write on transactional ids that begin with the group's name"
            ),
        ),
    }
}
