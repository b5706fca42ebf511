//! Webhooks for people and for scripts.

use serde_json::{Value as Json, json};

use super::{Exit, Failure};
use crate::attio::{Subscription, Webhook};
use crate::cli::print;
use crate::cli::table::table;

/// Prints many: one a row, or a list.
pub fn many(webhooks: &[Webhook], json: bool) {
    if json {
        print(format_args!("{:#}\n", json!(webhooks)));
        return;
    }
    let row = |webhook: &Webhook| {
        let events: Vec<&str> = webhook.subscriptions.iter().map(|one| one.event_type.as_str()).collect();
        let Webhook { id, target_url, status, .. } = webhook;
        [id.webhook_id.clone(), status.to_string(), target_url.clone(), events.join(" ")]
    };
    let rows: Vec<_> = webhooks.iter().map(row).collect();
    print(table(["WEBHOOK", "STATUS", "TARGET URL", "EVENTS"], &rows));
}

/// Tells what became of a verb that does several things, of one that failed midway too: with `error`,
/// which is null where all was done.
pub fn outcome(json: bool, mut outcome: Json, done: Result<(), Failure>) -> Result<Exit, Failure> {
    if json {
        outcome["error"] = done.as_ref().err().map(ToString::to_string).into();
        print(format_args!("{outcome:#}\n"));
    }
    done.map(|()| Exit::Done)
}

/// Prints one: its members, or an object.
pub fn one(webhook: &Webhook, json: bool) {
    if json {
        print(format_args!("{:#}\n", json!(webhook)));
        return;
    }
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text += &format!("{name:<12}{value}\n");
    line("webhook", &webhook.id.webhook_id);
    line("workspace", &webhook.id.workspace_id);
    line("target URL", &webhook.target_url);
    line("status", webhook.status.as_str());
    line("created", &webhook.created_at);
    for Subscription { event_type, filter } in &webhook.subscriptions {
        match filter {
            Some(filter) => line("event", &format!("{event_type} {filter}")),
            None => line("event", event_type),
        }
    }
    print(text);
}
