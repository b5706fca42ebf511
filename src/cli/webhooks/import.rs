//! `webhooks import`.

use std::collections::BTreeSet;
use std::fmt::Write;

use clap::Args;
use serde_json::{Value as Json, json};

use super::{Exit, Failure, Session, print};
use crate::attio::{Subscription, Webhook};

/// The flags of `webhooks import`.
#[derive(Args)]
#[command(after_help = "\
Example: manage existing webhooks by the configuration
  attio-bridge webhooks import --config bridge.toml >> bridge.toml")]
pub struct Arguments {
    /// The source of webhooks whose URL does not end in /webhooks/SOURCE of a configured source
    /// [default: the first configured source, else attio]
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
}

pub async fn run(session: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    let config = &session.config;
    let first = config.sources.first().map_or("attio", String::as_str);
    let fallback = arguments.source.as_deref().unwrap_or(first);
    let mut names: BTreeSet<String> = config.webhooks.iter().map(|webhook| webhook.name.clone()).collect();
    let mut urls: BTreeSet<&str> =
        config.webhooks.iter().map(|webhook| webhook.target_url.as_str()).collect();
    let existing = session.client.webhooks().await?;
    for webhook in &existing {
        let Webhook { id, target_url, .. } = webhook;
        if !urls.insert(target_url) {
            let known = json!(target_url);
            print(format_args!("# Webhook {}: target_url {known} is configured already.\n\n", id.webhook_id));
            continue;
        }
        let source = source_of(target_url, &config.sources).unwrap_or(fallback);
        let name = name(source, &mut names);
        print(toml(webhook, &name, source));
    }
    Ok(Exit::Done)
}

/// The source in the URL, if it is configured.
fn source_of<'s>(url: &str, sources: &'s [String]) -> Option<&'s str> {
    let path = url.split(['?', '#']).next()?;
    let end = path.rsplit('/').next()?;
    sources.iter().find(|source| *source == end).map(String::as_str)
}

/// A unique name.
fn name(source: &str, names: &mut BTreeSet<String>) -> String {
    let mut name = source.to_owned();
    for number in 2.. {
        if names.insert(name.clone()) {
            break;
        }
        name = format!("{source}-{number}");
    }
    name
}

fn toml(webhook: &Webhook, name: &str, source: &str) -> String {
    let Webhook { id, target_url, subscriptions, status, .. } = webhook;
    let mut text = format!("# Webhook {}, {status}.\n[[webhooks]]\n", id.webhook_id);
    let mut line = |key: &str, value: &Json| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key} = {value}");
    };
    line("name", &json!(name));
    line("source", &json!(source));
    line("target_url", &json!(target_url));
    text += "subscriptions = [\n";
    for Subscription { event_type, filter } in subscriptions {
        let event_type = json!(event_type);
        text += &match filter {
            Some(filter) => format!("    {{ event_type = {event_type}, filter = {} }},\n", inline(filter)),
            None => format!("    {{ event_type = {event_type} }},\n"),
        };
    }
    text + "]\n\n"
}

/// JSON as a TOML value. JSON strings and keys are valid TOML.
fn inline(json: &Json) -> String {
    match json {
        Json::Object(members) => {
            let members = members.iter().filter(|(_, value)| !value.is_null());
            let members: Vec<String> =
                members.map(|(name, value)| format!("{} = {}", json!(name), inline(value))).collect();
            format!("{{ {} }}", members.join(", "))
        }
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_unique() {
        let mut names = BTreeSet::new();
        assert_eq!(
            ["attio", "attio", "attio"].map(|source| name(source, &mut names)),
            ["attio", "attio-2", "attio-3"]
        );
    }

    #[test]
    fn inline_tables_are_valid_toml() {
        let filter = json!({ "$and": [{ "field": "a\"b", "operator": "equals", "value": "c\\d" }] });
        let text = format!("filter = {}", inline(&filter));
        let read: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(json!(read)["filter"], filter);
    }
}
