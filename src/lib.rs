//! attio-bridge: Attio's webhooks to Kafka or NATS JetStream, as CloudEvents, without losing one.
//!
//! **The promise: a 200 means that every event of that delivery was acknowledged by the broker.** (An event that
//! the configured filter drops is counted and not published.)
//!
//! # The path
//!
//! One request passes through these files in this order. `Pipeline::handle` in `pipeline/mod.rs` runs steps 2 to 9
//! and awaits the acks.
//!
//! 1. `http/connection`: framing and deadlines on the raw bytes. `http/admission`: method, size, media
//!    type, in-flight limits. `http/receive`: the body. If the client disconnects after it, the rest goes on as a
//!    detached task (`DetachOnDrop` there).
//! 2. `pipeline/verify`: the HMAC over those bytes. `Delivery<Unverified>` becomes `Delivery<Verified>`.
//! 3. `pipeline/parse`: the envelope, a bare event, or the single-event form. Each event keeps its bytes.
//! 4. `pipeline/filter`: drops events by configuration, and counts them.
//! 5. `pipeline/identify`: an id that is the same on every retry.
//! 6. `pipeline/route`: the address, from a closed table.
//! 7. `pipeline/dedup`: finds duplicates. One publish in flight per id; an id is remembered after its ack.
//!    Where replicas share a store, `pipeline/claim` asks it before a publish; [`store`] implements that port.
//! 8. `pipeline/normalize`: the CloudEvent, with the names of objects and lists from `pipeline/slugs`.
//! 9. `pipeline/publish`: the port that `bus/kafka`, `bus/nats` and `bus/stdout` implement. What the broker
//!    rejects goes to `pipeline/quarantine`.
//! 10. `http/respond` and `http/record`: the answer, the log line, the metrics.
//!
//! # Beside the path
//!
//! - [`cli`]: the verbs, and what they print.
//! - [`app`]: builds everything from the configuration; reload, supervision, graceful stop.
//! - [`config`]: flag, environment, file, default; every problem is reported at once.
//! - [`bus`]: Kafka, NATS and stdout. Kafka and NATS also read messages back and inspect the broker, for
//!   `check --connect`, `topics`, `tail` and `quarantine`.
//! - [`store`]: the memory of acknowledged ids that replicas share, in Redis or NATS.
//! - [`consumer`]: decodes those messages: events, quarantined events, and their replay.
//! - [`state`]: topics with the newest state of each entity, for `state run` and its like.
//! - [`attio`]: Attio's REST API, for `webhooks`, `slugs` and `watch`; `attio/entities` reads records and the like.
//! - [`try_out`]: the parts of `dev` and `send`: generated events, the expected results, the comparison.
//! - [`fake_attio`]: a fake of Attio's API that also sends webhooks, for `dev` and tests.
//! - [`signing`]: signed requests, for `sign`, `send` and the fake.
//! - [`contract`]: what consumers can rely on: event types, JSON Schemas, AsyncAPI, a page.
//! - [`explain`]: why a captured request is refused, or what becomes of its events.
//! - [`catalog`]: the event types; [`cloudevent`]: their envelope; [`delivery`]: a request and what is known of it.
//! - [`metrics`]: every metric is declared in `metrics/mod.rs`.
//! - [`shutdown`], [`supervise`], [`files`], [`http_client`], [`printable`]: what several of these share.
//!
//! # The layers
//!
//! `tests/it/layers.rs` lists them from the outside in, reads the imports, and fails on an edge that goes out.
//!
//! # What is absent
//!
//! - No switch turns verification off, and no unverified bytes are parsed.
//! - No stage does another's work; the layer test lists every item that one takes from another.
//! - Nothing below [`app`] reads a setting from the environment (the HTTP client honours the usual proxy variables); the wall clock is read once per delivery, in `http/receive`, and once per read of an entity, in `attio/entities/reader`.
//! - No text from a request becomes a topic, a subject, a header name or a metric label.
//! - Nothing that belongs to a request cancels a publish. If the answer is due first it is 503, and the publish goes
//!   on: a timeout means "unknown", never "not stored".
//! - No queue is unbounded. When one on the path is full the answer is 503; when the log's is full, lines are dropped
//!   and counted.
//! - No outbound HTTP on the data path, no disk, no database.
//!
//! # Glossary
//!
//! | word | meaning |
//! |---|---|
//! | source | a configured sender, with its secrets: the last segment of `/webhooks/{source}` |
//! | delivery | one HTTP request with a webhook body; a retry is another delivery with the same `Idempotency-Key` |
//! | delivery id | the `Idempotency-Key` of a delivery: `delivery_id` in the log, `correlationid` in the CloudEvent |
//! | verified | the signature matches a secret of the source |
//! | timestamped scheme | a signature over `timestamp.body` in place of the body, as Attio documented before |
//! | single-event form | the body that goes with it: one event with an `id.event_id` and nested ids |
//! | event | one element of a delivery's `events`; published as one CloudEvent |
//! | event id | the CloudEvent's `id`: the same on every retry, see `pipeline/identify` |
//! | dedup key | 128 bits of a hash over source and event id: the key in dedup, and `Nats-Msg-Id` |
//! | bus | Kafka, NATS JetStream or stdout; the broker is the server behind it |
//! | topic, subject | where Kafka, or NATS, stores an event |
//! | address | `<prefix>.<category>`: the topic, or the first part of the subject |
//! | partition key | the id of the entity whose events stay in order: the Kafka key |
//! | catalog | the event types that the bridge knows, each with category, action, subject and partition key |
//! | slug | what Attio calls an object or a list in URLs, for example `people` |
//! | enqueue | hand a message to the bus client |
//! | ack | the broker's confirmation that a message is stored: an offset (Kafka) or a sequence (JetStream) |
//! | in-flight entry | a dedup key whose publish has no result yet; repeats join it and await the same ack |
//! | store | Redis or a NATS bucket in which replicas share what was acknowledged |
//! | claim | what a replica writes into the store before it publishes an id: its owner, and a lease |
//! | publish handle | the obligation of a bus to report the result of one publish exactly once |
//! | duplicate | an event that was acknowledged before, or whose publish another delivery enqueued |
//! | quarantine | the dead-letter topic: what was verified and cannot be published as an event, with the reason |
//! | outcome | what became of a verified delivery: one result per event |
//! | rejection | a delivery that was not verified, or (of the broker) an event that it will never accept |
//! | reason | the slug that says how a delivery ended: in the answer, the log and the metrics |
//! | permit | a delivery's share of the in-flight limits, held until the last of its publishes has a result |
//! | backpressure | 503 `overloaded` when no permit is left or the bus client's queue is full |
//! | part | a task or thread that must run as long as the bridge; its end ends the process |
//! | state | an entity as Attio held it at a time, on a topic of its own; the newest one of a key counts |
//! | tombstone | the message that says that an entity is gone, for ever |
//! | settle | wait for more changes of an entity before it is read |
//! | drain | during a stop: accept nothing new, await what was accepted |
//! | replica | one of several bridge processes behind a load balancer |

pub mod cli;
mod try_out;
pub mod app;
pub mod config;
mod consumer;
pub mod state;
pub mod http;
pub mod bus;
pub mod store;
pub mod attio;
pub mod fake_attio;
mod explain;
pub mod contract;
pub mod pipeline;
pub mod delivery;
pub mod catalog;
pub mod cloudevent;
pub mod signing;
pub mod printable;
pub mod files;
pub mod http_client;
pub mod metrics;
mod open_files;
pub mod shutdown;
pub mod supervise;
pub mod version;
mod named_enum;
