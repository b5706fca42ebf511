//! What the fake knows: one workspace, its objects and lists with their attributes, its webhooks.

use std::collections::{BTreeSet, VecDeque};

use serde_json::json;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::sync::mpsc::Sender;
use uuid::Uuid;

use super::fault::Fault;
use super::filter::canonical;
use super::input::Wanted;
use super::problem::Problem;
use super::rate::Rate;
use crate::catalog::EVENT_TYPES;

/// Types that the project's guide names and Attio does not.
const OF_THE_GUIDE: [&str; 3] = ["call-recording.updated", "comment.updated", "workspace-member.updated"];

/// What a webhook's status can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is delivered to.
    Active,
    /// Deliveries have failed for long; it is still delivered to.
    Degraded,
    /// It has been degraded for a week; it gets nothing.
    Inactive,
}

impl Status {
    /// As the API has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Inactive => "inactive",
        }
    }
}

/// One event type of a webhook.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// The type.
    pub event_type: String,
    /// Its filter; null for none.
    pub filter: serde_json::Value,
}

/// A webhook. It holds its secret, so it has no `Debug`.
#[derive(Clone)]
pub struct Webhook {
    /// Its id.
    pub webhook_id: String,
    /// Where it is sent to.
    pub target_url: String,
    /// What is sent.
    pub subscriptions: Vec<Subscription>,
    /// How its deliveries fare.
    pub status: Status,
    /// RFC 3339, nine fractional digits.
    pub created_at: String,
    /// What signs its deliveries: 64 hex digits, used as text.
    pub secret: String,
}

/// An object, a list or an attribute.
#[derive(Clone, Debug)]
pub struct Named {
    /// Its id.
    pub id: String,
    /// Its slug.
    pub slug: String,
    /// The attributes of an object or a list.
    pub attributes: Vec<Named>,
}

/// A record, without what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its object.
    pub object_id: String,
    /// Its own id.
    pub record_id: String,
}

/// One request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Such as `GET`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// How it was answered; 0 where it was left to wait.
    pub status: u16,
}

/// The workspace.
pub struct Store {
    /// Its id.
    pub workspace_id: String,
    /// The key that is accepted.
    pub token: String,
    /// What the key may do, such as `webhook:read-write`.
    pub scopes: BTreeSet<String>,
    /// Its objects.
    pub objects: Vec<Named>,
    /// Its lists.
    pub lists: Vec<Named>,
    /// Its webhooks, oldest first.
    pub webhooks: Vec<Webhook>,
    /// Event types that a subscription may name.
    pub event_types: BTreeSet<String>,
    /// What goes wrong next.
    pub faults: VecDeque<Fault>,
    /// How much is answered in a second.
    pub rate: Rate,
    /// Every request so far.
    pub seen: Vec<Seen>,
    /// Its records, oldest first.
    pub records: Vec<Record>,
    /// Where it is told what happens, as JSON; nowhere at first.
    pub happenings: Option<Sender<String>>,
}

impl Store {
    /// A workspace without webhooks, whose key may do everything.
    pub fn new(token: impl Into<String>) -> Self {
        let named = |slug: &str, attributes: &[&str]| Named {
            id: uuid(),
            slug: slug.into(),
            attributes: attributes.iter().map(|slug| attribute(slug)).collect(),
        };
        let scopes = [
            "webhook:read-write",
            "object_configuration:read",
            "list_configuration:read",
            "record_permission:read-write",
        ];
        let documented =
            EVENT_TYPES.iter().map(|entry| entry.name).filter(|name| !OF_THE_GUIDE.contains(name));
        Self {
            workspace_id: uuid(),
            token: token.into(),
            scopes: scopes.map(String::from).into(),
            objects: vec![
                named("people", &["name", "email_addresses"]),
                named("companies", &["name", "domains"]),
                named("deals", &["name", "stage", "value"]),
            ],
            lists: vec![named("sales_pipeline", &["stage", "owner"]), named("recruiting", &["status"])],
            webhooks: Vec::new(),
            event_types: documented.map(String::from).collect(),
            faults: VecDeque::new(),
            rate: Rate::default(),
            seen: Vec::new(),
            records: Vec::new(),
            happenings: None,
        }
    }

    /// Makes a record of an object, which may be named by its id or its slug.
    pub fn create_record(&mut self, name: &str) -> Result<Record, Problem> {
        let object = self.objects.iter().find(|named| named.id == name || named.slug == name);
        let object = object.ok_or_else(|| Problem::not_found(format!("{name:?} was not found.")))?;
        let record = Record { object_id: object.id.clone(), record_id: uuid() };
        self.records.push(record.clone());
        self.happened("record.created", &record);
        Ok(record)
    }

    /// Deletes a record.
    pub fn delete_record(&mut self, record_id: &str) -> Result<(), Problem> {
        let at = self.records.iter().position(|record| record.record_id == record_id);
        let at = at.ok_or_else(|| Problem::not_found(format!("{record_id:?} was not found.")))?;
        let record = self.records.remove(at);
        self.happened("record.deleted", &record);
        Ok(())
    }

    fn happened(&self, event_type: &str, Record { object_id, record_id }: &Record) {
        let event = json!({
            "event_type": event_type,
            "id": { "workspace_id": self.workspace_id, "object_id": object_id, "record_id": record_id },
            "actor": { "type": "api-token", "id": null },
        });
        if let Some(happenings) = &self.happenings {
            // Nobody delivers any more, or nobody keeps up: neither is the workspace's concern.
            let _ = happenings.try_send(event.to_string());
        }
    }

    /// Makes a webhook.
    pub fn create(&mut self, wanted: Wanted) -> Result<Webhook, Problem> {
        let webhook = Webhook {
            webhook_id: uuid(),
            target_url: wanted.target_url.unwrap_or_default(),
            subscriptions: wanted.subscriptions.unwrap_or_default(),
            status: Status::Active,
            created_at: now(),
            secret: format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()),
        };
        self.unique(&webhook)?;
        self.webhooks.push(webhook.clone());
        Ok(webhook)
    }

    /// The webhook of that id.
    pub fn get(&self, webhook_id: &str) -> Result<&Webhook, Problem> {
        self.webhooks
            .iter()
            .find(|webhook| webhook.webhook_id == webhook_id)
            .ok_or_else(|| missing(webhook_id))
    }

    /// Changes a webhook: a list of subscriptions takes the place of the old one; id and secret stay.
    pub fn update(&mut self, webhook_id: &str, wanted: Wanted) -> Result<Webhook, Problem> {
        let mut webhook = self.get(webhook_id)?.clone();
        webhook.target_url = wanted.target_url.unwrap_or(webhook.target_url);
        webhook.subscriptions = wanted.subscriptions.unwrap_or(webhook.subscriptions);
        self.unique(&webhook)?;
        let place = self.webhooks.iter_mut().find(|known| known.webhook_id == webhook_id);
        *place.ok_or_else(|| missing(webhook_id))? = webhook.clone();
        Ok(webhook)
    }

    /// Deletes a webhook.
    pub fn delete(&mut self, webhook_id: &str) -> Result<(), Problem> {
        self.get(webhook_id)?;
        self.webhooks.retain(|webhook| webhook.webhook_id != webhook_id);
        Ok(())
    }

    /// Sets the status of a webhook, as only Attio itself does; false where there is no such webhook.
    pub fn set_status(&mut self, webhook_id: &str, status: Status) -> bool {
        let found = self.webhooks.iter_mut().find(|webhook| webhook.webhook_id == webhook_id);
        found.map(|webhook| webhook.status = status).is_some()
    }

    /// (target URL, event type, filter) is unique in the workspace, and within one request.
    fn unique(&self, webhook: &Webhook) -> Result<(), Problem> {
        let others = self.webhooks.iter().filter(|known| known.webhook_id != webhook.webhook_id);
        let others = others.filter(|known| known.target_url == webhook.target_url);
        let key =
            |subscription: &Subscription| (subscription.event_type.clone(), canonical(&subscription.filter));
        let mut taken: BTreeSet<_> = others.flat_map(|known| known.subscriptions.iter().map(key)).collect();
        for subscription in &webhook.subscriptions {
            if !taken.insert(key(subscription)) {
                let Subscription { event_type, .. } = subscription;
                return Err(Problem::conflict(format!(
                    "A webhook subscription to {event_type} with this target URL and filter already exists."
                )));
            }
        }
        Ok(())
    }
}

fn attribute(slug: &str) -> Named {
    Named { id: uuid(), slug: slug.into(), attributes: Vec::new() }
}

fn missing(webhook_id: &str) -> Problem {
    Problem::not_found(format!("Webhook with ID \"{webhook_id}\" was not found."))
}

fn uuid() -> String {
    Uuid::new_v4().to_string()
}

fn now() -> String {
    const FORM: &[time::format_description::FormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");
    OffsetDateTime::now_utc().format(FORM).expect("a time of this era has this form")
}
