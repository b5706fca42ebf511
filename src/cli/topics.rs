//! `topics`: prints the topics or the stream to create and the permissions to grant.

use clap::Args;
use serde_json::json;

use super::{Exit, Failure, load, print};
use crate::bus::setup::{Format, Setup};
use crate::config::Input;
use crate::pipeline::route::Routes;
use crate::store;

const AFTER_HELP: &str = "\
With a section [state] in the configuration it also prints what `attio-bridge state` needs.

Example: create what is missing on a cluster with ACLs
  attio-bridge topics --format kafka --principal bridge > topics.sh
  BOOTSTRAP=kafka:9092 ADMIN=admin.properties sh topics.sh";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Print input for this tool; the default is the bus's own tool
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
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

fn cluster(name: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    match !name.is_empty() && name.chars().all(fits) {
        true => Ok(name.to_owned()),
        false => Err("a Kubernetes name has lower case letters, digits, - and .".into()),
    }
}

pub fn run(input: &Input, arguments: &Arguments) -> Result<Exit, Failure> {
    let config = load(input)?;
    let state = config.uses_state.then(|| config.state.needs(&Routes::new(&config.route)));
    let principal = arguments.principal.as_deref();
    let made = Setup::new(&config.bus, &config.requirements(), state.as_ref(), principal);
    let bucket = config.store.as_ref().and_then(store::setup);
    let text = made.and_then(|setup| match arguments.json {
        true => {
            let mut setup = json!(setup);
            if let Some(bucket) = &bucket {
                setup["dedup_bucket"] = json!(bucket);
            }
            Ok(format!("{setup:#}\n"))
        }
        false => {
            let of_bus = setup.write(arguments.format, &arguments.cluster)?;
            // The other formats are for tools that know no NATS.
            let commands = matches!(arguments.format, None | Some(Format::Kafka | Format::Nats));
            let bucket = bucket.filter(|_| commands).map(|bucket| bucket.commands());
            Ok(of_bus + &bucket.unwrap_or_default())
        }
    });
    print(text.map_err(Failure::usage)?);
    Ok(Exit::Done)
}
