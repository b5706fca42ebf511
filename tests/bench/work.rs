//! The stages of the pipeline, each to be called alone.

use std::borrow::Cow;
use std::time::Duration;

use attio_bridge::delivery::{Delivery, Header, Headers, SourceName, Unverified, Verified};
use attio_bridge::metrics::{Labels, Metrics};
use attio_bridge::pipeline::dedup::{Dedup, Lookup, Options};
use attio_bridge::pipeline::identify::{Facts, Identity};
use attio_bridge::pipeline::parse::{Element, Event, Parsed, parse};
use attio_bridge::pipeline::publish::{Ack, AckCallback as _};
use attio_bridge::pipeline::verify::{self, Scheme, Secret, Verifier};
use axum::body::Bytes;
use axum::http::HeaderMap;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::support::request::SECRET;

/// One source, ready for deliveries.
pub struct Work {
    source: SourceName,
    verifier: Verifier,
    /// The memory, to be filled and looked at.
    pub dedup: Dedup,
}

/// What the parse stage read.
pub struct Read<'a> {
    /// The webhook that fired.
    pub webhook_id: Option<Cow<'a, str>>,
    /// The events.
    pub events: Vec<Event<'a>>,
}

impl Work {
    /// With the defaults of the bridge.
    pub fn new() -> Self {
        Self::remembering(250_000)
    }

    /// With room for so many ids.
    pub fn remembering(capacity: u64) -> Self {
        let labels = Labels { bus: "memory", ..Labels::default() };
        let secrets = vec![Secret { label: "default".into(), value: SECRET.into() }];
        let timestamp_tolerance = Duration::from_secs(300);
        let options = verify::Options { scheme: Scheme::Auto, timestamp_tolerance, secrets };
        let memory = Options { window: Duration::from_secs(345_600), capacity };
        Self {
            source: SourceName::new("attio").expect("a good name"),
            verifier: Verifier::new(&options),
            dedup: Dedup::new(memory, Metrics::new(labels).dedup()),
        }
    }

    /// What came off the wire.
    pub fn delivery(&self, headers: &HeaderMap, body: Bytes) -> Delivery<Unverified> {
        let header = |name| {
            let value = headers.get(name);
            value.map_or(Header::Absent, |value| Header::Once(Bytes::copy_from_slice(value.as_bytes())))
        };
        let headers = Headers {
            attio_signature: header("attio-signature"),
            x_attio_signature: header("x-attio-signature"),
            timestamp: header("x-attio-timestamp"),
            idempotency_key: header("idempotency-key"),
        };
        Delivery::new(self.source.clone(), OffsetDateTime::now_utc(), Instant::now(), headers, body)
    }

    /// Verify.
    pub fn verify(&self, delivery: Delivery<Unverified>) -> Option<Delivery<Verified>> {
        self.verifier.verify(delivery).ok()
    }

    /// Parse.
    pub fn parse<'a>(&self, delivery: &'a Delivery<Verified>) -> Read<'a> {
        let Parsed::Events { webhook_id, elements } = parse(&delivery.body) else {
            unreachable!("the bodies of the bench are good")
        };
        let event = |element| match element {
            Element::Event(event) => event,
            Element::Unusable { .. } => unreachable!("the events of the bench are good"),
        };
        Read { webhook_id, events: elements.into_iter().map(event).collect() }
    }

    /// Identify.
    pub fn identify(&self, delivery: &Delivery<Verified>, read: &Read<'_>) -> Vec<Identity> {
        let identity = |(index, event): (usize, &Event<'_>)| {
            let facts = Facts {
                source: self.source.as_str(),
                webhook_id: read.webhook_id.as_deref().unwrap_or_default(),
                idempotency_key: delivery.idempotency_key(),
                index,
                raw: &event.raw,
            };
            Identity::of_event(event.ids.event_id(), facts)
        };
        read.events.iter().enumerate().map(identity).collect()
    }

    /// Dedup: a flight, its landing, and the wait for it.
    pub async fn remember(&self, identity: &Identity) -> bool {
        let Lookup::Miss(flight, waiter) = self.dedup.begin(identity.key, true) else { return true };
        Box::new(flight).settle(Ok(Ack { duplicate: false, position: None }));
        waiter.await.is_ok()
    }
}
