//! `webhooks import`.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::Value as Json;

use super::{Exit, Failure, Session, print};
use crate::attio::types::normalized;
use crate::attio::{Subscription, Webhook};
use crate::printable::{is_invisible, line};

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
    let mut urls: BTreeSet<String> =
        config.webhooks.iter().map(|webhook| normalized(&webhook.target_url)).collect();
    let existing = session.client.webhooks().await?;
    for webhook in &existing {
        let Webhook { id, target_url, .. } = webhook;
        if !urls.insert(normalized(target_url)) {
            let (id, known) = (line(&id.webhook_id), quoted(target_url));
            print(format_args!("# Webhook {id}: target_url {known} is configured already.\n\n"));
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
    let subscription = |Subscription { event_type, filter }: &Subscription| {
        let event_type = quoted(event_type);
        match filter {
            Some(filter) => format!("    {{ event_type = {event_type}, filter = {} }},\n", inline(filter)),
            None => format!("    {{ event_type = {event_type} }},\n"),
        }
    };
    format!(
        "# Webhook {}, {}.\n[[webhooks]]\nname = {}\nsource = {}\ntarget_url = {}\nsubscriptions = [\n{}]\n\n",
        line(&id.webhook_id),
        line(&status.to_string()),
        quoted(name),
        quoted(source),
        quoted(target_url),
        subscriptions.iter().map(subscription).collect::<String>()
    )
}

/// JSON as a TOML value.
fn inline(json: &Json) -> String {
    match json {
        Json::Object(members) => {
            let members = members.iter().filter(|(_, value)| !value.is_null());
            let members: Vec<String> =
                members.map(|(name, value)| format!("{} = {}", quoted(name), inline(value))).collect();
            format!("{{ {} }}", members.join(", "))
        }
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Json::String(text) => quoted(text),
        other => other.to_string(),
    }
}

/// A basic string of TOML. What is unsafe to print is escaped.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() || is_invisible(c) => out += &format!("\\U{:08X}", u32::from(c)),
            c => out.push(c),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
        let filter = json!({ "$and": [{ "a\"\n]\u{7f}": "c\\d\r\u{202e}\u{e0041}", "b": [1, true] }] });
        let text = format!("filter = {}", inline(&filter));
        let read: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(json!(read)["filter"], filter);
    }
}
