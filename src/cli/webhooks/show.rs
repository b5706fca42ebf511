//! Webhooks for people and for scripts.

use std::io;

use serde_json::{Value as Json, json};
use terminal_size::{Width, terminal_size_of};

use super::{Exit, Failure};
use crate::attio::{Subscription, Webhook};
use crate::cli::print;
use crate::cli::table::table;

/// Prints many: one a row, or a list. Rows that a terminal would break are a block each.
pub fn many(webhooks: &[Webhook], json: bool) {
    if json {
        print(format_args!("{:#}\n", json!(webhooks)));
        return;
    }
    let row = |webhook: &Webhook| {
        let Webhook { id, target_url, status, .. } = webhook;
        [id.webhook_id.clone(), status.to_string(), target_url.clone(), events(webhook).join(" ")]
    };
    let rows: Vec<_> = webhooks.iter().map(row).collect();
    let table = table(["WEBHOOK", "STATUS", "TARGET URL", "EVENTS"], &rows);
    let width = terminal_size_of(io::stdout()).map(|(Width(columns), _)| usize::from(columns));
    match width.filter(|width| table.lines().any(|line| line.chars().count() > *width)) {
        Some(width) => print(blocks(webhooks, width)),
        None => print(table),
    }
}

fn events(webhook: &Webhook) -> Vec<&str> {
    webhook.subscriptions.iter().map(|one| one.event_type.as_str()).collect()
}

/// Id and status, then the URL, then the event types in as many lines as they need.
fn blocks(webhooks: &[Webhook], width: usize) -> String {
    let mut text = String::new();
    for webhook in webhooks {
        text += &format!("{}  {}\n  {}\n", webhook.id.webhook_id, webhook.status, webhook.target_url);
        let mut line = String::from(" ");
        for event in events(webhook) {
            if line.len() > 1 && line.len() + 1 + event.len() > width {
                text += &format!("{line}\n");
                line.truncate(1);
            }
            line += &format!(" {event}");
        }
        text += &format!("{line}\n");
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_no_wider_than_the_terminal() {
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
            blocks(&webhooks, 60),
            "23e42eaf-323a-41da-b5bb-fd67eebda553  degraded\n  https://hooks.example.com/webhooks/attio\n  \
             record.created record.updated record.deleted\n  list-entry.created note.created\n"
        );
    }
}
