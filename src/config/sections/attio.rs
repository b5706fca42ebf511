//! `[attio]` and `[[webhooks]]`: for the verbs that call Attio; `serve` never does.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::INSTANT;
use super::sources::{is_known_type, unknown_type};
use crate::attio::types::{normalized, pattern_error};
use crate::attio::{Options, Subscription, WebhookOptions, filter};
use crate::config::SecretFile;
use crate::config::diagnostics::{Diagnostics, nearest};
use crate::config::kinds::{
    Boolean, Description, FilePath, Form, Kind, Parsed, Pattern, Secret, Text, TimeSpan,
};
use crate::config::section::{Section, keys};
use crate::config::tree::{Node, Value};

const URL: Pattern = Pattern {
    expects: "an address that begins with https:// or http://",
    regex: r"^https?://\S+$",
    accepts: |text| is_url(text, "https://") || is_url(text, "http://"),
};

const HTTPS: Pattern = Pattern {
    expects: "an address that begins with https://",
    regex: r"^https://\S+$",
    accepts: |text| is_url(text, "https://"),
};

fn is_url(text: &str, scheme: &str) -> bool {
    let rest = text.strip_prefix(scheme);
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace))
}

pub const DOC: &str = "\
Webhooks that should exist at Attio, for the verbs that manage them. One table each.
`attio-bridge webhooks plan` shows how Attio differs, `attio-bridge webhooks apply` changes Attio.";

pub const SUBSCRIPTIONS_DOC: &str = "\
What Attio sends. Required. A filter is Attio's own, or by slug: { list = \"sales_pipeline\" },
{ object = \"deals\", attribute = \"stage\" }.";

keys! {
    Attio => Options {
        /// Key of Attio's API; also ATTIO_API_KEY or ATTIO_API_KEY_FILE.
        api_key: Secret like "change-me";
        /// Address of the API.
        api_url: Form(&URL) = "https://api.attio.com";
        /// How long one attempt of a request may take. A request that is safe to repeat is retried, for a
        /// minute at most.
        timeout: TimeSpan(INSTANT..=Duration::from_secs(300)) = "10s";
    }
}

keys! {
    Webhook {
        /// A name of your own, unique.
        name: Text required "production";
        /// The source that its deliveries are for.
        source: Text required "attio";
        /// Where Attio sends to; a webhook is identified by it.
        target_url: Form(&HTTPS) required "https://hooks.example.com/webhooks/attio";
        /// File to write the secret to that Attio generates.
        secret_file: FilePath like "/run/secrets/attio";
        /// Whether `watch` recreates it if it is missing or inactive.
        recreate: Boolean = "false";
    }
}

keys! {
    SubscriptionKeys {
        /// Type of the events.
        event_type: Text required "record.created";
        /// Which of them; all, if not set.
        filter: Object like "{\"$and\":[]}";
    }
}

/// A table that is passed on as JSON; the environment gives it as JSON text.
pub struct Object;

impl Kind for Object {
    type Value = Json;

    fn parse(&self, node: &Node, _: &Diagnostics) -> Parsed<Json> {
        let json: Json = match &node.value {
            Value::Text(text) if node.is_untyped() => {
                serde_json::from_str(text).map_err(|error| format!("expects JSON: {error}"))?
            }
            Value::Table(_) => node.value.to_json(),
            other => return Err(format!("expects a table, not {}", other.kind())),
        };
        Ok((json.clone(), json))
    }

    fn describe(&self) -> Description {
        Description::new("table", "", json!({ "type": "object" }))
    }
}

pub fn options(section: &mut Section<'_>) -> Options {
    let options = Attio::read(section);
    Options { api_url: options.api_url.trim_end_matches('/').to_owned(), ..options }
}

/// Warns of a `secret_file` that is no secret of its source: what Attio signs with its content would be refused.
pub fn check_secret_files(diagnostics: &Diagnostics, webhooks: &[WebhookOptions], files: &[SecretFile]) {
    for (index, webhook) in webhooks.iter().enumerate() {
        let Some(path) = &webhook.secret_file else { continue };
        if files.iter().any(|file| file.is(&webhook.source, path)) {
            continue;
        }
        let (key, name, file) = (format!("webhooks[{index}].secret_file"), &webhook.source, path.display());
        let message = format!(
            "is no secret of source {name}, which would refuse with 401 what Attio signs with it; add {{ label = \
             \"{}\", file = \"{file}\" }} to sources.{name}.secrets, or name one of its files here",
            webhook.name
        );
        diagnostics.warn(&key, message);
    }
}

/// Reads `[[webhooks]]`; `sources` are the names of the sources.
pub fn webhooks(sections: Vec<Section<'_>>, sources: &[&str]) -> Vec<WebhookOptions> {
    let (mut names, mut urls) = (BTreeSet::new(), BTreeSet::new());
    let webhook = |mut section: Section<'_>| {
        let keys = Webhook::read(&mut section);
        if let Some(name) = &keys.name
            && !names.insert(name.clone())
        {
            section.refuse("name", format!("another webhook is already called {name:?}; rename one"));
        }
        if let Some(source) = &keys.source
            && !sources.contains(&&**source)
        {
            let meant = nearest(source, sources.iter().copied());
            section.refuse("source", format!("there is no source {source:?}; add [sources.{source}]{meant}"));
        }
        if let Some(target) = &keys.target_url
            && !urls.insert(normalized(target))
        {
            section.refuse("target_url", "another webhook has this target_url, which identifies a webhook");
        }
        WebhookOptions {
            name: keys.name.unwrap_or_default(),
            source: keys.source.unwrap_or_default(),
            target_url: keys.target_url.unwrap_or_default(),
            subscriptions: subscriptions(&mut section),
            secret_file: keys.secret_file,
            recreate: keys.recreate,
        }
    };
    sections.into_iter().map(webhook).collect()
}

fn subscriptions(section: &mut Section<'_>) -> Vec<Subscription> {
    let sections = section.tables("subscriptions");
    if sections.is_empty() {
        let message = "required, as in subscriptions = [{ event_type = \"record.created\" }]";
        section.missing("subscriptions", message);
    }
    let subscription = |mut section: Section<'_>| {
        let SubscriptionKeys { event_type, filter } = SubscriptionKeys::read(&mut section);
        if let Some(Err(reason)) = filter.as_ref().map(filter::parse) {
            section.refuse("filter", format!("the filter {reason}"));
        }
        let event_type = event_type?;
        if let Some(message) = pattern_error(&event_type) {
            section.refuse("event_type", message);
        } else if !is_known_type(&event_type) {
            section.warn("event_type", unknown_type(&event_type, ""));
        }
        Some(Subscription { event_type, filter })
    };
    sections.into_iter().filter_map(subscription).collect()
}
