//! A message as it would lie on a bus, for whoever wants to look at one: laid out by the adapter itself.

use super::{Kind, Options, kafka, nats, stdout};
use crate::pipeline::publish::Message;

/// A message beside its topic or subject, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedMessage {
    /// Names and values, in the order they are written.
    pub headers: Vec<(String, String)>,
    /// The envelope, or the data.
    pub payload: Vec<u8>,
}

impl Options {
    /// Lays a message out; an error is why the bus would not take it.
    pub fn encode(&self, message: &Message) -> Result<EncodedMessage, String> {
        match &self.kind {
            Kind::Kafka(_) => Ok(kafka::encode(message, self.content_mode)),
            Kind::Nats(options) => nats::encode(message, self.content_mode, &options.stream.name),
            Kind::Stdout => Ok(EncodedMessage { headers: Vec::new(), payload: stdout::line(message) }),
        }
    }
}
