//! Traces in OpenTelemetry's form: one span for each delivery, one for each publish of an event.
//!
//! A span is made where its work is done and put into a bounded queue, which [`export`] empties. Without an
//! endpoint there is no [`Tracer`], and nothing is made. Source: OpenTelemetry's semantic conventions 1.37 for HTTP and
//! messaging spans.

mod context;
pub mod export;

use std::sync::Arc;
use std::time::Instant;

use prometheus::IntCounter;
use time::OffsetDateTime;
use tokio::sync::mpsc;

pub use context::TraceContext;

/// Spans that wait to be exported; more are dropped and counted. A delivery has at most 10,000 events.
const QUEUE: usize = 16_384;

/// What a span is of, in the numbers of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    Server = 2,
    Producer = 4,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// One span that has ended.
#[derive(Clone, Debug)]
pub struct Span {
    context: TraceContext,
    parent: Option<TraceContext>,
    /// The `tracestate` of the request.
    state: Option<Arc<str>>,
    kind: SpanKind,
    name: String,
    start: OffsetDateTime,
    end: OffsetDateTime,
    attributes: Vec<(&'static str, Value)>,
    /// Why it failed.
    error: Option<String>,
}

/// Where spans go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tracer {
    spans: mpsc::Sender<Span>,
    dropped: IntCounter,
}

/// The spans of a [`Tracer`].
pub type Spans = mpsc::Receiver<Span>;

impl Tracer {
    /// `dropped` counts the spans that found the queue full.
    pub fn new(dropped: IntCounter) -> (Self, Spans) {
        let (spans, receiver) = mpsc::channel(QUEUE);
        (Self { spans, dropped }, receiver)
    }

    /// Begins the span of a request, below the span that its `traceparent` names. Without that, its `tracestate` says
    /// nothing.
    pub fn begin<'a>(
        &self,
        traceparent: Option<&[u8]>,
        tracestate: impl Iterator<Item = &'a [u8]>,
        received_at: OffsetDateTime,
    ) -> Trace {
        let parent = traceparent.and_then(TraceContext::parse);
        let state = parent.and_then(|_| context::state(tracestate));
        let context = parent.map_or_else(TraceContext::root, TraceContext::child);
        Trace { tracer: self.clone(), parent, state, context, received_at, started: Instant::now() }
    }
}

/// The trace of one delivery, and its clock.
#[derive(Clone, Debug)]
pub struct Trace {
    tracer: Tracer,
    parent: Option<TraceContext>,
    state: Option<Arc<str>>,
    context: TraceContext,
    received_at: OffsetDateTime,
    started: Instant,
}

impl Trace {
    /// Ends the span of the delivery.
    pub fn end(&self, name: String, attributes: Vec<(&'static str, Value)>, error: Option<String>) {
        self.record(Span {
            context: self.context,
            parent: self.parent,
            state: self.state.clone(),
            kind: SpanKind::Server,
            name,
            start: self.received_at,
            end: self.now(),
            attributes,
            error,
        });
    }

    /// Begins the span of a publish. It ends with its result, also after that of the delivery.
    pub fn publish(&self, address: &str, attributes: Vec<(&'static str, Value)>) -> PublishSpan {
        let context = self.context.child();
        PublishSpan {
            start: self.now(),
            trace: self.clone(),
            context,
            name: format!("send {address}"),
            attributes,
        }
    }

    fn now(&self) -> OffsetDateTime {
        self.received_at + self.started.elapsed()
    }

    fn record(&self, span: Span) {
        if span.context.sampled && self.tracer.spans.try_send(span).is_err() {
            self.tracer.dropped.inc();
        }
    }
}

/// The span of one publish that has no result yet.
#[derive(Debug)]
pub struct PublishSpan {
    trace: Trace,
    context: TraceContext,
    name: String,
    start: OffsetDateTime,
    attributes: Vec<(&'static str, Value)>,
}

impl PublishSpan {
    /// What the message carries as `traceparent`.
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// What the message carries as `tracestate`.
    pub fn state(&self) -> Option<&str> {
        self.trace.state.as_deref()
    }

    /// Ends it with what the result adds.
    pub fn end(self, result: Vec<(&'static str, Value)>, error: Option<String>) {
        let Self { trace, context, name, start, mut attributes } = self;
        attributes.extend(result);
        let (parent, kind, end) = (Some(trace.context), SpanKind::Producer, trace.now());
        let state = trace.state.clone();
        trace.record(Span { context, parent, state, kind, name, start, end, attributes, error });
    }
}
