//! `tail`: prints the events of the bus as they come.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::reading::{self, Session, begin, columns, paint, refuse, write};
use super::{Exit, fail, say};
use crate::bus::read::{Begin, Item, Plan};
use crate::bus::{self, Kind, ReadError};
use crate::catalog::Category;
use crate::cloudevent::decode::DecodedEvent;
use crate::config::Input;
use crate::consumer::line::{USUAL_COLUMNS, line};
use crate::consumer::wanted::Wanted;
use crate::pipeline::publish::Destination;
use crate::pipeline::route::Routes;

const AFTER_HELP: &str = "\
On a terminal an event is a line; elsewhere, and with --json, it is a CloudEvent in structured JSON.
Nothing is left on the broker: no consumer group, no durable consumer. Ctrl-C ends it.

Example: what happens to one record, from a quarter of an hour ago on
  attio-bridge tail --from 15m --record 891dcbfc-9141-415d-9b2a-2238a6cc012d
Example: the next ten notes, for a program
  attio-bridge tail --category note --count 10 --json | jq .data";

/// The flags of `tail`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Only these categories, such as record; quarantine and unknown are categories too
    #[arg(long, value_name = "CATEGORY", value_delimiter = ',', value_parser = category(), hide_possible_values = true)]
    category: Vec<String>,
    /// Only events of these types, such as record.updated or record.*
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    types: Vec<String>,
    /// Only events about this record
    #[arg(long, value_name = "ID")]
    record: Option<String>,
    /// Where to begin: beginning, now, a time such as 2026-11-24T10:00:00Z, or how long ago, such as 15m
    #[arg(long, value_name = "WHERE", default_value = "now", value_parser = begin)]
    from: Begin,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print CloudEvents as JSON Lines on a terminal too
    #[arg(long)]
    json: bool,
}

/// Beside the catalog's.
const MORE: [&str; 2] = ["unknown", "quarantine"];

fn category() -> impl TypedValueParser<Value = String> {
    let names = Category::ALL.into_iter().map(Category::as_str).chain(MORE);
    PossibleValuesParser::new(names.collect::<Vec<_>>())
}

/// Prints events until told to stop.
pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Exit> {
    reading::run(input, async |session| tail(session, arguments).await)
}

async fn tail(Session { config, stop }: &Session, arguments: &Arguments) -> Result<Exit, Exit> {
    let destinations = destinations(&config.route, &arguments.category);
    let plan = Plan { destinations, begin: arguments.from, follow: true };
    let mut reader = tokio::select! {
        () = stop.cancelled() => return Ok(Exit::Done),
        started = bus::read(&config.bus.kind, plan) => started.map_err(refuse)?,
    };
    greet(&config.bus.kind);
    let mut screen = Screen::new(arguments);
    let exit = loop {
        let item = tokio::select! {
            biased;
            () = stop.cancelled() => break Exit::Done,
            item = reader.next() => item,
        };
        match item {
            Some(Ok(item)) => match screen.show(&item) {
                Ok(true) => {}
                Ok(false) => break Exit::Done,
                Err(error) => break fail(error),
            },
            Some(Err(error)) => break refuse(error),
            None => {
                let reason = "the reader ended by itself".into();
                break refuse(ReadError::Broker { bus: config.bus.kind.name(), reason });
            }
        }
    };
    reader.end().await;
    Ok(exit)
}

/// So that an empty screen is no riddle.
fn greet(kind: &Kind) {
    if io::stderr().is_terminal() {
        say(format_args!("reading {}; Ctrl-C ends it", kind.name()));
    }
}

/// Where the wanted categories go; everywhere where none is named.
fn destinations(route: &crate::pipeline::route::Options, wanted: &[String]) -> Vec<Arc<Destination>> {
    let routes = Routes::new(route);
    if wanted.is_empty() {
        return routes.destinations();
    }
    wanted.iter().flat_map(|name| routes.of_category(name)).collect()
}

/// What is printed, and when it is enough.
struct Screen {
    wanted: Wanted,
    left: Option<u64>,
    lines: bool,
}

impl Screen {
    fn new(arguments: &Arguments) -> Self {
        let wanted = Wanted {
            categories: arguments.category.clone(),
            types: arguments.types.clone(),
            record: arguments.record.clone(),
        };
        Self { wanted, left: arguments.count, lines: arguments.json || !io::stdout().is_terminal() }
    }

    /// Prints a message if it is wanted; false once nothing more is.
    fn show(&mut self, item: &Item) -> io::Result<bool> {
        let event = match DecodedEvent::from_message(&item.headers, &item.payload) {
            Ok(event) => event,
            Err(error) => {
                say(format_args!("left out: {}, {}: {error}", item.address, item.position));
                return Ok(true);
            }
        };
        if !self.wanted.has(&event) {
            return Ok(true);
        }
        let text = if self.lines {
            event.to_json()
        } else {
            let key = item.key.as_deref().map(String::from_utf8_lossy);
            let key = key.as_deref().or(event.get("partitionkey")).unwrap_or("-");
            line(&event, key, columns(USUAL_COLUMNS), paint())
        };
        let read = write(&text)?;
        self.left = self.left.map(|left| left - 1);
        Ok(read && self.left != Some(0))
    }
}
