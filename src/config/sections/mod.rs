//! The keys by section: each file declares the keys of its tables, reads them and checks them together. Here:
//! the list of all tables, `[dedup]`, `[bus]`, `[log]`, and what the files share.

#![allow(
    rustdoc::invalid_html_tags,
    reason = "the documentation of a key is plain text in the example and the reference"
)]

pub mod attio;
pub mod contract;
pub mod dedup;
pub mod http;
mod kafka;
mod kafka_oauth;
mod nats;
pub mod route;
pub mod sources;
pub mod state;
pub mod traces;

use std::path::Path;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::diagnostics::Diagnostics;
use super::kinds::{Case, Choice, Describe, words};
use super::section::{Key, Section, keys};
use super::tree::Origin;
use crate::bus::{self, Kind as Bus, nats as nats_bus};
use crate::cloudevent::ContentMode;
use crate::files;

const INSTANT: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub struct Declaration {
    /// Its path: `*` is a name of the operator's, `[]` a list of tables.
    pub path: &'static str,
    pub doc: &'static str,
    pub keys: &'static [Key],
    /// What else may be in it.
    pub entries: Option<Entries>,
    /// How the example shows it.
    pub example: Example,
}

/// Names of a table that are no keys.
pub struct Entries {
    /// The names; none if any name is valid.
    pub names: fn() -> Vec<&'static str>,
    pub kind: &'static dyn Describe,
    pub example: &'static str,
}

/// How the example shows a table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Example {
    Table,
    /// Likewise, without repeating what its keys do.
    Brief,
    /// Commented out: it must not exist without keys.
    Comment,
    Inline(&'static str),
}

pub static TABLES: [Declaration; 27] = [
    table("http", "The public listener and its limits.", http::Http::KEYS),
    table(
        "admin",
        "The listener of /livez, /readyz, /metrics and a page. Keep it off the public network.",
        http::Admin::KEYS,
    ),
    table("sources.*", sources::DOC, sources::Source::KEYS),
    Declaration {
        example: Example::Inline(
            r#"[{ label = "default", file = "/run/secrets/attio" }, { label = "old", file = "/run/secrets/attio-old" }]"#,
        ),
        ..table("sources.*.secrets[]", sources::SECRETS_DOC, sources::SecretKeys::KEYS)
    },
    table(
        "sources.*.filter.include",
        "An event passes only if it is in every list here that is not empty.",
        sources::Rules::KEYS,
    ),
    Declaration {
        example: Example::Brief,
        ..table(
            "sources.*.filter.exclude",
            "An event that is in any of these lists is dropped and counted as `filtered`. The same lists.",
            sources::Rules::KEYS,
        )
    },
    table("route", "Where events go.", route::RouteKeys::KEYS),
    Declaration { entries: Some(route::CATEGORIES), ..table("route.categories", route::CATEGORIES_DOC, &[]) },
    table("contract", "What consumers can rely on: see `attio-bridge contract`.", contract::Contract::KEYS),
    table(
        "dedup",
        "Which events are remembered, so that a repeat is not published again.",
        dedup::Dedup::KEYS,
    ),
    table(
        "dedup.redis",
        "The Redis or Valkey that replicas share, for dedup.store \"redis\".",
        dedup::Redis::KEYS,
    ),
    table(
        "dedup.nats",
        "The KV bucket that replicas share, for dedup.store \"nats-kv\": on the servers of [nats].",
        dedup::Nats::KEYS,
    ),
    table("bus", "Where events are published.", BusKeys::KEYS),
    table("kafka", "The Kafka cluster, for bus.type \"kafka\".", kafka::Kafka::KEYS),
    table(
        "kafka.oauth",
        "Where OAUTHBEARER gets its tokens: from a token server, or by AWS IAM.",
        kafka_oauth::Oauth::KEYS,
    ),
    table("kafka.topics", "The topics, one for each category.", kafka::TopicKeys::KEYS),
    Declaration {
        entries: Some(kafka::PROPERTIES),
        ..table(
            "kafka.properties",
            "Any other property of librdkafka, by its own name. Those that the bridge sets itself are refused.",
            &[],
        )
    },
    table("nats", "The NATS servers, for bus.type \"nats\" or dedup.store \"nats-kv\".", nats::Nats::KEYS),
    table("nats.stream", "The JetStream stream that takes the events.", nats::StreamKeys::KEYS),
    table("attio", "Attio's API, for the verbs that call it; `serve` never does.", attio::Attio::KEYS),
    table(
        "state",
        "Topics with the newest state of each entity, for `attio-bridge state`.",
        state::State::KEYS,
    ),
    table("shutdown", "How the bridge stops after SIGTERM or SIGINT.", http::Shutdown::KEYS),
    table("runtime", "The process.", http::Runtime::KEYS),
    table("log", "The log, on stderr.", Log::KEYS),
    table("traces", "Spans of deliveries and publishes, for OpenTelemetry.", traces::Traces::KEYS),
    Declaration { example: Example::Comment, ..table("webhooks[]", attio::DOC, attio::Webhook::KEYS) },
    Declaration {
        example: Example::Inline(
            r#"[{ event_type = "record.created" }, { event_type = "list-entry.updated", filter = { "$and" = [] } }]"#,
        ),
        ..table("webhooks[].subscriptions[]", attio::SUBSCRIPTIONS_DOC, attio::SubscriptionKeys::KEYS)
    },
];

const fn table(path: &'static str, doc: &'static str, keys: &'static [Key]) -> Declaration {
    Declaration { path, doc, keys, entries: None, example: Example::Table }
}

/// The table of a path, whose lists of tables end in `[]`.
pub fn declaration(path: &[&str]) -> Option<&'static Declaration> {
    let fits = |(declared, name): (&str, &&str)| declared == "*" || declared == *name;
    TABLES.iter().find(|table| {
        table.path.split('.').count() == path.len() && table.path.split('.').zip(path).all(fits)
    })
}

/// Whether a key is a secret: its value is never shown, and it may be given as `…_FILE`.
pub fn is_secret(path: &[&str]) -> bool {
    if let ["kafka", "properties", name] = path {
        return kafka::is_secret_property(name);
    }
    key(path).is_some_and(|key| key.description().secret)
}

/// Whether the value of a key may be shown: the key is declared, and no secret.
pub fn is_open(path: &[&str]) -> bool {
    let Some((name, table)) = path.split_last() else { return false };
    let entry =
        |table: &Declaration| table.entries.as_ref().is_some_and(|entries| (entries.names)().contains(name));
    key(path).map_or_else(|| declaration(table).is_some_and(entry), |key| !key.description().secret)
}

/// Whether a table or a key of that name is declared anywhere.
pub fn is_name(name: &str) -> bool {
    TABLES.iter().any(|table| table.path.split('.').any(|part| part.trim_end_matches("[]") == name))
        || TABLES.iter().flat_map(|table| table.keys).any(|key| key.name() == name)
}

fn key(path: &[&str]) -> Option<&'static Key> {
    let (name, table) = path.split_last()?;
    declaration(table)?.keys.iter().find(|key| key.name() == *name)
}

/// The JSON Schema of the file, draft 2020-12.
pub fn schema() -> Json {
    let mut root = object("The configuration of attio-bridge.");
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("attio-bridge");
    for table in &TABLES {
        let at = table.path.split('.').fold(&mut root, child);
        at["description"] = json!(table.doc);
        for key in table.keys {
            at["properties"][key.name()] = key_schema(key);
        }
        let required: Vec<_> = table.keys.iter().filter(|key| key.required).map(Key::name).collect();
        if !required.is_empty() {
            at["required"] = json!(required);
        }
        let Some(entries) = &table.entries else { continue };
        let (names, schema) = ((entries.names)(), entries.kind.description().schema);
        if names.is_empty() {
            // TOML nests `socket.keepalive.enable`.
            at["additionalProperties"] = json!({ "anyOf": [schema, { "type": "object" }] });
        }
        for name in names {
            at["properties"][name] = schema.clone();
        }
    }
    root
}

fn object(description: &str) -> Json {
    json!({ "description": description, "type": "object", "additionalProperties": false, "properties": {} })
}

/// The schema of a table in its parent: a name, `*` for any, `name[]` for the items of a list.
fn child<'s>(parent: &'s mut Json, name: &str) -> &'s mut Json {
    let schema = match name.strip_suffix("[]") {
        _ if name == "*" => &mut parent["additionalProperties"],
        Some(name) => {
            let list = &mut parent["properties"][name];
            list["type"] = json!("array");
            &mut list["items"]
        }
        None => &mut parent["properties"][name],
    };
    if !schema.is_object() {
        *schema = object("");
    }
    schema
}

fn key_schema(key: &Key) -> Json {
    let mut schema = key.description().schema;
    schema["description"] = json!(key.doc().collect::<Vec<_>>().join(" "));
    if let Some(default) = key.default {
        schema["default"] = key.kind.json(default);
    }
    if let Some(example) = key.example {
        schema["examples"] = json!([key.kind.json(example)]);
    }
    schema
}

keys! {
    BusKeys {
        /// The broker; "stdout" prints one event a line, for pipes. Required.
        r#type: Choice<Type>(&TYPES, Case::Exact) like "kafka";
        /// "structured": one JSON envelope. "binary": attributes in headers, data as the payload.
        content_mode: Choice<ContentMode>(&MODES, Case::Exact) = "structured";
    }
}

keys! {
    Log => LogOptions {
        /// Lowest level that is logged. RUST_LOG wins, and can set levels by target.
        level: Choice<&'static str>(&LEVELS, Case::Exact) = "info";
        /// "auto" is text on a terminal, else JSON.
        format: Choice<LogFormat>(&FORMATS, Case::Exact) = "auto";
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Kafka,
    Nats,
    Stdout,
}

const TYPES: [(&str, Type); 3] = [("kafka", Type::Kafka), ("nats", Type::Nats), ("stdout", Type::Stdout)];
const MODES: [(&str, ContentMode); 2] =
    [("structured", ContentMode::Structured), ("binary", ContentMode::Binary)];
const LEVELS: [(&str, &str); 5] = words(["error", "warn", "info", "debug", "trace"]);
const FORMATS: [(&str, LogFormat); 3] =
    [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Lowest level that is logged, unless `RUST_LOG` is set.
    pub level: &'static str,
    pub format: LogFormat,
}

/// The form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    Text,
    Json,
}

/// Reads `[bus]` and the sections of the buses. Every section's types are checked; what a bus requires, and
/// whether its files are readable, is checked for the one in use.
///
/// `nats_is_store` says whether the dedup store uses `[nats]`, which is returned too; none if that is not known.
pub fn bus(root: &mut Section<'_>, nats_is_store: Option<bool>) -> (bus::Options, nats_bus::Options) {
    let keys = BusKeys::read(&mut root.section("bus"));
    let used = keys.r#type;
    if used.is_none() {
        let message = "required: \"kafka\", \"nats\" or \"stdout\"; set bus.type, ATTIO_BRIDGE__BUS__TYPE, or \
                       `serve --bus`";
        root.diagnostics().required("bus.type", None, message);
    }
    let kafka = kafka::read(&mut root.section("kafka"), used == Some(Type::Kafka));
    let nats = nats::read(&mut root.section("nats"), used == Some(Type::Nats) || nats_is_store == Some(true));
    if let Some(used) = used {
        refuse_unused(root.diagnostics(), used, nats_is_store != Some(false));
    }
    let kind = match used {
        Some(Type::Kafka) => Bus::Kafka(Box::new(kafka)),
        Some(Type::Nats) => Bus::Nats(Box::new(nats.clone())),
        // Without a type there is a problem, and this is never used.
        Some(Type::Stdout) | None => Bus::Stdout,
    };
    (bus::Options { kind, content_mode: keys.content_mode }, nats)
}

/// Refuses the sections of buses that are not in use. Where a flag or a variable chose the bus it only warns: the
/// file may serve several environments.
fn refuse_unused(diagnostics: &Diagnostics, chosen: Type, nats_may_be_store: bool) {
    let of_file = matches!(diagnostics.origin_of("bus.type"), Some(Origin::File { .. }));
    let used = TYPES.into_iter().find(|(_, kind)| *kind == chosen).map_or("", |(name, _)| name);
    let is_unused = |kind| kind != chosen && !(kind == Type::Nats && nats_may_be_store);
    for (name, _) in TYPES.into_iter().filter(|(_, kind)| is_unused(*kind)) {
        let Some((key, origin)) = diagnostics.set_below(name).into_iter().next() else { continue };
        let message = format!(
            "has no effect with bus.type \"{used}\", like all of [{name}]; set bus.type to \"{name}\", or remove [{name}]"
        );
        match of_file {
            true => diagnostics.problem(&key, Some(&origin), message),
            false => diagnostics.warning(&key, Some(&origin), message),
        }
    }
}

/// Checks that a file can be read, and watches it.
fn readable(section: &Section<'_>, name: &str, file: Option<&Path>) {
    let Some(file) = file else { return };
    section.diagnostics().file(file);
    if let Err(error) = files::check(file, files::MAX_BYTES) {
        section.refuse(name, files::unreadable(file, &error));
    }
}

const TLS_FILES: [&str; 3] = ["ca_file", "cert_file", "key_file"];

/// Checks [`TLS_FILES`]: they can be read, and a certificate has its key and a key its certificate.
fn tls_files(section: &Section<'_>, files: [Option<&Path>; 3]) {
    TLS_FILES.into_iter().zip(files).for_each(|(name, file)| readable(section, name, file));
    let [_, cert, key] = files;
    match (cert, key) {
        (Some(_), None) => {
            let message = format!("needs {}, the key of the certificate", section.key("key_file"));
            section.refuse("cert_file", message);
        }
        (None, Some(_)) => {
            let message = format!("needs {}, the certificate of the key", section.key("cert_file"));
            section.refuse("key_file", message);
        }
        _ => {}
    }
}
