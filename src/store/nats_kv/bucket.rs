//! The bucket: what it must be, asking JetStream whether it is, and creating it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use humantime::format_duration;

use crate::bus::nats::Ensure;
use crate::store::options::NatsKvOptions;

/// How often the client is asked whether it is connected.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Requests to JetStream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// JetStream's error code for a stream that does not exist.
const STREAM_NOT_FOUND: u64 = 10059;

/// What was found of a bucket that serves.
pub(super) enum Found {
    AsItMustBe,
    /// It does not exist, and is to be created.
    Missing,
    /// `nats.stream.ensure` is "off".
    NotAsked,
}

/// Waits until the client is connected, as long as the caller does.
pub(super) async fn connected(client: &Client) {
    while client.connection_state() != State::Connected {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Finds the bucket as it must be; the error says what to do. Creates nothing.
pub(super) async fn find(
    client: &Client,
    options: &NatsKvOptions,
    window: Duration,
) -> Result<Found, Arc<str>> {
    let NatsKvOptions { bucket, nats } = options;
    if nats.stream.ensure == Ensure::Off {
        return Ok(Found::NotAsked);
    }
    match context(client).get_stream(stream(bucket)).await {
        Ok(found) => match problems(&found.cached_info().config, window).into_iter().next() {
            Some(problem) => Err(format!("bucket {bucket} {problem}").into()),
            None => Ok(Found::AsItMustBe),
        },
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error) if error.error_code().0 == STREAM_NOT_FOUND => {
                match nats.stream.ensure {
                    Ensure::Create => Ok(Found::Missing),
                    _ => Err(format!(
                        "bucket {bucket} does not exist: create it as `attio-bridge topics` prints it, or set \
                         nats.stream.ensure to \"create\""
                    )
                    .into()),
                }
            }
            _ => Err(format!("bucket {bucket} cannot be inspected: {error}").into()),
        },
    }
}

/// The same; creates the bucket where that is configured.
pub(super) async fn ensure(
    client: &Client,
    options: &NatsKvOptions,
    window: Duration,
) -> Result<(), Arc<str>> {
    if !matches!(find(client, options, window).await?, Found::Missing) {
        return Ok(());
    }
    let bucket = &options.bucket;
    let created = context(client).create_stream(config(options, window)).await;
    created.map_err(|error| format!("bucket {bucket} cannot be created: {error}"))?;
    tracing::info!(bucket, "nats: bucket created");
    Ok(())
}

fn context(client: &Client) -> Context {
    jetstream::ContextBuilder::new().timeout(REQUEST_TIMEOUT).build(client.clone())
}

fn stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// The stream of the bucket that is created: what the KV clients make, with lives of messages.
pub(super) fn config(options: &NatsKvOptions, window: Duration) -> Config {
    Config {
        name: stream(&options.bucket),
        description: Some("What attio-bridge has acknowledged".into()),
        subjects: vec![format!("$KV.{}.>", options.bucket)],
        max_messages_per_subject: 1,
        max_age: window,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: options.nats.stream.replicas.unwrap_or(1),
        duplicate_window: window.min(Duration::from_secs(120)),
        allow_message_ttl: true,
        allow_direct: true,
        allow_rollup: true,
        deny_delete: true,
        ..Config::default()
    }
}

/// What keeps it from serving as a memory, each with what to do.
pub(super) fn problems(config: &Config, window: Duration) -> Vec<String> {
    let age = config.max_age;
    let rules = [
        (
            !config.allow_message_ttl,
            "has no lives of messages: set allow_msg_ttl (servers from 2.11 on)".to_owned(),
        ),
        (!config.allow_direct, "cannot be read directly: set allow_direct".to_owned()),
        (
            config.max_messages_per_subject != 1,
            "keeps more than the last value: set its history to 1".to_owned(),
        ),
        (
            !age.is_zero() && age < window,
            format!(
                "forgets after {}, before dedup.window ends ({}): raise its max_age",
                format_duration(age),
                format_duration(window)
            ),
        ),
        (
            config.discard == DiscardPolicy::Old && (config.max_bytes > 0 || config.max_messages > 0),
            "drops its oldest keys when it is full: set discard to new".to_owned(),
        ),
    ];
    rules.into_iter().filter(|(found, _)| *found).map(|(_, problem)| problem).collect()
}
