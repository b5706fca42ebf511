//! Says what the bridge makes of a captured request, and if it does not verify, which of the usual
//! mistakes was made.
//!
//! It has no opinion of its own. Whether a request verifies is asked of the verify stage, for the
//! request as it is and then for what it may have been before the mistake; what becomes of its events
//! is read off a pipeline whose bus writes down what it is given.

pub mod captured;
pub mod mistakes;
pub mod reformat;
pub mod report;

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;

use crate::bus::recording::RecordingBus;
use crate::delivery::{Delivery, SourceName, Unverified, Verified};
use crate::pipeline::parse::{self, Element, Parsed};
use crate::pipeline::publish::Message;
use crate::pipeline::verify::{SignatureError, Verifier};
use crate::pipeline::{Pipeline, Rejection, SourceOptions};
use captured::Captured;
use mistakes::Mended;

/// What is found out about one request.
#[derive(Debug)]
pub struct Explanation {
    /// The source that was asked.
    pub source: SourceName,
    /// Bytes of the body.
    pub bytes: usize,
    /// The label of the secret that matched, or why none did.
    pub verified: Result<String, SignatureError>,
    /// For a request that does not verify: what makes it verify.
    pub mended: Option<Vec<String>>,
    /// What the headers say that may be to the point.
    pub remarks: Vec<String>,
    /// What the delivery holds, and where each goes. Of a request that no mending makes verify, only
    /// what can be read.
    pub contents: Contents,
}

/// What a delivery holds.
#[derive(Debug)]
pub enum Contents {
    /// Carried by the pipeline: an item for each event.
    Carried(Vec<Carried>),
    /// Nobody vouches for it: only types, or what makes them unreadable.
    Read(Vec<String>),
}

/// One event, and what the pipeline made of it.
#[derive(Debug)]
pub struct Carried {
    /// `event_type`, or why the element can be none.
    pub what: Result<String, &'static str>,
    /// Its category, `unknown` where the catalog has none.
    pub category: &'static str,
    /// `published`, `quarantined`, `filtered`, `duplicate`.
    pub result: &'static str,
    /// What would be published.
    pub message: Option<Message>,
}

impl Explanation {
    /// Whether it verifies and all of it would be published, or is filtered on purpose.
    pub fn is_good(&self) -> bool {
        let Contents::Carried(events) = &self.contents else { return false };
        self.verified.is_ok() && events.iter().all(|event| event.result != "quarantined")
    }
}

/// Explains a request to a source at a time. `open` makes the pipeline onto the bus it is given.
pub async fn explain(
    request: &Captured,
    source: &SourceOptions,
    all: &[SourceOptions],
    received_at: OffsetDateTime,
    open: impl FnOnce(Arc<RecordingBus>) -> Pipeline,
) -> Result<Explanation, Rejection> {
    let delivery = delivery(request, source, received_at);
    let verified = Verifier::new(&source.verify).verify(delivery);
    let mended = match &verified {
        Ok(_) => None,
        Err(_) => mistakes::mend(request, source, all, received_at),
    };
    let remarks = mistakes::remarks(request, verified.as_ref().err().copied());
    let (verified, genuine) = match verified {
        Ok(delivery) => (Ok(delivery.secret().to_string()), Some(delivery)),
        Err(error) => (Err(error), None),
    };
    let (mended, mended_delivery) = mended.map(|Mended { changes, delivery }| (changes, delivery)).unzip();
    let contents = match genuine.or(mended_delivery) {
        Some(delivery) => Contents::Carried(carried(delivery, open).await?),
        None => Contents::Read(names(&request.body)),
    };
    let (source, bytes) = (source.name.clone(), request.body.len());
    Ok(Explanation { source, bytes, verified, mended, remarks, contents })
}

/// How long the pipeline may take: its bus answers at once.
const PLENTY: Duration = Duration::from_secs(60);

fn delivery(request: &Captured, source: &SourceOptions, received_at: OffsetDateTime) -> Delivery<Unverified> {
    let answer_by = Instant::now() + PLENTY;
    Delivery::new(source.name.clone(), received_at, answer_by, request.to_headers(), request.body.clone())
}

async fn carried(
    delivery: Delivery<Verified>,
    open: impl FnOnce(Arc<RecordingBus>) -> Pipeline,
) -> Result<Vec<Carried>, Rejection> {
    let recorder = RecordingBus::new(None);
    let pipeline = open(Arc::clone(&recorder));
    let elements = elements(&delivery.body);
    let outcome = pipeline.process_verified(delivery).await?;
    let mut messages = recorder.take().into_iter();
    let event = |(what, event): (Result<String, &'static str>, crate::pipeline::outcome::EventOutcome)| {
        let result = event.result.label();
        let message = matches!(result, "published" | "quarantined").then(|| messages.next()).flatten();
        Carried { what, category: event.category, result, message }
    };
    Ok(elements.into_iter().zip(outcome.events).map(event).collect())
}

/// What each element is, as the parse stage reads it.
fn elements(body: &bytes::Bytes) -> Vec<Result<String, &'static str>> {
    match parse::parse(body) {
        Parsed::Unreadable(reason) => vec![Err(reason.slug())],
        Parsed::Events { elements, .. } => elements
            .into_iter()
            .map(|element| match element {
                Element::Event(event) => Ok(event.event_type.into_owned()),
                Element::Unusable { reason, .. } => Err(reason.slug()),
            })
            .collect(),
    }
}

fn names(body: &bytes::Bytes) -> Vec<String> {
    let name = |what: Result<String, &'static str>| what.unwrap_or_else(|reason| format!("({reason})"));
    elements(body).into_iter().map(name).collect()
}
