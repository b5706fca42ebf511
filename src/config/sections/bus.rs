//! `[bus]`, and the sections of the buses. Every section is read and its types are checked; what a
//! bus needs, and whether its files are there, matters only for the one in use.

use super::{kafka, nats};
use crate::bus::{self, Kind};
use crate::cloudevent::ContentMode;
use crate::config::section::Section;
use crate::config::types;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Kafka,
    Nats,
    Stdout,
}

const TYPES: [(&str, Type); 3] = [("kafka", Type::Kafka), ("nats", Type::Nats), ("stdout", Type::Stdout)];
const MODES: [(&str, ContentMode); 2] =
    [("structured", ContentMode::Structured), ("binary", ContentMode::Binary)];

/// Reads the bus in use.
pub fn read(root: &mut Section<'_>) -> bus::Options {
    let mut section = root.section("bus");
    let given = section.key("type");
    let set = section.take("type").map(|node| (types::choice(&node, &TYPES), node.origin));
    let report = section.report();
    let used = match &set {
        Some((Ok((used, json)), origin)) => {
            report.setting(&given, json.clone(), Some(origin));
            Some(*used)
        }
        Some((Err(message), origin)) => {
            report.problem(&given, Some(origin), message.as_str());
            None
        }
        None => {
            let message = "required: set bus.type (or ATTIO_BRIDGE__BUS__TYPE, or serve's --bus) to \
                           \"kafka\", \"nats\" or \"stdout\"";
            report.problem(&given, None, message);
            None
        }
    };
    let content_mode = section.or("content_mode", "structured", |node| types::choice(node, &MODES)).value;
    let kafka = kafka::read(&mut root.section("kafka"), used == Some(Type::Kafka));
    let nats = nats::read(&mut root.section("nats"), used == Some(Type::Nats));
    let kind = match used {
        Some(Type::Kafka) => Kind::Kafka(Box::new(kafka)),
        Some(Type::Nats) => Kind::Nats(Box::new(nats)),
        // Without a type there is a problem, and this is never used.
        Some(Type::Stdout) | None => Kind::Stdout,
    };
    bus::Options { kind, content_mode }
}
