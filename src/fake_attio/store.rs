//! The state of the fake: one workspace with its objects, lists, attributes, entities and webhooks.

use std::collections::BTreeSet;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;

use super::error::ApiError;
use super::limits::{ApiLimit, ScoreLimit};
use super::webhook::{Status, Subscription, Webhook, WebhookInput, canonical};
use super::world::{World, now, text};
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
    pub fn new(slug: &str, attributes: &[&str]) -> Self {
        let attributes = attributes.iter().map(|slug| Self::new(slug, &[])).collect();
        Self { id: uuid(), slug: slug.into(), attributes }
    }

    pub fn find<'a>(all: &'a [Self], name: &str) -> Result<&'a Self, ApiError> {
        let found = all.iter().find(|named| named.id == name || named.slug == name);
        found.ok_or_else(|| ApiError::not_found(format!("{name:?} was not found.")))
    }
}

pub struct Store {
    pub workspace_id: String,
    pub token: String,
    /// Who makes the changes.
    pub member_id: String,
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
    pub score: ScoreLimit,
    pub world: World,
    /// How old an answer may be: each shows the world of a moment ago.
    pub lag: Duration,
    /// How long the record that a merge makes cannot be read.
    pub merge_time: Duration,
    /// Whether changes send no events, as those that Attio tells nobody of.
    pub silent: bool,
    /// Entities with changes since their last event.
    pub untold: BTreeSet<String>,
    /// Gets the events of changes, as JSON.
    pub events: Option<UnboundedSender<String>>,
}

impl Store {
    /// A workspace without webhooks; the key has all scopes.
    pub fn new(token: impl Into<String>) -> Self {
        let scopes = [
            "webhook:read-write",
            "object_configuration:read",
            "list_configuration:read",
            "record_permission:read-write",
            "list_entry:read-write",
            "note:read-write",
            "task:read-write",
            "comment:read-write",
            "user_management:read",
        ];
        let documented =
            EVENT_TYPES.iter().map(|entry| entry.name).filter(|name| !SINGLE_EVENT_ONLY.contains(name));
        Self {
            workspace_id: uuid(),
            token: token.into(),
            member_id: uuid(),
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
            score: ScoreLimit::default(),
            world: World::default(),
            lag: Duration::ZERO,
            merge_time: Duration::ZERO,
            silent: false,
            untold: BTreeSet::new(),
            events: None,
        }
    }

    /// The moment that an answer shows now. Past a lag it is one that has no changes to come.
    pub(super) fn accurate_at(&self) -> OffsetDateTime {
        if self.lag.is_zero() {
            return now();
        }
        now()
            - Duration::from_millis(1)
            - Duration::from_millis(fastrand::u64(0..=self.lag.as_millis() as u64))
    }

    pub fn create(&mut self, input: WebhookInput) -> Result<Webhook, ApiError> {
        let webhook = Webhook {
            webhook_id: uuid(),
            target_url: input.target_url.unwrap_or_default(),
            subscriptions: input.subscriptions.unwrap_or_default(),
            status: Status::Active,
            created_at: text(OffsetDateTime::now_utc()),
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
