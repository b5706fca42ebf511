//! Handles every event on JetStream once: a message is acknowledged after the event's transaction.

use std::time::Duration;

use anyhow::{Error, Result};
use async_nats::HeaderValue;
use async_nats::jetstream::{self, consumer::pull};
use futures_util::StreamExt;
use inbox::{Inbox, Message, NATS, decode, setting};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut inbox = Inbox::open()?;
    let client = async_nats::connect(setting("NATS_URL", "nats://127.0.0.1:4222")).await?;
    let stream = jetstream::new(client.clone()).get_stream(setting("NATS_STREAM", "ATTIO")).await?;
    let consumer = stream
        .create_consumer(pull::Config {
            durable_name: Some(setting("NATS_DURABLE", "example")),
            filter_subjects: vec!["attio.*.*".into(), "attio.unknown".into()], // every category, without quarantine
            ack_wait: Duration::from_secs(10), // an event that is not acknowledged comes again
            ..pull::Config::default()
        })
        .await?;
    // As many as the work finishes within ack_wait.
    let mut messages = consumer.stream().max_messages_per_batch(10).messages().await?;
    loop {
        let received = tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            received = messages.next() => received,
        };
        match received {
            Some(Ok(received)) => {
                let message = message(&received)?;
                let content_type = message.headers.get("Content-Type").map_or("", String::as_str);
                let event = decode(&message, content_type, NATS);
                tokio::task::block_in_place(|| inbox.take(&message, event))?; // an error: the event comes again
                received.ack().await.map_err(Error::from_boxed)?;
            }
            Some(Err(error)) => eprintln!("{error}"), // the client connects again
            None => break,
        }
    }
    client.flush().await?;
    Ok(())
}

fn message(received: &jetstream::Message) -> Result<Message> {
    let info = received.info().map_err(Error::from_boxed)?;
    let headers = received.headers.iter().flat_map(|headers| headers.iter());
    let first = |values: &[HeaderValue]| values.first().map(ToString::to_string).unwrap_or_default();
    Ok(Message {
        position: format!("{}/{}", info.stream, info.stream_sequence),
        key: received.subject.to_string(),
        headers: headers.map(|(name, values)| (name.to_string(), first(values))).collect(),
        value: received.payload.to_vec(),
    })
}
