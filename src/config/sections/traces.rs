//! `[traces]`: OpenTelemetry.

use super::contract::BASE_URL;
use crate::config::kinds::Form;
use crate::config::section::{Section, keys};

keys! {
    Traces {
        /// Address of an OTLP/HTTP receiver, such as an OpenTelemetry collector; spans go to <endpoint>/v1/traces as
        /// JSON. If not set, there are no traces.
        endpoint: Form(&BASE_URL) like "http://127.0.0.1:4318";
    }
}

/// The address without a slash at its end.
pub fn endpoint(section: &mut Section<'_>) -> Option<String> {
    Traces::read(section).endpoint.map(|url| url.trim_end_matches('/').to_owned())
}
