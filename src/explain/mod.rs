//! Explains what the bridge does with a captured request, and if it does not verify, which of the common
//! mistakes was made.
//!
//! It decides nothing itself: the verify stage checks the request as received and with mistakes undone,
//! and the pipeline processes its events onto a bus that only records.

pub mod captured;
mod diagnosis;
pub mod reformat;

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::bus;
use crate::bus::recording::RecordingBus;
use crate::cloudevent::Attribute;
use crate::delivery::{Delivery, Headers, Unverified, Verified};
use crate::pipeline::outcome::{EventOutcome, Reason};
use crate::pipeline::parse::{self, Element, Parsed};
use crate::pipeline::publish::Message;
use crate::pipeline::verify::{SignatureError, Verifier};
use crate::pipeline::{Pipeline, Rejection, SourceOptions};
use crate::printable::{line, lines};
use captured::Captured;
use diagnosis::Fixed;

#[derive(Debug, Serialize)]
pub struct Explanation {
    source: String,
    bytes: usize,
    verifies: bool,
    /// The label of the secret that matched.
    secret: Option<String>,
    #[serde(rename = "reason", serialize_with = "slug")]
    error: Option<SignatureError>,
    tried: Vec<Tried>,
    /// The mistakes without which it would verify, if that is all.
    mistakes: Option<Vec<String>>,
    notes: Vec<String>,
    /// Its event types, or why there are none, if it does not verify even without mistakes.
    holds: Option<Vec<String>>,
    /// Each event, processed, if it verifies, at least without the mistakes.
    events: Option<Vec<ProcessedEvent>>,
}

#[derive(Debug, Serialize)]
pub struct Tried {
    pub source: String,
    /// Its label.
    pub secret: String,
    pub file: Option<String>,
}

#[derive(Debug, Serialize)]
struct ProcessedEvent {
    event_type: Option<String>,
    unusable: Option<&'static str>,
    /// Its category, `unknown` if the catalog has none.
    category: &'static str,
    /// `published`, `quarantined`, `filtered` or `duplicate`.
    result: &'static str,
    message: Option<Published>,
}

#[derive(Debug, Serialize)]
struct Published {
    topic: String,
    subject: String,
    key: Option<String>,
    id: Option<String>,
    #[serde(serialize_with = "members")]
    headers: Vec<(String, String)>,
    payload: String,
    /// Why the bus cannot encode it.
    error: Option<String>,
}

fn slug<S: Serializer>(error: &Option<SignatureError>, serializer: S) -> Result<S::Ok, S::Error> {
    error.map(|error| Reason::from(error).slug()).serialize(serializer)
}

fn members<S: Serializer>(headers: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(headers.iter().map(|(name, value)| (name, value)))
}

impl Published {
    fn new(message: &Message, options: &bus::Options) -> Self {
        let get = |attribute| message.event.get(attribute).map(|value| value.to_string());
        let (headers, payload, error) = match bus::encode(options, message) {
            Ok(encoded) => (encoded.headers, encoded.payload, None),
            Err(error) => (Vec::new(), Vec::new(), Some(error)),
        };
        Self {
            topic: message.destination.address.to_string(),
            subject: message.destination.subject.to_string(),
            key: get(Attribute::PartitionKey),
            id: get(Attribute::Id),
            headers,
            payload: String::from_utf8_lossy(&payload).trim_end_matches('\n').to_owned(),
            error,
        }
    }
}

impl Explanation {
    /// Whether it verifies and each event would be published or filtered.
    pub fn is_good(&self) -> bool {
        let good = |events: &Vec<ProcessedEvent>| events.iter().all(|event| event.result != "quarantined");
        self.verifies && self.events.as_ref().is_some_and(good)
    }

    /// The explanation for people; `bus` is `kafka`, `nats` or `stdout`.
    pub fn to_text(&self, bus: &str) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out, bus);
        out
    }

    fn write(&self, out: &mut String, bus: &str) -> fmt::Result {
        writeln!(out, "request    to source {}, {} bytes", self.source, self.bytes)?;
        if let Some(label) = &self.secret {
            writeln!(out, "signature  good: secret `{label}`")?;
        }
        if let Some(error) = self.error {
            writeln!(out, "signature  refused, 401 ({}): {error}", Reason::from(error).slug())?;
        }
        let mismatch = self.error == Some(SignatureError::Mismatch);
        if let Some(mistakes) = &self.mistakes {
            writeln!(out, "because")?;
            mistakes.iter().try_for_each(|mistake| writeln!(out, "  - {}", line(mistake)))?;
        } else if mismatch {
            let why = "the sender uses another secret, or a proxy changed the body";
            writeln!(out, "because    of no common mistake: {why}")?;
        }
        for Tried { source, secret, file } in self.tried.iter().filter(|_| mismatch) {
            let file = file.as_ref().map(|file| format!(", file {file}")).unwrap_or_default();
            writeln!(out, "tried      secret `{secret}` of source {source}{}", line(&file))?;
        }
        self.notes.iter().try_for_each(|note| writeln!(out, "note       {}", line(note)))?;
        if let Some(names) = &self.holds {
            let names = if names.is_empty() { "no event".into() } else { line(&names.join(", ")) };
            writeln!(out, "holds      {names}")?;
        }
        if let Some(events) = &self.events {
            let fixed = if self.verifies { "" } else { ", as processed without the mistake" };
            writeln!(out, "events     {}{fixed}", events.len())?;
            for (event, number) in events.iter().zip(1..) {
                event.write(out, number, bus)?;
            }
        }
        Ok(())
    }
}

impl ProcessedEvent {
    fn write(&self, out: &mut String, number: usize, bus: &str) -> fmt::Result {
        match (&self.event_type, self.unusable) {
            (Some(event_type), _) => writeln!(out, "\n{number}. {}", line(event_type))?,
            (None, reason) => writeln!(out, "\n{number}. unusable ({})", reason.unwrap_or_default())?,
        }
        let meaning = match self.result {
            "published" => "would be published",
            "quarantined" => "cannot be published: goes to quarantine",
            "filtered" => "dropped by the source's filter",
            "duplicate" => "a duplicate of an earlier event",
            other => other,
        };
        writeln!(out, "   category {}, {meaning}", self.category)?;
        let Some(Published { topic, subject, key, id, headers, payload, error }) = &self.message else {
            return Ok(());
        };
        let (key, id) = (key.as_deref().unwrap_or_default(), id.as_deref().unwrap_or_default());
        match bus {
            "kafka" => writeln!(out, "   to       topic {topic}, key {key}")?,
            "nats" => writeln!(out, "   to       subject {subject}, partitionkey {key}")?,
            _ => writeln!(out, "   to       standard output, as {topic}")?,
        }
        writeln!(out, "   id       {id}")?;
        if let Some(error) = error {
            return writeln!(out, "   cannot be published: {}", line(error));
        }
        headers.iter().try_for_each(|(name, value)| writeln!(out, "   {name}: {}", line(value)))?;
        writeln!(out, "{}", lines(payload))
    }
}

/// Explains a request to a source, received at a time. `open` builds the pipeline onto the bus it is given; `tried`
/// are the secrets of all sources.
pub async fn explain(
    request: &Captured,
    source: &SourceOptions,
    all: &[SourceOptions],
    received_at: OffsetDateTime,
    options: &bus::Options,
    tried: Vec<Tried>,
    open: impl FnOnce(Arc<RecordingBus>) -> Pipeline,
) -> Result<Explanation, Rejection> {
    let received = delivery(source, received_at, request.to_headers(), request.body.clone());
    let (error, mistakes, delivery) = match Verifier::new(&source.verify).verify(received) {
        Ok(delivery) => (None, None, Some(delivery)),
        Err(error) => {
            let fixed = diagnosis::diagnose(request, source, all, received_at);
            let (mistakes, delivery) = fixed.map(|Fixed { mistakes, delivery }| (mistakes, delivery)).unzip();
            (Some(error), mistakes, delivery)
        }
    };
    let label = delivery.as_ref().map(|delivery| delivery.secret().to_string());
    let notes = diagnosis::notes(request, error, mistakes.is_some());
    let (holds, events) = match delivery {
        Some(delivery) => (None, Some(process(delivery, options, open).await?)),
        None => {
            let name = |name: Result<String, &str>| name.unwrap_or_else(|reason| format!("({reason})"));
            (Some(event_types(&request.body).into_iter().map(name).collect()), None)
        }
    };
    let (source, bytes, verifies) = (source.name.to_string(), request.body.len(), error.is_none());
    let secret = label.filter(|_| verifies);
    Ok(Explanation { source, bytes, verifies, secret, error, tried, mistakes, notes, holds, events })
}

/// How long the pipeline may take; its bus acknowledges at once.
const TIMEOUT: Duration = Duration::from_secs(60);

fn delivery(
    source: &SourceOptions,
    received_at: OffsetDateTime,
    headers: Headers,
    body: Bytes,
) -> Delivery<Unverified> {
    Delivery::new(source.name.clone(), received_at, Instant::now() + TIMEOUT, headers, body)
}

async fn process(
    delivery: Delivery<Verified>,
    options: &bus::Options,
    open: impl FnOnce(Arc<RecordingBus>) -> Pipeline,
) -> Result<Vec<ProcessedEvent>, Rejection> {
    let bus = RecordingBus::new(None);
    let pipeline = open(Arc::clone(&bus));
    let event_types = event_types(&delivery.body);
    let outcome = pipeline.process_verified(delivery).await?;
    let mut messages = bus.take().into_iter();
    let event = |(event_type, outcome): (Result<String, &'static str>, EventOutcome)| {
        let result = outcome.result.label();
        let message = matches!(result, "published" | "quarantined").then(|| messages.next()).flatten();
        ProcessedEvent {
            unusable: event_type.as_ref().err().copied(),
            event_type: event_type.ok(),
            category: outcome.category,
            result,
            message: message.map(|message| Published::new(&message, options)),
        }
    };
    Ok(event_types.into_iter().zip(outcome.events).map(event).collect())
}

/// The type of each element, or the reason why it is not an event, from the parse stage.
fn event_types(body: &Bytes) -> Vec<Result<String, &'static str>> {
    let element = |element: Element<'_>| match element {
        Element::Event(event) => Ok(event.event_type.into_owned()),
        Element::Unusable { reason, .. } => Err(reason.slug()),
    };
    match parse::parse(body) {
        Parsed::Unreadable(reason) => vec![Err(reason.slug())],
        Parsed::Events { elements, .. } => elements.into_iter().map(element).collect(),
    }
}
