//! Examples: invented deliveries, made into messages by the stages of the pipeline itself.

use std::sync::Arc;

use bytes::Bytes;
use time::macros::datetime;
use uuid::Uuid;

use super::{Contract, schema};
use crate::catalog::EventType;
use crate::delivery::Context;
use crate::pipeline::identify::{Facts, Identity, NAMESPACE};
use crate::pipeline::normalize::normalize;
use crate::pipeline::parse::{self, Element, Parsed, Unusable};
use crate::pipeline::publish::Message;
use crate::pipeline::quarantine;

/// The type of the example for types that are not in the catalog.
const OTHER: &str = "meeting.created";

/// What the examples of a delivery have in common.
fn context(webhook_id: &str) -> Context<'_> {
    Context {
        source: "attio",
        workspace_id: None,
        received_at: datetime!(2026-11-24 07:47:53.667 UTC),
        idempotency_key: Some("01935d2c-5d1c-7a3e-9f4b-0d6c5a1e8b27"),
        webhook_id: Some(webhook_id),
    }
}

fn facts<'a>(context: Context<'a>, raw: &'a [u8]) -> Facts<'a> {
    let webhook_id = context.webhook_id.unwrap_or_default();
    Facts { source: context.source, webhook_id, idempotency_key: context.idempotency_key, index: 0, raw }
}

/// The message of a type; none stands for the types that are not in the catalog.
pub fn message(contract: &Contract, entry: Option<&EventType>) -> Option<Message> {
    let body = Bytes::from(match entry {
        Some(entry) => data(entry),
        None => body(OTHER, &["workspace_id", "meeting_id"], &[]),
    });
    let Parsed::Events { elements, .. } = parse::parse(&body) else { return None };
    let Some(Element::Event(event)) = elements.first() else { return None };
    let webhook_id = uuid("webhook_id");
    let context = context(&webhook_id);
    let identity = Identity::of_event(event.ids.event_id(), facts(context, &event.raw));
    Some(Message {
        destination: Arc::clone(contract.destination(event.kind)),
        event: normalize(event, &identity.id, context, contract.base_url.as_deref(), None),
        dedup_key: identity.key.to_hex(),
        structured_only: false,
    })
}

/// The message of a delivery in quarantine.
pub fn quarantined(contract: &Contract) -> Message {
    let (raw, webhook_id) = (Bytes::from_static(b"this is not JSON"), uuid("webhook_id"));
    let context = context(&webhook_id);
    let identity = Identity::of_quarantined(facts(context, &raw));
    Message {
        destination: Arc::clone(contract.routes.quarantine()),
        event: quarantine::wrap(&identity.id, context, None, raw.clone(), Unusable::NotJson.slug()),
        dedup_key: identity.key.to_hex(),
        structured_only: true,
    }
}

/// An event in Attio's form, one member a line.
fn data(entry: &EventType) -> String {
    let ids: Vec<_> = schema::attio_ids(entry).collect();
    let member = |member: &crate::catalog::Member| match member.nullable {
        true => format!("\"{}\": null", member.name),
        false => id(member.name),
    };
    body(entry.name, &ids, &entry.members.iter().map(member).collect::<Vec<_>>())
}

fn body(event_type: &str, ids: &[&str], members: &[String]) -> String {
    let ids: Vec<_> = ids.iter().map(|name| id(name)).collect();
    let mut lines = vec![
        format!("\"event_type\": \"{event_type}\""),
        format!("\"id\": {{\n    {}\n  }}", ids.join(",\n    ")),
    ];
    lines.extend_from_slice(members);
    lines.push(format!("\"actor\": {{ \"type\": \"workspace-member\", \"id\": \"{}\" }}", uuid("actor")));
    format!("{{\n  {}\n}}", lines.join(",\n  "))
}

fn id(name: &str) -> String {
    format!("\"{name}\": \"{}\"", uuid(name))
}

/// An invented id, always the same one for a name. `parent_object_id` is an `object_id` too.
fn uuid(name: &str) -> String {
    let object = name.ends_with("object_id").then_some("object_id");
    Uuid::new_v5(&NAMESPACE, object.unwrap_or(name).as_bytes()).to_string()
}
