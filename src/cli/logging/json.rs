//! A line as JSON, written straight into its buffer: the bytes are those of `tracing-subscriber`'s own
//! JSON with flattened fields and no spans, which spends most of its time between small writes. Every
//! delivery has a line, so a line is part of what a delivery costs.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The format.
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
        writer.write_str("{\"timestamp\":\"")?;
        SystemTime.format_time(&mut writer)?;
        writer.write_str("\",\"level\":\"")?;
        writer.write_str(event.metadata().level().as_str())?;
        writer.write_char('"')?;
        let mut fields = Fields { writer, written: Ok(()) };
        event.record(&mut fields);
        fields.member("target", |writer| string(writer, event.metadata().target()));
        let Fields { mut writer, written } = fields;
        written.and_then(|()| writer.write_str("}\n"))
    }
}

/// Writes fields as further members of the object.
struct Fields<'a> {
    writer: Writer<'a>,
    written: fmt::Result,
}

impl Fields<'_> {
    fn member(&mut self, name: &str, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.written.is_err() {
            return;
        }
        let writer = &mut self.writer;
        self.written = writer
            .write_char(',')
            .and_then(|()| string(writer, name))
            .and_then(|()| writer.write_char(':'))
            .and_then(|()| value(writer));
    }
}

impl Visit for Fields<'_> {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field.name(), |writer| writer.write_str(if value { "true" } else { "false" }));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field.name(), |writer| write!(writer, "{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field.name(), |writer| write!(writer, "{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no word for what is no number; null it is.
        let text = serde_json::to_string(&value).map_err(|_| fmt::Error);
        self.member(field.name(), |writer| writer.write_str(&text?));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field.name(), |writer| string(writer, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // What `format_args!` stands for is mostly the message, and mostly a constant.
        let text = format!("{value:?}");
        self.member(field.name(), |writer| string(writer, &text));
    }
}

fn string(writer: &mut Writer<'_>, text: &str) -> fmt::Result {
    writer.write_char('"')?;
    if text.bytes().any(|byte| byte < 0x20 || matches!(byte, b'"' | b'\\')) {
        let quoted = serde_json::to_string(text).map_err(|_| fmt::Error)?;
        writer.write_str(&quoted[1..quoted.len() - 1])?;
    } else {
        writer.write_str(text)?;
    }
    writer.write_char('"')
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing_subscriber::fmt;

    use super::*;

    #[derive(Clone, Default)]
    struct Out(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a subscriber writes, its times taken out.
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
    fn a_line_has_the_bytes_that_the_usual_json_has() {
        let log = || {
            let error = io::Error::other("a \"quoted\"\nline \u{1}\u{7f} é \\");
            tracing::info!(source = "attio", status = 200u16, duration_ms = 0.25, "delivery");
            tracing::warn!(left = -7, big = u64::MAX, whole = 3.0, tiny = 1e-9, no = f64::NAN, yes = true);
            tracing::error!(%error, ?error, "with \"quotes\" and {}", "arguments\t");
            tracing::info!(none = None::<&str>, some = Some("x"), r#type = "keyword", wide = 1u128);
            tracing::info!("{}", "\u{2028} only a message");
        };
        assert_eq!(written(log, true), written(log, false));
    }
}
