//! A message as it would lie on a bus, for whoever wants to look at one: laid out by the adapter itself.

use super::{Kind, Options, kafka, nats, stdout};
use crate::pipeline::publish::Message;

/// A message beside its topic or subject, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Laid {
    /// Names and values, in the order they are written.
    pub headers: Vec<(String, String)>,
    /// The envelope, or the data.
    pub payload: Vec<u8>,
}

impl Options {
    /// Lays a message out; an error is why the bus would not take it.
    pub fn lay(&self, message: &Message) -> Result<Laid, String> {
        match &self.kind {
            Kind::Kafka(_) => Ok(kafka::laid(message, self.content_mode)),
            Kind::Nats(options) => nats::laid(message, self.content_mode, &options.stream.name),
            Kind::Stdout => Ok(Laid { headers: Vec::new(), payload: stdout::line(message) }),
        }
    }
}
