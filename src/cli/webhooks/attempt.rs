//! `webhooks try`: from Attio through a tunnel to the bus, once, and everything is as before.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use secrecy::SecretString;
use serde_json::{Value as Json, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::keep::{self, Keep, Told};
use super::{Exit, Failure, Session, say, show, target};
use crate::attio::bridge::Bridge;
use crate::attio::filter::Resolver;
use crate::attio::secret_file::Reserved;
use crate::attio::{Client, Subscription};
use crate::bus::read::{Begin, Item, Plan, Position, Reader};
use crate::bus::{self, ReadError};
use crate::cloudevent::decode::DecodedEvent;
use crate::config::{self, Input};
use crate::consumer::wanted::Wanted;
use crate::pipeline::route::Routes;

/// How often the bridge is asked.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What an operator types.
const AFTER_HELP: &str = "\
The bridge runs with a second secret of its source in the file of --secret-file; what was in that file
before is put back at the end. The key needs record_permission:read-write beside webhook:read-write.
Example: with a tunnel to the bridge on this machine
  ngrok http 8080
  attio-bridge webhooks try --target-url https://abc123.ngrok.io/webhooks/attio --secret-file try.secret";

/// The flags of `webhooks try`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// The tunnel's address, /webhooks/SOURCE at its end
    #[arg(long, value_name = "URL", value_parser = target)]
    target_url: String,
    /// File of one of the source's secrets
    #[arg(long, value_name = "PATH")]
    secret_file: PathBuf,
    /// Object of the test record
    #[arg(long, value_name = "SLUG", default_value = "people")]
    object: String,
    /// Values of the test record, as JSON [default: a name and an e-mail address]
    #[arg(long, value_name = "JSON", value_parser = values)]
    values: Option<Json>,
    /// How long to wait at each step
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Where to ask whether the bridge takes the secret, instead of the target URL
    #[arg(long, value_name = "URL")]
    probe_url: Option<String>,
    /// Print how it ended as a JSON object
    #[arg(long)]
    json: bool,
}

fn values(text: &str) -> Result<Json, String> {
    serde_json::from_str(text).map_err(|error| format!("expects JSON: {error}"))
}

/// What has been made and must go again, and where its event came.
#[derive(Default)]
struct Made {
    webhook: Option<String>,
    record: Option<String>,
    /// What was in the secret file.
    before: Option<SecretString>,
    arrived: Option<Item>,
}

pub async fn run(session: &Session, input: &Input, arguments: &Arguments) -> Result<Exit, Failure> {
    let config = config::load(input).map_err(Failure::Configuration)?;
    let destinations = Routes::new(&config.route).of_category("record");
    let plan = Plan { destinations, begin: Begin::Now, follow: true };
    let reader = bus::read(&config.bus.kind, plan).await;
    let mut reader = reader.map_err(|error| match error {
        ReadError::Stdout => Failure::Usage(error.to_string()),
        error => Failure::Refused(error.to_string()),
    })?;
    let told = keep::undisturbed(&session.log)?;
    let mut made = Made::default();
    let done = carry(&session.client, arguments, &mut made, &mut reader, &told).await;
    let left = clean(&session.client, arguments, &made).await;
    reader.end().await;
    let behind = (!left.is_empty()).then(|| format!("left behind: {}", left.join("; ")));
    let done = match (done, behind) {
        (Ok(()), Some(behind)) => Err(Failure::Refused(behind)),
        (Err(failure), Some(behind)) => {
            say(format_args!("warning: {behind}"));
            Err(failure)
        }
        (done, None) => done,
    };
    if done.is_ok() {
        say(
            "it works: Attio's event has gone through the bridge onto the bus; what was made is deleted again",
        );
    }
    show::outcome(arguments.json, to_json(&made, &left), done)
}

/// How it ended; what was made is named though it is deleted.
fn to_json(made: &Made, left: &[String]) -> Json {
    let position = |item: &Item| match item.position {
        Position::Kafka { partition, offset } => json!({ "partition": partition, "offset": offset }),
        Position::Nats { sequence } => json!({ "sequence": sequence }),
    };
    json!({
        "works": made.arrived.is_some(),
        "webhook_id": made.webhook,
        "record_id": made.record,
        "address": made.arrived.as_ref().map(|item| &item.address),
        "position": made.arrived.as_ref().map(position),
        "left_behind": left,
    })
}

/// Makes the webhook. Its secret is in the file then.
async fn make(client: &Client, arguments: &Arguments, made: &mut Made) -> Result<SecretString, Failure> {
    let wanted = Subscription {
        event_type: "record.created".into(),
        filter: Some(json!({ "object": arguments.object })),
    };
    let subscription = Resolver::new(client).resolve(&wanted).await?;
    let told = Told::beside(arguments.json);
    let before = std::fs::read_to_string(&arguments.secret_file).ok();
    made.before = before.map(|text| text.trim_end_matches(['\r', '\n']).to_owned().into());
    let keep = Keep::file(&arguments.secret_file, true)?;
    let created = keep::create(client, &arguments.target_url, &[subscription], keep, told).await?;
    let webhook_id = created.webhook.id.webhook_id;
    say(format_args!("created webhook {webhook_id}: Attio sends to {}", arguments.target_url));
    made.webhook = Some(webhook_id);
    Ok(created.secret)
}

/// All of it. Waits can be cut short; what makes something is finished first.
async fn carry(
    client: &Client,
    arguments: &Arguments,
    made: &mut Made,
    reader: &mut Reader,
    told: &CancellationToken,
) -> Result<(), Failure> {
    let stopped = || Err(Failure::Refused("stopped; what was made is deleted again".into()));
    let secret = make(client, arguments, made).await?;
    match told.run_until_cancelled(takes(arguments, &secret)).await {
        Some(taken) => taken?,
        None => return stopped(),
    }
    let values = arguments.values.clone().unwrap_or_else(person);
    let record = client.create_record(&arguments.object, &values).await?;
    say(format_args!("created record {record} of {}: waiting for its event", arguments.object));
    made.record = Some(record.clone());
    let wanted = Wanted { categories: Vec::new(), types: Vec::new(), record: Some(record) };
    // Another webhook may take the same record to the same bus.
    let arrival = arrival(reader, &wanted, made.webhook.as_deref());
    let arrival = tokio::time::timeout(arguments.timeout, arrival);
    match told.run_until_cancelled(arrival).await {
        Some(Ok(arrived)) => {
            let item = arrived?;
            say(format_args!("it is on {}, {}", item.address, item.position));
            made.arrived = Some(item);
            Ok(())
        }
        Some(Err(_)) => {
            Err(late(arguments, "its event is on the bus", "see the bridge's log, message delivery"))
        }
        None => stopped(),
    }
}

/// Somebody whom nobody else is.
fn person() -> Json {
    let email = format!("attio-bridge-try-{}@example.com", Uuid::new_v4().simple());
    let name = json!({ "first_name": "Test", "last_name": "Webhook", "full_name": "Test Webhook" });
    json!({ "email_addresses": [email], "name": [name] })
}

/// Waits until the bridge behind the tunnel takes the secret.
async fn takes(arguments: &Arguments, secret: &SecretString) -> Result<(), Failure> {
    let (bridge, begun) = (Bridge::new()?, Instant::now());
    let url = arguments.probe_url.as_ref().unwrap_or(&arguments.target_url);
    loop {
        let why = match bridge.accepts(url, secret).await {
            Ok(true) => return Ok(()),
            Ok(false) => "it answers 401: is --secret-file the file of one of its source's secrets?".into(),
            Err(error) => error,
        };
        if begun.elapsed() > arguments.timeout {
            return Err(late(arguments, "the bridge takes the secret", &why));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn arrival(reader: &mut Reader, wanted: &Wanted, webhook: Option<&str>) -> Result<Item, Failure> {
    let is_it = |event: &DecodedEvent| wanted.has(event) && event.get("attiowebhookid") == webhook;
    while let Some(item) = reader.next().await {
        let item = item.map_err(|error| Failure::Refused(error.to_string()))?;
        if DecodedEvent::from_message(&item.headers, &item.payload).is_ok_and(|event| is_it(&event)) {
            return Ok(item);
        }
    }
    Err(Failure::Refused("the reader of the bus ended by itself".into()))
}

fn late(arguments: &Arguments, what: &str, why: &str) -> Failure {
    Failure::Unexpected(format!(
        "not within {}: {what}; {why}",
        humantime::format_duration(arguments.timeout)
    ))
}

/// Deletes what was made, all of it that can be, and puts the file back.
/// Then what could not be.
async fn clean(client: &Client, arguments: &Arguments, made: &Made) -> Vec<String> {
    let mut left = Vec::new();
    if let Some(record) = &made.record
        && let Err(error) = client.delete_record(&arguments.object, record).await
    {
        left.push(format!("record {record} of {}: {error}", arguments.object));
    }
    if let Some(webhook) = &made.webhook
        && let Err(error) = client.delete_webhook(webhook).await
    {
        left.push(format!("webhook {webhook}: {error}"));
    }
    if made.webhook.is_some()
        && let Err(error) = put_back(&arguments.secret_file, made.before.as_ref())
    {
        left.push(error);
    }
    left
}

/// The secret file as it was; gone where there was none.
fn put_back(path: &Path, before: Option<&SecretString>) -> Result<(), String> {
    let written = match before {
        Some(before) => Reserved::at(path, true).map_err(|error| error.to_string())?.write(before),
        None => std::fs::remove_file(path),
    };
    written.map_err(|error| format!("{}: {error}", path.display()))
}
