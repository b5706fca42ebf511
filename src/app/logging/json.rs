//! Log lines as JSON: what `tracing-subscriber` writes itself (flattened fields, no spans), made printable.
//!
//! Hand-written, because every delivery logs a line: measured, and one buffer per line costs less than the many
//! small writes of the original, with the same fixed order of fields.

use std::fmt::{self, Debug, Display, Write as _};

use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::cloudevent;
use crate::printable;

pub struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // One write at the end: calls of the writer cannot be inlined.
        let mut line = String::with_capacity(512);
        line.push_str("{\"timestamp\":\"");
        push_time(&mut line, OffsetDateTime::now_utc());
        line.push_str("\",\"level\":\"");
        line.push_str(event.metadata().level().as_str());
        line.push('"');
        let mut fields = Fields { line };
        event.record(&mut fields);
        push_string(fields.member("target"), event.metadata().target());
        fields.line.push_str("}\n");
        writer.write_str(&fields.line)
    }
}

struct Fields {
    line: String,
}

impl Fields {
    /// Begins a member. The caller appends its value.
    fn member(&mut self, name: &str) -> &mut String {
        self.line.push(',');
        push_string(&mut self.line, name);
        self.line.push(':');
        &mut self.line
    }

    fn display(&mut self, name: &str, value: impl Display) {
        write!(self.member(name), "{value}").expect(IN_MEMORY);
    }
}

const IN_MEMORY: &str = "writing to a string cannot fail";

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.display(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.display(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.display(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // NaN and infinities become null.
        let text = serde_json::to_string(&value).expect(IN_MEMORY);
        self.member(field.name()).push_str(&text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        push_string(self.member(field.name()), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        push_string(self.member(field.name()), &text);
    }
}

/// RFC 3339 in UTC, to the microsecond.
fn push_time(line: &mut String, at: OffsetDateTime) {
    let to_the_millisecond = cloudevent::timestamp(at).unwrap_or_default();
    line.push_str(to_the_millisecond.trim_end_matches('Z'));
    write!(line, "{:03}Z", at.microsecond() % 1000).expect(IN_MEMORY);
}

fn push_string(line: &mut String, text: &str) {
    // No early exit: a loop over all bytes is vectorised.
    let needs_escape = |byte: u8| !(b' '..=b'~').contains(&byte) | (byte == b'"') | (byte == b'\\');
    if text.bytes().fold(false, |found, byte| found | needs_escape(byte)) {
        line.push_str(&printable::lines(&serde_json::to_string(text).expect(IN_MEMORY)));
    } else {
        line.push('"');
        line.push_str(text);
        line.push('"');
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing_subscriber::fmt;

    use super::super::tests::Out;
    use super::*;

    /// What a subscriber writes, without the times.
    fn written(log: impl Fn(), own: bool) -> String {
        let out = Out::default();
        let writer = out.clone();
        let logs = fmt().with_writer(move || writer.clone());
        if own {
            tracing::subscriber::with_default(logs.event_format(Json).finish(), log);
        } else {
            let logs = logs.json().flatten_event(true).with_current_span(false).with_span_list(false);
            tracing::subscriber::with_default(logs.finish(), log);
        }
        let text = String::from_utf8(out.0.lock().clone()).expect("a log is text");
        let line = |line: &str| {
            let (head, rest) = line.split_once("Z\",").expect("a line begins with its time");
            assert_eq!(head.len(), r#"{"timestamp":"2026-01-01T00:00:00.000000"#.len(), "{line}");
            rest.to_owned()
        };
        text.lines().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn lines_equal_those_of_tracing_subscriber() {
        let log = || {
            let error = io::Error::other("a \"quoted\"\nline \u{1}\u{7f} é \\");
            tracing::info!(source = "attio", status = 200u16, duration_ms = 0.25, "delivery");
            tracing::warn!(left = -7, big = u64::MAX, whole = 3.0, tiny = 1e-9, no = f64::NAN, yes = true);
            tracing::error!(%error, ?error, "with \"quotes\" and {}", "arguments\t");
            tracing::info!(none = None::<&str>, some = Some("x"), r#type = "keyword", wide = 1u128);
            tracing::info!("{}", "\u{2028} only a message");
        };
        assert_eq!(written(log, true), printable::lines(&written(log, false)));
    }
}
