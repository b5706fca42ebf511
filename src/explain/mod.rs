//! Explains what the bridge does with a captured request, and if it does not verify, which of the common
//! mistakes was made.
//!
//! It decides nothing itself: the verify stage checks the request as received and with mistakes undone,
//! and the pipeline processes its events onto a bus that only records.

pub mod captured;
pub mod diagnosis;
pub mod reformat;
pub mod report;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::bus::recording::RecordingBus;
use crate::delivery::{Delivery, Headers, SourceName, Unverified, Verified};
use crate::pipeline::outcome::EventOutcome;
use crate::pipeline::parse::{self, Element, Parsed};
use crate::pipeline::publish::Message;
use crate::pipeline::verify::{SignatureError, Verifier};
use crate::pipeline::{Pipeline, Rejection, SourceOptions};
use captured::Captured;
use diagnosis::Fixed;

/// The explanation of one request.
#[derive(Debug)]
pub struct Explanation {
    pub source: SourceName,
    pub bytes: usize,
    /// The label of the secret that matched, or why none did.
    pub verified: Result<String, SignatureError>,
    /// The mistakes without which it would verify, if that is all.
    pub mistakes: Option<Vec<String>>,
    pub notes: Vec<String>,
    pub events: Events,
}

#[derive(Debug)]
pub enum Events {
    /// It verifies, at least without the mistakes: each event, processed.
    Processed(Vec<ProcessedEvent>),
    /// It does not: only event types, or why there are none.
    Unverified(Vec<String>),
}

/// One event and what the pipeline does with it.
#[derive(Debug)]
pub struct ProcessedEvent {
    /// Its `event_type`, or why it is not an event.
    pub event_type: Result<String, &'static str>,
    /// Its category, `unknown` if the catalog has none.
    pub category: &'static str,
    /// `published`, `quarantined`, `filtered` or `duplicate`.
    pub result: &'static str,
    /// What would be published.
    pub message: Option<Message>,
}

impl Explanation {
    /// Whether it verifies and each event would be published or filtered.
    pub fn is_good(&self) -> bool {
        let Events::Processed(events) = &self.events else { return false };
        self.verified.is_ok() && events.iter().all(|event| event.result != "quarantined")
    }
}

/// Explains a request to a source, received at a time. `open` builds the pipeline onto the bus it is given.
pub async fn explain(
    request: &Captured,
    source: &SourceOptions,
    all: &[SourceOptions],
    received_at: OffsetDateTime,
    open: impl FnOnce(Arc<RecordingBus>) -> Pipeline,
) -> Result<Explanation, Rejection> {
    let received = delivery(source, received_at, request.to_headers(), request.body.clone());
    let (verified, mistakes, delivery) = match Verifier::new(&source.verify).verify(received) {
        Ok(delivery) => (Ok(delivery.secret().to_string()), None, Some(delivery)),
        Err(error) => {
            let fixed = diagnosis::diagnose(request, source, all, received_at);
            let (mistakes, delivery) = fixed.map(|Fixed { mistakes, delivery }| (mistakes, delivery)).unzip();
            (Err(error), mistakes, delivery)
        }
    };
    let notes = diagnosis::notes(request, verified.as_ref().err().copied(), mistakes.is_some());
    let events = match delivery {
        Some(delivery) => Events::Processed(process(delivery, open).await?),
        None => {
            let name = |name: Result<String, &str>| name.unwrap_or_else(|reason| format!("({reason})"));
            Events::Unverified(event_types(&request.body).into_iter().map(name).collect())
        }
    };
    let (source, bytes) = (source.name.clone(), request.body.len());
    Ok(Explanation { source, bytes, verified, mistakes, notes, events })
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
        ProcessedEvent { event_type, category: outcome.category, result, message }
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
