//! `topics`: prints what to create on the broker, and the least to grant.

use clap::Args;

use super::{Exit, Failure, load, print};
use crate::bus::setup::{Format, Setup};
use crate::config::Input;

const AFTER_HELP: &str = "\
Example: create what is missing on a cluster with ACLs
  attio-bridge topics --format kafka --principal bridge > topics.sh
  BOOTSTRAP=kafka:9092 ADMIN=admin.properties sh topics.sh";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Print input for this tool; the default is the bus's own tool
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    format: Option<String>,
    /// The bridge's principal; the default is the user of the configuration
    #[arg(long, value_name = "NAME")]
    principal: Option<String>,
    /// Name of the Kafka resource, for strimzi
    #[arg(long, value_name = "NAME", default_value = "kafka", value_parser = cluster)]
    cluster: String,
    /// Print the data as a JSON object
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

const FORMATS: [(&str, Format); 4] = [
    ("kafka", Format::Kafka),
    ("terraform", Format::Terraform),
    ("strimzi", Format::Strimzi),
    ("nats", Format::Nats),
];

fn formats() -> [&'static str; 4] {
    FORMATS.map(|(name, _)| name)
}

fn cluster(name: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    match !name.is_empty() && name.chars().all(fits) {
        true => Ok(name.to_owned()),
        false => Err("a Kubernetes name has lower case letters, digits, - and .".into()),
    }
}

pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Failure> {
    let config = load(input)?;
    let wanted = arguments.format.as_deref();
    let format = FORMATS.iter().find(|(name, _)| Some(*name) == wanted).map(|(_, format)| *format);
    let made = Setup::new(&config.bus, &config.requirements(), arguments.principal.as_deref());
    let text = made.and_then(|setup| match arguments.json {
        true => Ok(format!("{:#}\n", serde_json::json!(setup))),
        false => setup.write(format, &arguments.cluster),
    });
    print(text.map_err(Failure::usage)?);
    Ok(Exit::Done)
}
