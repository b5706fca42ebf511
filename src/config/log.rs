//! `[log]`.

use super::section::Section;
use super::types;

/// What is logged, and how a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The least level that is logged, where `RUST_LOG` says nothing else.
    pub level: &'static str,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

const LEVELS: [(&str, &str); 5] =
    [("error", "error"), ("warn", "warn"), ("info", "info"), ("debug", "debug"), ("trace", "trace")];
const FORMATS: [(&str, LogFormat); 3] =
    [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];

/// Reads `[log]`.
pub fn read(section: &mut Section<'_>) -> LogOptions {
    LogOptions {
        level: section.or("level", "info", |node| types::choice(node, &LEVELS)).value,
        format: section.or("format", "auto", |node| types::choice(node, &FORMATS)).value,
    }
}
