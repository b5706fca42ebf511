//! The log: on stderr, as text on a terminal and as JSON elsewhere, with RFC 3339 times in UTC.

mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Debug, Display, Write as _};
use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;
use std::sync::Arc;

use anstyle::Style;
use time::OffsetDateTime;
use tracing::field::{Field, Visit, display};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{Environment, LogFormat, LogOptions};
use crate::{cloudevent, metrics, printable};
use queue::{LineWriter, Queue};

/// What librdkafka and its wrapper log at `info` is for their developers.
const WARNINGS_ONLY: [&str; 2] = ["librdkafka", "rdkafka"];

/// The NATS client logs an error at each attempt to connect; the bridge logs the outage once. AWS's crates log each
/// failure too, and secrets: a container's login that cannot be sent, and what is signed.
const SILENT: &str = "async_nats=off,aws_=off";

/// The log of this process. Flushed when dropped, as long as stderr is read.
pub struct Log(Arc<Queue>);

impl Log {
    /// Flushes the log. Call it before the process ends in any way that does not drop this.
    pub fn last_words(&self) -> impl FnOnce() + Send + use<> {
        let queue = Arc::clone(&self.0);
        move || queue.flush()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// Starts logging, of panics too. `RUST_LOG` overrides the level of the options. Fails if the system
/// cannot start a thread.
pub fn start(options: LogOptions, environment: &Environment) -> io::Result<Log> {
    start_on(io::stderr(), options, environment)
}

/// The same on a writer in front of stderr.
pub fn start_on(
    out: impl io::Write + Send + 'static,
    options: LogOptions,
    environment: &Environment,
) -> io::Result<Log> {
    let set = |name| environment.get(name).and_then(|value| value.to_str()).filter(|text| !text.is_empty());
    let (filter, problem) = filter(options.level, set("RUST_LOG"));
    let terminal = io::stderr().is_terminal();
    let queue = Queue::start(out, metrics::log_dropped(), report_dropped)?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(LineWriter(Arc::clone(&queue)));
    // Fails only if this process logs already.
    let _ = match options.format {
        LogFormat::Json => logs.event_format(Json).try_init(),
        LogFormat::Auto if !terminal => logs.event_format(Json).try_init(),
        LogFormat::Auto | LogFormat::Text => {
            let fields = debug_fn(write_field).delimited(" ");
            let logs = logs.with_ansi(terminal && set("NO_COLOR").is_none()).with_target(false);
            logs.fmt_fields(fields).try_init()
        }
    };
    std::panic::set_hook(Box::new(log_panic));
    if let Some(problem) = problem {
        tracing::warn!("RUST_LOG is ignored: {problem}");
    }
    Ok(Log(queue))
}

/// Writes a field as text: `name=value`, the value in quotes unless it is one word.
fn write_field(out: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    let text = printable::line(&format!("{value:?}"));
    let name = match field.name() {
        "message" => return out.write_str(&text),
        name => name,
    };
    if out.has_ansi_escapes() {
        let (italic, dim) = (Style::new().italic(), Style::new().dimmed());
        write!(out, "{italic}{name}{italic:#}{dim}={dim:#}")?;
    } else {
        write!(out, "{name}=")?;
    }
    // Text that is recorded as such is in quotes already.
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let is_quoted = inner.is_some_and(|inner| !inner.replace("\\\\", "").replace("\\\"", "").contains('"'));
    let is_word = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == '"');
    if is_quoted || is_word { out.write_str(&text) } else { write!(out, "\"{}\"", text.replace('"', "\\\"")) }
}

fn report_dropped(lines: u64) {
    tracing::warn!(lines, "log lines were dropped: standard error was not read fast enough");
}

/// Logs a panic with what the default hook prints.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref().map(String::as_str));
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| display(&backtrace));
    tracing::error!(
        thread = std::thread::current().name(),
        location = panic.location().map(display),
        backtrace,
        "panicked: {}",
        text.unwrap_or("no message"),
    );
}

/// The filter, and why `RUST_LOG` cannot be used if it is invalid.
fn filter(level: &str, rust_log: Option<&str>) -> (EnvFilter, Option<String>) {
    let quiet = if level == "error" { "error" } else { "warn" };
    let quieter = WARNINGS_ONLY.map(|target| format!("{target}={quiet}")).join(",") + "," + SILENT;
    let own = || EnvFilter::new(format!("{level},{quieter}"));
    match rust_log.map(|directives| EnvFilter::try_new(format!("{level},{quieter},{directives}"))) {
        None => (own(), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (own(), Some(error.to_string())),
    }
}

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

    use super::*;

    fn directives(filter: &EnvFilter) -> Vec<String> {
        let mut directives: Vec<String> = filter.to_string().split(',').map(String::from).collect();
        directives.sort();
        directives
    }

    /// A writer that keeps what is written.
    #[derive(Clone, Default)]
    pub(super) struct Out(pub(super) Arc<parking_lot::Mutex<Vec<u8>>>);

    impl io::Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What one field is written as, without colours.
    fn written(value: &dyn Debug) -> String {
        let out = Out::default();
        let writer = out.clone();
        let fields = debug_fn(write_field).delimited(" ");
        let logs = tracing_subscriber::fmt().with_ansi(false).without_time().with_target(false);
        let logs = logs.fmt_fields(fields).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(logs, || tracing::info!(name = ?value, last = 1, "a message"));
        let text = String::from_utf8(out.0.lock().clone()).expect("a log is text");
        let fields = text.trim_end().split_once("a message ").expect("the message comes first").1.to_owned();
        fields.strip_suffix(" last=1").expect("the fields keep their order").to_owned()
    }

    #[test]
    fn text_values_that_are_not_one_word_are_quoted() {
        let of_display = |text: &str| written(&format_args!("{text}"));
        assert_eq!(of_display("word"), "name=word");
        assert_eq!(of_display("127.0.0.1:80"), "name=127.0.0.1:80");
        assert_eq!(of_display("no ack in time"), "name=\"no ack in time\"");
        assert_eq!(of_display(""), "name=\"\"");
        assert_eq!(of_display("topic \"a\" is gone"), r#"name="topic \"a\" is gone""#);
        assert_eq!(of_display(r#""a" level="b""#), r#"name="\"a\" level=\"b\"""#);
        assert_eq!(of_display("a\nlevel=ERROR \u{1b}[2J"), r#"name="a\nlevel=ERROR \u001b[2J""#);
        assert_eq!(written(&"recorded text"), "name=\"recorded text\"");
        assert_eq!(written(&7), "name=7");
    }

    #[test]
    fn librdkafka_logs_warnings_at_most_and_other_clients_nothing() {
        assert_eq!(
            directives(&filter("info", None).0),
            ["async_nats=off", "aws_=off", "info", "librdkafka=warn", "rdkafka=warn"]
        );
        assert_eq!(
            directives(&filter("error", None).0),
            ["async_nats=off", "aws_=off", "error", "librdkafka=error", "rdkafka=error"]
        );
    }

    #[test]
    fn rust_log_overrides_single_targets() {
        let (found, problem) = filter("info", Some("debug,librdkafka=trace"));
        assert_eq!(
            directives(&found),
            ["async_nats=off", "aws_=off", "debug", "librdkafka=trace", "rdkafka=warn"]
        );
        assert_eq!(problem, None);
        assert!(filter("info", Some("a=b=c")).1.is_some());
    }

    /// What a subscriber writes, without the times.
    fn json_lines(log: impl Fn(), own: bool) -> String {
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
        assert_eq!(json_lines(log, true), printable::lines(&json_lines(log, false)));
    }
}
