//! `contract`: prints what consumers can rely on.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::output::table;
use super::{Exit, Failure, invalid_configuration, print, warn};
use crate::bus;
use crate::config::{self, Input, nearest};
use crate::contract::schema::ENVELOPE;
use crate::contract::{Contract, yaml};

const AFTER_HELP: &str = "\
It reads the sections contract, route and of the bus of the configuration, and connects to nothing.

Example: the topic and the key of each event type
  attio-bridge contract events
Example: publish the schemas that `dataschema` names
  attio-bridge contract schema --to schemas
Example: a document for AsyncAPI's tools, and a page to read
  attio-bridge contract asyncapi --config config.toml > asyncapi.yaml
  attio-bridge contract html --config config.toml > contract.html";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List the event types: category, action, Kafka topic, NATS subject, key, ids
    Events(Events),
    /// Print a JSON Schema (draft 2020-12), of the envelope or of the data of an event type
    Schema(Schema),
    /// Print an AsyncAPI 3 document of the configured bus
    Asyncapi(Asyncapi),
    /// Print the contract as one HTML page
    Html(Html),
}

const EVENTS_HELP: &str = "\
Example: the subjects of all events about records
  attio-bridge contract events --json \\
    | jq -r '.[] | select(.category == \"record\") | .subject'";

#[derive(Args)]
#[command(after_help = EVENTS_HELP)]
struct Events {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

const SCHEMA_HELP: &str = "\
With contract.base_url, a schema's $id is <base_url>/<name>.json; without it, it has none. Schemas are open: \
unknown members are valid. Events are published even if they do not meet their schema.

Example: the data of one event type
  attio-bridge contract schema record.updated
Example: one file for each type, envelope.json and quarantine.json
  attio-bridge contract schema --to schemas";

#[derive(Args)]
#[command(after_help = SCHEMA_HELP)]
struct Schema {
    /// An event type, envelope or quarantine [default: envelope, with --to all]
    #[arg(value_name = "TYPE")]
    name: Option<String>,
    /// Write a file for each type, TYPE.json, to this directory
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

const ASYNCAPI_HELP: &str = "\
Example: the document of a NATS bus, as JSON
  attio-bridge contract asyncapi --json --config nats.toml";

#[derive(Args)]
#[command(after_help = ASYNCAPI_HELP)]
struct Asyncapi {
    /// Print JSON instead of YAML
    #[arg(long)]
    json: bool,
}

const HTML_HELP: &str = "\
Example: a page to read
  attio-bridge contract html --config config.toml > contract.html";

#[derive(Args)]
#[command(after_help = HTML_HELP)]
struct Html {}

pub fn run(input: &Input, Arguments { verb }: Arguments) -> Result<Exit, Failure> {
    match verb {
        Verb::Events(Events { json }) => events(&load(input)?, json),
        Verb::Schema(Schema { name, to }) => schema(&load(input)?, name.as_deref(), to.as_deref())?,
        Verb::Asyncapi(Asyncapi { json }) => {
            let (contract, bus) = load_with_bus(input)?;
            let document = contract.asyncapi(&bus)?;
            match json {
                true => print(format_args!("{document:#}\n")),
                false => print(yaml::to_string(&document)),
            }
        }
        Verb::Html(Html {}) => {
            let (contract, bus) = load_with_bus(input)?;
            print(contract.page(&bus)?);
        }
    }
    Ok(Exit::Done)
}

fn load(input: &Input) -> Result<Contract, Failure> {
    let config = config::contract(input, false).map_err(invalid_configuration)?;
    warn(&config.warnings);
    Ok(Contract::new(&config.route, config.base_url))
}

fn load_with_bus(input: &Input) -> Result<(Contract, bus::Options), Failure> {
    let config = config::contract(input, true).map_err(invalid_configuration)?;
    warn(&config.warnings);
    let bus = config.bus.ok_or("the configuration has no bus")?;
    Ok((Contract::new(&config.route, config.base_url), bus))
}

fn events(contract: &Contract, json: bool) {
    let rows = contract.events();
    if json {
        return print(format_args!("{:#}\n", json!(rows)));
    }
    let heading = ["TYPE", "CATEGORY", "ACTION", "KAFKA TOPIC", "NATS SUBJECT", "KEY", "IDS"];
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| {
            let [name, category, action, key] =
                [row.name, row.category, row.action, row.key].map(str::to_owned);
            [name, category, action, row.topic, row.subject, key, row.ids.join(",")]
        })
        .collect();
    print(table(heading, &rows));
}

fn schema(contract: &Contract, name: Option<&str>, to: Option<&Path>) -> Result<(), Failure> {
    let mut schemas = contract.schemas();
    let wanted = match (name, to) {
        (None, Some(_)) => None,
        (name, _) => Some(name.unwrap_or(ENVELOPE)),
    };
    if let Some(wanted) = wanted {
        let meant = nearest(wanted, schemas.iter().map(|(known, _)| *known));
        let wanted = wanted.strip_prefix("com.attio.").unwrap_or(wanted);
        schemas.retain(|(known, _)| *known == wanted);
        if schemas.is_empty() {
            let error = format!(
                "no schema is named {wanted:?}{meant}; `attio-bridge contract events` lists the types"
            );
            return Err(Failure::usage(error));
        }
    }
    match to {
        Some(folder) => write(folder, &schemas)
            .map_err(|error| format!("cannot write schemas to {}: {error}", folder.display()).into()),
        None => {
            schemas.iter().for_each(|(_, schema)| print(format_args!("{schema:#}\n")));
            Ok(())
        }
    }
}

fn write(folder: &Path, schemas: &[(&str, Json)]) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    schemas.iter().try_for_each(|(name, schema)| {
        fs::write(folder.join(format!("{name}.json")), format!("{schema:#}\n"))
    })
}
