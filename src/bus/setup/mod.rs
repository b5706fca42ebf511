//! What must exist on a broker for a configuration, and the least that must be granted: as data, and as input for
//! the tools that create it.

mod kafka;
mod nats;

use super::inspect::Requirements;
use super::{Kind, Options};
pub use kafka::Kafka;
pub use nats::Nats;

/// The bridge's principal where neither the configuration nor the operator names one.
const PRINCIPAL: &str = "attio-bridge";

/// For which tool. The help lists the names alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    // Commands of Kafka's own tools.
    Kafka,
    // Resources of the Terraform provider `Mongey/kafka`.
    Terraform,
    // Resources of the Strimzi operator.
    Strimzi,
    // Commands of the `nats` tool, and a part of the server's configuration.
    Nats,
}

/// What the bus of a configuration must have and grant.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(tag = "bus", rename_all = "lowercase")]
pub enum Setup {
    /// On Kafka.
    Kafka(Kafka),
    /// On NATS.
    Nats(Nats),
}

/// Why there is nothing to print.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Standard output needs nothing.
    #[error("bus.type is stdout, which needs no topics: set it to kafka or nats")]
    Nothing,
    /// A format of another bus.
    #[error(
        "bus.type is {0}: choose a format of that bus (kafka, terraform and strimzi are Kafka's, nats is NATS's)"
    )]
    OtherBus(&'static str),
    /// A name that cannot be quoted in every format.
    #[error("the principal has {0:?} in it, which not every format can hold: choose another name")]
    Principal(char),
}

impl Setup {
    /// What the bus of the options needs. The default `principal` is the user of the configuration.
    pub fn new(
        options: &Options,
        requirements: &Requirements,
        principal: Option<&str>,
    ) -> Result<Self, Error> {
        let unusable = |c: &char| !(c.is_ascii_graphic() || *c == ' ') || "\"'\\`$%".contains(*c);
        if let Some(c) = principal.and_then(|name| name.chars().find(unusable)) {
            return Err(Error::Principal(c));
        }
        match &options.kind {
            Kind::Kafka(options) => Ok(Self::Kafka(Kafka::new(options, requirements, principal))),
            Kind::Nats(options) => Ok(Self::Nats(Nats::new(options, requirements, principal))),
            Kind::Stdout => Err(Error::Nothing),
        }
    }

    /// The same for a tool; the default is the bus's own. `cluster` is for Strimzi.
    pub fn write(&self, format: Option<Format>, cluster: &str) -> Result<String, Error> {
        match (self, format) {
            (Self::Kafka(setup), None | Some(Format::Kafka)) => Ok(setup.commands()),
            (Self::Kafka(setup), Some(Format::Terraform)) => Ok(setup.terraform()),
            (Self::Kafka(setup), Some(Format::Strimzi)) => Ok(setup.strimzi(cluster)),
            (Self::Kafka(_), Some(Format::Nats)) => Err(Error::OtherBus("kafka")),
            (Self::Nats(setup), None | Some(Format::Nats)) => Ok(setup.commands()),
            (Self::Nats(_), Some(_)) => Err(Error::OtherBus("nats")),
        }
    }
}

/// A text in double quotes, for shells, HCL and NATS alike: it has the alphabet of an address, or was checked in
/// [`Setup::new`].
fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

fn quoted_all<T: AsRef<str>>(texts: &[T], between: &str) -> String {
    texts.iter().map(|text| quoted(text.as_ref())).collect::<Vec<_>>().join(between)
}
