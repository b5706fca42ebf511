//! States on JetStream: one message a subject, each stored only if the one before it is the one that its writer has
//! compared itself with (`Nats-Expected-Last-Subject-Sequence`).
//!
//! * A message id would not do: the server forgets the ids of replaced messages when it restarts.
//! * A refusal (10071) can be the answer to a second try of what the first has stored, so what is there is compared
//!   with the own message before it counts as another's. Streams of one replica and of three answer differently.
//! * What is there is read from the stream's leader: a replica may be behind it.
//!
//! Events come from a durable consumer, and are acknowledged after the states that they led to. Those that are held are
//! reported as in progress; if the process dies, the server gives them out again after [`ACK_WAIT`].

use std::collections::HashMap;
use std::error::Error as _;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::header::{
    HeaderMap, HeaderName, HeaderValue, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_EXPECTED_STREAM,
};
use async_nats::jetstream::consumer::pull::{Config as ConsumerConfig, Stream as Messages};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::context::{ContextBuilder, PublishError, PublishErrorKind};
use async_nats::jetstream::stream::{Config, LastRawMessageErrorKind, StorageType, Stream};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, HeaderMap as Headers, Subject};
use bytes::Bytes;
use futures_util::{StreamExt, future};
use parking_lot::Mutex;
use percent_encoding::utf8_percent_encode;
use tokio::task::AbortHandle;

use super::connect;
use super::publish::ENCODED;
use super::read::item;
use super::{Ensure, Options, Stream as StreamOptions};
use crate::bus::inspect::{Level, Row};
use crate::bus::read::Item;
use crate::bus::state::{Change, Encoded, Outcome, Receipt, State, StateError, Version, Writer};
use crate::cloudevent::ContentMode;
use crate::pipeline::publish::Destination;

/// One request to JetStream.
pub(super) const REQUEST: Duration = Duration::from_secs(5);
/// States that are stored at a time.
const AT_ONCE: usize = 64;
/// After this, events of a process that has died are given out again.
const ACK_WAIT: Duration = Duration::from_secs(15);
/// How often the events that are held are reported as in progress.
const PROGRESS: Duration = Duration::from_secs(5);
/// Events that may be held.
const MAX_HELD: i64 = 10_000;
/// How often a state is compared and stored anew before its batch counts as failed for now.
const ATTEMPTS: usize = 20;
/// Between two attempts to reach the consumer.
const RETRY: Duration = Duration::from_millis(500);

/// The events that are held, by the subject of their ack.
type Held = Arc<Mutex<HashMap<Receipt, Subject>>>;

#[derive(Clone)]
pub struct Publisher {
    client: Client,
    context: Context,
    stream: Stream,
    name: Arc<str>,
    content_mode: ContentMode,
    held: Held,
}

impl Publisher {
    pub(in crate::bus) async fn start(
        options: &Options,
        content_mode: ContentMode,
        writer: &Writer,
    ) -> Result<Self, StateError> {
        let client = connect::connect_once(options, drop).await?.map_err(StateError::Passing)?;
        let context = ContextBuilder::new().timeout(REQUEST).build(client.clone());
        let name = &writer.stream;
        let stream = match context.get_stream(name).await {
            Ok(stream) => stream,
            Err(_) if options.stream.ensure == Ensure::Create => {
                let config = stream_config(&options.stream, name, &writer.prefix);
                context.create_stream(config).await.map_err(|error| missing(name, error))?;
                context.get_stream(name).await.map_err(|error| missing(name, error))?
            }
            Err(error) => return Err(missing(name, error)),
        };
        if stream.cached_info().config.max_messages_per_subject != 1 {
            tracing::warn!(stream = name, "it keeps former states too: set its max_msgs_per_subject to 1");
        }
        let (name, held) = (name.as_str().into(), Held::default());
        Ok(Self { client, context, stream, name, content_mode, held })
    }

    pub(in crate::bus) async fn publish(&self, changes: &[Change]) -> Result<Vec<Outcome>, StateError> {
        let mut outcomes = Vec::with_capacity(changes.len());
        for some in changes.chunks(AT_ONCE) {
            let stored = some.iter().map(|change| async move {
                match &change.state {
                    Some(state) => self.store(state).await,
                    None => Ok(Outcome::Done),
                }
            });
            for (change, outcome) in some.iter().zip(future::join_all(stored).await) {
                let outcome = outcome?;
                if matches!(outcome, Outcome::Done | Outcome::Gone) {
                    self.acknowledge(&change.events).await;
                }
                outcomes.push(outcome);
            }
        }
        Ok(outcomes)
    }

    /// Without an answer of the server: an event whose ack is lost is taken again.
    async fn acknowledge(&self, events: &[Receipt]) {
        for receipt in events {
            let reply = self.held.lock().remove(receipt);
            if let Some(reply) = reply
                && let Err(error) = self.client.publish(reply, Bytes::new()).await
            {
                tracing::debug!("nats: an event is not acknowledged: {error}");
            }
        }
    }

    async fn store(&self, state: &State) -> Result<Outcome, StateError> {
        let subject = &*state.destination.subject;
        let (headers, payload, bytes) = self.encode(state)?;
        for _ in 0..ATTEMPTS {
            let last = match self.stream.get_last_raw_message_by_subject(subject).await {
                Ok(last) => Some(last),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => None,
                Err(error) => return Err(passing(error)),
            };
            let mut sequence = 0;
            if let Some(last) = last {
                let known = version(&last.headers, &last.payload);
                // In binary mode the time is in a header: an older state can have the same payload.
                if last.payload == payload && known == Some(state.version()) {
                    // The own message, whose ack was lost, or a second tombstone.
                    return Ok(Outcome::Done);
                }
                match known {
                    Some(Version::Gone) if state.version() != Version::Gone => return Ok(Outcome::Gone),
                    Some(known) if !known.allows(state.version()) => return Ok(Outcome::Newer),
                    _ => {}
                }
                sequence = last.sequence;
            }
            let mut headers = headers.clone();
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(sequence));
            let sent = self.context.publish_with_headers(subject.to_owned(), headers, payload.clone()).await;
            let acked = match sent {
                Ok(acked) => acked.await,
                Err(error) => Err(error),
            };
            match acked {
                Ok(_) => return Ok(Outcome::Done),
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {}
                Err(error) if is_too_large(&error) => return Ok(Outcome::TooLarge { bytes }),
                Err(error) => return Err(passing(format!("{subject}: {error}"))),
            }
        }
        Err(passing(format!("{subject}: others store states all the time")))
    }

    fn encode(&self, state: &State) -> Result<(HeaderMap, Bytes, usize), StateError> {
        let encoded = Encoded::new(state, self.content_mode, "ce-", "Content-Type");
        let bytes = encoded.bytes();
        let Encoded { headers: given, payload } = encoded;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_STREAM, &*self.name);
        for (name, value) in given {
            // NATS has the media type of the data among the attributes, and the envelope's as it is.
            let is_envelope = name == "Content-Type" && self.content_mode == ContentMode::Structured;
            let name = if name == "Content-Type" && !is_envelope { "ce-datacontenttype" } else { &name };
            let value = if is_envelope { value } else { utf8_percent_encode(&value, ENCODED).to_string() };
            let name = HeaderName::from_str(name).map_err(lasting)?;
            headers.insert(name, HeaderValue::from_str(&value).map_err(lasting)?);
        }
        Ok((headers, payload.unwrap_or_default().into(), bytes))
    }

    /// Begins with the events that are not acknowledged.
    pub(in crate::bus) async fn follow(
        &self,
        options: &Options,
        group: &str,
        destinations: &[Arc<Destination>],
    ) -> Result<Follower, StateError> {
        let mut subjects: Vec<_> = destinations.iter().map(|to| to.subject.to_string()).collect();
        subjects.sort();
        subjects.dedup();
        let config = ConsumerConfig {
            durable_name: Some(group.to_owned()),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: MAX_HELD,
            filter_subjects: subjects,
            ..ConsumerConfig::default()
        };
        let mut follower = Follower {
            context: self.context.clone(),
            stream: options.stream.name.clone(),
            config,
            messages: None,
            taken: 0,
            held: Arc::clone(&self.held),
            progress: tokio::spawn(report(self.client.clone(), Arc::clone(&self.held))).abort_handle(),
        };
        follower.messages = Some(follower.subscribe().await?);
        Ok(follower)
    }
}

/// The stream that is created.
pub(in crate::bus) fn stream_config(options: &StreamOptions, name: &str, prefix: &str) -> Config {
    Config {
        name: name.to_owned(),
        description: Some("The newest state of each of Attio's entities, published by attio-bridge".into()),
        subjects: vec![format!("{prefix}.>")],
        max_messages_per_subject: 1,
        storage: StorageType::File,
        num_replicas: options.replicas.unwrap_or(1),
        allow_direct: true,
        ..Config::default()
    }
}

/// `check --connect` for `state`: the stream.
pub(in crate::bus) async fn inspect(options: &Options, writer: &Writer) -> Vec<Row> {
    let (check, name) = (format!("state stream {}", writer.stream), &writer.stream);
    let row = |result, detail: String| vec![Row { check: check.clone(), result, detail }];
    let client = match connect::connect_once(options, drop).await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => return row(Level::Failed, error),
        Err(error) => return row(Level::Failed, error.to_string()),
    };
    let context = ContextBuilder::new().timeout(REQUEST).build(client);
    let stream = match context.get_stream(name).await {
        Ok(stream) => stream,
        Err(_) if options.stream.ensure == Ensure::Create => {
            return row(Level::Warning, "does not exist yet: `state run` creates it".into());
        }
        Err(error) => return row(Level::Failed, missing(name, error).to_string()),
    };
    let (config, wanted) = (&stream.cached_info().config, format!("{}.>", writer.prefix));
    if !config.subjects.contains(&wanted) {
        return row(Level::Failed, format!("does not accept {wanted}: add it to its subjects"));
    }
    if !config.max_age.is_zero() {
        return row(Level::Failed, "its max_age deletes states: set it to 0".into());
    }
    if config.max_messages_per_subject != 1 {
        let advice = "keeps former states too: set its max_msgs_per_subject to 1";
        return row(Level::Warning, advice.into());
    }
    row(Level::Ok, "keeps one message a subject".into())
}

/// Whether no server with these limits takes it: its `max_payload`, the stream's `max_msg_size`, or that of headers.
fn is_too_large(error: &PublishError) -> bool {
    let of_server = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    error.kind() == PublishErrorKind::MaxPayloadExceeded
        || of_server.is_some_and(|error| matches!(error.error_code().0, 10054 | 10097))
}

/// The version of a stored message.
fn version(headers: &Headers, payload: &Bytes) -> Option<Version> {
    Version::of(&pairs(headers), payload)
}

pub(super) fn pairs(headers: &Headers) -> Vec<(String, Bytes)> {
    let pairs = headers.iter().flat_map(|(name, values)| {
        values.iter().map(move |value| (name.to_string(), Bytes::copy_from_slice(value.as_str().as_bytes())))
    });
    pairs.collect()
}

fn missing(name: &str, error: impl Display) -> StateError {
    StateError::Passing(format!(
        "stream {name}: {error}: create it, as `attio-bridge topics` prints it, or set nats.stream.ensure to \"create\""
    ))
}

pub(super) fn passing(error: impl Display) -> StateError {
    StateError::Passing(error.to_string())
}

fn lasting(error: impl Display) -> StateError {
    StateError::Lasting(error.to_string())
}

/// Tells the server that the events that are held are in progress.
async fn report(client: Client, held: Held) {
    loop {
        tokio::time::sleep(PROGRESS).await;
        let replies: Vec<Subject> = held.lock().values().cloned().collect();
        for reply in replies {
            // After the loss of a connection the server gives them out again.
            let _ = client.publish(reply, Bytes::from_static(b"+WPI")).await;
        }
    }
}

/// Takes events from the durable consumer, which several processes may share.
pub struct Follower {
    context: Context,
    stream: String,
    config: ConsumerConfig,
    /// None where the consumer was lost.
    messages: Option<Messages>,
    taken: u64,
    held: Held,
    progress: AbortHandle,
}

impl Follower {
    async fn subscribe(&self) -> Result<Messages, StateError> {
        let of = |error: String| passing(format!("stream {}: {error}", self.stream));
        let stream = self.context.get_stream(&self.stream).await.map_err(|error| of(error.to_string()))?;
        let consumer =
            stream.create_consumer(self.config.clone()).await.map_err(|error| of(error.to_string()))?;
        consumer.messages().await.map_err(|error| of(error.to_string()))
    }

    /// Cancel safe. Waits while the consumer cannot be reached.
    pub(in crate::bus) async fn next(&mut self) -> Result<(Item, Receipt), StateError> {
        loop {
            let Some(messages) = &mut self.messages else {
                match self.subscribe().await {
                    Ok(messages) => self.messages = Some(messages),
                    Err(error) => {
                        tracing::warn!("waiting for the events: {error}");
                        tokio::time::sleep(RETRY).await;
                    }
                }
                continue;
            };
            let message: jetstream::Message = match messages.next().await {
                Some(Ok(message)) => message,
                ended => {
                    tracing::debug!(
                        "the consumer of the events is lost: {:?}",
                        ended.map(|ended| ended.err())
                    );
                    self.messages = None;
                    continue;
                }
            };
            let Some(reply) = message.reply.clone() else { continue };
            match item(&message) {
                Ok((.., item)) => {
                    self.taken += 1;
                    let receipt = Receipt(self.taken);
                    self.held.lock().insert(receipt, reply);
                    return Ok((item, receipt));
                }
                Err(error) => tracing::warn!("a message is none of JetStream's: {error}"),
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.progress.abort();
    }
}
