//! Webhooks for people and for scripts.

use serde_json::json;

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
