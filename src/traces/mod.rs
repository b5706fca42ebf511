//! Traces in OpenTelemetry's form: one span for each delivery, one for each publish of an event.
//!
//! A span is made where its work is done and put into a bounded queue, which [`export`] empties. Without an
//! endpoint there is no [`Tracer`], and nothing is made. Sources: W3C Trace Context, section 3.2 (`traceparent`);
//! OpenTelemetry's semantic conventions 1.37 for HTTP and messaging spans.

pub mod export;

use std::fmt;
use std::time::Instant;

use prometheus::IntCounter;
use time::OffsetDateTime;
use tokio::sync::mpsc;

/// Spans that wait to be exported; more are dropped and counted. A delivery has at most 10,000 events.
const QUEUE: usize = 16_384;

/// The position of a span in its trace: what `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    /// Whether the trace is recorded.
    sampled: bool,
}

impl TraceContext {
    /// A trace of its own.
    fn root() -> Self {
        Self { trace_id: fastrand::u128(1..), span_id: fastrand::u64(1..), sampled: true }
    }

    /// A span below this one.
    pub fn child(self) -> Self {
        Self { span_id: fastrand::u64(1..), ..self }
    }

    /// The value of a `traceparent` header; none if it is malformed.
    pub fn parse(header: &[u8]) -> Option<Self> {
        let (version, rest) = (header.get(..2)?, header.get(55..)?);
        let known = version == b"00" && rest.is_empty();
        // A later version may have more fields.
        let later = version != b"00" && version != b"ff" && matches!(rest.first(), None | Some(b'-'));
        let dashes = [2, 35, 52].iter().all(|at| header[*at] == b'-');
        if !(known || later) || !dashes {
            return None;
        }
        let hex = |range: std::ops::Range<usize>| {
            let digits = &header[range];
            let lower = digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            u128::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| lower)?, 16).ok()
        };
        hex(0..2)?;
        let (trace_id, span_id, flags) = (hex(3..35)?, u64::try_from(hex(36..52)?).ok()?, hex(53..55)?);
        (trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

/// The value of a `traceparent` header.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

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

    /// Begins the span of a request, below the span that its `traceparent` names.
    pub fn begin(&self, traceparent: Option<&[u8]>, received_at: OffsetDateTime) -> Trace {
        let parent = traceparent.and_then(TraceContext::parse);
        let context = parent.map_or_else(TraceContext::root, TraceContext::child);
        Trace { tracer: self.clone(), parent, context, received_at, started: Instant::now() }
    }
}

/// The trace of one delivery, and its clock.
#[derive(Clone, Debug)]
pub struct Trace {
    tracer: Tracer,
    parent: Option<TraceContext>,
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

    /// Ends it with what the result adds.
    pub fn end(self, result: Vec<(&'static str, Value)>, error: Option<String>) {
        let Self { trace, context, name, start, mut attributes } = self;
        attributes.extend(result);
        let (parent, kind, end) = (Some(trace.context), SpanKind::Producer, trace.now());
        trace.record(Span { context, parent, kind, name, start, end, attributes, error });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_w3c_says() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(TraceContext::parse(good.as_bytes()).unwrap().to_string(), good);
        let unsampled = good.replace("-01", "-00");
        assert!(!TraceContext::parse(unsampled.as_bytes()).unwrap().sampled);
        let later = format!("01{}-more", &good[2..]);
        assert_eq!(TraceContext::parse(later.as_bytes()).unwrap().to_string(), good);
        let bad = [
            String::new(),
            good[..54].to_owned(),
            format!("{good}-more"),
            format!("ff{}", &good[2..]),
            format!("0g{}", &good[2..]),
            good.to_uppercase(),
            good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            good.replace("b7ad6b7169203331", &"0".repeat(16)),
            good.replace('-', "_"),
            "é".repeat(30),
        ];
        for bad in bad {
            assert_eq!(TraceContext::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
