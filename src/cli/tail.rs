//! `tail`: prints events from the bus as they arrive, each as a line of text (time, type, key, id, and a summary of
//! its data) or as JSON.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use console::{Alignment, pad_str};
use serde_json::Value;

use super::arguments::{BusAddress, begin};
use super::output::{paint, short, terminal_columns, write_line};
use super::{BusSession, Exit, Failure, say, with_bus};
use crate::attio::entities::Kind;
use crate::bus::read::{Begin, Item, Plan};
use crate::bus::{self, ReadError};
use crate::catalog::{Category, EVENT_TYPES};
use crate::cloudevent::Data;
use crate::cloudevent::decode::DecodedEvent;
use crate::config::{Input, nearest};
use crate::consumer::EventFilter;
use crate::pipeline::publish::Destination;
use crate::pipeline::quarantine;
use crate::pipeline::route::Routes;
use crate::printable::{self, DIM, KNOWN, Paint, REFUSED, STRONG, line as escaped};
use crate::state;
use crate::state::stored::{self, Stored};

const AFTER_HELP: &str = "\
On a terminal an event is a line of text; elsewhere, and with --json, it is a CloudEvent in JSON. \
It leaves nothing on the broker: no consumer group, no durable consumer. Ctrl-C stops it.

Example: events of one record, from 15 minutes ago
  attio-bridge tail --from 15m --record 891dcbfc-9141-415d-9b2a-2238a6cc012d
Example: what a running `attio-bridge dev` publishes; it prints the address
  attio-bridge tail --bus kafka://127.0.0.1:45123 --from beginning
Example: states, as `attio-bridge state run` publishes them
  attio-bridge tail --state --from beginning
Example: the next ten notes, for a program
  attio-bridge tail --category note --count 10 --json | jq .data";

/// The flags of `tail`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// The states that `state run` keeps, instead of events
    #[arg(long, conflicts_with = "types")]
    state: bool,
    /// Only these categories, such as record, quarantine or unknown
    #[arg(long, value_name = "CATEGORY", value_delimiter = ',', value_parser = category(), hide_possible_values = true)]
    category: Vec<String>,
    /// Only events of these types, such as record.updated or record.*
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',', value_parser = event_type)]
    types: Vec<String>,
    /// Only events about this record
    #[arg(long, value_name = "ID")]
    record: Option<String>,
    /// Where to start: beginning, now, a time such as 2026-11-24T10:00:00Z, or an age such as 15m
    #[arg(long, value_name = "WHERE", default_value = "now", value_parser = begin)]
    from: Begin,
    /// Stop after this many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print CloudEvents as JSON Lines, on a terminal too
    #[arg(long)]
    json: bool,
    /// Read this bus, kafka://HOST:PORT or nats://HOST:PORT; no configuration is read
    #[arg(long, value_name = "BUS", value_parser = BusAddress::parse, conflicts_with = "config")]
    bus: Option<BusAddress>,
}

/// A configuration needs a secret, and reading needs none.
const UNUSED_SECRET: &str = "reading verifies no signature";

/// In addition to the categories of the catalog.
const MORE: [&str; 2] = ["unknown", "quarantine"];

fn category() -> impl TypedValueParser<Value = String> {
    let names = Category::ALL.into_iter().map(Category::as_str).chain(MORE);
    PossibleValuesParser::new(names.collect::<Vec<_>>())
}

/// A type of the catalog, `record.*` for several, or that of quarantined events.
fn event_type(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("com.attio.").unwrap_or(text);
    let mut names = EVENT_TYPES.iter().map(|entry| entry.name);
    let known = match name.strip_suffix('*') {
        Some(start) if start.ends_with('.') => names.any(|known| known.starts_with(start)),
        _ => name == quarantine::TYPE || names.any(|known| known == name),
    };
    if known {
        return Ok(text.to_owned());
    }
    let meant = nearest(name, EVENT_TYPES.iter().map(|entry| entry.name));
    Err(format!(
        "no such event type{meant}; events of other types are in the category before the dot, or --category unknown"
    ))
}

pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Failure> {
    let of_bus = |bus: &BusAddress| {
        let mut environment = bus.environment(UNUSED_SECRET);
        let kept = |name: &str| Some((name.to_owned(), input.environment.get(name)?.clone()));
        environment.extend(["RUST_LOG", "NO_COLOR"].into_iter().filter_map(kept));
        Input::new(None, environment, Vec::new())
    };
    let of_bus = arguments.bus.as_ref().map(of_bus);
    with_bus(of_bus.as_ref().unwrap_or(input), async |session| tail(session, arguments).await)
}

async fn tail(BusSession { config, stop }: &BusSession, arguments: &Arguments) -> Result<Exit, Failure> {
    let routes = Routes::new(&config.route);
    let destinations = match &arguments.category[..] {
        _ if arguments.state => states(&config.state, &arguments.category),
        [] => routes.destinations(),
        names => names.iter().flat_map(|name| routes.of_category(name)).collect(),
    };
    let plan = Plan { destinations, begin: arguments.from, follow: true };
    let of_states = arguments.state.then(|| stored::bus_of(&config.state, &config.bus.kind));
    let mut reader = tokio::select! {
        () = stop.cancelled() => return Ok(Exit::Done),
        started = bus::read(of_states.as_ref().unwrap_or(&config.bus.kind), plan) => started?,
    };
    if io::stderr().is_terminal() {
        say(format_args!("reading {}; Ctrl-C stops", config.bus.kind.name()));
    }
    let as_json = arguments.json || !io::stdout().is_terminal();
    if !as_json {
        write_line(&paint().with(DIM, &heading(columns())))?;
    }
    let filter = EventFilter {
        categories: arguments.category.clone(),
        types: arguments.types.clone(),
        record: arguments.record.clone(),
    };
    let mut left = arguments.count;
    let ended = loop {
        let item = tokio::select! {
            biased;
            () = stop.cancelled() => break Ok(Exit::Done),
            item = reader.next() => item,
        };
        let text = match item {
            Some(Ok(item)) => text(&item, &config.state.prefix, &filter, as_json),
            Some(Err(error)) => break Err(error.into()),
            None => {
                let reason = "the reader stopped unexpectedly".into();
                break Err(ReadError::Broker { bus: config.bus.kind.name(), reason }.into());
            }
        };
        let Some(text) = text else { continue };
        left = left.map(|left| left - 1);
        match write_line(&text) {
            Ok(true) if left != Some(0) => {}
            Ok(_) => break Ok(Exit::Done),
            Err(error) => break Err(error.into()),
        }
    };
    reader.end().await;
    ended
}

/// The states of these categories, or all that are kept.
fn states(options: &state::Options, categories: &[String]) -> Vec<Arc<Destination>> {
    let is_wanted =
        |kind: &Kind| categories.is_empty() || categories.iter().any(|name| name == kind.as_str());
    let wanted = options.kinds().filter(is_wanted);
    wanted.map(|kind| stored::destinations(options, kind, None).into()).collect()
}

/// A message that matches, as a line or as JSON. `prefix` is that of the states.
fn text(item: &Item, prefix: &str, filter: &EventFilter, as_json: bool) -> Option<String> {
    let stored = item.payload.is_empty().then(|| Stored::new(item, prefix)?.to_event(item)).flatten();
    let event = match stored.map_or_else(|| DecodedEvent::from_message(&item.headers, &item.payload), Ok) {
        Ok(event) => event,
        Err(error) => {
            let (address, error) = (escaped(&item.address), escaped(&error.to_string()));
            say(format_args!("skipped {address}, {}: {error}", item.position));
            return None;
        }
    };
    filter.matches(&event).then(|| match as_json {
        true => printable::lines(&event.to_json()),
        false => {
            let key = item.key.as_deref().map(String::from_utf8_lossy);
            let key = key.as_deref().or(event.get("partitionkey")).unwrap_or("-");
            line(&event, key, columns(), paint())
        }
    })
}

fn columns() -> usize {
    terminal_columns().unwrap_or(DEFAULT_COLUMNS)
}

const DEFAULT_COLUMNS: usize = 120;

/// The time of day in a timestamp: `12:34:56.789`.
const CLOCK: std::ops::Range<usize> = 11..23;

/// Longer parts of a subject, its ids, are shortened.
const MAX_PART: usize = 18;

/// The widths of type, key and id on a terminal of so many columns.
const fn widths(columns: usize) -> [usize; 3] {
    match columns {
        180.. => [29, 36, 36],
        110.. => [29, 13, 9],
        _ => [21, 9, 9],
    }
}

fn heading(columns: usize) -> String {
    let [kind, key, id] = widths(columns);
    short(&format!("{:<12} {:<kind$} {:<key$} {:<id$} data", "time (UTC)", "type", "key", "id"), columns)
}

/// The line, at most `columns` wide.
fn line(event: &DecodedEvent, key: &str, columns: usize, paint: Paint) -> String {
    let get = |name| event.get(name).unwrap_or("-");
    let time = event.get("recordedtime").or(event.get("time")).unwrap_or("-");
    let clock = escaped(time.get(CLOCK).unwrap_or(time));
    let kind = escaped(get("type"));
    let kind = kind.strip_prefix("com.attio.").unwrap_or(&kind);
    let in_quarantine = kind == quarantine::TYPE;
    let kind = if in_quarantine { format!("quarantine {}", escaped(get("reason"))) } else { kind.to_owned() };
    let cell = |text: &str, width| pad_str(text, width, Alignment::Left, Some("…")).into_owned();
    let [kind_width, key_width, id_width] = widths(columns);
    let kind = cell(&kind, kind_width);
    let kind = if in_quarantine { paint.with(REFUSED, &kind) } else { paint.with(STRONG, &kind) };
    let line = format!(
        "{} {kind} {} {} {}",
        paint.with(DIM, &cell(&clock, 12)),
        paint.with(KNOWN, &cell(&escaped(key), key_width)),
        paint.with(DIM, &cell(&escaped(get("id")), id_width)),
        summary(event)
    );
    short(line.trim_end(), columns)
}

/// The data without the ids that are already in the line.
fn summary(event: &DecodedEvent) -> String {
    let data = match event.data() {
        Data::Binary(bytes) => return format!("{} bytes", bytes.len()),
        Data::Json(bytes) => bytes,
    };
    let Ok(Value::Object(members)) = serde_json::from_slice::<Value>(data) else { return String::new() };
    let subject =
        event.get("subject").unwrap_or_default().split('/').map(|part| short(&escaped(part), MAX_PART));
    let mut parts = vec![subject.collect::<Vec<_>>().join("/")];
    for (name, value) in &members {
        match (name.as_str(), value) {
            ("event_type", _) | (_, Value::Null) => {}
            ("id", Value::Object(ids)) => {
                parts.extend(ids.get("attribute_id").map(|id| pair("attribute", id)))
            }
            ("actor", actor) => parts.extend(actor.get("type").map(|kind| pair("by", kind))),
            (name, value) => parts.push(pair(&escaped(name), value)),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

fn pair(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => format!("{name}={}", escaped(text)),
        value => format!("{name}={}", escaped(&value.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> DecodedEvent {
        let json = r#"{"id":"9d5ee6c0-aaaa","type":"com.attio.record.updated","subject":"objects/o/records/r",
            "recordedtime":"2026-11-24T12:34:56.789Z","data":{"event_type":"record.updated",
            "id":{"record_id":"r","attribute_id":"a"},"actor":{"type":"system","id":null},"x":"\u001b[2J"}}"#;
        DecodedEvent::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn line_has_its_columns_and_fits() {
        let plain = line(&event(), "a-very-long-record-id", 200, Paint(false));
        assert_eq!(
            plain,
            "12:34:56.789 record.updated                a-very-long-record-id                9d5ee6c0-aaaa                        \
             objects/o/records/r by=system attribute=a x=\\u001b[2J"
        );
        for columns in [40, 80, 110, 179] {
            let line = line(&event(), &"k".repeat(50), columns, Paint(false));
            assert_eq!(
                (line.chars().count() <= columns, line.ends_with('…')),
                (true, columns < 179),
                "{line}"
            );
            assert!(heading(columns).chars().count() <= columns);
        }
        assert!(line(&event(), "k", 80, Paint(true)).contains("\x1b[1mrecord.updated"));
    }

    #[test]
    fn ids_of_a_subject_are_shortened() {
        let json = r#"{"id":"i","type":"com.attio.x.y","subject":"records/891dcbfc-9141-415d-9b2a-2238a6cc012d","data":{}}"#;
        let line = line(&DecodedEvent::from_json(json.as_bytes()).unwrap(), "k", 120, Paint(false));
        assert!(line.ends_with(" records/891dcbfc-9141-415…"), "{line}");
    }

    #[test]
    fn quarantined_event_shows_its_reason() {
        let json = r#"{"id":"i","type":"dev.attio-bridge.delivery.quarantined","reason":"not_json","data_base64":"e30="}"#;
        let line = line(&DecodedEvent::from_json(json.as_bytes()).unwrap(), "i", 120, Paint(false));
        assert!(line.contains("quarantine not_json") && line.ends_with("2 bytes"), "{line}");
    }
}
