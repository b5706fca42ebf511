//! Keeps a copy of people from the states on Kafka in memory: prints it, and then each change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use inbox::setting;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<()> {
    let topic = setting("KAFKA_TOPIC", "attio-state.record");
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", setting("KAFKA_BOOTSTRAP", "127.0.0.1:9092"))
        .set("group.id", "people") // required by the client, which commits nothing
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error") // the topic was made anew: start again, with an empty copy
        .set("isolation.level", "read_committed") // a state of an aborted transaction does not count
        .create()?;
    let metadata = consumer.fetch_metadata(Some(&topic), Duration::from_secs(10))?;
    let partitions = metadata.topics().first().context("no such topic")?.partitions().iter();
    // Those that are not read up to their end.
    let mut reading: BTreeSet<i32> = partitions.map(|partition| partition.id()).collect();
    ensure!(!reading.is_empty(), "{topic} is not there");
    let mut list = TopicPartitionList::new();
    for partition in &reading {
        list.add_partition_offset(&topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let mut people = BTreeMap::new();
    loop {
        match consumer.recv().await {
            Ok(record) => {
                let id = String::from_utf8_lossy(record.key().unwrap_or_default()).into_owned();
                if keep(&mut people, &id, record.payload())? && reading.is_empty() {
                    print(&people, &id);
                }
            }
            Err(KafkaError::PartitionEOF(partition)) => {
                if reading.remove(&partition) && reading.is_empty() {
                    people.keys().for_each(|id| print(&people, id));
                }
            }
            Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset)) => bail!("{topic} is another one"),
            Err(error) => eprintln!("{error}"), // the client connects again
        }
    }
}

/// Whether something has changed.
fn keep(people: &mut BTreeMap<String, Value>, id: &str, value: Option<&[u8]>) -> Result<bool> {
    let Some(value) = value else { return Ok(people.remove(id).is_some()) }; // deleted, or merged into another
    let mut state: Value = serde_json::from_slice(value)?;
    if state["attioobject"] != "people" {
        return Ok(false);
    }
    people.insert(id.to_owned(), state["data"].take());
    Ok(true)
}

fn print(people: &BTreeMap<String, Value>, id: &str) {
    println!("{id}\t{}", people.get(id).map_or("gone".to_owned(), Value::to_string));
}
