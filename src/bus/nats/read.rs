//! The reading side: a consumer of the reader's own, in memory, without acks, and deleted at the end.
//!
//! It is made anew behind the last message that was read whenever the server has lost it, or a message
//! went missing on the way: messages come in order and none is left out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{Config, Stream};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::{self, Message};
use async_nats::{Client, Event, ServerError};
use bytes::Bytes;
use futures_util::StreamExt;
use humantime::format_duration;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::connect;
use super::health;
use super::options::Options;
use crate::bus::error::ReadError;
use crate::bus::read::{Begin, Item, Plan, Position, Sink};

/// For a connection, whatever the number of servers.
const CONNECT: Duration = Duration::from_secs(6);

/// The server removes a consumer that nobody has asked for this long, should the reader be killed.
const ABANDONED: Duration = Duration::from_secs(30);

/// Between two tries to make a consumer anew.
const PAUSE: Duration = Duration::from_millis(500);

/// How long the server may take to remove the consumer.
const FAREWELL: Duration = Duration::from_secs(3);

/// Begins to read.
pub async fn read(
    options: Options,
    plan: Plan,
    sink: Sink,
    stop: CancellationToken,
) -> Result<JoinHandle<()>, ReadError> {
    let (said, back) = (Arc::default(), Arc::default());
    let client = reach(&options, &said, Arc::clone(&back)).await?;
    let stream = jetstream::new(client).get_stream(&options.stream.name).await;
    let name = options.stream.name.clone();
    let stream = stream.map_err(|error| broken(format!("stream {name}: {error}{}", heard(&said))))?;
    let subjects: BTreeSet<String> = plan.destinations.iter().map(|to| to.subject.to_string()).collect();
    let mut worker = Worker {
        // Behind what is there now, however often the consumer is made anew.
        last: (plan.begin == Begin::Now).then_some(stream.cached_info().state.last_sequence),
        stream,
        subjects: subjects.into_iter().collect(),
        begin: plan.begin,
        follow: plan.follow,
        said,
        back,
        consumer: None,
    };
    let feed = worker.consume().await.map_err(|error| broken(format!("stream {name}: {error}")))?;
    Ok(tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = worker.run(feed, &sink) => {}
        }
        worker.leave().await;
    }))
}

fn broken(reason: impl Into<String>) -> ReadError {
    ReadError::Broker { bus: "nats", reason: reason.into() }
}

/// What the server said last that may be why something was not answered.
type Said = Arc<Mutex<Option<String>>>;

/// A permission that is missing is told beside the request, which is then never answered.
fn heard(said: &Said) -> String {
    said.lock().take().map_or_else(String::new, |text| {
        format!(" ({text}: a reader needs $JS.API.STREAM.INFO, CONSUMER.CREATE, MSG.NEXT and DELETE of the stream)")
    })
}

/// `back` is told of every connection after the first.
async fn reach(options: &Options, said: &Said, back: Arc<Notify>) -> Result<Client, ReadError> {
    let said = Arc::clone(said);
    let lost = AtomicBool::new(false);
    let settings = connect::settings(options)?.event_callback(move |event| {
        match event {
            Event::ServerError(ServerError::Other(text)) => *said.lock() = Some(text),
            Event::Disconnected => lost.store(true, Ordering::Relaxed),
            Event::Connected if lost.load(Ordering::Relaxed) => back.notify_one(),
            _ => {}
        }
        std::future::ready(())
    });
    let connecting = settings.connect(connect::addresses(&options.servers)?);
    let why = match tokio::time::timeout(CONNECT, connecting).await {
        Ok(Ok(client)) => return Ok(client),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {}", format_duration(CONNECT)),
    };
    let servers = connect::names(options)?;
    Err(broken(format!("{servers}: {why}{}", health::advice(&why))))
}

/// What the reading task owns.
struct Worker {
    stream: jetstream::stream::Stream,
    subjects: Vec<String>,
    begin: Begin,
    follow: bool,
    said: Said,
    /// Tells of a connection that is there again.
    back: Arc<Notify>,
    /// The name of the consumer that is on the server now.
    consumer: Option<String>,
    /// The sequence of the last message that was read, or is not wanted.
    last: Option<u64>,
}

/// The messages of one consumer.
struct Feed {
    messages: Stream,
    /// Messages that were there when it was made, and have not been read.
    pending: u64,
    /// The place of the next one in it.
    next: u64,
}

/// Why a feed has ended.
enum End {
    /// Nothing more is wanted.
    Done,
    /// The consumer, or a message, was lost.
    Lost(String),
}

impl Worker {
    /// Makes a consumer behind what was read already.
    async fn consume(&mut self) -> Result<Feed, String> {
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
            inactive_threshold: ABANDONED,
            memory_storage: true,
            num_replicas: 1,
            ..Config::default()
        };
        // Noted first: one whose making is not answered may be there all the same.
        self.consumer = Some(name);
        let told = |error: String, said: &Said| format!("{error}{}", heard(said));
        let consumer = self.stream.create_consumer(config).await;
        let consumer = consumer.map_err(|error| told(error.to_string(), &self.said))?;
        let pending = consumer.cached_info().num_pending;
        let messages = consumer.messages().await.map_err(|error| told(error.to_string(), &self.said))?;
        Ok(Feed { messages, pending, next: 1 })
    }

    /// Reads until nothing more is wanted.
    async fn run(&mut self, mut feed: Feed, sink: &Sink) {
        loop {
            let End::Lost(why) = self.drain(&mut feed, sink).await else { return };
            tracing::debug!("reading anew: {why}");
            self.leave().await;
            feed = loop {
                match self.consume().await {
                    Ok(feed) => break feed,
                    Err(error) if self.follow => tracing::warn!("waiting for the stream: {error}"),
                    Err(error) => {
                        // Nobody who reads any more needs to know.
                        let _ = sink.send(Err(broken(error))).await;
                        return;
                    }
                }
                tokio::time::sleep(PAUSE).await;
            };
        }
    }

    async fn drain(&mut self, feed: &mut Feed, sink: &Sink) -> End {
        while self.follow || feed.pending > 0 {
            let message = tokio::select! {
                message = feed.messages.next() => message,
                // What was asked for on the old connection may never come, and is missed only much later.
                () = self.back.notified() => return End::Lost("the connection was lost".into()),
            };
            let message = match message {
                Some(Ok(message)) => message,
                Some(Err(error)) => return End::Lost(error.to_string()),
                None => return End::Lost("the consumer has ended".into()),
            };
            let (place, item) = match item(&message) {
                Ok(read) => read,
                Err(error) => return End::Lost(error.to_string()),
            };
            if place != feed.next {
                return End::Lost(format!("message {} of the consumer did not come", feed.next));
            }
            if let Position::Nats { sequence } = item.position {
                self.last = Some(sequence);
            }
            (feed.next, feed.pending) = (place + 1, feed.pending.saturating_sub(1));
            if sink.send(Ok(item)).await.is_err() {
                return End::Done;
            }
        }
        End::Done
    }

    /// Takes the consumer off the server.
    async fn leave(&self) {
        let Some(name) = &self.consumer else { return };
        match tokio::time::timeout(FAREWELL, self.stream.delete_consumer(name)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!("the consumer {name} is left to the server: {error}"),
            Err(_) => tracing::debug!("the consumer {name} is left to the server: no answer"),
        }
    }
}

/// Its place in the consumer, and the message.
fn item(message: &Message) -> Result<(u64, Item), async_nats::Error> {
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
    Ok((info.consumer_sequence, item))
}
