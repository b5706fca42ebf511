//! A Kafka broker in this process, and what the bridge publishes, read back: from that broker, from another one, or
//! from standard output.
//!
//! The broker is librdkafka's mock cluster: the real protocol on a real port, so other clients of this machine can
//! subscribe, but for Java's, which takes its answer to ApiVersions for an order to wait. It keeps the last 5 MB of each
//! partition in memory and nothing on disk, and compacts nothing. Of transactions it knows the protocol alone: records
//! are there at once, and those of an aborted one stay. `state run` aborts none while it is the only writer.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaResult;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, DefaultProducerContext, Producer};
use tokio::sync::mpsc;

use super::{Error, PREFIX, STATE_PREFIX};
use crate::attio::entities::Kind;
use crate::bus;
use crate::bus::error::ReadError;
use crate::bus::read::{Item, Plan, Position, Reader};
use crate::catalog;
use crate::catalog::Category;
use crate::cloudevent::Data;
use crate::cloudevent::decode::{DecodeError, DecodedEvent};

const TIMEOUT: Duration = Duration::from_secs(10);

pub struct Broker(MockCluster<'static, DefaultProducerContext>);

impl Broker {
    /// Starts one with the bridge's topics, of four partitions each.
    pub fn start() -> Result<Self, Error> {
        let broker = MockCluster::new(1).map(Self).map_err(Error::Broker)?;
        broker.create_topics().map_err(Error::Broker)?;
        Ok(broker)
    }

    pub fn address(&self) -> String {
        self.0.bootstrap_servers()
    }

    /// Keeps the broker running until the process ends. The bridge's client closes on a thread of its own, and
    /// would log that the broker is gone.
    pub fn leak(self) {
        std::mem::forget(self);
    }

    /// Asking for a topic creates it. `MockCluster::create_topic` sometimes waits a second for a thread that
    /// was not woken.
    fn create_topics(&self) -> KafkaResult<()> {
        let client: BaseProducer = ClientConfig::new().set("bootstrap.servers", self.address()).create()?;
        topics().try_for_each(|topic| client.client().fetch_metadata(Some(&topic), TIMEOUT).map(drop))
    }
}

/// Every topic that the bridge and `state` publish to.
fn topics() -> impl Iterator<Item = String> {
    let categories = Category::ALL.into_iter().map(Category::as_str);
    let events = categories.chain(["unknown", "quarantine"]).map(|name| format!("{PREFIX}.{name}"));
    events.chain(Kind::ALL.into_iter().map(|kind| format!("{STATE_PREFIX}.{}", kind.as_str())))
}

/// Lines of standard output that were copied and not yet compared.
const QUEUE: usize = 65_536;

/// A message as a consumer reads it.
#[derive(Clone, Debug)]
pub struct ReadEvent {
    /// Its topic or subject.
    pub address: String,
    pub partition: i32,
    /// Its offset or sequence.
    pub offset: i64,
    pub key: Option<Bytes>,
    pub event: Result<DecodedEvent, DecodeError>,
}

impl ReadEvent {
    /// Its topic; on NATS the subject without the action.
    pub fn topic(&self) -> &str {
        let mut dots = self.address.match_indices('.').map(|(at, _)| at);
        dots.nth(1).map_or(&self.address, |at| &self.address[..at])
    }

    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.event.as_ref().ok()?.get(name)
    }

    pub fn key_text(&self) -> &str {
        self.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).unwrap_or("")
    }
}

impl From<Item> for ReadEvent {
    fn from(item: Item) -> Self {
        let event = DecodedEvent::from_message(&item.headers, &item.payload);
        let address = item.address;
        match item.position {
            Position::Kafka { partition, offset } => {
                Self { address, partition, offset, key: item.key, event }
            }
            Position::Nats { sequence } => {
                let (offset, key) = (i64::try_from(sequence).unwrap_or(i64::MAX), partition_key(&event));
                Self { address, partition: 0, offset, key, event }
            }
        }
    }
}

pub fn data(event: &DecodedEvent) -> &Bytes {
    match event.data() {
        Data::Json(bytes) | Data::Binary(bytes) => bytes,
    }
}

/// The key where the bus has none: it is in the event too.
fn partition_key(event: &Result<DecodedEvent, DecodeError>) -> Option<Bytes> {
    event.as_ref().ok()?.get("partitionkey").map(|key| Bytes::copy_from_slice(key.as_bytes()))
}

pub enum Source {
    Broker(bus::Kind, Plan),
    /// Copies of the lines on standard output.
    Lines(mpsc::Receiver<ReadEvent>),
}

impl Source {
    /// Starts to read: what is published after this returns will be read.
    pub async fn open(self) -> Result<EventReader, ReadError> {
        Ok(match self {
            Self::Broker(kind, plan) => EventReader::Broker(bus::read(&kind, plan).await?),
            Self::Lines(lines) => EventReader::Lines(lines),
        })
    }
}

pub enum EventReader {
    Broker(Reader),
    Lines(mpsc::Receiver<ReadEvent>),
}

impl EventReader {
    /// The next event; none if the reader has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<ReadEvent> {
        match self {
            Self::Lines(lines) => lines.recv().await,
            Self::Broker(reader) => loop {
                match reader.next().await? {
                    Ok(item) => return Some(item.into()),
                    Err(error) => tracing::warn!("reading back: {error}"),
                }
            },
        }
    }

    pub async fn end(self) {
        if let Self::Broker(reader) = self {
            reader.end().await;
        }
    }
}

/// Writes lines, and sends a copy of each before it returns.
pub struct CopyingWriter<W> {
    out: W,
    line: Vec<u8>,
    copies: mpsc::Sender<ReadEvent>,
    lines: i64,
}

impl<W: Write> CopyingWriter<W> {
    /// A writer in front of `out`, and the source of its copies.
    pub fn new(out: W) -> (Self, Source) {
        let (copies, lines) = mpsc::channel(QUEUE);
        (Self { out, line: Vec::new(), copies, lines: 0 }, Source::Lines(lines))
    }
}

impl<W: Write> Write for CopyingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        for byte in &bytes[..written] {
            if *byte == b'\n' {
                self.lines += 1;
                // The run may have ended.
                let _ = self.copies.blocking_send(from_line(&std::mem::take(&mut self.line), self.lines));
            } else {
                self.line.push(*byte);
            }
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn from_line(line: &[u8], number: i64) -> ReadEvent {
    let event = DecodedEvent::from_json(line);
    let kind = event.as_ref().ok().and_then(|event| event.get("type"));
    let category = kind.map_or("", |kind| match kind.strip_prefix("com.attio.") {
        Some(name) => catalog::Kind::of(name).category().map_or("unknown", catalog::Category::as_str),
        None => "quarantine",
    });
    let (address, key) = (format!("{PREFIX}.{category}"), partition_key(&event));
    ReadEvent { address, partition: 0, offset: number, key, event }
}
