//! Turns an event into a CloudEvent.
//!
//! Attributes come from a closed set of members. A value from the body that is not a valid id is omitted.
//! `data` is the bytes of the event as received.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::parse::Event;
use super::slugs::Slugs;
use crate::catalog::{self, Kind, Part, WORKSPACE_ID};
use crate::cloudevent::{Attribute, CloudEvent, Data, timestamp};
use crate::delivery::Context;

const JSON: &str = "application/json";

/// The CloudEvent of an event under this id. With a base URL, it names the schema of its data.
pub fn normalize(
    event: &Event<'_>,
    id: &str,
    context: Context<'_>,
    schema_base_url: Option<&str>,
    slugs: Option<&Slugs>,
) -> CloudEvent {
    let context = context.of_workspace(event.ids.get(WORKSPACE_ID));
    let mut out = CloudEvent::new(id, &context.source_uri(), Data::Json(event.raw.clone()));
    out.set_joined(Attribute::Type, &cloudevent_type(event));
    out.set_some(Attribute::Subject, subject(event));
    let received = timestamp(context.received_at);
    let created = event.created_at.as_deref().and_then(rfc3339);
    out.set_some(Attribute::Time, created.as_ref().or(received.as_ref()));
    out.set_some(Attribute::RecordedTime, received);
    out.set(Attribute::DataContentType, JSON);
    if let (Kind::Known(known), Some(base_url)) = (event.kind, schema_base_url) {
        out.set_joined(Attribute::DataSchema, &catalog::schema_url(base_url, known.name));
    }
    out.set(Attribute::PartitionKey, partition_key(event, id));
    out.set_some(Attribute::CorrelationId, context.idempotency_key);
    out.set_some(Attribute::AttioWebhookId, context.webhook_id.filter(|id| catalog::is_id(id)));
    if let Some(slugs) = slugs {
        out.set_some(Attribute::AttioObject, slug(event, &slugs.objects, OBJECT_IDS));
        out.set_some(Attribute::AttioList, slug(event, &slugs.lists, LIST_IDS));
    }
    out.set_some(Attribute::AuthType, event.actor_type.as_deref().map(auth_type));
    out.set_some(Attribute::AuthId, event.actor_id.as_deref().filter(|id| catalog::is_id(id)));
    out
}

/// The members with the id of the event's object, or of the object of its parent record.
const OBJECT_IDS: &[&[&str]] = &[&["object_id"], &["parent_object_id"]];

/// The member with the id of the event's list.
const LIST_IDS: &[&[&str]] = &[&["list_id"]];

/// The slug of the first id under one of the names, in their order.
fn slug<'a>(
    event: &Event<'_>,
    slugs: &'a BTreeMap<String, String>,
    names: &'static [&[&str]],
) -> Option<&'a str> {
    let id = names.iter().find_map(|name| event.ids.any_of(name).next())?;
    slugs.get(id).map(String::as_str)
}

/// The CloudEvents `type`, in parts.
pub(super) fn cloudevent_type<'a>(event: &'a Event<'_>) -> [&'a str; 2] {
    let known = catalog::is_event_type(&event.event_type);
    ["com.attio.", if known { &event.event_type } else { "unknown" }]
}

/// The path of ids from the catalog; none for other types and where an id is absent.
fn subject(event: &Event<'_>) -> Option<String> {
    let Kind::Known(known) = event.kind else { return None };
    let mut path = String::with_capacity(96);
    for part in known.subject {
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(match part {
            Part::Text(text) => text,
            Part::Id(id) => event.ids.get(*id)?,
        });
    }
    Some(path)
}

/// The id of the entity whose events stay in order.
pub(super) fn partition_key<'a>(event: &'a Event<'_>, id: &'a str) -> &'a str {
    let of_catalog = match event.kind {
        Kind::Known(known) => event.ids.get(known.partition_key),
        Kind::UnknownAction(_) | Kind::Unknown => None,
    };
    of_catalog.or_else(|| event.ids.last_entity()).unwrap_or(id)
}

/// An RFC 3339 time in the form of [`timestamp`]; none for anything else.
fn rfc3339(text: &str) -> Option<String> {
    timestamp(OffsetDateTime::parse(text, &Rfc3339).ok()?)
}

/// The CloudEvents `authtype` of an Attio actor type.
fn auth_type(actor_type: &str) -> &'static str {
    match actor_type {
        "workspace-member" => "app_user",
        "api-token" => "api_key",
        "system" => "system",
        "app" => "service_account",
        _ => "unknown",
    }
}
