//! Reading: a consumer per reader, in memory, without acks, deleted at the end.
//!
//! It is recreated after the last message when the server has lost it or a message is missing, so that
//! messages come in order and none is skipped.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{Config, Stream};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::{self, Message};
use async_nats::{Event, ServerError};
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Options, connect};
use crate::bus::error::ReadError;
use crate::bus::read::{Begin, Item, Plan, Position, Sink};

/// After this the server deletes the consumer of a reader that was killed.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(30);
/// Between two attempts to create a consumer.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// How long the server may take to delete the consumer.
const DELETE_TIMEOUT: Duration = Duration::from_secs(3);
/// Messages that are requested at a time, each up to the server's max_payload.
const BATCH: usize = 200;
/// The same for a reader that does not follow: it may read the bodies of a large quarantine.
const SMALL_BATCH: usize = 16;

pub async fn read(
    options: Options,
    plan: Plan,
    sink: Sink,
    stop: CancellationToken,
) -> Result<JoinHandle<()>, ReadError> {
    let (server_error, reconnected): (ServerErrorText, Arc<Notify>) = Default::default();
    let (text, notify, lost) = (Arc::clone(&server_error), Arc::clone(&reconnected), AtomicBool::new(false));
    let on_event = move |event| match event {
        Event::ServerError(ServerError::Other(error)) => *text.lock() = Some(error),
        Event::Disconnected => lost.store(true, Ordering::Relaxed),
        Event::Connected if lost.load(Ordering::Relaxed) => notify.notify_one(),
        _ => {}
    };
    let servers = connect::server_names(&options)?;
    let client = connect::connect_once(&options, on_event).await?;
    let client = client.map_err(|reason| broken(format!("{servers}: {reason}")))?;
    let name = &options.stream.name;
    let stream = jetstream::new(client).get_stream(name).await;
    let stream = stream.map_err(|error| broken(format!("stream {name}: {error}{}", cause(&server_error))))?;
    let subjects: BTreeSet<String> = plan.destinations.iter().map(|to| to.subject.to_string()).collect();
    let mut worker = Worker {
        // After what is stored now, however often the consumer is created.
        last: (plan.begin == Begin::Now).then_some(stream.cached_info().state.last_sequence),
        stream,
        subjects: subjects.into_iter().collect(),
        begin: plan.begin,
        follow: plan.follow,
        server_error,
        reconnected,
        consumer: None,
    };
    let feed = worker.create_consumer().await.map_err(|error| broken(format!("stream {name}: {error}")))?;
    Ok(tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = worker.run(feed, &sink) => {}
        }
        worker.delete_consumer().await;
    }))
}

fn broken(reason: impl Into<String>) -> ReadError {
    ReadError::broker("nats", reason)
}

/// The last error of the server. A missing permission is reported separately; the request gets no reply.
type ServerErrorText = Arc<Mutex<Option<String>>>;

fn cause(text: &ServerErrorText) -> String {
    text.lock().take().map_or_else(String::new, |text| {
        format!(
            " ({text}: a reader needs $JS.API.STREAM.INFO, CONSUMER.CREATE, MSG.NEXT and DELETE of the stream)"
        )
    })
}

struct Worker {
    stream: jetstream::stream::Stream,
    subjects: Vec<String>,
    begin: Begin,
    follow: bool,
    server_error: ServerErrorText,
    reconnected: Arc<Notify>,
    /// The name of the current consumer.
    consumer: Option<String>,
    /// The sequence of the last message that was read or skipped.
    last: Option<u64>,
}

struct Feed {
    messages: Stream,
    /// Messages that are stored and not yet read. One that is replaced meanwhile moves behind those that are new.
    pending: u64,
    /// The consumer sequence of the next one.
    next: u64,
}

impl Worker {
    /// Creates a consumer behind what was read.
    async fn create_consumer(&mut self) -> Result<Feed, String> {
        let deliver_policy = match (self.last, self.begin) {
            (Some(last), _) => DeliverPolicy::ByStartSequence { start_sequence: last + 1 },
            (None, Begin::At(start_time)) => DeliverPolicy::ByStartTime { start_time },
            (None, Begin::Beginning | Begin::Now) => DeliverPolicy::All,
        };
        let name = format!("attio-bridge-reader-{}", Uuid::new_v4().simple());
        let config = Config {
            name: Some(name.clone()),
            deliver_policy,
            ack_policy: AckPolicy::None,
            filter_subjects: self.subjects.clone(),
            inactive_threshold: INACTIVE_THRESHOLD,
            memory_storage: true,
            num_replicas: 1,
            ..Config::default()
        };
        // Set first: without a reply the consumer may exist all the same.
        self.consumer = Some(name);
        let consumer = self.stream.create_consumer(config).await;
        let consumer = consumer.map_err(|error| format!("{error}{}", cause(&self.server_error)))?;
        let pending = consumer.cached_info().num_pending;
        let batch = if self.follow { BATCH } else { SMALL_BATCH };
        let messages = consumer.stream().max_messages_per_batch(batch).messages().await;
        let messages = messages.map_err(|error| format!("{error}{}", cause(&self.server_error)))?;
        Ok(Feed { messages, pending, next: 1 })
    }

    async fn run(&mut self, mut feed: Feed, sink: &Sink) {
        while let Err(why) = self.drain(&mut feed, sink).await {
            tracing::debug!("creating a new consumer: {why}");
            self.delete_consumer().await;
            feed = loop {
                match self.create_consumer().await {
                    Ok(feed) => break feed,
                    Err(error) if self.follow => tracing::warn!("waiting for the stream: {error}"),
                    Err(error) => {
                        // The reader may be gone.
                        let _ = sink.send(Err(broken(error))).await;
                        return;
                    }
                }
                tokio::time::sleep(RETRY_DELAY).await;
            };
        }
    }

    /// Ends when everything was read, or the reader is gone. The error is how the consumer, or a message, was lost.
    async fn drain(&mut self, feed: &mut Feed, sink: &Sink) -> Result<(), String> {
        while self.follow || feed.pending > 0 {
            let message = tokio::select! {
                message = feed.messages.next() => message,
                // A pull request on the lost connection may never be answered.
                () = self.reconnected.notified() => return Err("the connection was lost".into()),
            };
            let message = message.ok_or("the consumer has ended")?.map_err(|error| error.to_string())?;
            let (consumer_sequence, sequence, item) = item(&message).map_err(|error| error.to_string())?;
            if consumer_sequence != feed.next {
                return Err(format!("message {} of the consumer is missing", feed.next));
            }
            self.last = Some(sequence);
            (feed.next, feed.pending) =
                (consumer_sequence + 1, message.info().map_or(0, |info| info.pending));
            if sink.send(Ok(item)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn delete_consumer(&self) {
        let Some(name) = &self.consumer else { return };
        match tokio::time::timeout(DELETE_TIMEOUT, self.stream.delete_consumer(name)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!("the server will delete consumer {name}: {error}"),
            Err(_) => tracing::debug!("the server will delete consumer {name}: no reply"),
        }
    }
}

/// Its sequence in the consumer and in the stream, and the message.
pub(super) fn item(message: &Message) -> Result<(u64, u64, Item), async_nats::Error> {
    let info = message.info()?;
    let headers = message.headers.iter().flat_map(|headers| headers.iter());
    let headers = headers.flat_map(|(name, values)| {
        values.iter().map(move |value| (name.to_string(), Bytes::copy_from_slice(value.as_str().as_bytes())))
    });
    let item = Item {
        address: message.subject.to_string(),
        key: None,
        headers: headers.collect(),
        payload: message.payload.clone(),
        stored_at: Some(info.published),
        position: Position::Nats { sequence: info.stream_sequence },
    };
    Ok((info.consumer_sequence, info.stream_sequence, item))
}
