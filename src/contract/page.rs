//! The contract as one HTML page, without anything from elsewhere.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;

use super::asyncapi::introduction;
use super::{Contract, Row, example, schema};
use crate::bus;
use crate::catalog::{Category, EVENT_TYPES, EventType, Part, schema_url};
use crate::cloudevent::decode::DecodedEvent;
use crate::cloudevent::{Attribute, Data, SPEC_VERSION};
use crate::pipeline::publish::Message;
use crate::version::VERSION;

const STYLE: &str = include_str!("page.css");

pub fn page(contract: &Contract, bus: &bus::Options) -> Result<String, String> {
    let rows = contract.events();
    let mut sections = envelope(contract, bus)?;
    for category in Category::ALL {
        for (entry, row) in EVENT_TYPES.iter().zip(&rows).filter(|(entry, _)| entry.category == category) {
            sections += &event(contract, bus, entry, row)?;
        }
    }
    sections += &quarantine(contract, bus)?;
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Attio events</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>Attio events</h1>\n{}</header>\n{}<main>\n\
         {sections}<footer>Made by attio-bridge {VERSION}, for {}.</footer>\n</main>\n</body>\n</html>\n",
        paragraph(&introduction(bus)),
        navigation(),
        escaped(bus.kind.name()),
    ))
}

fn navigation() -> String {
    let mut out = String::from(
        "<nav>\n<ul>\n<li><a href=\"#envelope\">Envelope</a></li>\n<li><a href=\"#quarantine\">Quarantine</a></li>\n</ul>\n",
    );
    for category in Category::ALL {
        let of_category = EVENT_TYPES.iter().filter(|entry| entry.category == category);
        let links: String = of_category
            .map(|EventType { name, .. }| format!("<li><a href=\"#{name}\">{name}</a></li>\n"))
            .collect();
        let _ = write!(out, "<strong>{category}</strong>\n<ul>\n{links}</ul>\n");
    }
    out + "</nav>\n"
}

fn envelope(contract: &Contract, bus: &bus::Options) -> Result<String, String> {
    let message =
        example::message(contract, EventType::find("record.updated")).ok_or("an example is no event")?;
    let about =
        "Every event is a CloudEvent with these attributes, and the event as Attio sent it as its data.";
    let mut out = section("envelope", "Envelope", about);
    out += &attributes(contract, &schema::envelope());
    out += &details("Example", &encoded(bus, &message)?);
    out += &schema_of(contract, schema::ENVELOPE);
    Ok(out + "</section>\n")
}

fn quarantine(contract: &Contract, bus: &bus::Options) -> Result<String, String> {
    let message = example::quarantined(contract);
    let about = "What was signed and cannot be published as an event, such as a body that is not JSON. Structured in \
                 every content mode, with the bytes in data_base64.";
    let mut out = section("quarantine", "Quarantine", about);
    out += &list(&[("Kafka topic and NATS subject", code(&message.destination.address))]);
    out += &attributes(contract, &schema::quarantined());
    out += &details("Example", &encoded(bus, &message)?);
    out += &schema_of(contract, schema::QUARANTINE);
    Ok(out + "</section>\n")
}

fn event(
    contract: &Contract,
    bus: &bus::Options,
    entry: &'static EventType,
    row: &Row,
) -> Result<String, String> {
    let mut out = section(entry.name, entry.name, entry.sent);
    let path = entry.subject.iter().map(|part| match part {
        Part::Text(text) => (*text).to_owned(),
        Part::Id(id) => format!("{{{}}}", id.name),
    });
    let mut facts = vec![
        ("Kafka topic", code(&row.topic)),
        ("NATS subject", code(&row.subject)),
        ("Key", code(row.key)),
        ("type", code(&format!("com.attio.{}", entry.name))),
        ("subject", code(&path.collect::<Vec<_>>().join("/"))),
    ];
    if let Some(base_url) = &contract.base_url {
        let url = escaped(&schema_url(base_url, entry.name).concat());
        facts.push(("dataschema", format!("<a href=\"{url}\"><code>{url}</code></a>")));
    }
    out += &list(&facts);
    out += &members(entry);
    let message = example::message(contract, Some(entry)).ok_or("an example is no event")?;
    out += &details("Example", &encoded(bus, &message)?);
    out += &schema_of(contract, entry.name);
    Ok(out + "</section>\n")
}

/// The members of the data, in Attio's form and in the single-event form.
fn members(entry: &EventType) -> String {
    let mut rows = vec![["event_type".to_owned(), entry.name.to_owned(), "always".to_owned()]];
    let id = |name: String, when: &str| [name, "UUID".to_owned(), when.to_owned()];
    rows.extend(schema::attio_ids(entry).map(|name| id(format!("id.{name}"), "always")));
    rows.extend(entry.members.iter().map(|member| {
        id(member.name.to_owned(), if member.nullable { "always, may be null" } else { "always" })
    }));
    for (name, kind) in
        [("actor.type", "workspace-member, api-token, system, app or another text"), ("actor.id", "text")]
    {
        rows.push([name.to_owned(), kind.to_owned(), "may be null or absent".to_owned()]);
    }
    let nested = schema::nested_ids(entry);
    let nested: Vec<_> = nested.iter().map(|(name, id)| code(&format!("{name}.id.{id}"))).collect();
    format!(
        "{}<p>In the single-event form, which comes with timestamped signatures, an event has <code>id.event_id</code> and \
         <code>created_at</code>, and its ids are nested: {}.</p>\n",
        table(["Member of data", "Value", "Present"], &rows),
        nested.join(", "),
    )
}

/// The attributes in a schema, as far as this configuration has them.
fn attributes(contract: &Contract, schema: &Json) -> String {
    let has_schemas = contract.base_url.is_some();
    let attributes = Attribute::ALL.into_iter().filter(|name| has_schemas || *name != Attribute::DataSchema);
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let row = |attribute: Attribute| {
        let definition = schema["properties"].get(attribute.name())?;
        let about = definition["description"].as_str().or(definition["const"].as_str()).unwrap_or_default();
        let present = if required.contains(&attribute.name().into()) { "always" } else { "if known" };
        Some([attribute.name().to_owned(), about.to_owned(), present.to_owned()])
    };
    let version = ["specversion", SPEC_VERSION, "always"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(version).chain(attributes.filter_map(row)).collect();
    table(["Attribute", "Value", "Present"], &rows)
}

/// A message as it is on the bus: its headers, its key, its payload.
fn encoded(bus: &bus::Options, message: &Message) -> Result<String, String> {
    let encoded = bus::encode(bus, message)?;
    let mut out = String::new();
    if let (bus::Kind::Kafka(_), Some(key)) = (&bus.kind, message.event.get(Attribute::PartitionKey)) {
        let _ = writeln!(out, "key: {key}");
    }
    for (name, value) in &encoded.headers {
        let _ = writeln!(out, "{name}: {value}");
    }
    if !out.is_empty() {
        out.push('\n');
    }
    Ok(out + &indented(&encoded.payload))
}

/// A payload with an attribute a line, in the order of the message.
fn indented(payload: &[u8]) -> String {
    match DecodedEvent::from_json(payload) {
        Ok(event) if event.get("specversion").is_some() => {
            let attribute = |(name, value): (&str, &str)| format!("  \"{name}\": {}", Json::from(value));
            let mut lines: Vec<_> = event.attributes().map(attribute).collect();
            lines.push(match event.data() {
                Data::Json(data) => {
                    format!("  \"data\": {}", String::from_utf8_lossy(data).replace('\n', "\n  "))
                }
                Data::Binary(data) => format!("  \"data_base64\": \"{}\"", STANDARD.encode(data)),
            });
            format!("{{\n{}\n}}", lines.join(",\n"))
        }
        _ => String::from_utf8_lossy(payload).into_owned(),
    }
}

fn schema_of(contract: &Contract, name: &str) -> String {
    let schemas = contract.schemas();
    let schema = schemas.iter().find(|(known, _)| *known == name).map(|(_, schema)| schema);
    details("JSON Schema", &schema.map(|schema| format!("{schema:#}")).unwrap_or_default())
}

fn section(id: &str, title: &str, about: &str) -> String {
    format!("<section id=\"{id}\">\n<h2>{}</h2>\n{}", escaped(title), paragraph(about))
}

fn paragraph(text: &str) -> String {
    let mut parts = text.split('`');
    let first = escaped(parts.next().unwrap_or_default());
    let (marked, _) = parts.fold((first, true), |(out, in_code), part| {
        (out + &if in_code { code(part) } else { escaped(part) }, !in_code)
    });
    format!("<p>{marked}</p>\n")
}

/// Names with values that are HTML already.
fn list(facts: &[(&str, String)]) -> String {
    let facts: String =
        facts.iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{value}</dd>\n")).collect();
    format!("<dl>\n{facts}</dl>\n")
}

/// A table whose first column is code.
fn table(heading: [&str; 3], rows: &[[String; 3]]) -> String {
    let heading: String = heading.iter().map(|name| format!("<th>{name}</th>")).collect();
    let row = |[name, value, present]: &[String; 3]| {
        format!("<tr><td>{}</td><td>{}</td><td>{}</td></tr>\n", code(name), escaped(value), escaped(present))
    };
    let rows: String = rows.iter().map(row).collect();
    format!("<table>\n<tr>{heading}</tr>\n{rows}</table>\n")
}

fn details(summary: &str, text: &str) -> String {
    format!("<details><summary>{summary}</summary><pre>{}</pre></details>\n", escaped(text))
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", escaped(text))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
