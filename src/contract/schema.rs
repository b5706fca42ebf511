//! The JSON Schemas (draft 2020-12) of the data of each event type, of the envelope and of a quarantined event.
//!
//! They are open: a member that Attio adds is valid. Generators of types drop unknown members unless a schema says
//! `additionalProperties: true`, and most validators ignore `format`, so each has a `pattern` beside it.
//!
//! Source: Attio's webhooks OpenAPI document for ids, actor and nullable members.

use serde_json::{Map, Value as Json, json};

use crate::catalog::{EVENT_TYPES, EventType, schema_url};
use crate::cloudevent::{Attribute, SPEC_VERSION};
use crate::pipeline::parse::Unusable;
use crate::pipeline::quarantine;

/// The names of the schemas that are of no event type.
pub const ENVELOPE: &str = "envelope";
pub const QUARANTINE: &str = "quarantine";

/// Every schema by name, without its identifiers.
pub fn all() -> Vec<(&'static str, Json)> {
    let others = [(ENVELOPE, envelope()), (QUARANTINE, quarantined())];
    EVENT_TYPES.iter().map(|entry| (entry.name, data(entry))).chain(others).collect()
}

/// A schema as a document of its own: `$id` is where it is published.
pub fn document(name: &str, mut schema: Json, base_url: Option<&str>) -> Json {
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    if let Some(base_url) = base_url {
        schema["$id"] = json!(schema_url(base_url, name).concat());
    }
    schema
}

/// The schema of a type's `data`, in Attio's form and in the single-event form.
pub fn data(entry: &EventType) -> Json {
    let mut id = Map::from_iter(attio_ids(entry).map(|name| (name.to_owned(), uuid(false))));
    id.insert("event_id".into(), pattern(ID));
    let mut properties = Map::from_iter([
        ("event_type".into(), json!({ "type": "string", "const": entry.name })),
        ("id".into(), object(id, &[])),
        ("actor".into(), actor()),
        ("created_at".into(), rfc3339()),
    ]);
    properties.extend(entry.members.iter().map(|member| (member.name.to_owned(), uuid(member.nullable))));
    properties.extend(nested_ids(entry).into_iter().map(|(name, id)| (name.to_owned(), nested(&id))));
    let mut schema = object(properties, &["event_type", "id"]);
    schema["title"] = json!(entry.name);
    schema["description"] = json!(entry.sent);
    let attio: Vec<_> = entry.members.iter().map(|member| member.name).chain(["actor"]).collect();
    let form = |title, ids: &[&str], members: &[&str]| {
        let id = json!({ "type": "object", "required": ids });
        json!({ "title": title, "type": "object", "properties": { "id": id }, "required": members })
    };
    schema["anyOf"] = json!([
        form("Attio form", &attio_ids(entry).collect::<Vec<_>>(), &attio),
        form("Single-event form", &["event_id"], &["created_at"]),
    ]);
    schema
}

/// The members of `id` in Attio's form.
pub fn attio_ids(entry: &EventType) -> impl Iterator<Item = &'static str> {
    std::iter::once("workspace_id").chain(entry.ids.iter().copied())
}

/// The ids of a type in the single-event form, `<name>.id.<name>_id`: each name and its id.
pub fn nested_ids(entry: &EventType) -> Vec<(&'static str, String)> {
    let members = entry.members.iter().map(|member| member.name);
    let mut nested: Vec<_> = entry
        .ids
        .iter()
        .copied()
        .chain(members)
        .filter_map(|name| {
            let name =
                ["parent_", "duplicate_"].iter().find_map(|role| name.strip_prefix(role)).unwrap_or(name);
            Some((name.strip_suffix("_id")?, name.to_owned()))
        })
        .collect();
    nested.sort();
    nested.dedup();
    nested
}

fn nested(id: &str) -> Json {
    let ids = object(Map::from_iter([(id.to_owned(), pattern(ID))]), &[id]);
    let slug = json!({ "type": ["string", "null"] });
    object(Map::from_iter([("id".into(), ids), ("api_slug".into(), slug)]), &["id"])
}

/// Attio requires an actor, but neither of its members. A type that is not known yet is valid too.
fn actor() -> Json {
    let kinds = ["workspace-member", "api-token", "system", "app"];
    let kind = json!({ "type": ["string", "null"], "examples": kinds });
    object(Map::from_iter([("type".into(), kind), ("id".into(), json!({ "type": ["string", "null"] }))]), &[])
}

/// The schema of the envelope, which is that of every event.
pub fn envelope() -> Json {
    let mut schema = cloudevent(|attribute| definition(attribute).0);
    schema["title"] = json!("Attio event");
    schema["description"] = json!("A CloudEvent in the JSON format. Its data has the schema of its type.");
    schema["properties"]["data"] = json!({ "description": "The event as Attio sent it.", "type": "object", "additionalProperties": true });
    require(&mut schema, "data");
    schema
}

/// The schema of a quarantined event.
pub fn quarantined() -> Json {
    let mut schema = cloudevent(|attribute| definition(attribute).1);
    schema["title"] = json!("Quarantined delivery");
    schema["description"] = json!("What was signed and cannot be published as an event, with its bytes.");
    schema["properties"]["type"] = json!({ "type": "string", "const": quarantine::TYPE });
    schema["properties"]["datacontenttype"] = json!({ "type": "string", "const": quarantine::CONTENT_TYPE });
    schema["properties"]["data_base64"] = base64("The bytes as received.");
    require(&mut schema, "data_base64");
    schema
}

/// Whether an attribute occurs in an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Always,
    Sometimes,
    Never,
}

use Presence::{Always, Never, Sometimes};

/// Whether an attribute occurs in an event and in a quarantined one, and its schema.
pub fn definition(attribute: Attribute) -> (Presence, Presence, Json) {
    let described = |mut schema: Json, text: &str| {
        schema["description"] = json!(text);
        schema
    };
    let id = |text| described(pattern(ID), text);
    match attribute {
        Attribute::Id => (Always, Always, id("The same on every retry. Drop repeats by source and id.")),
        Attribute::Source => {
            let form = r"^(https://attio\.com/workspaces/|urn:attio-bridge:)[A-Za-z0-9._:-]{1,128}$";
            (Always, Always, described(formatted("uri", form), "The workspace, or the bridge's source."))
        }
        Attribute::Type => {
            let kind = pattern(r"^com\.attio\.[a-z0-9.-]{1,128}$");
            (Always, Always, described(kind, "com.attio. and the event type."))
        }
        Attribute::Subject => {
            let path = pattern(r"^[A-Za-z0-9._:-]+(/[A-Za-z0-9._:-]+)*$");
            (Sometimes, Never, described(path, "The entity as a path of ids. Absent if one of them is."))
        }
        Attribute::Time => (Always, Always, described(time(), "When it happened, or was received.")),
        Attribute::RecordedTime => (Always, Always, described(time(), "When it was received.")),
        Attribute::DataContentType => {
            (Always, Always, json!({ "type": "string", "const": "application/json" }))
        }
        Attribute::DataSchema => {
            let uri = formatted("uri", r"^https?://[!-~]+\.json$");
            (Sometimes, Never, described(uri, "The schema of data, for the types of the catalog."))
        }
        Attribute::PartitionKey => {
            (Always, Always, id("The entity whose events stay in order: the Kafka key."))
        }
        Attribute::CorrelationId => {
            let key = pattern("^[!-~]{1,255}$");
            (Sometimes, Sometimes, described(key, "The delivery: its Idempotency-Key."))
        }
        Attribute::AttioWebhookId => (Sometimes, Sometimes, id("The webhook that fired.")),
        Attribute::AttioObject => (Sometimes, Never, id("The slug of the object, such as people.")),
        Attribute::AttioList => (Sometimes, Never, id("The slug of the list.")),
        Attribute::AuthType => {
            let kinds = ["app_user", "api_key", "system", "service_account", "unknown"];
            (
                Sometimes,
                Never,
                json!({ "description": "The kind of actor.", "type": "string", "enum": kinds }),
            )
        }
        Attribute::AuthId => (Sometimes, Never, id("The actor.")),
        Attribute::TraceParent => {
            let context = pattern("^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$");
            (Sometimes, Sometimes, described(context, "The publish, in W3C Trace Context. Only with traces."))
        }
        Attribute::TraceState => {
            let state = pattern("^[ -~]{1,512}$");
            (Sometimes, Sometimes, described(state, "The request's, in W3C Trace Context. Only with traces."))
        }
        Attribute::Reason => {
            let reasons = Unusable::ALL.map(Unusable::slug).into_iter().chain([quarantine::REJECTED]);
            let mut reason = described(pattern("^[a-z_]+$"), "Why it was quarantined.");
            reason["examples"] = reasons.collect();
            (Never, Always, reason)
        }
        Attribute::AttioSource => {
            (Never, Always, described(pattern("^[a-z0-9][a-z0-9_-]{0,62}$"), "The source's name."))
        }
        Attribute::AttioIndex => {
            let index = described(pattern("^[0-9]+$"), "The event's index. Absent for a whole delivery.");
            (Never, Sometimes, index)
        }
        Attribute::AttioWebhookBase64 => {
            (Never, Sometimes, base64("The webhook's id, where it is not a valid attribute value."))
        }
    }
}

/// An object with `specversion` and the attributes that occur in it.
fn cloudevent(presence: impl Fn(Attribute) -> Presence) -> Json {
    let version = json!({ "type": "string", "const": SPEC_VERSION });
    let mut schema = object(Map::from_iter([("specversion".into(), version)]), &["specversion"]);
    for attribute in Attribute::ALL.into_iter().filter(|attribute| presence(*attribute) != Never) {
        schema["properties"][attribute.name()] = definition(attribute).2;
        if presence(attribute) == Always {
            require(&mut schema, attribute.name());
        }
    }
    schema
}

fn require(schema: &mut Json, name: &str) {
    if let Json::Array(required) = &mut schema["required"] {
        required.push(json!(name));
    }
}

/// The characters of an id in an attribute.
const ID: &str = "^[A-Za-z0-9._:-]{1,128}$";

fn object(properties: Map<String, Json>, required: &[&str]) -> Json {
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": true });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn pattern(regex: &str) -> Json {
    json!({ "type": "string", "pattern": regex })
}

fn formatted(format: &str, regex: &str) -> Json {
    json!({ "type": "string", "format": format, "pattern": regex })
}

fn uuid(nullable: bool) -> Json {
    let mut schema =
        formatted("uuid", "^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$");
    if nullable {
        schema["type"] = json!(["string", "null"]);
    }
    schema
}

/// Any time in RFC 3339.
fn rfc3339() -> Json {
    let zone = "([Zz]|[+-][0-9]{2}:[0-9]{2})";
    let regex =
        format!(r"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}[Tt ][0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}(\.[0-9]+)?{zone}$");
    formatted("date-time", &regex)
}

/// A time in the bridge's own form.
fn time() -> Json {
    formatted("date-time", r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$")
}

fn base64(description: &str) -> Json {
    json!({
        "description": description,
        "type": "string",
        "contentEncoding": "base64",
        "pattern": "^[A-Za-z0-9+/]*={0,2}$",
    })
}
