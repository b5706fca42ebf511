//! A NATS KV bucket. Its messages are published and read by hand: the KV client of `async-nats` leaves keys that live for
//! ever where one is created again after a delete or an expiry.
//!
//! | step | message on `$KV.<bucket>.<key>` |
//! |---|---|
//! | claim | `L:<owner>`, `Nats-TTL` = lease, only if the key has no message; else its last message is read |
//! | commit | `D`, `Nats-TTL` = window: after the broker's ack it is true whoever holds the claim |
//! | release | empty, `KV-Operation: DEL`, only if the last message is still the claim |
//! | register | the generations, `Nats-TTL: never`, only if the last message is still what was read |
//!
//! Whether a claim that failed with a wrong sequence is the caller's own is seen by its owner: an ack may be lost.

mod bucket;
mod setup;

use std::sync::Arc;
use std::time::Duration;

use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_TTL};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::{Client, HeaderMap, StatusCode};
use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::Instant;

use bucket::Found;
pub use setup::Setup;
pub(super) use setup::setup;

use super::backend::{Backend, Reply, Settlement, Stored, by};
use super::options::{NatsKvOptions, Options};
use crate::bus::inspect::{Level, Row};
use crate::bus::{StartError, nats};
use crate::pipeline::publish::BoxFuture;
use crate::pipeline::store::Held;

/// The value of an acknowledged id.
const DONE: &[u8] = b"D";
/// How long the key of the probe lasts.
const PROBE_LIFE: Duration = Duration::from_secs(10);
/// How long a release is kept; without it the key is free too.
const RELEASE_LIFE: Duration = Duration::from_secs(60);
const OPERATION: &str = "KV-Operation";
const SEQUENCE: &str = "Nats-Sequence";
/// The key of the register of generations.
const REGISTER: &str = "generation";

pub(super) struct NatsKv {
    options: NatsKvOptions,
    lease: Duration,
    window: Duration,
    link: Mutex<Link>,
}

#[derive(Clone, Default)]
struct Link {
    /// Connects by itself, once there is one.
    client: Option<Client>,
    /// Whether the bucket was found as it must be.
    verified: bool,
}

/// Why a message was not stored.
enum Refused {
    /// The key has another last message.
    WrongSequence,
    Failed(Arc<str>),
}

/// The last message of a key.
struct Last {
    sequence: u64,
    value: Bytes,
}

impl NatsKv {
    pub(super) fn new(nats: &NatsKvOptions, options: &Options) -> Result<Self, StartError> {
        nats::check(&nats.nats)?;
        let (lease, window) = (options.lease, options.window);
        Ok(Self { options: nats.clone(), lease, window, link: Mutex::default() })
    }

    fn client(&self) -> Result<Client, Arc<str>> {
        let link = self.link.lock();
        link.client.clone().filter(|_| link.verified).ok_or_else(|| "not connected".into())
    }

    /// The client, once it is connected.
    async fn connected(&self) -> Result<Client, Arc<str>> {
        let known = self.link.lock().client.clone();
        let client = match known {
            Some(client) => client,
            None => nats::client(&self.options.nats).await.map_err(|error| error.to_string())?,
        };
        self.link.lock().client = Some(client.clone());
        bucket::connected(&client).await;
        Ok(client)
    }

    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.options.bucket)
    }

    /// Publishes to a key, for ever without a life; with an expected sequence only if that is its last message, 0 for
    /// none. Returns the sequence.
    async fn put(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        life: impl Into<Option<Duration>>,
        expected: Option<u64>,
    ) -> Result<u64, Refused> {
        let mut headers = HeaderMap::new();
        let seconds = |life: Duration| format!("{}s", life.as_millis().div_ceil(1000).max(1));
        // That overrides the max_age of the bucket; a life does not.
        headers.insert(NATS_MESSAGE_TTL, life.into().map_or("never".into(), seconds));
        if let Some(expected) = expected {
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        }
        let value = value.into();
        if value.is_empty() {
            headers.insert(OPERATION, "DEL");
        }
        let failed = |reason: String| Refused::Failed(reason.into());
        let client = self.client().map_err(Refused::Failed)?;
        let reply = client.request_with_headers(self.subject(key), headers, value).await;
        let reply = reply.map_err(|error| failed(error.to_string()))?;
        match serde_json::from_slice::<Response<PublishAck>>(&reply.payload) {
            Ok(Response::Ok(ack)) => Ok(ack.sequence),
            Ok(Response::Err { error }) if error.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE => {
                Err(Refused::WrongSequence)
            }
            Ok(Response::Err { error }) => Err(failed(error.to_string())),
            Err(error) => Err(failed(format!("unreadable answer: {error}"))),
        }
    }

    /// The last message of a key. A replica of the stream may answer, and be a little behind.
    async fn last(&self, key: &str) -> Result<Option<Last>, Arc<str>> {
        let subject = format!("$JS.API.DIRECT.GET.KV_{}.{}", self.options.bucket, self.subject(key));
        let found = self.client()?.request(subject, Bytes::new()).await.map_err(|error| error.to_string())?;
        match found.status {
            None => {
                let sequence = found.headers.as_ref().and_then(|headers| headers.get(SEQUENCE));
                let sequence = sequence.and_then(|sequence| sequence.as_str().parse().ok());
                let sequence = sequence.ok_or("an answer without a sequence")?;
                Ok(Some(Last { sequence, value: found.payload }))
            }
            Some(StatusCode::NOT_FOUND) => Ok(None),
            Some(status) => Err(format!("reading a key: status {status}").into()),
        }
    }

    async fn claim_one(&self, held: &Held) -> Reply {
        let (key, value) = (key(held), owner(held));
        match self.put(&key, value.clone(), self.lease, Some(0)).await {
            Ok(_) => return Reply::Claimed,
            Err(Refused::Failed(reason)) => return Reply::Failed(reason),
            Err(Refused::WrongSequence) => {}
        }
        match self.last(&key).await {
            Ok(Some(last)) if last.value == DONE => Reply::Acknowledged,
            Ok(Some(last)) if last.value == value.as_bytes() => Reply::Claimed,
            // Released.
            Ok(Some(last)) if last.value.is_empty() => {
                match self.put(&key, value, self.lease, Some(last.sequence)).await {
                    Ok(_) => Reply::Claimed,
                    Err(Refused::WrongSequence) => Reply::InFlight,
                    Err(Refused::Failed(reason)) => Reply::Failed(reason),
                }
            }
            Ok(Some(last)) if last.value.starts_with(b"L:") => Reply::InFlight,
            Ok(Some(_)) => Reply::Failed(
                "a key holds something else: dedup.nats.bucket is used by another program".into(),
            ),
            // Its lease has ended since, or a replica of the stream does not have it yet.
            Ok(None) => Reply::InFlight,
            Err(reason) => Reply::Failed(reason),
        }
    }

    async fn settle_one(&self, settlement: &Settlement) -> Result<(), Arc<str>> {
        let key = key(&settlement.held);
        let stored = if settlement.acknowledged {
            self.put(&key, DONE, self.window, None).await
        } else {
            match self.last(&key).await? {
                Some(last) if last.value == owner(&settlement.held).as_bytes() => {
                    self.put(&key, Bytes::new(), RELEASE_LIFE, Some(last.sequence)).await
                }
                _ => return Ok(()),
            }
        };
        match stored {
            // Another replica has claimed it since.
            Ok(_) | Err(Refused::WrongSequence) => Ok(()),
            Err(Refused::Failed(reason)) => Err(reason),
        }
    }
}

fn key(held: &Held) -> String {
    match held.generation.unwrap_or_default() {
        0 => held.key.to_hex(),
        generation => format!("{generation}.{}", held.key.to_hex()),
    }
}

/// The value of a claim.
fn owner(held: &Held) -> String {
    format!("L:{:032x}", held.owner)
}

fn reason(refused: Refused) -> Arc<str> {
    match refused {
        Refused::WrongSequence => "another message came between".into(),
        Refused::Failed(reason) => reason,
    }
}

impl Backend for NatsKv {
    fn claim<'a>(&'a self, claims: &'a [Held], deadline: Instant) -> BoxFuture<'a, Vec<Reply>> {
        let claims = claims.iter().map(move |held| async move {
            by(deadline, async { Ok(self.claim_one(held).await) }).await.unwrap_or_else(Reply::Failed)
        });
        Box::pin(join_all(claims))
    }

    fn settle<'a>(
        &'a self,
        settlements: &'a [Settlement],
        deadline: Instant,
    ) -> BoxFuture<'a, Vec<Result<(), Arc<str>>>> {
        let all = settlements.iter().map(move |settlement| by(deadline, self.settle_one(settlement)));
        Box::pin(join_all(all))
    }

    fn connect(&self) -> BoxFuture<'_, Result<(), Arc<str>>> {
        Box::pin(async move {
            let client = self.connected().await?;
            if !self.link.lock().verified {
                bucket::ensure(&client, &self.options, self.window).await?;
                self.link.lock().verified = true;
            }
            Ok(())
        })
    }

    fn disconnect(&self) {
        // The client connects again by itself; the bucket may be another then.
        self.link.lock().verified = false;
    }

    fn reconnect(&self) -> BoxFuture<'_, Result<(), Arc<str>>> {
        self.connect()
    }

    fn inspect(&self) -> BoxFuture<'_, Result<Vec<Row>, Arc<str>>> {
        Box::pin(async move {
            let client = self.connected().await?;
            let row = |check: &str, result, detail: &str| Row {
                check: format!("dedup store {check}"),
                result,
                detail: detail.into(),
            };
            let bucket = format!("bucket {}", self.options.bucket);
            let found = match bucket::find(&client, &self.options, self.window).await? {
                Found::Missing => {
                    return Ok(vec![row(&bucket, Level::Warning, "does not exist yet: `serve` creates it")]);
                }
                Found::AsItMustBe => row(&bucket, Level::Ok, "is as it must be"),
                Found::NotAsked => row(&bucket, Level::Ok, "is not inspected: nats.stream.ensure is \"off\""),
            };
            self.link.lock().verified = true;
            let tried = async {
                self.put("probe", "1", PROBE_LIFE, None).await.map_err(reason)?;
                self.last("probe").await
            };
            let rights = match tried.await {
                Ok(_) => row("rights", Level::Ok, "may claim, commit and release; nothing was published"),
                Err(error) => {
                    let allow = format!("allow publishing to $KV.{}.>", self.options.bucket);
                    let read = format!("$JS.API.DIRECT.GET.KV_{}.>", self.options.bucket);
                    row("rights", Level::Failed, &format!("{error}; {allow} and {read}"))
                }
            };
            Ok(vec![found, rights])
        })
    }

    fn probe(&self, deadline: Instant) -> BoxFuture<'_, Vec<Result<(), Arc<str>>>> {
        Box::pin(async move {
            let written = async { self.put("probe", "1", PROBE_LIFE, None).await.map(drop).map_err(reason) };
            vec![by(deadline, written).await]
        })
    }

    fn read_register(&self) -> BoxFuture<'_, Result<Option<Stored>, Arc<str>>> {
        Box::pin(async move {
            let last = self.last(REGISTER).await?;
            Ok(last.map(|Last { sequence, value }| Stored { value: value.into(), sequence }))
        })
    }

    /// From a replica of the stream.
    fn reads_may_lag(&self) -> bool {
        true
    }

    fn write_register(&self, value: String, read: Option<Stored>) -> BoxFuture<'_, Result<bool, Arc<str>>> {
        Box::pin(async move {
            let expected = read.map_or(0, |read| read.sequence);
            match self.put(REGISTER, value, None, Some(expected)).await {
                Ok(_) => Ok(true),
                Err(Refused::WrongSequence) => Ok(false),
                Err(Refused::Failed(reason)) => Err(reason),
            }
        })
    }
}
