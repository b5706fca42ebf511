//! `tail`: prints events from the bus as they arrive.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::arguments::{BusAddress, begin};
use super::bus_session::{self, Session};
use super::event_line::{DEFAULT_COLUMNS, heading, line};
use super::output::{columns, paint, write_line};
use super::{Exit, Failure, say};
use crate::bus::read::{Begin, Item, Plan};
use crate::bus::{self, ReadError};
use crate::catalog::{Category, EVENT_TYPES};
use crate::cloudevent::decode::DecodedEvent;
use crate::config::{Input, nearest};
use crate::consumer::EventFilter;
use crate::paint::DIM;
use crate::pipeline::publish::Destination;
use crate::pipeline::quarantine;
use crate::pipeline::route::Routes;
use crate::printable;

const AFTER_HELP: &str = "\
On a terminal an event is a line of text; elsewhere, and with --json, it is a CloudEvent in JSON.
It leaves nothing on the broker: no consumer group, no durable consumer. Ctrl-C stops it.

Example: events of one record, from 15 minutes ago
  attio-bridge tail --from 15m --record 891dcbfc-9141-415d-9b2a-2238a6cc012d
Example: what a running `attio-bridge dev` publishes; it prints the address
  attio-bridge tail --bus kafka://127.0.0.1:45123 --from beginning
Example: the next ten notes, for a program
  attio-bridge tail --category note --count 10 --json | jq .data";

/// The flags of `tail`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
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

/// Prints events until stopped.
pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Failure> {
    let of_bus = |bus: &BusAddress| {
        let mut environment = bus.environment(UNUSED_SECRET);
        let kept = |name: &str| Some((name.to_owned(), input.environment.get(name)?.clone()));
        environment.extend(["RUST_LOG", "NO_COLOR"].into_iter().filter_map(kept));
        Input::new(None, environment, Vec::new())
    };
    let of_bus = arguments.bus.as_ref().map(of_bus);
    bus_session::run(of_bus.as_ref().unwrap_or(input), async |session| tail(session, arguments).await)
}

async fn tail(Session { config, stop }: &Session, arguments: &Arguments) -> Result<Exit, Failure> {
    let destinations = destinations(&config.route, &arguments.category);
    let plan = Plan { destinations, begin: arguments.from, follow: true };
    let mut reader = tokio::select! {
        () = stop.cancelled() => return Ok(Exit::Done),
        started = bus::read(&config.bus.kind, plan) => started?,
    };
    if io::stderr().is_terminal() {
        say(format_args!("reading {}; Ctrl-C stops", config.bus.kind.name()));
    }
    let mut printer = Printer::new(arguments);
    if !printer.lines {
        write_line(&paint().with(DIM, &heading(columns(DEFAULT_COLUMNS))))?;
    }
    let exit = loop {
        let item = tokio::select! {
            biased;
            () = stop.cancelled() => break Ok(Exit::Done),
            item = reader.next() => item,
        };
        match item {
            Some(Ok(item)) => match printer.print(&item) {
                Ok(true) => {}
                Ok(false) => break Ok(Exit::Done),
                Err(error) => break Err(error.into()),
            },
            Some(Err(error)) => break Err(error.into()),
            None => {
                let reason = "the reader stopped unexpectedly".into();
                break Err(ReadError::Broker { bus: config.bus.kind.name(), reason }.into());
            }
        }
    };
    reader.end().await;
    exit
}

/// The destinations of these categories; all if there are none.
fn destinations(route: &crate::pipeline::route::Options, categories: &[String]) -> Vec<Arc<Destination>> {
    let routes = Routes::new(route);
    if categories.is_empty() {
        return routes.destinations();
    }
    categories.iter().flat_map(|name| routes.of_category(name)).collect()
}

/// Prints matching events, up to a number of them.
struct Printer {
    filter: EventFilter,
    left: Option<u64>,
    lines: bool,
}

impl Printer {
    fn new(arguments: &Arguments) -> Self {
        let filter = EventFilter {
            categories: arguments.category.clone(),
            types: arguments.types.clone(),
            record: arguments.record.clone(),
        };
        Self { filter, left: arguments.count, lines: arguments.json || !io::stdout().is_terminal() }
    }

    /// Prints a message if it matches; false once it was the last one.
    fn print(&mut self, item: &Item) -> io::Result<bool> {
        let event = match DecodedEvent::from_message(&item.headers, &item.payload) {
            Ok(event) => event,
            Err(error) => {
                let (address, error) = (printable::line(&item.address), printable::line(&error.to_string()));
                say(format_args!("skipped {address}, {}: {error}", item.position));
                return Ok(true);
            }
        };
        if !self.filter.matches(&event) {
            return Ok(true);
        }
        let text = if self.lines {
            printable::lines(&event.to_json())
        } else {
            let key = item.key.as_deref().map(String::from_utf8_lossy);
            let key = key.as_deref().or(event.get("partitionkey")).unwrap_or("-");
            line(&event, key, columns(DEFAULT_COLUMNS), paint())
        };
        let read = write_line(&text)?;
        self.left = self.left.map(|left| left - 1);
        Ok(read && self.left != Some(0))
    }
}
