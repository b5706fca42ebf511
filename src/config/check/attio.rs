//! `[attio]` and `[[webhooks]]`: for the verbs that speak to Attio; `serve` never does.

use std::collections::BTreeSet;
use std::time::Duration;

use super::sources::{self, is_known};
use super::value;
use crate::attio::{Options, Subscription, WebhookOptions, filter};
use crate::config::report::{Given, Report};
use crate::config::section::Section;
use crate::config::suggest;
use crate::config::tree::Value;
use crate::config::types;

/// Reads `[attio]`.
pub fn read(section: &mut Section<'_>) -> Options {
    let api_key = section.secret("api_key");
    let api_url = section.text_or("api_url", "https://api.attio.com");
    if !is_url(&api_url.value, &["https://", "http://"]) {
        section.report().refuse(&api_url, "expects an address that begins with https:// or http://");
    }
    let timeout = section.duration_or("timeout", "10s", super::INSTANT..=Duration::from_secs(300)).value;
    Options { api_key: value(api_key), api_url: api_url.value.trim_end_matches('/').to_owned(), timeout }
}

/// What no two webhooks may share.
#[derive(Default)]
struct Taken {
    names: BTreeSet<String>,
    urls: BTreeSet<String>,
}

/// Reads `[[webhooks]]`; `sources` are the names of those there are.
pub fn webhooks(sections: Vec<Section<'_>>, sources: &[&str]) -> Vec<WebhookOptions> {
    let mut taken = Taken::default();
    sections.into_iter().map(|mut section| webhook(&mut section, sources, &mut taken)).collect()
}

fn webhook(section: &mut Section<'_>, sources: &[&str], taken: &mut Taken) -> WebhookOptions {
    let report = section.report();
    let name = required(section, "name", NAME);
    if let Some(name) = &name
        && !taken.names.insert(name.value.clone())
    {
        report.refuse(name, format!("another webhook is already called {:?}", name.value));
    }
    let source = required(section, "source", SOURCE);
    if let Some(source) = &source
        && !sources.contains(&&*source.value)
    {
        let meant = suggest::nearest(&source.value, sources.iter().copied());
        report.refuse(source, format!("there is no source {:?}; add [sources.{0}]{meant}", source.value));
    }
    let target_url = required(section, "target_url", TARGET_URL);
    if let Some(target) = target_url.as_ref().filter(|url| !is_url(&url.value, &["https://"])) {
        report.refuse(target, "expects an address that begins with https://");
    }
    if let Some(target) = &target_url
        && !taken.urls.insert(target.value.clone())
    {
        report.refuse(target, "another webhook has this target_url, by which webhooks are known");
    }
    let subscriptions = subscriptions(section);
    let text = |given: Option<Given<String>>| value(given).unwrap_or_default();
    WebhookOptions {
        name: text(name),
        source: text(source),
        target_url: text(target_url),
        subscriptions,
        secret_file: value(section.path_of("secret_file")),
        recreate: section.or("recreate", "false", types::boolean).value,
    }
}

/// What is said of a key that has to be there and is not.
const NAME: &str = "required for a webhook: a name of your own, as in name = \"production\"";
const SOURCE: &str =
    "required for a webhook: on which source its deliveries come in, as in source = \"attio\"";
const TARGET_URL: &str = "required for a webhook: where Attio sends to, as in target_url = \
                          \"https://hooks.example.com/webhooks/attio\"";
const SUBSCRIPTIONS: &str = "required for a webhook: what Attio sends, as in subscriptions = [{ event_type = \
                             \"record.created\" }]";
const EVENT_TYPE: &str = "required for a subscription: as in event_type = \"record.created\"";

fn required(section: &mut Section<'_>, name: &str, what: &str) -> Option<Given<String>> {
    let node = section.take(name);
    if node.is_none() {
        section.missing(name, what);
    }
    let node = node?;
    let key = section.key(name);
    match types::text(&node) {
        Ok((value, json)) => {
            section.report().setting(&key, json, Some(&node.origin));
            Some(Given { key, value, origin: node.origin })
        }
        Err(message) => {
            section.report().problem(&key, Some(&node.origin), message);
            None
        }
    }
}

fn subscriptions(section: &mut Section<'_>) -> Vec<Subscription> {
    let sections = section.tables("subscriptions");
    if sections.is_empty() {
        section.missing("subscriptions", SUBSCRIPTIONS);
    }
    sections.into_iter().filter_map(|mut section| subscription(&mut section)).collect()
}

fn subscription(section: &mut Section<'_>) -> Option<Subscription> {
    let event_type = required(section, "event_type", EVENT_TYPE);
    let filter = section.optional("filter", |node| match &node.value {
        Value::Text(text) if node.is_untyped() => serde_json::from_str(text)
            .map(|json: serde_json::Value| (json.clone(), json))
            .map_err(|error| format!("expects JSON: {error}")),
        Value::Table(_) => Ok((node.value.to_json(), node.value.to_json())),
        other => Err(format!("expects a table, not {}", other.kind())),
    });
    if let Some(filter) = &filter
        && let Err(reason) = filter::parse(&filter.value)
    {
        section.report().refuse(filter, format!("the filter {reason}"));
    }
    let event_type = event_type?;
    unknown_type(section.report(), &event_type);
    Some(Subscription { event_type: event_type.value, filter: value(filter) })
}

fn unknown_type(report: &Report, given: &Given<String>) {
    if !is_known(&given.value) {
        report.warn(given, sources::unknown_type(&given.value));
    }
}

fn is_url(text: &str, schemes: &[&str]) -> bool {
    let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace))
}
