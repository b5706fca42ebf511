//! attio-bridge: Attio's webhooks onto Kafka or NATS JetStream, as CloudEvents, without losing one.
//!
//! **The promise: a 200 means that every event of that delivery was acknowledged by the broker.**
//! Everything below is arranged around that sentence.
//!
//! # The path
//!
//! One request walks through these files in this order; `Pipeline::handle` in [`pipeline`] calls the
//! stages from 2 to 9.
//!
//! 1. `http/connection`: framing and deadlines, on the raw bytes; `http/admission`: method, size, media type,
//!    budget; `http/receive`: the body. The rest is work that outlives the client's connection (`http/detach`).
//! 2. `pipeline/verify`: the HMAC over those bytes. `Delivery<Unverified>` becomes `Delivery<Verified>`.
//! 3. `pipeline/parse`: the envelope, a bare event, or the guide's single event; each event keeps its bytes.
//! 4. `pipeline/identify`: the same id on every retry.
//! 5. `pipeline/filter`: drops on purpose, and counts.
//! 6. `pipeline/dedup`: one flight per id; remembered only after the ack.
//! 7. `pipeline/normalize`: a CloudEvent; what its object and list are called comes from `pipeline/slugs`.
//! 8. `pipeline/route`: an address from a closed table.
//! 9. `pipeline/publish`: the port. A bus settles each message once, from whatever thread hears of it;
//!    what can never be published goes to `pipeline/quarantine`.
//! 10. `http/respond` and `http/record`: one answer, one log line, the metrics.
//!
//! `pipeline/carry` takes one delivery's events through 4 to 9: all of them are handed to the bus
//! before the first ack is waited for.
//!
//! # Beside the path
//!
//! - [`cli`]: a file for each verb; the work is in the modules below.
//! - [`app`]: the composition root, and the end of everything in order.
//! - [`config`]: flag, environment, file, default; checked once, with every problem at once.
//! - [`bus`]: Kafka, NATS and standard output behind the port. `bus/read` is the other way round: messages as
//!   they lie there; `bus/inspect` is for `check --connect`, `bus/setup` for `topics`.
//! - [`consumer`]: what those messages mean, for `tail` and `quarantine`: events, pieces of quarantine,
//!   and their way through the pipeline again.
//! - [`attio`]: Attio's own API, for `webhooks`, `slugs` and `watch`.
//! - [`try_out`]: what `dev` and `send` are made of: generated events, what must come of them, the comparison.
//! - [`fake_attio`]: a fake of Attio's API that also delivers webhooks, for `dev` and for tests.
//! - [`signing`]: signed requests, for `sign`, `send` and the fake.
//! - [`explain`]: what the bridge makes of a captured request.
//!
//! # The layers
//!
//! `main` → [`cli`] → [`try_out`] → [`app`], [`config`], [`consumer`], [`explain`] → [`http`], [`bus`], [`attio`],
//! [`fake_attio`] → [`pipeline`] → [`delivery`], [`cloudevent`], [`catalog`], [`signing`]; [`http_client`], [`metrics`], [`shutdown`] and [`version`] are leaves. A test reads the `use`
//! lines and fails on any other edge.
//!
//! # What is absent
//!
//! - No switch turns verification off, and nothing parses bytes that are not verified.
//! - No stage calls another stage; they meet in the values that `handle` passes on, and the layer test
//!   lists every type that one takes from another.
//! - Nothing below [`app`] reads the environment; the wall clock is read once per delivery, in `receive`.
//! - No text from the wire becomes a topic, a subject, a header name or a metric label.
//! - Nothing that belongs to a request can cancel a publish, and no timer is shorter than the bus
//!   client's own: a timeout means "unknown", never "not stored".
//! - No queue is without a bound; full is an answer (503), not a wait.
//! - No outbound HTTP on the data path, no disk, no database.

pub mod cli;
pub mod try_out;
pub mod app;
pub mod config;
pub mod consumer;
pub mod http;
pub mod bus;
pub mod attio;
pub mod fake_attio;
pub mod explain;
pub mod pipeline;
pub mod delivery;
pub mod catalog;
pub mod cloudevent;
pub mod signing;
pub mod paint;
pub mod http_client;
pub mod metrics;
pub mod shutdown;
pub mod supervise;
pub mod version;
