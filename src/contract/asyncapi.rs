//! The AsyncAPI 3 document: what the bridge publishes on the configured bus.
//!
//! Source: AsyncAPI 3.0.0, its Kafka binding 0.5.0 and its NATS binding 0.1.0. Its schemas are those of [`schema`] as
//! they stand: they use nothing that the older draft of AsyncAPI's own schema format lacks.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::schema::{self, Presence};
use super::{Contract, example};
use crate::bus::{self, Kind as Bus, nats};
use crate::catalog::{EVENT_TYPES, EventType, Kind, schema_url};
use crate::cloudevent::{Attribute, ContentMode, SPEC_VERSION, structured};
use crate::pipeline::publish::{Destination, Message};
use crate::version::VERSION;

/// The message of every type that is not in the catalog.
const OTHER: &str = "other";

const KAFKA_BINDING: &str = "0.5.0";
const NATS_BINDING: &str = "0.1.0";

pub fn document(contract: &Contract, bus: &bus::Options) -> Result<Json, String> {
    let writer = Writer { contract, bus };
    let mut messages = Map::new();
    for entry in EVENT_TYPES {
        messages.insert(entry.name.to_owned(), writer.event(Some(entry))?);
    }
    messages.insert(OTHER.to_owned(), writer.event(None)?);
    messages.insert(schema::QUARANTINE.to_owned(), writer.quarantined()?);
    let (channels, operations) = writer.channels();
    let schemas: Map<_, _> =
        schema::all().into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    let mut components = json!({ "messages": messages, "schemas": schemas });
    let mut document = json!({
        "asyncapi": "3.0.0",
        "info": { "title": "Attio events", "version": VERSION, "description": introduction(bus) },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
    });
    let servers = writer.servers();
    if !servers.is_empty() {
        document["servers"] = servers.into();
    }
    if let Some(scheme) = writer.security_scheme() {
        components["securitySchemes"] = json!({ LOGIN: { "type": scheme } });
    }
    document["components"] = components;
    Ok(document)
}

/// The content mode of events; stdout has one only.
fn mode(bus: &bus::Options) -> ContentMode {
    match bus.kind {
        Bus::Stdout => ContentMode::Structured,
        Bus::Kafka(_) | Bus::Nats(_) => bus.content_mode,
    }
}

/// What a reader of the bus needs to know first.
pub fn introduction(bus: &bus::Options) -> String {
    let (place, key) = match bus.kind {
        Bus::Kafka(_) => ("A topic holds the events of a category.", "the message key"),
        Bus::Nats(_) => ("A subject holds the events of a type.", "the attribute `partitionkey`"),
        Bus::Stdout => ("Events are printed one a line.", "the attribute `partitionkey`"),
    };
    let mode = match mode(bus) {
        ContentMode::Structured => {
            "The content mode is structured: a message is the CloudEvent as one JSON object. In binary mode a message \
             is the data alone, with the attributes in headers."
        }
        ContentMode::Binary => {
            "The content mode is binary: a message is the data alone, with the attributes in headers. In structured \
             mode a message is the CloudEvent as one JSON object."
        }
    };
    format!(
        "Attio's webhooks, published by attio-bridge as CloudEvents {SPEC_VERSION}. {place} Events of one entity stay in \
         order: {key} names it. Delivery is at least once: drop repeats by `source` and `id`. Schemas are open: \
         new members and new event types may appear. {mode}"
    )
}

/// The name of the security scheme.
const LOGIN: &str = "login";

struct Writer<'a> {
    contract: &'a Contract,
    bus: &'a bus::Options,
}

impl Writer<'_> {
    fn servers(&self) -> Map<String, Json> {
        let (addresses, protocol): (Vec<&str>, _) = match &self.bus.kind {
            Bus::Kafka(kafka) => {
                let security = kafka.security_protocol.as_deref().unwrap_or_default().to_ascii_uppercase();
                let protocol = if security.ends_with("SSL") { "kafka-secure" } else { "kafka" };
                (kafka.bootstrap_servers.split(',').map(str::trim).collect(), protocol)
            }
            Bus::Nats(nats) => (nats.servers.iter().map(|address| host(address)).collect(), "nats"),
            Bus::Stdout => return Map::new(),
        };
        let server = |(number, address): (usize, &str)| {
            let mut server = json!({ "host": address, "protocol": protocol });
            if self.security_scheme().is_some() {
                server["security"] = json!([reference(&["components", "securitySchemes", LOGIN])]);
            }
            (format!("{protocol}-{}", number + 1), server)
        };
        addresses.into_iter().enumerate().map(server).collect()
    }

    /// How the bridge logs in, in AsyncAPI's words; none where it does not, or AsyncAPI has no word for it.
    fn security_scheme(&self) -> Option<&'static str> {
        match &self.bus.kind {
            Bus::Kafka(kafka) => match kafka.sasl_mechanism.as_deref()?.to_ascii_uppercase().as_str() {
                "PLAIN" => Some("plain"),
                "SCRAM-SHA-256" => Some("scramSha256"),
                "SCRAM-SHA-512" => Some("scramSha512"),
                "GSSAPI" => Some("gssapi"),
                _ => None,
            },
            Bus::Nats(nats) => match nats.auth.as_ref()? {
                nats::Auth::User { .. } => Some("userPassword"),
                nats::Auth::CredsFile(_) | nats::Auth::NkeyFile(_) => Some("asymmetricEncryption"),
                nats::Auth::Token(_) => None,
            },
            Bus::Stdout => None,
        }
    }

    /// The channels with their messages, and the operation of each.
    fn channels(&self) -> (Map<String, Json>, Map<String, Json>) {
        let mut messages: BTreeMap<String, (&Destination, Vec<&str>)> = BTreeMap::new();
        let routes = &self.contract.routes;
        let known = EVENT_TYPES.iter().map(|entry| (&**routes.event(Kind::Known(entry)), entry.name));
        let categories = EVENT_TYPES.iter().map(|entry| Kind::UnknownAction(entry.category));
        let other = categories.chain([Kind::Unknown]).map(|kind| (&**routes.event(kind), OTHER));
        for (destination, message) in known.chain(other).chain([(&**routes.quarantine(), schema::QUARANTINE)])
        {
            let (_, messages) =
                messages.entry(self.address(destination).to_owned()).or_insert((destination, Vec::new()));
            if !messages.contains(&message) {
                messages.push(message);
            }
        }
        let channel = |(address, (_, messages)): (&String, &(&Destination, Vec<&str>))| {
            let reference = |name: &&str| ((*name).to_owned(), reference(&["components", "messages", name]));
            let messages: Map<_, _> = messages.iter().map(reference).collect();
            let mut channel = json!({ "address": address, "messages": messages });
            match &self.bus.kind {
                Bus::Kafka(kafka) => {
                    let mut binding = json!({ "topic": address, "bindingVersion": KAFKA_BINDING });
                    let numbers = [
                        ("partitions", kafka.topics.partitions),
                        ("replicas", kafka.topics.replication_factor),
                    ];
                    for (name, number) in numbers {
                        if let Some(number) = number {
                            binding[name] = json!(number);
                        }
                    }
                    channel["bindings"] = json!({ "kafka": binding });
                }
                Bus::Nats(nats) => channel["x-jetstream-stream"] = json!(nats.stream.name),
                Bus::Stdout => {}
            }
            (address.clone(), channel)
        };
        let operation = |address: &String| {
            let mut operation = json!({
                "action": "send",
                "summary": format!("attio-bridge publishes to {address}."),
                "channel": reference(&["channels", address]),
            });
            if let Bus::Nats(_) = self.bus.kind {
                operation["bindings"] = json!({ "nats": { "bindingVersion": NATS_BINDING } });
            }
            (format!("send {address}"), operation)
        };
        (messages.iter().map(channel).collect(), messages.keys().map(operation).collect())
    }

    fn address<'d>(&self, destination: &'d Destination) -> &'d str {
        match self.bus.kind {
            Bus::Nats(_) => &destination.subject,
            Bus::Kafka(_) | Bus::Stdout => &destination.address,
        }
    }

    /// The message of a type; none stands for the types that are not in the catalog.
    fn event(&self, entry: Option<&EventType>) -> Result<Json, String> {
        let (name, summary) = match entry {
            Some(entry) => (entry.name, entry.sent),
            None => (OTHER, "An event of a type that this version of attio-bridge does not know."),
        };
        let example = example::message(self.contract, entry).ok_or("an example is no event")?;
        let data = match entry {
            Some(entry) => reference(&["components", "schemas", entry.name]),
            None => json!({ "type": "object", "additionalProperties": true }),
        };
        let payload = match mode(self.bus) {
            ContentMode::Binary => data,
            ContentMode::Structured => {
                let mut properties = json!({ "data": data });
                if let Some(entry) = entry {
                    properties["type"] = json!({ "const": format!("com.attio.{}", entry.name) });
                }
                let mut own = json!({ "type": "object", "properties": properties });
                if let Some((url, entry)) = self.contract.base_url.as_deref().zip(entry) {
                    own["properties"]["dataschema"] =
                        json!({ "const": schema_url(url, entry.name).concat() });
                    own["required"] = json!(["dataschema"]);
                }
                json!({ "allOf": [reference(&["components", "schemas", schema::ENVELOPE]), own] })
            }
        };
        let mut message = self.message(name, summary, &example, payload)?;
        if let Some(entry) = entry {
            message["tags"] = json!([{ "name": entry.category.as_str() }]);
        }
        Ok(message)
    }

    fn quarantined(&self) -> Result<Json, String> {
        let example = example::quarantined(self.contract);
        let payload = reference(&["components", "schemas", schema::QUARANTINE]);
        let summary =
            "What was signed and cannot be published as an event. Structured in every content mode.";
        self.message(schema::QUARANTINE, summary, &example, payload)
    }

    fn message(&self, name: &str, summary: &str, example: &Message, payload: Json) -> Result<Json, String> {
        let encoded = bus::encode(self.bus, example)?;
        let structured = example.structured_only || mode(self.bus) == ContentMode::Structured;
        let headers: Map<_, _> =
            encoded.headers.into_iter().map(|(name, value)| (name, Json::from(value))).collect();
        let value: Json = serde_json::from_slice(&encoded.payload).map_err(|error| error.to_string())?;
        let mut shown = json!({ "name": name, "payload": value });
        let mut message = json!({
            "name": name,
            "title": name,
            "summary": summary,
            "contentType": if structured { structured::CONTENT_TYPE } else { "application/json" },
            "payload": payload,
        });
        if !headers.is_empty() {
            message["headers"] = self.headers(structured, name != OTHER, example);
            shown["headers"] = headers.into();
        }
        if let Bus::Kafka(_) = self.bus.kind {
            let key = schema::definition(Attribute::PartitionKey).2;
            message["bindings"] = json!({ "kafka": { "key": key, "bindingVersion": KAFKA_BINDING } });
        }
        message["examples"] = json!([shown]);
        Ok(message)
    }

    /// The schema of the headers. Those of a known type name it, as the example does.
    fn headers(&self, structured: bool, known: bool, example: &Message) -> Json {
        let mut properties = Map::new();
        let mut required = Vec::new();
        let mut add = |name: String, schema: Json, always: bool| {
            if always {
                required.push(name.clone());
            }
            properties.insert(name, schema);
        };
        let constant = |text: &str| json!({ "type": "string", "const": text });
        let (prefix, content_type) = match &self.bus.kind {
            Bus::Nats(nats) => {
                let id = json!({ "type": "string", "pattern": "^[0-9a-f]{32}$" });
                add("Nats-Msg-Id".into(), id, true);
                add("Nats-Expected-Stream".into(), constant(&nats.stream.name), true);
                ("ce-", "Content-Type")
            }
            Bus::Kafka(_) | Bus::Stdout => ("ce_", "content-type"),
        };
        if structured {
            add(content_type.into(), constant(structured::CONTENT_TYPE), true);
        } else {
            add(format!("{prefix}specversion"), constant(SPEC_VERSION), true);
            for attribute in Attribute::ALL {
                let (presence, _, mut schema) = schema::definition(attribute);
                let value = example.event.get(attribute).unwrap_or_default();
                let name = match (attribute, &self.bus.kind) {
                    (Attribute::DataContentType, Bus::Kafka(_)) => content_type.to_owned(),
                    _ => format!("{prefix}{}", attribute.name()),
                };
                let of_type = known
                    && matches!(attribute, Attribute::Type | Attribute::DataSchema)
                    && !value.is_empty();
                if of_type {
                    schema["const"] = json!(value);
                }
                // CloudEvents' NATS binding percent-encodes header values. Of these only the key may need it.
                if attribute == Attribute::CorrelationId && matches!(self.bus.kind, Bus::Nats(_)) {
                    schema["pattern"] = json!("^[!-~]{1,765}$");
                    schema["description"] = json!("The delivery: its Idempotency-Key, percent-encoded.");
                }
                if presence != Presence::Never {
                    add(name, schema, of_type || presence == Presence::Always);
                }
            }
        }
        json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": true })
    }
}

/// The host and port of a server's address: without scheme and login.
fn host(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn reference(path: &[&str]) -> Json {
    let steps: Vec<_> = path.iter().map(|step| step.replace('~', "~0").replace('/', "~1")).collect();
    json!({ "$ref": format!("#/{}", steps.join("/")) })
}
