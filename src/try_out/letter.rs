//! A delivery of the mix before it is signed, with what there is to say of it.

use crate::signing::Payload;
use crate::signing::Scheme;

/// A delivery.
#[derive(Clone, Debug)]
pub struct Letter {
    /// What it is, in a few words.
    pub label: String,
    /// How many events it has.
    pub events: u64,
    /// What is sent.
    pub mail: Payload,
}

impl Letter {
    /// A delivery as Attio makes it: the body is signed, and a key names the delivery.
    pub fn attio(label: impl Into<String>, body: String, events: u64) -> Self {
        Self { label: label.into(), events, mail: Payload::new(Scheme::Attio, body) }
    }

    /// A delivery as the guide has it: a time is signed with the body, and the event names itself.
    pub fn guide(label: String, body: String) -> Self {
        Self { label, events: 1, mail: Payload::new(Scheme::Timestamped, body) }
    }

    /// The idempotency key; empty in the guide's form.
    pub fn key(&self) -> &str {
        self.mail.key.as_deref().unwrap_or_default()
    }
}
