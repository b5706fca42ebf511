//! `webhooks try`: one event from Attio through a tunnel and the bridge to the bus; everything created is
//! deleted.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use secrecy::SecretString;
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::manage::finish;
use super::{Exit, Failure, SecretOutput, Session, create_webhook, invalid_configuration, say, target};
use crate::attio::bridge::Bridge;
use crate::attio::filter::Resolver;
use crate::attio::secret::{self, SecretFile};
use crate::attio::{Client, Subscription};
use crate::bus;
use crate::bus::read::{Begin, Item, Plan, Position, Reader};
use crate::cli::arguments::unreadable;
use crate::cli::output::{Waiting, wait_until};
use crate::cloudevent::decode::DecodedEvent;
use crate::config::{self, Input};
use crate::consumer::EventFilter;
use crate::files;
use crate::pipeline::route::Routes;

#[derive(Args)]
#[command(after_help = "\
--secret-file is the file of a second secret of the running bridge's source; its contents are restored at \
the end. The key needs record_permission:read-write and webhook:read-write.
Example: with a tunnel to the bridge on this machine
  ngrok http 8080
  attio-bridge webhooks try --secret-file try.secret \\
    --target-url https://abc123.ngrok.io/webhooks/attio")]
pub struct Arguments {
    /// The tunnel's address, ending in /webhooks/SOURCE
    #[arg(long, value_name = "URL", value_parser = target)]
    target_url: String,
    /// The file of one of the source's secrets
    #[arg(long, value_name = "PATH")]
    secret_file: PathBuf,
    /// Object of the test record
    #[arg(long, value_name = "SLUG", default_value = "people")]
    object: String,
    /// Values of the test record, as JSON [default: a name and an e-mail address]
    #[arg(long, value_name = "JSON", value_parser = values)]
    values: Option<Json>,
    /// Time limit of each step
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Where to check whether the bridge accepts the secret, instead of the target URL
    #[arg(long, value_name = "URL")]
    probe_url: Option<String>,
    /// Print the result as a JSON object
    #[arg(long)]
    json: bool,
}

fn values(text: &str) -> Result<Json, String> {
    serde_json::from_str(text).map_err(|error| format!("expected JSON: {error}"))
}

/// What was created and must be deleted, and the event on the bus.
#[derive(Default)]
struct Created {
    webhook: Option<String>,
    record: Option<String>,
    /// The earlier contents of the secret file.
    old_secret: Option<SecretString>,
    event: Option<Item>,
}

pub async fn run(session: &Session, input: &Input, arguments: &Arguments) -> Result<Exit, Failure> {
    let config = config::load(input).map_err(invalid_configuration)?;
    let destinations = Routes::new(&config.route).of_category("record");
    let plan = Plan { destinations, begin: Begin::Now, follow: true };
    let mut reader = bus::read(&config.bus.kind, plan).await?;
    let interrupted = session.delay_interrupt()?;
    let mut created = Created::default();
    let done = test(&session.client, arguments, &mut created, &mut reader, &interrupted).await;
    let left = clean_up(&session.client, arguments, &created).await;
    reader.end().await;
    let left_behind = (!left.is_empty()).then(|| format!("left behind: {}", left.join("; ")));
    let done = match (done, left_behind) {
        (Ok(()), Some(left_behind)) => Err(left_behind.into()),
        (Err(failure), Some(left_behind)) => {
            say(format_args!("warning: {left_behind}"));
            Err(failure)
        }
        (done, None) => done,
    };
    if done.is_ok() {
        say("it works: Attio's event went through the bridge to the bus; webhook and record were deleted");
    }
    finish(arguments.json, to_json(&created, &left), done)
}

fn to_json(created: &Created, left: &[String]) -> Json {
    let position = |item: &Item| match item.position {
        Position::Kafka { partition, offset } => json!({ "partition": partition, "offset": offset }),
        Position::Nats { sequence } => json!({ "sequence": sequence }),
    };
    json!({
        "works": created.event.is_some(),
        "webhook_id": created.webhook,
        "record_id": created.record,
        "address": created.event.as_ref().map(|item| &item.address),
        "position": created.event.as_ref().map(position),
        "left_behind": left,
    })
}

/// Waiting can be interrupted; creating something is finished first.
async fn test(
    client: &Client,
    arguments: &Arguments,
    created: &mut Created,
    reader: &mut Reader,
    interrupted: &CancellationToken,
) -> Result<(), Failure> {
    let stopped = || "interrupted";
    let secret = create(client, arguments, created).await?;
    interrupted.run_until_cancelled(accepted(arguments, &secret)).await.ok_or_else(stopped)??;
    let values = arguments.values.clone().unwrap_or_else(person);
    let record = client.create_record(&arguments.object, &values).await?;
    say(format_args!("created record {record} of {}", arguments.object));
    created.record = Some(record.clone());
    let filter = EventFilter { categories: Vec::new(), types: Vec::new(), record: Some(record) };
    let waiting = Waiting::new("for its event on the bus");
    let event = next_event(reader, &filter, created.webhook.as_deref());
    let event = interrupted.run_until_cancelled(tokio::time::timeout(arguments.timeout, event)).await;
    drop(waiting);
    let Ok(event) = event.ok_or_else(stopped)? else {
        let timeout = humantime::format_duration(arguments.timeout);
        let error = format!(
            "timed out after {timeout} waiting for its event on the bus; see the bridge's log, message `delivery`"
        );
        return Err(Failure::new(Exit::Unexpected, error));
    };
    let item = event?;
    say(format_args!("it is on {}, {}", item.address, item.position));
    created.event = Some(item);
    Ok(())
}

async fn create(
    client: &Client,
    arguments: &Arguments,
    created: &mut Created,
) -> Result<SecretString, Failure> {
    let subscription = Subscription {
        event_type: "record.created".into(),
        filter: Some(json!({ "object": arguments.object })),
    };
    let subscription = Resolver::new(client).resolve(&subscription).await?;
    let file = &arguments.secret_file;
    let old = match files::read_text(file, files::MAX_SECRET_BYTES) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        // It could not be restored.
        Err(error) => return Err(unreadable(file, error).into()),
    };
    created.old_secret = old.map(|text| secret::without_line_end(&text).to_owned().into());
    let output = SecretOutput::file(&arguments.secret_file, true)?;
    let url = &arguments.target_url;
    let new = create_webhook(client, url, &[subscription], output, arguments.json).await?;
    say(format_args!("created webhook {}: Attio sends to {url}", new.webhook.shown_id()));
    created.webhook = Some(new.webhook.id.webhook_id);
    Ok(new.secret)
}

/// A person with a unique e-mail address, which Attio requires.
fn person() -> Json {
    let email = format!("attio-bridge-try-{}@example.com", Uuid::new_v4().simple());
    let name = json!({ "first_name": "Test", "last_name": "Webhook", "full_name": "Test Webhook" });
    json!({ "email_addresses": [email], "name": [name] })
}

async fn accepted(arguments: &Arguments, secret: &SecretString) -> Result<(), Failure> {
    let bridge = Bridge::new()?;
    let url = arguments.probe_url.as_ref().unwrap_or(&arguments.target_url);
    let accepts = async || match bridge.accepts(url, secret).await {
        Ok(false) => Err("it answers 401: is --secret-file the file of one of its source's secrets?".into()),
        answered => answered,
    };
    let what = "the bridge accepts the secret";
    wait_until(what, arguments.timeout, accepts).await.map_err(|error| Failure::new(Exit::Unexpected, error))
}

/// The record's event. Another webhook may send the same record to the same bus, so its id is compared too.
async fn next_event(
    reader: &mut Reader,
    filter: &EventFilter,
    webhook: Option<&str>,
) -> Result<Item, Failure> {
    let matches = |event: &DecodedEvent| filter.matches(event) && event.get("attiowebhookid") == webhook;
    while let Some(item) = reader.next().await {
        let item = item?;
        if DecodedEvent::from_message(&item.headers, &item.payload).is_ok_and(|event| matches(&event)) {
            return Ok(item);
        }
    }
    Err("the reader of the bus ended".into())
}

/// Deletes what was created and restores the file. Returns what could not be cleaned up.
async fn clean_up(client: &Client, arguments: &Arguments, created: &Created) -> Vec<String> {
    let mut left = Vec::new();
    if let Some(record) = &created.record
        && let Err(error) = client.delete_record(&arguments.object, record).await
    {
        left.push(format!("record {record} of {}: {error}", arguments.object));
    }
    if let Some(webhook) = &created.webhook
        && let Err(error) = client.delete_webhook(webhook).await
    {
        left.push(format!("webhook {webhook}: {error}"));
    }
    if created.webhook.is_some()
        && let Err(error) = restore(&arguments.secret_file, created.old_secret.as_ref())
    {
        left.push(error);
    }
    left
}

fn restore(path: &Path, old: Option<&SecretString>) -> Result<(), String> {
    let restored = match old {
        Some(old) => SecretFile::reserve(path, true)?.write(old),
        None => std::fs::remove_file(path),
    };
    restored.map_err(|error| format!("{}: {error}", path.display()))
}
