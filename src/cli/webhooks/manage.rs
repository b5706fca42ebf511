//! `webhooks list`, `get`, `create`, `update` and `delete`.

use std::collections::HashMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{
    Exit, Failure, SecretOutput, Session, confirm, create_webhook, last_segment, print, say, target,
};
use crate::attio::filter::{self, Resolver, key, keys};
use crate::attio::types::pattern_error;
use crate::attio::{Client, Subscription, Webhook};
use crate::catalog::{self, EVENT_TYPES, Kind};
use crate::cli::output::{table, terminal_columns};
use crate::printable::line;

#[derive(Args)]
#[command(after_help = "\
Example: which webhooks are not active?
  attio-bridge webhooks list
  attio-bridge webhooks list --json | jq '.[] | select(.status != \"active\")'")]
pub struct List {
    /// Print a JSON list, in Attio's format
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(after_help = "\
Example:
  attio-bridge webhooks get 23e42eaf-323a-41da-b5bb-fd67eebda553")]
pub struct Get {
    /// The webhook's id, or the beginning of it
    #[arg(value_name = "WEBHOOK_ID")]
    webhook_id: String,
    /// Print a JSON object, in Attio's format
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(after_help = "\
Examples: the secret in a file, or in a Kubernetes Secret
  attio-bridge webhooks create \\
    --target-url https://hooks.example.com/webhooks/attio \\
    --event record.created --event note.created --secret-file attio.secret
  attio-bridge webhooks create \\
    --target-url https://hooks.example.com/webhooks/attio \\
    --event record.updated \\
    --filter '{\"object\":\"deals\",\"attribute\":\"stage\"}' \\
    --secret-format kubernetes --secret-name attio-bridge \\
    | kubectl apply -f -")]
pub struct Create {
    /// The bridge's public address, ending in /webhooks/SOURCE
    #[arg(long, value_name = "URL", value_parser = target)]
    target_url: String,
    #[command(flatten)]
    events: Events,
    /// The source that receives its deliveries [default: the last segment of the URL's path]
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Write the secret to this file, with mode 0600
    #[arg(long, value_name = "PATH", conflicts_with = "secret_format")]
    secret_file: Option<PathBuf>,
    /// Overwrite the file of --secret-file if it exists
    #[arg(long, requires = "secret_file")]
    overwrite_secret: bool,
    /// Print the secret as a manifest for kubectl apply -f -
    #[arg(long, value_enum, requires = "secret_name")]
    secret_format: Option<SecretFormat>,
    /// Name of the Kubernetes Secret
    #[arg(long, value_name = "NAME", requires = "secret_format", value_parser = secret_name)]
    secret_name: Option<String>,
    /// Print a JSON object; without --secret-file it contains the secret
    #[arg(long, conflicts_with = "secret_format")]
    json: bool,
}

/// The form of a printed secret.
#[derive(Clone, Copy, ValueEnum)]
pub enum SecretFormat {
    /// The manifest of a Secret
    Kubernetes,
}

#[derive(Args)]
#[command(after_help = "\
Example: other events at the same URL
  attio-bridge webhooks update 23e42eaf-323a-41da-b5bb-fd67eebda553 \\
    --event record.created --event record.updated")]
pub struct Update {
    /// The webhook's id
    #[arg(value_name = "WEBHOOK_ID")]
    webhook_id: String,
    /// The new URL
    #[arg(long, value_name = "URL", value_parser = target)]
    target_url: Option<String>,
    /// The new events, which replace the old ones
    #[command(flatten)]
    events: Events,
    /// Print a JSON object, in Attio's format
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(after_help = "\
Example:
  attio-bridge webhooks delete 23e42eaf-323a-41da-b5bb-fd67eebda553")]
pub struct Delete {
    /// The webhooks' ids
    #[arg(value_name = "WEBHOOK_ID", required = true)]
    webhook_ids: Vec<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print what was deleted as a JSON object
    #[arg(long)]
    json: bool,
}

/// `--event` and `--filter`.
#[derive(Args)]
struct Events {
    /// Event type, such as record.updated; can be repeated
    #[arg(long = "event", value_name = "TYPE")]
    types: Vec<String>,
    /// Filter of all these events, as JSON: in Attio's grammar, or by slug as in {"list":"sales_pipeline"} or
    /// {"object":"deals","attribute":"stage"}; for different filters use the configuration file
    #[arg(long, value_name = "JSON", value_parser = parse_filter)]
    filter: Option<Json>,
}

fn parse_filter(text: &str) -> Result<Json, String> {
    let json: Json = serde_json::from_str(text).map_err(|error| format!("expected JSON: {error}"))?;
    filter::parse(&json).map(|_| json)
}

fn secret_name(name: &str) -> Result<String, String> {
    let inside = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    let good = (1..=253).contains(&name.len())
        && name.bytes().all(inside)
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.']);
    if good { Ok(name.to_owned()) } else { Err("expected a DNS name: a-z, 0-9, - and .".into()) }
}

pub async fn list(session: &Session, List { json }: &List) -> Result<Exit, Failure> {
    let webhooks = session.client.webhooks().await?;
    match json {
        true => print(format_args!("{:#}\n", json!(webhooks))),
        false => print(list_text(&webhooks, terminal_columns())),
    }
    Ok(Exit::Done)
}

pub async fn get(session: &Session, Get { webhook_id, json }: &Get) -> Result<Exit, Failure> {
    // Attio answers for a whole id, and the client refuses what cannot be one.
    if Uuid::parse_str(webhook_id).is_ok() || !catalog::is_id(webhook_id) {
        print_one(&session.client.webhook(webhook_id).await?, *json);
        return Ok(Exit::Done);
    }
    let mut webhooks = session.client.webhooks().await?;
    webhooks.retain(|webhook| webhook.webhook_id().starts_with(webhook_id));
    match &webhooks[..] {
        [webhook] => print_one(webhook, *json),
        [] => return Err(format!("no webhook has the id {webhook_id}: see `webhooks list`").into()),
        _ => return Err(format!("several ids begin with {webhook_id}: give more characters").into()),
    }
    Ok(Exit::Done)
}

pub async fn create(session: &Session, arguments: Create) -> Result<Exit, Failure> {
    let Create { target_url, events, source, secret_file, overwrite_secret, .. } = arguments;
    let subscriptions = events.resolve(&session.client).await?;
    let output = match (&secret_file, arguments.secret_name) {
        (Some(path), _) => SecretOutput::file(path, overwrite_secret)?,
        (None, Some(name)) => SecretOutput::Manifest(name),
        (None, None) if arguments.json => SecretOutput::Json,
        (None, None) => SecretOutput::Text(String::new()),
    };
    session.delay_interrupt()?;
    let created = create_webhook(&session.client, &target_url, &subscriptions, output, false).await?;
    let id = created.webhook.shown_id();
    say(format_args!("created webhook {id}: Attio sends to {target_url}"));
    match &secret_file {
        Some(path) => {
            say(format_args!("its secret is in {} (mode 0600)", path.display()));
            if arguments.json {
                let mut json = json!(created.webhook);
                json["secret_file"] = path.display().to_string().into();
                print(format_args!("{json:#}\n"));
            } else {
                print(format_args!("{id}\n"));
            }
        }
        None => say("its secret is on standard output; Attio does not show it again"),
    }
    let source = source.as_deref().unwrap_or(last_segment(&target_url));
    let source = if source.is_empty() { "attio" } else { source };
    say(format_args!("next: add the secret to sources.{source}.secrets of the bridge"));
    Ok(Exit::Done)
}

pub async fn update(session: &Session, arguments: &Update) -> Result<Exit, Failure> {
    let Update { webhook_id, target_url, events, json } = arguments;
    let subscriptions = match events.types.is_empty() && events.filter.is_none() {
        true if target_url.is_none() => {
            return Err(Failure::usage("nothing to change: give --target-url or --event"));
        }
        true => None,
        false => Some(events.resolve(&session.client).await?),
    };
    let (client, url) = (&session.client, target_url.as_deref());
    // The new list replaces what is there, which may have been made elsewhere.
    if let Some(new) = &subscriptions {
        let new = keys(new);
        let is_dropped = |one: &&Subscription| one.filter.is_some() && !new.contains(&key(one));
        for one in client.webhook(webhook_id).await?.subscriptions.iter().filter(is_dropped) {
            let one = line(&filter::describe(one, &HashMap::new()));
            say(format_args!("warning: this filtered subscription is replaced: {one}"));
        }
    }
    print_one(&client.update_webhook(webhook_id, url, subscriptions.as_deref()).await?, *json);
    Ok(Exit::Done)
}

pub async fn delete(session: &Session, arguments: &Delete) -> Result<Exit, Failure> {
    let Delete { webhook_ids, yes, json } = arguments;
    if !confirm(&format!("Delete {}?", webhook_ids.join(", ")), *yes)? {
        return Ok(Exit::Failed);
    }
    let (mut deleted, mut done) = (Vec::new(), Ok(()));
    for webhook_id in webhook_ids {
        if let Err(error) = session.client.delete_webhook(webhook_id).await {
            done = Err(error.into());
            break;
        }
        say(format_args!("deleted webhook {webhook_id}"));
        deleted.push(webhook_id);
    }
    finish(*json, json!({ "deleted": deleted }), done)
}

impl Events {
    /// The subscriptions in Attio's grammar. An unknown type is passed on with a warning.
    async fn resolve(&self, client: &Client) -> Result<Vec<Subscription>, Failure> {
        if self.types.is_empty() {
            return Err(Failure::usage("give the events to subscribe to with --event"));
        }
        if let Some((_, twice)) =
            self.types.iter().enumerate().find(|(at, one)| self.types[..*at].contains(*one))
        {
            return Err(Failure::usage(format_args!("--event {twice} is given twice")));
        }
        if let Some(message) = self.types.iter().find_map(|event_type| pattern_error(event_type)) {
            return Err(Failure::usage(message));
        }
        let mut resolver = Resolver::new(client);
        let mut all = Vec::new();
        for event_type in &self.types {
            if !matches!(Kind::of(event_type), Kind::Known(_)) {
                let likeness = |name: &&str| strsim::jaro_winkler(name, event_type);
                let known = EVENT_TYPES.iter().map(|entry| entry.name);
                let nearest = known.max_by(|a, b| likeness(a).total_cmp(&likeness(b))).unwrap_or_default();
                say(format_args!(
                    "warning: {event_type:?} is not an event type that this build knows (nearest: {nearest}); \
                     sending it anyway"
                ));
            }
            let unresolved = Subscription { event_type: event_type.clone(), filter: self.filter.clone() };
            all.push(resolver.resolve(&unresolved).await?);
        }
        Ok(all)
    }
}

/// Prints the result of a verb with several steps, also after a failure: `error` is null if all were done.
pub fn finish(json: bool, mut result: Json, done: Result<(), Failure>) -> Result<Exit, Failure> {
    if json {
        result["error"] = done.as_ref().err().and_then(|failure| failure.error.clone()).into();
        print(format_args!("{result:#}\n"));
    }
    done.map(|()| Exit::Done)
}

/// A table, or a block per webhook if the table is wider than the terminal.
fn list_text(webhooks: &[Webhook], width: Option<usize>) -> String {
    let events = |webhook: &Webhook| {
        let event = |Subscription { event_type, filter }: &Subscription| match filter {
            Some(_) => format!("{event_type}(filtered)"),
            None => event_type.clone(),
        };
        webhook.subscriptions.iter().map(event).collect::<Vec<_>>().join(" ")
    };
    let row = |webhook: &Webhook| {
        let Webhook { id, target_url, status, .. } = webhook;
        [&id.webhook_id, status, target_url, &events(webhook)].map(|cell| line(cell))
    };
    let rows: Vec<_> = webhooks.iter().map(row).collect();
    let table = table(["WEBHOOK", "STATUS", "TARGET URL", "EVENTS"], &rows);
    let Some(width) = width.filter(|width| table.lines().any(|line| line.chars().count() > *width)) else {
        return table;
    };
    let block = |[id, status, url, events]: &[String; 4]| {
        let mut text = format!("{id}  {status}\n  {url}\n ");
        let mut column = 1;
        for event in events.split(' ') {
            if column > 1 && column + 1 + event.len() > width {
                text += "\n ";
                column = 1;
            }
            text += &format!(" {event}");
            column += 1 + event.len();
        }
        text + "\n"
    };
    rows.iter().map(block).collect()
}

fn print_one(webhook: &Webhook, json: bool) {
    if json {
        print(format_args!("{:#}\n", json!(webhook)));
        return;
    }
    let mut text = String::new();
    let mut row = |name: &str, value: &str| text += &format!("{name:<12}{}\n", line(value));
    row("webhook", &webhook.id.webhook_id);
    row("workspace", &webhook.id.workspace_id);
    row("target URL", &webhook.target_url);
    row("status", &webhook.status);
    row("created", &webhook.created_at);
    for Subscription { event_type, filter } in &webhook.subscriptions {
        match filter {
            Some(filter) => row("event", &format!("{event_type} {filter}")),
            None => row("event", event_type),
        }
    }
    print(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_is_no_wider_than_the_terminal() {
        let types =
            ["record.created", "record.updated", "record.deleted", "list-entry.created", "note.created"];
        let subscriptions: Vec<_> = types.map(|one| json!({ "event_type": one })).into();
        let id = json!({ "workspace_id": "w", "webhook_id": "23e42eaf-323a-41da-b5bb-fd67eebda553" });
        let url = "https://hooks.example.com/webhooks/attio";
        let webhook = json!({
            "id": id, "target_url": url, "subscriptions": subscriptions, "status": "degraded", "created_at": "",
        });
        let webhooks = [serde_json::from_value(webhook).unwrap()];
        assert_eq!(
            list_text(&webhooks, Some(60)),
            "23e42eaf-323a-41da-b5bb-fd67eebda553  degraded\n  https://hooks.example.com/webhooks/attio\n  \
             record.created record.updated record.deleted\n  list-entry.created note.created\n"
        );
        assert_eq!(list_text(&webhooks, None).lines().count(), 2);
    }
}
