//! Handles every event on Kafka once: an offset is stored for commit after the event's transaction.

use anyhow::Result;
use inbox::{Inbox, KAFKA, Message, decode, setting};
use rdkafka::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Headers, Message as _};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut inbox = Inbox::open()?;
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", setting("KAFKA_BOOTSTRAP", "127.0.0.1:9092"))
        .set("group.id", setting("KAFKA_GROUP", "example"))
        .set("session.timeout.ms", "6000") // a killed member's partitions are given away after this time
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.offset.store", "false") // the loop stores an offset once its event is handled
        .set("auto.commit.interval.ms", "1000")
        .set("topic.metadata.refresh.interval.ms", "10000") // new topics are seen after this time
        .create()?;
    consumer.subscribe(&["^attio\\.[^q].*"])?; // every category, without quarantine
    loop {
        let received = tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            received = consumer.recv() => received,
        };
        match received {
            Ok(record) => {
                let message = message(&record);
                let content_type = message.headers.get("content-type").map_or("", String::as_str);
                let event = decode(&message, content_type, KAFKA);
                tokio::task::block_in_place(|| inbox.take(&message, event))?; // an error: the event comes again
                consumer.store_offset_from_message(&record)?;
            }
            Err(error) => eprintln!("{error}"), // the client connects again
        }
    }
    Ok(()) // the consumer commits what is stored and leaves the group as it is dropped
}

fn message(record: &BorrowedMessage) -> Message {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = record.headers().into_iter().flat_map(Headers::iter);
    Message {
        position: format!("{}/{}/{}", record.topic(), record.partition(), record.offset()),
        key: text(record.key().unwrap_or_default()),
        headers: headers
            .map(|header| (header.key.to_owned(), text(header.value.unwrap_or_default())))
            .collect(),
        value: record.payload().unwrap_or_default().to_vec(),
    }
}
