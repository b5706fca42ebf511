//! A real Kafka or NATS behind a proxy: what a bridge publishes there, and how far a consumer has come.

use super::message::Message;
use crate::support::program::Variables;
use crate::support::proxy::{Proxy, Way};
use crate::support::real_bus;
use crate::support::{kafka, nats};

/// The prefix of every topic and subject: that of the bridge's default.
const PREFIX: &str = "attio";
const QUARANTINE: &str = "attio.quarantine";
const STREAM: &str = "ATTIO";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Kafka,
    Nats,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Kafka, Self::Nats];

    pub fn name(self) -> &'static str {
        match self {
            Self::Kafka => "Kafka",
            Self::Nats => "NATS",
        }
    }
}

enum Server {
    Kafka(kafka::Broker),
    Nats(nats::Server),
}

/// One server and the proxy through which consumers reach it.
pub struct Bus {
    server: Server,
    pub proxy: Proxy,
}

impl Bus {
    pub fn start(kind: Kind) -> Self {
        match kind {
            Kind::Kafka => {
                let (broker, proxy) = kafka::Broker::start_behind_a_proxy();
                Self { server: Server::Kafka(broker), proxy }
            }
            Kind::Nats => {
                let server = nats::Server::start();
                let address = server.url().trim_start_matches("nats://").parse().expect("an address");
                Self { server: Server::Nats(server), proxy: Proxy::start(address) }
            }
        }
    }

    /// The variables of a bridge.
    pub fn bridge(&self, mode: &str) -> Variables {
        match &self.server {
            Server::Kafka(broker) => real_bus::kafka(broker, PREFIX, mode),
            Server::Nats(server) => real_bus::nats(server, STREAM, PREFIX, mode),
        }
    }

    /// The variables of a consumer of this name.
    pub fn consumer(&self, name: &str) -> Vec<(&'static str, String)> {
        let address = self.proxy.addr();
        match &self.server {
            Server::Kafka(_) => vec![("KAFKA_BOOTSTRAP", address.to_string()), ("KAFKA_GROUP", name.into())],
            Server::Nats(_) => {
                vec![("NATS_URL", format!("nats://{address}")), ("NATS_DURABLE", name.into())]
            }
        }
    }

    /// Publishes without a bridge, where the event `record.updated` goes.
    pub fn publish_raw(&self, headers: &[(&'static str, &'static str)], value: &str) {
        match &self.server {
            Server::Kafka(_) => {
                let bytes = |(name, value): &(&'static str, &'static str)| (*name, Some(value.as_bytes()));
                self.publish_record(Some("poison"), &headers.iter().map(bytes).collect::<Vec<_>>(), value);
            }
            Server::Nats(server) => drop(server.publish("attio.record.updated", headers, value)),
        }
    }

    /// Publishes any key and headers, which only Kafka can have.
    pub fn publish_record(&self, key: Option<&str>, headers: &[(&str, Option<&[u8]>)], value: &str) {
        if let Server::Kafka(broker) = &self.server {
            let value = (!value.is_empty()).then_some(value.as_bytes());
            broker.publish("attio.record", key, headers, value);
        }
    }

    /// Everything stored, quarantine left out, in the order in which a consumer gets what has the same key.
    pub fn messages(&self) -> Vec<Message> {
        match &self.server {
            Server::Kafka(broker) => {
                let of_topic = |topic: String| {
                    let records = broker.read_all(&topic).into_iter();
                    records.map(move |record| Message::of_kafka(&topic, record)).collect::<Vec<_>>()
                };
                topics(broker).into_iter().flat_map(of_topic).collect()
            }
            Server::Nats(server) => {
                let stored = server.read_all(STREAM).into_iter().enumerate();
                let events = stored.filter(|(_, message)| message.subject != QUARANTINE);
                events.map(|(at, message)| Message::of_nats(STREAM, at + 1, message)).collect()
            }
        }
    }

    /// Whether one consumer of this name is ready to be given messages.
    pub fn is_connected(&self, name: &str) -> bool {
        match &self.server {
            Server::Kafka(broker) => broker.group(name) == ("Stable".to_owned(), 1),
            Server::Nats(server) => server.consumer(STREAM, name).is_some_and(|info| info.num_waiting > 0),
        }
    }

    /// Whether the bus knows that no consumer of this name is there.
    pub fn is_left(&self, name: &str) -> bool {
        match &self.server {
            Server::Kafka(broker) => broker.group(name).1 == 0,
            Server::Nats(server) => server.consumer(STREAM, name).is_none_or(|info| info.num_waiting == 0),
        }
    }

    /// Whether everything is acknowledged by the consumer of this name.
    pub fn is_done(&self, name: &str) -> bool {
        match &self.server {
            Server::Kafka(broker) => {
                let ends = broker.ends(&topics(broker));
                broker.committed(name, ends.keys()) == ends
            }
            Server::Nats(server) => {
                let info = server.consumer(STREAM, name);
                info.is_some_and(|info| info.num_pending == 0 && info.num_ack_pending == 0)
            }
        }
    }

    /// Whether a consumer has been sent the only message that is not acknowledged, of so many bytes, since this many
    /// bytes had passed the proxy.
    pub fn is_fetched(&self, name: &str, passed: u64, bytes: usize) -> bool {
        match &self.server {
            Server::Kafka(_) => self.proxy.passed(Way::ToClient) - passed >= bytes as u64,
            Server::Nats(server) => {
                server.consumer(STREAM, name).is_some_and(|info| info.num_ack_pending > 0)
            }
        }
    }
}

fn topics(broker: &kafka::Broker) -> Vec<String> {
    let mut topics = broker.topics();
    topics.retain(|topic| topic.starts_with("attio.") && topic != QUARANTINE);
    topics.sort();
    topics
}
