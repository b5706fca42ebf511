//! `check`: is the configuration good? Nothing is asked of the network.

use super::{Exit, load, print, warn};
use crate::bus::Kind;
use crate::config::{Config, Input};

/// Checks the configuration.
pub fn run(input: &Input) -> Exit {
    match load(input) {
        Ok(config) => {
            warn(&config.warnings);
            print(summary(&config));
            Exit::Done
        }
        Err(exit) => exit,
    }
}

fn summary(config: &Config) -> String {
    let bus = match &config.bus.kind {
        Kind::Kafka(options) => format!("kafka at {}", options.bootstrap_servers),
        Kind::Nats(options) => {
            format!("nats at {}, stream {}", options.servers.join(","), options.stream.name)
        }
        Kind::Stdout => "stdout".into(),
    };
    let sources: Vec<_> = config.sources.iter().map(|source| source.name.as_str()).collect();
    let many = if sources.len() == 1 { "source" } else { "sources" };
    format!("the configuration is good: {many} {}, bus {bus}\n", sources.join(", "))
}
