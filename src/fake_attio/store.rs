//! The state of the fake: one workspace with its objects, lists, attributes, records and webhooks.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::sync::mpsc::Sender;
use uuid::Uuid;

use super::error::ApiError;
use super::webhook::{Status, Subscription, Webhook, WebhookInput, canonical};
use crate::catalog::EVENT_TYPES;

/// Types of the catalog that Attio does not document.
const SINGLE_EVENT_ONLY: [&str; 3] =
    ["call-recording.updated", "comment.updated", "workspace-member.updated"];

#[derive(Clone, Debug)]
pub struct Named {
    pub id: String,
    pub slug: String,
    pub attributes: Vec<Named>,
}

impl Named {
    fn new(slug: &str, attributes: &[&str]) -> Self {
        let attributes = attributes.iter().map(|slug| Self::new(slug, &[])).collect();
        Self { id: uuid(), slug: slug.into(), attributes }
    }

    pub fn find<'a>(all: &'a [Self], name: &str) -> Result<&'a Self, ApiError> {
        let found = all.iter().find(|named| named.id == name || named.slug == name);
        found.ok_or_else(|| ApiError::not_found(format!("{name:?} was not found.")))
    }
}

/// The id of a record, which has no values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    pub workspace_id: String,
    pub object_id: String,
    pub record_id: String,
}

pub struct Store {
    pub workspace_id: String,
    pub token: String,
    /// Scopes of the key, such as `webhook:read-write`.
    pub scopes: BTreeSet<String>,
    pub objects: Vec<Named>,
    pub lists: Vec<Named>,
    pub webhooks: Vec<Webhook>,
    pub event_types: BTreeSet<String>,
    /// How the API spells target URLs in its answers.
    pub spelling: fn(&str) -> String,
    /// The most webhooks that a page has, whatever is asked for.
    pub max_page: usize,
    pub rate: ApiLimit,
    pub records: Vec<Record>,
    /// Gets the events of changes made through the API, as JSON.
    pub events: Option<Sender<String>>,
}

impl Store {
    /// A workspace without webhooks; the key has all scopes.
    pub fn new(token: impl Into<String>) -> Self {
        let scopes = [
            "webhook:read-write",
            "object_configuration:read",
            "list_configuration:read",
            "record_permission:read-write",
        ];
        let documented =
            EVENT_TYPES.iter().map(|entry| entry.name).filter(|name| !SINGLE_EVENT_ONLY.contains(name));
        Self {
            workspace_id: uuid(),
            token: token.into(),
            scopes: scopes.map(String::from).into(),
            objects: vec![
                Named::new("people", &["name", "email_addresses"]),
                Named::new("companies", &["name", "domains"]),
                Named::new("deals", &["name", "stage", "value"]),
            ],
            lists: vec![
                Named::new("sales_pipeline", &["stage", "owner"]),
                Named::new("recruiting", &["status"]),
            ],
            webhooks: Vec::new(),
            event_types: documented.map(String::from).collect(),
            spelling: str::to_owned,
            max_page: usize::MAX,
            rate: ApiLimit::default(),
            records: Vec::new(),
            events: None,
        }
    }

    /// Creates a record of an object, named by its id or its slug.
    pub fn create_record(&mut self, name: &str) -> Result<Record, ApiError> {
        let object_id = Named::find(&self.objects, name)?.id.clone();
        let record = Record { workspace_id: self.workspace_id.clone(), object_id, record_id: uuid() };
        self.records.push(record.clone());
        self.emit("record.created", &record);
        Ok(record)
    }

    pub fn delete_record(&mut self, record_id: &str) -> Result<(), ApiError> {
        let at = self.records.iter().position(|record| record.record_id == record_id);
        let at = at.ok_or_else(|| ApiError::not_found(format!("{record_id:?} was not found.")))?;
        let record = self.records.remove(at);
        self.emit("record.deleted", &record);
        Ok(())
    }

    fn emit(&self, event_type: &str, record: &Record) {
        let actor = json!({ "type": "api-token", "id": null });
        let event = json!({ "event_type": event_type, "id": record, "actor": actor });
        if let Some(events) = &self.events {
            // The deliverer may have ended, or may be behind.
            let _ = events.try_send(event.to_string());
        }
    }

    pub fn create(&mut self, input: WebhookInput) -> Result<Webhook, ApiError> {
        const TIME: &[time::format_description::FormatItem<'_>] =
            format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");
        let webhook = Webhook {
            webhook_id: uuid(),
            target_url: input.target_url.unwrap_or_default(),
            subscriptions: input.subscriptions.unwrap_or_default(),
            status: Status::Active,
            created_at: OffsetDateTime::now_utc().format(TIME).expect("a time of this era has this form"),
            secret: format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()),
        };
        self.check_unique(&webhook)?;
        self.webhooks.push(webhook.clone());
        Ok(webhook)
    }

    pub fn get(&self, webhook_id: &str) -> Result<&Webhook, ApiError> {
        Ok(&self.webhooks[self.index(webhook_id)?])
    }

    fn index(&self, webhook_id: &str) -> Result<usize, ApiError> {
        let index = self.webhooks.iter().position(|webhook| webhook.webhook_id == webhook_id);
        let message = || format!("Webhook with ID \"{webhook_id}\" was not found.");
        index.ok_or_else(|| ApiError::not_found(message()))
    }

    /// Updates a webhook: subscriptions replace the old ones; id and secret stay.
    pub fn update(&mut self, webhook_id: &str, input: WebhookInput) -> Result<Webhook, ApiError> {
        let index = self.index(webhook_id)?;
        let mut webhook = self.webhooks[index].clone();
        webhook.target_url = input.target_url.unwrap_or(webhook.target_url);
        webhook.subscriptions = input.subscriptions.unwrap_or(webhook.subscriptions);
        self.check_unique(&webhook)?;
        self.webhooks[index] = webhook.clone();
        Ok(webhook)
    }

    pub fn delete(&mut self, webhook_id: &str) -> Result<(), ApiError> {
        self.webhooks.remove(self.index(webhook_id)?);
        Ok(())
    }

    /// Sets the status of a webhook, as Attio itself does; false if there is no such webhook.
    pub fn set_status(&mut self, webhook_id: &str, status: Status) -> bool {
        let index = self.index(webhook_id);
        index.map(|index| self.webhooks[index].status = status).is_ok()
    }

    /// Whether the key has a scope; write access includes read access.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.contains(scope) || self.scopes.contains(&format!("{scope}-write"))
    }

    /// (target URL, event type, filter) must be unique in the workspace and in the request.
    fn check_unique(&self, webhook: &Webhook) -> Result<(), ApiError> {
        let others = self
            .webhooks
            .iter()
            .filter(|known| known.webhook_id != webhook.webhook_id && known.target_url == webhook.target_url);
        let key = |one: &Subscription| (one.event_type.clone(), canonical(&one.filter));
        let mut taken: BTreeSet<_> = others.flat_map(|known| known.subscriptions.iter().map(key)).collect();
        match webhook.subscriptions.iter().find(|one| !taken.insert(key(one))) {
            None => Ok(()),
            Some(Subscription { event_type, .. }) => Err(ApiError::conflict(&format!(
                "A webhook subscription to {event_type} with this target URL and filter already exists."
            ))),
        }
    }
}

fn uuid() -> String {
    Uuid::new_v4().to_string()
}

/// The API's rate limit: requests in the current second.
#[derive(Clone, Copy, Debug)]
pub struct ApiLimit {
    pub reads: u32,
    pub writes: u32,
    second: i64,
    used: (u32, u32),
}

impl Default for ApiLimit {
    fn default() -> Self {
        Self { reads: 100, writes: 25, second: 0, used: (0, 0) }
    }
}

impl ApiLimit {
    /// Counts a request. Over the limit: the value of `Retry-After`.
    pub(super) fn take(&mut self, write: bool) -> Result<(), String> {
        let now = OffsetDateTime::now_utc();
        if now.unix_timestamp() != self.second {
            (self.second, self.used) = (now.unix_timestamp(), (0, 0));
        }
        let (used, limit) =
            if write { (&mut self.used.1, self.writes) } else { (&mut self.used.0, self.reads) };
        *used += 1;
        match *used <= limit {
            true => Ok(()),
            // The next second, as an HTTP date.
            false => Err(httpdate::fmt_http_date(SystemTime::from(now) + Duration::from_secs(1))),
        }
    }
}
